"""The chain of the journal: how each line follows the one before, and what it means where it does not."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import zstandard

from archivefs import events
from archivefs.errors import JournalDamagedError
from archivefs.events import AnyEvent

ZERO = "0" * 64
"""``prev`` of the very first line."""


class Head(NamedTuple):
    """The end of the chain: number of lines and SHA-256 of the last one."""

    seq: int
    sha256: str


START = Head(0, ZERO)


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A note of count and newest hash outside the chain: ``seq`` lines, the last with ``sha256``, at ``at``.

    ``archive`` is the id of the archive, '' in the note that lies beside the journal itself.
    """

    seq: int = 0
    sha256: str = ZERO
    at: str = ""
    archive: str = ""


class Link(NamedTuple):
    """A line where it stands; ``event`` is None where it is not readable.

    ``broken`` says what is wrong between it and the lines before it, '' for nothing.
    """

    file: Path
    number: int
    event: AnyEvent | None
    sha256: str
    broken: str


def line_hash(line: bytes) -> str:
    """The hash that the next line carries as ``prev``; ``line`` is without its newline."""
    return hashlib.sha256(line).hexdigest()


def walk(files: Iterable[Path], head: Head | None = START) -> Iterator[Link]:
    """Every line of these files in order; goes on behind what is broken, so that each break is told once.

    ``head`` is what stands before the first of them, None where nobody knows.
    """
    seq, prev = (-1, "") if head is None else head
    place = ""
    for file in files:
        number = 0
        try:
            for number, line in enumerate(lines(file), 1):
                sha256 = line_hash(line[:-1])
                event = decode_or_none(line[:-1])
                if event is None:
                    broken = f"{file}:{number}: not a readable event: {_why_not(line[:-1])}"
                    yield Link(file, number, None, sha256, broken)
                    seq, prev = (seq + 1 if seq >= 0 else seq), ""
                    continue
                broken = _break(seq, prev, place, event)
                yield Link(file, number, event, sha256, f"{file}:{number}: {broken}" if broken else "")
                if (
                    event.seq > seq
                ):  # one that was moved back is told, and the chain goes on as if it were not there
                    seq, prev, place = event.seq, sha256, f"{file}:{number}"
        except JournalDamagedError as error:
            yield Link(file, number + 1, None, "", str(error))
            prev = ""


def _break(seq: int, prev: str, place: str, event: AnyEvent) -> str:
    """Why a line does not follow the one before it, '' where it does."""
    if seq < 0:
        return ""
    head = f"line {event.seq} does not follow line {seq}: "
    if event.seq > seq + 1:
        return head + gone(seq + 1, event.seq - 1)
    if event.seq <= seq:
        return head + "a line was moved or repeated"
    if prev and event.prev != prev:
        return head + (f"line {seq} at {place} was altered" if seq else "line 1 was altered")
    return ""


def gone(first: int, last: int) -> str:
    """That these lines are gone."""
    return f"line {first} is gone" if first == last else f"lines {first} to {last} are gone"


def day_files(directory: Path) -> list[Path]:
    """All day files in order, the plain one where a day has both (a crash while sealing)."""
    days: dict[str, Path] = {}
    for file in sorted(directory.glob("*/*/*.jsonl*")):
        if file.name.endswith((".jsonl", ".jsonl.zst")):
            days.setdefault(str(file).partition(".jsonl")[0], file)
    return [days[day] for day in sorted(days)]


def lines(file: Path) -> Iterator[bytes]:
    """The whole lines of a day file with their newlines, decompressed where it is sealed.

    Raises ``JournalDamagedError`` where it does not decompress.
    """
    try:
        with _open_day(file) as found:
            yield from (line for line in found if line.endswith(b"\n"))
    except zstandard.ZstdError as error:
        raise JournalDamagedError(f"{file}: does not decompress: {error}") from None


def _open_day(file: Path) -> IO[bytes]:
    """The file for reading, also where it was sealed since it was listed."""
    if file.suffix == ".jsonl":
        try:
            return file.open("rb")
        except FileNotFoundError:
            file = file.with_suffix(".jsonl.zst")
    return io.BufferedReader(zstandard.open(file, "rb"))


def decode_or_none(line: bytes) -> AnyEvent | None:
    """The event of a line, None where it is not readable."""
    try:
        return events.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def decode(line: bytes, file: Path, number: int | None = None) -> AnyEvent:
    """The event of a line. Raises ``JournalDamagedError`` naming the place."""
    event = decode_or_none(line)
    if event is None:
        where = f"{file}:{number}" if number else f"{file}: last line"
        raise JournalDamagedError(f"{where}: not a readable event: {_why_not(line)}")
    return event


def _why_not(line: bytes) -> str:
    try:
        events.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return str(error)
    return ""
