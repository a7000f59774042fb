"""Lists of entries for those outside: lines that ``sha256sum -c`` checks, and tables for compliance."""

import hashlib
import stat
from collections.abc import Iterator
from typing import Any

import msgspec

from archivefs import describe, names, restoring
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry, MemberRow
from archivefs.errors import ContentDamagedError

COLUMNS = (
    "id", "converter", "status", "captured_at", "name", "name_hex", "folder", "size", "sha256", "path",
    "attempt", "cause", "outcome", "started_at", "duration_seconds", "version", "code", "arguments", "error",
    "reports",
)  # fmt: skip
"""Of the table: one row for each attempt, and one for an entry without any."""
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}


def sums(archive: Archive, entry: Entry) -> Iterator[bytes]:
    """A line as of ``sha256sum`` for the source, or for each file of one that is a folder.

    The files of a folder are read for that, and their bytes compared with the hash of the whole. Raises
    ``ContentDamagedError``, ``OSError``.
    """
    path = restoring.path_of(archive, entry)
    if not entry.members:
        yield line(entry.sha256, path)
        return
    for member, sha256 in _member_sums(archive, entry):
        yield line(sha256, path + b"/" + member.path)


def line(sha256: str, path: bytes) -> bytes:
    """As coreutils writes it: a backslash in front says that the name has some in place of line ends."""
    escaped = path
    for each, instead in _ESCAPES.items():
        escaped = escaped.replace(each, instead)
    return (b"" if escaped == path else b"\\") + sha256.encode() + b"  " + escaped + b"\n"


def _member_sums(archive: Archive, entry: Entry) -> Iterator[tuple[MemberRow, str]]:
    """Each file of a folder and its hash; the content is read once, from start to end."""
    files = [each for each in archive.reader.members(entry.n) if stat.S_ISREG(each.mode)]
    whole = hashlib.sha256()
    pieces = archive.content.pieces(archive.reader.location(entry), entry.size)
    piece, start = b"", 0  # the bytes of the content from start on
    found = list[tuple[MemberRow, str]]()
    for member in sorted(files, key=lambda each: each.offset):
        digest, at, end = hashlib.sha256(), member.offset, member.offset + member.size
        while at < end:
            while at >= start + len(piece):
                start += len(piece)
                piece = next(pieces, b"")
                if not piece:
                    raise ContentDamagedError(
                        f"{entry.id}: {names.text(member.path)!r} is not in its content"
                    )
                whole.update(piece)
            taken = piece[at - start : end - start]
            digest.update(taken)
            at += len(taken)
        found.append((member, digest.hexdigest()))
    for piece in pieces:
        whole.update(piece)
    if whole.hexdigest() != entry.sha256:
        raise ContentDamagedError(f"{entry.id}: the SHA-256 of its content is not {entry.sha256}")
    yield from found


def facts(archive: Archive, entry: Entry) -> dict[str, Any]:
    """Everything about an entry and its attempts, and where ``restore`` puts its source."""
    path = restoring.path_of(archive, entry)
    exact = names.hex_if_needed(path)
    return {
        **describe.entry(archive, entry),
        "path": names.text(path),
        **({"path_hex": exact} if exact else {}),
    }


def table(archive: Archive, entry: Entry) -> Iterator[list[Any]]:
    """The rows of an entry, by ``COLUMNS``; what has parts is JSON."""
    known = facts(archive, entry)
    for attempt in known.pop("attempts", [{}]):
        whole = {**known, **attempt}
        cells = [whole.get(key, "") for key in COLUMNS]
        yield [
            msgspec.json.encode(cell).decode() if isinstance(cell, list | dict) else cell for cell in cells
        ]
