"""What an inode number means. Numbers are computed from what they name, so they need no table.

The same file has the same number in every view and after every remount; a directory has one for each place it
is shown in. A number has 64 bits, the top bit is never set::

    FIXED     0 | 0 | query 27 | number 32                 root and what lies in it; or a query in search/
              0 | 1 | job 51 | slot 8                      a job's directory and files
    LEVEL     1 | view 6 | depth 6 | converter 16 | day 24 | status 8
    ENTRY     2 | n 32 | 0            | view 14            an entry's directory
    ATTEMPTS  3 | n 32 | 0            | view 14            its attempts/
    ATTEMPT   4 | n 32 | attempt 14   | view 14            attempts/N/
    FILE      5 | n 32 | attempt 14   | slot 14            a file of an entry
    INBOX     6 | counter                                  for as long as the mount lasts
    MEMBER    7 | n 32 | ordinal 28                        a file or folder in a source that is a folder

``day`` counts from 1970-01-01, ``status`` is its number plus one, zeros stand for "any".
"""

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """The four top bits."""

    FIXED = 0
    LEVEL = 1
    ENTRY = 2
    ATTEMPTS = 3
    ATTEMPT = 4
    FILE = 5
    INBOX = 6
    MEMBER = 7


class Fixed(IntEnum):
    """Numbers of the things there is one of. FUSE decides the root's."""

    ROOT = 1
    README = 2
    STATS = 3
    BY_ID = 4
    HEALTH = 5
    SEARCH = 6
    SEARCH_README = 7
    JOBS = 8
    METRICS = 9
    CONTROL = 16
    JOB = 1 << 59


class Slot(IntEnum):
    """Which file of an entry; reports follow from ``REPORT`` on (1 is the first)."""

    SOURCE = 0
    ENTRY_JSON = 1
    ERROR = 2
    ATTEMPT_JSON = 3
    LOG = 4
    REPORT = 16


MAX_ATTEMPT = (1 << 14) - 1
MAX_REPORT = (1 << 14) - 1 - Slot.REPORT
BY_ID_VIEW = 63
"""The view number of entries under by-id/."""
QUERY_VIEW = 64
"""From here on view numbers are those of queries."""


class Place(NamedTuple):
    """A level of a view: what is fixed so far. Zeros (status: -1) stand for "any"."""

    view: int
    depth: int
    converter_id: int = 0
    day: int = 0
    status: int = -1


def kind(ino: int) -> Kind:
    """What sort of thing the number names."""
    return Kind(ino >> 60)


def level(place: Place) -> int:
    """The number of a level directory."""
    return (
        Kind.LEVEL << 60
        | place.view << 54
        | place.depth << 48
        | place.converter_id << 32
        | place.day << 8
        | place.status + 1
    )


def place(ino: int) -> Place:
    """What a level directory's number says."""
    return Place(
        ino >> 54 & 0x3F, ino >> 48 & 0x3F, ino >> 32 & 0xFFFF, ino >> 8 & 0xFFFFFF, (ino & 0xFF) - 1
    )


def entry_part(what: Kind, n: int, attempt: int, last: int) -> int:
    """The number of an entry's directory or file; ``last`` is the view or the slot."""
    return what << 60 | n << 28 | attempt << 14 | last


def member(n: int, ordinal: int) -> int:
    """The number of a file or folder in a source that is a folder."""
    return Kind.MEMBER << 60 | n << 28 | ordinal


def member_parts(ino: int) -> tuple[int, int]:
    """``(n, ordinal)`` of a member."""
    return ino >> 28 & 0xFFFFFFFF, ino & 0xFFFFFFF


def parts(ino: int) -> tuple[int, int, int]:
    """``(n, attempt, view or slot)`` of an entry's directory or file."""
    return ino >> 28 & 0xFFFFFFFF, ino >> 14 & 0x3FFF, ino & 0x3FFF


def job_ino(job: int, slot: int) -> int:
    """The number of a job's directory (slot 0), or of one of its files."""
    return Fixed.JOB | job << 8 | slot


def job_parts(ino: int) -> tuple[int, int]:
    """``(job, slot)``."""
    return (ino & Fixed.JOB - 1) >> 8, ino & 0xFF


def query(counter: int) -> int:
    """The number of the ``counter``-th query (from 1) that this mount met."""
    return Kind.FIXED << 60 | (counter & 0x7FFFFFF) << 32


def query_counter(ino: int) -> int:
    """Which query that is, 0 for none."""
    return 0 if ino & Fixed.JOB else ino >> 32 & 0x7FFFFFF


def query_view(counter: int) -> int:
    """The view number of the entries of a query."""
    return QUERY_VIEW + counter % ((1 << 14) - QUERY_VIEW)


def inbox(counter: int) -> int:
    """The number of the ``counter``-th file or folder that this mount's inbox met."""
    return Kind.INBOX << 60 | counter
