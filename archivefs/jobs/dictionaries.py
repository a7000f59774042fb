"""When a dictionary is worth having: samples of small contents, what it would save, and training.

A dictionary is made once a converter has enough small sources (or reports), and kept if it saves enough.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from archivefs.archive import Archive
from archivefs.errors import ContentDamagedError
from archivefs.operations import AddDictionary
from archivefs.packing import REPORTS, SOURCES
from archivefs.store import dictionaries
from archivefs.store.dictionaries import Dictionary
from archivefs.store.frames import DICTIONARY_BYTES, encode_bytes
from archivefs.transaction import Operation

log = logging.getLogger(__name__)

SAMPLES = 500
"""So many small contents are enough; more than twice as many gain nothing (tools/bench, "small")."""
SAMPLES_BYTES = 16 << 20
SIZE_BYTES = 112 << 10
"""Size of a dictionary: what zstd itself makes by default; 200 kB gain nothing for files of 2 to 10 kB."""
SAVES = 0.1
"""A dictionary is kept if contents it was not made of become smaller by at least this share."""
TESTED = 5
"""Every fifth sample is set aside to see what the dictionary saves."""
LEVEL = 19


class Trained(NamedTuple):
    """A dictionary that is worth having; ``saves`` is the share by which it makes contents smaller."""

    converter: str
    content: str
    data: bytes
    samples: int
    saves: float


def missing(archive: Archive) -> list[tuple[str, str]]:
    """``(converter, content)`` that have no dictionary and enough entries for one."""
    have = {(row.converter, row.content) for row in archive.reader.dictionaries()}
    entries = dict[str, int]()
    for total in archive.reader.totals():
        entries[total.converter] = entries.get(total.converter, 0) + total.entries
    return [
        (converter, content)
        for converter, count in entries.items()
        for content in (SOURCES, REPORTS)
        if count >= SAMPLES and (converter, content) not in have
    ]


def samples(
    archive: Archive, converter: str, content: str, days: tuple[int, int] | None = None
) -> list[bytes]:
    """The newest small contents of a converter (of some days, from and to), at most twice ``SAMPLES``."""
    found, total = list[bytes](), 0
    places = archive.reader.small_contents(converter, content, DICTIONARY_BYTES, 2 * SAMPLES, days)
    for place, size in places:
        total += size
        if total > SAMPLES_BYTES:
            break
        try:
            found.append(archive.content.read(place, size))
        except ContentDamagedError as error:
            log.error("left out of the samples: %s", error)
    return found


def best(
    archive: Archive, converter: str, content: str, given: Sequence[bytes], level: int
) -> Dictionary | None:
    """The dictionary of a converter with which these contents are smallest; None where there is none."""
    found = [
        archive.content.dictionaries.by_name(row.name)
        for row in archive.reader.dictionaries()
        if (row.converter, row.content) == (converter, content)
    ]
    tested = given[::TESTED]
    return min(found, key=lambda each: _cost(tested, level, each), default=None)


def train(
    archive: Archive,
    converter: str,
    content: str,
    given: Sequence[bytes],
    present: Dictionary | None,
    level: int,
) -> Trained | None:
    """Make a dictionary of the samples; None where it is hardly better than the one at present.

    Takes seconds. ``level`` is that at which the two are compared.
    """
    learned = [sample for index, sample in enumerate(given) if index % TESTED]
    tested = given[::TESTED]
    size = min(SIZE_BYTES, sum(map(len, learned)) // 10)
    number = max((row.number + 1 for row in archive.reader.dictionaries()), default=dictionaries.FIRST_NUMBER)
    try:
        data = dictionaries.train(learned, size, number, LEVEL)
    except ValueError as error:
        log.info("%s of %s: %s", content, converter, error)
        return None
    before = _cost(tested, level, present)
    after = _cost(tested, level, Dictionary("candidate", data))
    saves = 1 - after / max(before, 1)
    log.info("a dictionary for the %s of %s saves %.0f %%", content, converter, 100 * saves)
    return Trained(converter, content, data, len(given), saves) if saves >= SAVES else None


def _cost(contents: Sequence[bytes], level: int, dictionary: Dictionary | None) -> int:
    """Bytes that these contents take with a dictionary."""
    return sum(encode_bytes(content, level, dictionary).stored for content in contents)


def train_missing(archive: Archive, commit: Callable[[Operation[str]], str]) -> list[str]:
    """Make the dictionaries that are worth having and are not there; returns their names.

    Blocks for seconds for each. ``commit`` commits an operation, or raises what undid it.
    """
    names = []
    for converter, content in missing(archive):
        given = samples(archive, converter, content)
        if len(given) < SAMPLES:
            continue
        level = archive.converter_config(converter).compression_level
        trained = train(archive, converter, content, given, None, level)
        if trained is not None:
            names.append(commit(AddDictionary(converter, content, trained.data, trained.samples)))
    return names
