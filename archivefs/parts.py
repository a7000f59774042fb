"""The plain parts that events are made of: places, contents, who did something."""

from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the plain parts of events."""


class Location(Record, frozen=True, kw_only=True):
    """Where a record lies: bytes ``offset .. offset + length`` of ``content/segment``.

    ``header`` and ``stored`` are the lengths of the header frame and of the content frames behind it;
    what remains of ``length`` is the frame table.
    """

    segment: str
    offset: int
    header: int
    stored: int
    length: int


class Actor(Record, frozen=True, kw_only=True):
    """Who caused an event: the uid the kernel vouched for, and the program where it is known."""

    uid: int
    program: str = ""


class Content(Record, frozen=True, kw_only=True):
    """A stored piece of an attempt: a report or its log. ``location`` is None where it was not kept."""

    name: str
    size: int
    sha256: str
    location: Location | None = None


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A file or folder in a source that is a folder; in a line it is an array in this order.

    ``path`` is relative to the folder, ``path_hex`` its exact bytes where they are not UTF-8. ``mode`` has
    the kind in it, as stat(2) gives it. The bytes of a file begin at ``offset`` of the content, a tar.
    """

    path: str
    path_hex: str
    mode: int
    size: int
    mtime_ns: int
    offset: int


class Setting(Record, frozen=True, kw_only=True):
    """A key of archive.toml whose value changed; None where it was not there, or is not any more."""

    key: str
    old: Any = None
    new: Any = None


class Move(msgspec.Struct, frozen=True, array_like=True):
    """A record that was written again: the source (attempt 0), a log or a report, and its new place.

    In a line it is an array in this order, for there are many.
    """

    id: str
    attempt: int
    ordinal: int
    offset: int
    header: int
    stored: int
    length: int


class Purging(msgspec.Struct, frozen=True, array_like=True):
    """An entry that is purged, and the rule that says so; in a line it is an array, for there are many."""

    id: str
    why: str
