"""When a dictionary is worth having: samples of small contents, what it would save, and training.

A dictionary is made once a converter has enough small sources (or reports), and kept if it saves enough.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from archivefs.archive import Archive
from archivefs.errors import ContentDamagedError, DictionaryError
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
SIZE_BYTES = 64 << 10
"""Size of a dictionary. The 112 KiB that zstd makes by default gain nothing for files of 2 to 30 kB."""
SAVES = 0.1
"""A dictionary is kept if contents it was not made of become smaller by at least this share."""
TESTED = 5
"""Every fifth sample is set aside to see what the dictionary saves."""
AGAIN = 2
"""What was looked at in vain is looked at again with so many times the entries: 11 times in a million."""
CANDIDATES = 5
"""So many of a converter's newest dictionaries are tried on the contents of a day."""
Wanted = tuple[str, str]
"""Converter and content (``sources`` or ``reports``)."""


class Trained(NamedTuple):
    """A dictionary that is worth having; ``saves_bytes``: by how much it makes a content smaller, on average.

    The number within ``data`` is that of a draft; it gets its own when it is kept.
    """

    converter: str
    content: str
    data: bytes
    samples: int
    saves_bytes: float

    def operation(self, day: str = "") -> AddDictionary:
        """Keeps it, for all that comes or for the contents of a day."""
        return AddDictionary(self.converter, self.content, self.data, self.samples, day)


def missing(archive: Archive, tried: Mapping[Wanted, int] = MappingProxyType({})) -> dict[Wanted, int]:
    """What has no dictionary and enough entries for one, and how many entries these are.

    ``tried`` says with how many it was looked at in vain; then it waits for some more.
    """
    have = {(row.converter, row.content) for row in archive.reader.dictionaries() if not row.day}
    entries = dict[str, int]()
    for total in archive.reader.totals():
        entries[total.converter] = entries.get(total.converter, 0) + total.entries
    return {
        (converter, content): count
        for converter, count in entries.items()
        for content in (SOURCES, REPORTS)
        if count >= max(SAMPLES, tried.get((converter, content), 0) * AGAIN)
        and (converter, content) not in have
    }


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
    """The dictionary of a converter with which these contents are smallest; None where none is better."""
    rows = archive.reader.dictionaries()
    theirs = [row for row in rows if (row.converter, row.content) == (converter, content)]
    found: list[Dictionary | None] = [None]
    for row in theirs[-CANDIDATES:]:
        try:
            found.append(archive.content.dictionaries.by_number(row.number))
        except DictionaryError as error:
            log.warning("%s; it is not used", error)
    tested = given[::TESTED]
    return min(found, key=lambda each: _cost(tested, level, each)) if tested else None


def train(
    converter: str,
    content: str,
    given: Sequence[bytes],
    present: Dictionary | None,
    level: int,
    saves_share: float = SAVES,
) -> Trained | None:
    """Make a dictionary of the samples; None where it saves less than ``saves_share`` of what is at present.

    Takes seconds. ``level`` is that at which it is to be used, and at which the two are compared: how often
    which symbols occur depends on it, and a dictionary made for another level saves up to a fifth less.
    """
    learned = [sample for index, sample in enumerate(given) if index % TESTED]
    tested = given[::TESTED]
    size = min(SIZE_BYTES, sum(map(len, learned)) // 10)
    try:
        data = dictionaries.train(learned, size, level)
    except ValueError as error:
        log.info("%s of %s: %s", content, converter, error)
        return None
    before = _cost(tested, level, present)
    saves = before - _cost(tested, level, Dictionary("candidate", data))
    log.info("a dictionary for the %s of %s saves %.0f %%", content, converter, 100 * saves / max(before, 1))
    if saves < saves_share * before:
        return None
    return Trained(converter, content, data, len(given), saves / len(tested))


def _cost(contents: Sequence[bytes], level: int, dictionary: Dictionary | None) -> int:
    """Bytes that these contents take with a dictionary."""
    return sum(encode_bytes(content, level, dictionary).stored for content in contents)


def renew(
    archive: Archive,
    converter: str,
    content: str,
    given: Sequence[bytes],
    commit: Callable[[Operation[Any]], Any],
) -> None:
    """Replace the dictionary in use for what comes, where contents of late are not any more what it is for.

    Takes seconds. Raises as ``commit``.
    """
    rows = archive.reader.dictionaries()
    used = [row for row in rows if (row.converter, row.content, row.day) == (converter, content, "")]
    if not used:
        return
    try:
        present = archive.content.dictionaries.by_number(used[-1].number)
    except DictionaryError:  # an alarm says so
        return
    level = archive.converter_config(converter).compression_level
    trained = train(converter, content, given, present, level)
    if trained is not None:
        commit(trained.operation())


def train_next(archive: Archive, tried: dict[Wanted, int]) -> Trained | None:
    """The next dictionary that is missing and worth having; ``tried`` learns what was looked at.

    Takes seconds.
    """
    for (converter, content), entries in missing(archive, tried).items():
        tried[converter, content] = entries
        given = samples(archive, converter, content)
        if len(given) < SAMPLES:
            continue
        level = archive.converter_config(converter).compression_level
        trained = train(converter, content, given, None, level)
        if trained is not None:
            return trained
    return None


def train_missing(archive: Archive) -> None:
    """Make and keep every dictionary that is missing and worth having. Raises as ``Archive.commit_one``."""
    tried = dict[Wanted, int]()
    while (made := train_next(archive, tried)) is not None:
        archive.commit_one(made.operation())
