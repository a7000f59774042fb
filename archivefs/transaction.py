"""The group that is being committed: its ids, records and events so far, and the state as they leave it.

Either all that a transaction holds becomes durable, or none. ``operations`` has what can be done in one.
"""

import functools
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from archivefs.catalog.outbox import Item
from archivefs.catalog.reader import Reader
from archivefs.catalog.rows import Entry
from archivefs.config import Config
from archivefs.errors import ArchiveError, UnknownEntryError
from archivefs.events import (
    Adopted,
    AttemptFinished,
    AttemptStarted,
    Captured,
    Dropped,
    Event,
    Replayed,
    Retried,
    Routed,
    encode,
)
from archivefs.packing import Packing
from archivefs.parts import Location, Move, Setting
from archivefs.states import WAITING, Status
from archivefs.store.dictionaries import Dictionary
from archivefs.store.frames import Encoded, RecordHeader
from archivefs.store.store import Mark, Store

T_co = TypeVar("T_co", covariant=True)
GROUP = 256
"""Most operations in one group; bounds how long the first of them waits for the last to be compressed."""
SUPERSEDABLE = WAITING | {Status.ARCHIVED, Status.SKIPPED}
"""Statuses that a later version of the same inbox file turns into ``superseded``."""
DEEPEST = 64
"""How deep lists and tables of an event may be nested; readers of JSON fail from some hundreds on."""


class IdClock:
    """Hands out archive ids that are unique and ascending whatever the clock does.

    An id is ``YYYYMMDDTHHMMSSmmm-xxxxxx``: UTC capture time and the first six hex digits of the SHA-256.
    """

    def __init__(self, last_id: str) -> None:
        """Go on after ``last_id`` ('' for a new archive)."""
        self._last = last_id
        self._last_ms = id_milliseconds(last_id) if last_id else 0

    def next(self, sha256: str, now_ms: int) -> tuple[str, int]:
        """The id for a capture now, and its time in Unix milliseconds: the next free one after the last."""
        when = max(now_ms, self._last_ms)
        new = _id(when, sha256)
        if new <= self._last:
            when += 1
            new = _id(when, sha256)
        self._last, self._last_ms = new, when
        return new, when


def _id(when_ms: int, sha256: str) -> str:
    return f"{_clock(when_ms // 1000)}{when_ms % 1000:03d}-{sha256[:6]}"


@functools.lru_cache(4)  # captures come many in a second
def _clock(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y%m%dT%H%M%S}"


@functools.lru_cache(4)
def _day(second: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(second, zone).date().isoformat()


def id_milliseconds(id_: str) -> int:
    """The capture time in an archive id, in Unix milliseconds."""
    # Not strptime: it imports a module when it is first used, for which there may be no descriptor left.
    moment = datetime.fromisoformat(id_[:15]).replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1000 + int(id_[15:18])


def require_storable(event: Event) -> None:
    """Raise ``ArchiveError`` for text that is no UTF-8, numbers that SQLite cannot hold, and deep nesting."""
    for field_name in event.__struct_fields__:
        value = getattr(event, field_name)
        if _is_deeper(value, DEEPEST):
            raise ArchiveError(
                f"{field_name} of a {type(event).__name__} event is nested deeper than {DEEPEST} levels"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ArchiveError(f"{field_name} of a {type(event).__name__} event is out of range: {value}")
    try:
        encode(event)
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"a {type(event).__name__} event cannot be written: {error}") from None


def _is_deeper(value: Any, levels: int) -> bool:  # noqa: ANN401  whatever an event holds
    """Whether lists and tables are nested in more levels than these."""
    if isinstance(value, Setting):
        return _is_deeper([value.old, value.new], levels)
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


class Savepoint(NamedTuple):
    """How far a transaction has come."""

    segments: Mark
    events: int
    dictionaries: int
    overlay: dict[str, tuple[Status, int]]


class Transaction:
    """The group that is being committed: its events so far, and the state as they leave it."""

    def __init__(self, store: Store, reader: Reader, config: Config, ids: IdClock, now_ms: int) -> None:
        self.config = config
        self.now_ms = now_ms
        self.events: list[Event] = []
        self.dictionaries: list[Dictionary] = []
        self._store = store
        self.reader = self._reader = reader
        """The catalog as it was before this group."""
        self._ids = ids
        self._zone = ZoneInfo(config.timezone)
        self._overlay: dict[str, tuple[Status, int]] = {}

    def savepoint(self) -> Savepoint:
        """Where to come back to with ``rollback``."""
        made = len(self.dictionaries)
        return Savepoint(self._store.mark(), len(self.events), made, dict(self._overlay))

    def rollback(self, to: Savepoint) -> None:
        """Forget what was done since the savepoint."""
        self._store.rollback(to.segments)
        del self.events[to.events :]
        while len(self.dictionaries) > to.dictionaries:
            self._store.drop_dictionary(self.dictionaries.pop().name)
        self._overlay = to.overlay

    def new_id(self, sha256: str) -> tuple[str, int]:
        """A fresh archive id and its capture time in Unix milliseconds."""
        return self._ids.next(sha256, self.now_ms)

    def day(self, when_ms: int) -> str:
        """The day in the archive's time zone, ``YYYY-MM-DD``."""
        return _day(when_ms // 1000, self._zone)

    def state(self, id_: str) -> tuple[Status, int]:
        """Status and number of attempts, this group's events included. Raises ``UnknownEntryError``."""
        if id_ not in self._overlay:
            entry = self.entry(id_)
            self._overlay[id_] = (entry.status, entry.attempts)
        return self._overlay[id_]

    def waits(self, id_: str) -> bool:
        """Whether a later version of the same file would supersede this entry."""
        try:
            return self.state(id_)[0] in SUPERSEDABLE
        except UnknownEntryError:
            return False

    def quarantined(self, id_: str) -> Entry:
        """The entry, which must be in quarantine. Raises ``ArchiveError``."""
        status = self.state(id_)[0]
        if status is not Status.QUARANTINED:
            raise ArchiveError(f"{id_} is not quarantined: its status is {status}")
        return self.entry(id_)

    def entry(self, id_: str) -> Entry:
        """The entry as it was before this group. Raises ``UnknownEntryError``."""
        entry = self._reader.by_id(id_)
        if entry is None:
            raise UnknownEntryError(f'no entry with id "{id_}"')
        return entry

    def source_sha256(self, id_: str) -> str:
        """The hash of an entry's source. Raises ``UnknownEntryError``."""
        return self._reader.get(id_).sha256

    def outbox_item(self, id_: str, attempt: int, ordinal: int) -> Item | None:
        """A report in the outbox, as it was before this group; None where it was never queued."""
        return self._reader.outbox.item(id_, attempt, ordinal)

    def converter_name(self, entry: Entry) -> str:
        """The name of the entry's converter."""
        return self._reader.converter_name(entry.converter_id)

    def record(self, event: Event) -> None:
        """Add an event to the group. Raises ``ArchiveError`` for what journal or catalog could not hold."""
        require_storable(event)
        self.events.append(event)
        match event:
            case Captured():
                self._overlay[event.id] = (event.status, 0)
                for earlier in event.supersedes:
                    self._overlay[earlier] = (Status.SUPERSEDED, self.state(earlier)[1])
            case AttemptStarted():
                self._overlay[event.id] = (Status.CONVERTING, event.attempt)
            case AttemptFinished():
                self._overlay[event.id] = (event.status, event.attempt)
            case Replayed():
                after = Status(event.outcome) if event.promoted else self.state(event.id)[0]
                self._overlay[event.id] = (after, event.attempt)
            case Adopted():
                self._overlay[event.id] = (event.status, self.state(event.id)[1])
            case Routed():
                self._overlay[event.id] = (event.status, self.state(event.id)[1])
            case Retried():
                self._overlay[event.id] = (Status.PENDING, self.state(event.id)[1])
            case Dropped():
                self._overlay[event.id] = (Status.REJECTED, self.state(event.id)[1])

    def save_dictionary(self, converter: str, data: bytes) -> Dictionary:
        """Write a dictionary under the next name of the converter. Raises ``ArchiveError``."""
        made = self._store.save_dictionary(converter, data)
        self.dictionaries.append(made)
        return made

    def knows_code(self, converter: str, sha256: str) -> bool:
        """Whether the journal says that this version of a converter's code is kept."""
        return any(row.sha256 == sha256 for row in self._reader.code(converter))

    def new_segment(self, base: str) -> str:
        """A name that no segment has, behind those of ``base``."""
        return self._store.new_segment(base)

    def place_of(self, move: Move) -> Location | None:
        """Where the record that a move is about stands now."""
        entry = self._reader.by_id(move.id)
        if entry is None:
            return None
        if not move.attempt:
            return self._reader.location(entry)
        key = (move.attempt, move.ordinal)
        found = (each for each in self._reader.contents(entry.n) if (each.attempt, each.ordinal) == key)
        return next((each.location for each in found), None)

    def drop_segment(self, segment: str) -> None:
        """Remove the file of a segment that no event names. Raises ``ArchiveError``, ``OSError``."""
        if self.is_needed(segment):
            raise ArchiveError(f"content/{segment} is needed")
        self._store.drop_segment(segment)

    def is_needed(self, segment: str) -> bool:
        """Whether a content belongs into that segment, or one of this group stands there."""
        return self._store.is_written(segment) or self._reader.is_needed(segment)

    def retire(self, segment: str) -> None:
        """Nothing is appended to that segment any more."""
        self._store.retire(segment)

    def append(self, converter: str, kind: str, day: str, header: RecordHeader, content: Encoded) -> Location:
        """Write a record into the day's segment of ``kind`` (sources, reports)."""
        return self._store.append(f"{day.replace('-', '/')}/{converter}.{kind}", header, content)


class Operation(ABC, Generic[T_co]):
    """One thing to be done; ``prepare`` does the work that needs no transaction.

    ``is_alone``: its group holds nothing else, for it goes by much that the catalog says, all of it as it is
    now. ``bears_lag``: it may be committed while the catalog does not have all that the journal says.
    """

    order: str = ""
    is_alone: ClassVar[bool] = False
    bears_lag: ClassVar[bool] = False

    def prepare(self, packing: Packing) -> None:
        """Compress and hash; in any thread, before the group is formed."""

    @abstractmethod
    def run(self, txn: Transaction) -> T_co:
        """Write records and events. An ``ArchiveError`` undoes this operation only."""

    def close(self) -> None:
        """Free what ``prepare`` made."""
