"""The archive: the one object through which everything else captures, records, asks and reads.

Writing is a list of operations committed as one group: ``commit`` runs each of them against a
``Transaction``, makes records and events durable, and applies the events to the catalog. It blocks and is
called from one thread at a time; ``committer.Committer`` is its face for trio.
"""

import contextlib
import itertools
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from archivefs import __version__, settings
from archivefs import config as configuration
from archivefs.catalog.catalog import Catalog, Change, day_number
from archivefs.catalog.compare import told
from archivefs.catalog.reader import Reader
from archivefs.catalog.rows import Entry
from archivefs.config import Config, ConverterConfig
from archivefs.errors import (
    ArchiveError,
    ArchiveExistsError,
    CatalogError,
    ConfigError,
    DictionaryError,
    JournalDamagedError,
    LockedError,
    NoSpaceError,
    NotAnArchiveError,
    ReadOnlyError,
    SegmentMissingError,
)
from archivefs.events import (
    AnyEvent,
    Created,
    DictionaryTrained,
    Event,
    Purged,
    PurgeEnded,
    SegmentsRemoved,
)
from archivefs.operations import RemoveSegments
from archivefs.packing import Packing
from archivefs.rebuilding import CATALOG, apply_journal, open_catalog
from archivefs.reopening import Reopening
from archivefs.store import lock, recovery
from archivefs.store.content import ContentReader
from archivefs.store.dictionaries import Dictionaries, file_of
from archivefs.store.durable import make_dirs, replacing
from archivefs.store.store import Store
from archivefs.transaction import IdClock, Operation, Transaction

log = logging.getLogger(__name__)

T = TypeVar("T")
FORMAT = 1
DEFAULT_TOML = """\
# Configuration of this archive; docs/configuration.md explains every key.
schema_version = 1
timezone = "UTC"                      # decides which day an entry belongs to; fixed once set
reserve = "256 MB"                    # capture stops while the disk has less free than this

# One table for each folder of the inbox. Without "run" its files are archived as they are.
[converters.files]
"""


class Archive:
    """An open archive. ``reader`` answers questions, ``content`` reads bytes, ``commit`` writes.

    ``writable`` is false where another process holds the archive; then ``commit`` raises ``ReadOnlyError``.
    """

    reader: Reader
    packing: Packing
    """How what is captured now is compressed; only of an archive that is open for writing."""
    alarms: dict[str, str]
    """What a person should look at, by what it is about; shown in health.json."""
    _lock: lock.Lock | None
    _store: Store | None
    _catalog: Catalog
    _committed: Reader
    _unapplied: list[AnyEvent]
    _ids: IdClock

    def __init__(self, root: Path, *, clock: Callable[[], int] = time.time_ns) -> None:
        """Open for writing, and bring everything in order that a stop left behind.

        Raises ``NotAnArchiveError``, ``ConfigError``, ``LockedError``, ``JournalDamagedError``, ``OSError``.
        """
        self._prepare(root, clock)
        self._lock = held = lock.Lock(root)
        try:
            self._open_for_writing()
        except BaseException:
            held.release()
            raise

    def _prepare(self, root: Path, clock: Callable[[], int], config: Config | None = None) -> None:
        self.root = root
        self.config = configuration.load(root) if config is None else config
        self.zone = self.config.zone
        self.content = ContentReader(root / "content", Dictionaries(root / "dictionaries"))
        self._clock = clock
        self.alarms = {}
        self._lock = None
        self._store = None
        self._unapplied = []

    @classmethod
    def open_for_reading(cls, root: Path, *, clock: Callable[[], int] = time.time_ns) -> Self:
        """Open beside the process that writes, or that will.

        Where there is none now, what a stop left behind is brought in order first; the lock is not kept.
        """
        with contextlib.suppress(LockedError):
            cls(root, clock=clock).close()
        return cls.open_as_it_is(root, clock=clock)

    @classmethod
    def open_as_it_is(
        cls, root: Path, *, clock: Callable[[], int] = time.time_ns, config: Config | None = None
    ) -> Self:
        """Open for reading and change nothing, whatever state it is in. Raises ``CatalogError``.

        ``config``: to go by this one, whatever archive.toml says by now.
        """
        archive = cls.__new__(cls)
        archive._prepare(root, clock, config)
        archive.reader = Reader.open(root / CATALOG)
        with told(root / CATALOG):
            archive._know_dictionaries()
        return archive

    def beside(self) -> Self:
        """The same archive for another thread: to read only, by the configuration that is in force here."""
        return self.open_as_it_is(self.root, clock=self._clock, config=self.config)

    @staticmethod
    def create(root: Path, toml: str = DEFAULT_TOML, *, clock: Callable[[], int] = time.time_ns) -> None:
        """Make an empty archive. Raises ``ArchiveExistsError``, ``ConfigError``, ``OSError``."""
        file = root / configuration.FILE
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            what = "already an archive" if file.exists() else "not an empty folder"
            raise ArchiveExistsError(f"{root} is {what}; nothing was changed")
        config = configuration.parse(toml.encode(), str(file))
        make_dirs(root.resolve())
        root.chmod(0o700)
        for folder in ("journal", "content", "staging", "converters"):
            make_dirs(root / folder)
        store = Store(root, clock)
        event = Created(
            archive=str(uuid.uuid4()),
            timezone=config.timezone,
            format=FORMAT,
            program=f"archivefs {__version__}",
        )
        store.commit([event])
        store.close()
        with replacing(file) as out:
            out.write(toml.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files and give the lock back. What was committed needs no close to be safe."""
        self.reader.close()
        self.content.close()
        if self._store is not None:
            self._catalog.close()
            self._store.close()
        if self._lock is not None:
            self._lock.release()

    @property
    def writable(self) -> bool:
        """Whether this process may commit."""
        return self._store is not None and not self._store.failed

    @property
    def failure(self) -> str:
        """Why the archive became read-only, '' while it did not."""
        return self._store.failed if self._store else ""

    def now_ms(self) -> int:
        """The archive's clock in Unix milliseconds."""
        return self._clock() // 10**6

    def today(self) -> int:
        """The day of a capture now, in days since 1970-01-01."""
        moment = datetime.fromtimestamp(self._clock() / 10**9, self.zone)
        return day_number(moment.date().isoformat())

    def copy_source(self, entry: Entry, fd: int) -> None:
        """Write the source of an entry to the file ``fd``, its SHA-256 checked.

        Raises ``ContentDamagedError``, ``OSError``.
        """
        place = self.reader.location(entry)
        try:
            self.content.copy(place, entry.size, entry.sha256, fd)
        except SegmentMissingError:
            moved = self.reader.location(self.reader.get(entry.id))
            if moved == place:
                raise
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            self.content.copy(moved, entry.size, entry.sha256, fd)

    def require_space(self) -> None:
        """Raise ``NoSpaceError`` while the disk has less free than the reserve."""
        disk = os.statvfs(self.root)
        if disk.f_bavail * disk.f_frsize < self.config.reserve_bytes:
            reserve = self.config.reserve_bytes >> 20
            raise NoSpaceError(f"the disk of {self.root} has less free than the reserve of {reserve} MiB")

    def note_mountpoint(self, mountpoint: str) -> None:
        """Say in the lock file where the archive is mounted; '' when it no longer is."""
        if self._lock is not None:
            self._lock.note(mountpoint)

    def converter_config(self, name: str) -> ConverterConfig:
        """The configuration of a converter, the defaults for one that archive.toml has no more."""
        return self.config.converters.get(name, ConverterConfig())

    # -- opening ---------------------------------------------------------------------------------------

    def _open_for_writing(self) -> None:
        self._store = store = Store(self.root, self._clock, self.content.dictionaries)
        store.journal.sync_found()
        store.journal.check_checkpoint()
        self._catalog = open_catalog(self.root / CATALOG)
        self._catch_up()
        self._check_created()
        self.reader = Reader.open(self.root / CATALOG)
        self._committed = Reader(self._catalog.db)
        self._ids = IdClock(self.reader.last_id())
        self.packing = Packing(self.config)
        self._know_dictionaries()
        self._use_dictionaries()
        self._recover(store)
        if settings.bring_up(self.root, self.reader.last_configured(), self._write):
            self.use(configuration.load(self.root))
        recovery.sweep(self.root)
        store.journal.seal_finished_days()

    def _know_dictionaries(self) -> None:
        """What the journal says of all dictionaries, to find and check those that are needed."""
        for row in self.reader.dictionaries():
            self.content.dictionaries.know(row.number, row.name, row.sha256)

    def _use_dictionaries(self) -> None:
        """Compress with the newest of each kind from now on, and name those that are not there."""
        there = set(self.content.dictionaries.names())
        newest: dict[tuple[str, str], int] = {}
        for row in self.reader.dictionaries():
            if row.name not in there:
                self._dictionary_alarm(DictionaryError(f"{file_of(row.name)} is missing", row.name))
            elif not row.day and row.sha256:  # else nobody can say whether it is what it was
                newest[row.converter, row.content] = row.number
        for (converter, content), number in newest.items():
            self._use_dictionary(converter, content, number)

    def _use_dictionary(self, converter: str, content: str, number: int) -> None:
        try:
            self.packing.use(converter, content, self.content.dictionaries.by_number(number))
        except DictionaryError as error:
            self._dictionary_alarm(error)

    def _dictionary_alarm(self, error: DictionaryError) -> None:
        self._alarm(file_of(error.name), f"{error}; what was compressed with it cannot be read")

    def _catch_up(self) -> None:
        """Apply the journal's lines that the catalog does not have yet."""
        store, catalog = self._require_store(), self._catalog
        seq, sha256 = catalog.applied
        head = store.journal.head
        if seq > head.seq or (seq == head.seq and sha256 != head.sha256):
            raise JournalDamagedError(
                f"the journal ends at line {head.seq}, the catalog knows line {seq}: the journal was cut or "
                f"changed; keep a copy of {self.root}, put the missing part back, or accept the loss with "
                "archivefs rebuild"
            )
        if head.seq == 0:
            raise NotAnArchiveError(f"{self.root}: the journal is empty, the archive was not made completely")
        if seq < head.seq:
            with told(self.root / CATALOG):
                apply_journal(store, catalog)

    def use(self, config: Config) -> None:
        """Go by another configuration from now on. Raises ``ConfigError`` where it has another time zone."""
        self.require_same_timezone(config)
        self.config = self.packing.config = config

    def require_same_timezone(self, config: Config, fixed: str = "") -> None:
        """Raise ``ConfigError`` where the time zone is not ``fixed``, or the one it was so far."""
        fixed = fixed or self.config.timezone
        if config.timezone != fixed:
            raise ConfigError(
                f"{self.root / configuration.FILE}: timezone: is {config.timezone!r}, "
                f"must stay {fixed!r}: it decided the day of every entry"
            )

    def _check_created(self) -> None:
        """What the archive's first event fixed for good."""
        if self._catalog.format > FORMAT:
            raise NotAnArchiveError(
                f"{self.root} was made by a newer archivefs: format {self._catalog.format}"
            )
        self.require_same_timezone(self.config, self._catalog.timezone)

    def _recover(self, store: Store) -> None:
        """Bring in order what a stop left behind."""
        left = Reopening(store, self.reader, self.content, self._alarm).events(self._transaction(store))
        if left:
            log.warning("recovered after an unclean stop: %d events", len(left))
            self._write(left)
            self._ids = IdClock(self.reader.last_id())
        self.commit([RemoveSegments(self.reader.superseded_segments())])

    def _alarm(self, about: str, what: str) -> None:
        log.error("%s", what)
        self.alarms[about] = what

    # -- writing ---------------------------------------------------------------------------------------

    def _require_store(self) -> Store:
        if self._store is None:
            raise ReadOnlyError(f"{self.root} is open for reading only: another process writes")
        return self._store

    def _transaction(self, store: Store) -> Transaction:
        return Transaction(store, self._committed, self.config, self._ids, self.now_ms())

    def commit(self, operations: Sequence[Operation[Any]]) -> tuple[list[Any], list[Change]]:
        """Do the operations as one durable group; blocks until the disk has it.

        Those that are to be alone make groups of their own. Returns, in the order given, what each made or
        the exception that undid it; and what changed. Operations that were prepared before cost nothing here.
        Raises ``ReadOnlyError`` without a lock.
        """
        outcomes, changes = list[Any](), list[Change]()
        for is_alone, group in itertools.groupby(operations, lambda operation: operation.is_alone):
            for each in [[one] for one in group] if is_alone else [[*group]]:
                made, changed = self._commit_group(each)
                outcomes += made
                changes += changed
        return outcomes, changes

    def _commit_group(self, operations: Sequence[Operation[Any]]) -> tuple[list[Any], list[Change]]:
        store = self._require_store()
        caught_up = self._apply_written() if self._unapplied else []
        outcomes: list[Any] = [None] * len(operations)
        prepared = []
        for index, operation in enumerate(operations):
            if self._unapplied and not operation.bears_lag:
                outcomes[index] = CatalogError(
                    f"{self.root / CATALOG} could not be written, so this cannot be decided now; try again"
                )
                continue
            try:
                operation.prepare(self.packing)
                prepared.append(index)
            except Exception as error:
                outcomes[index] = _failed(operation, error)
        txn = self._transaction(store)
        start = txn.savepoint()
        for index in sorted(prepared, key=lambda n: operations[n].order):
            before = txn.savepoint()
            try:
                outcomes[index] = operations[index].run(txn)
            except Exception as error:
                outcomes[index] = _failed(operations[index], error)
                txn.rollback(before)
        changes: list[Change] = []
        if txn.events:
            try:
                changes = self._write(txn.events)
            except ArchiveError as error:
                txn.rollback(start)
                outcomes = [each if isinstance(each, Exception) else error for each in outcomes]
            except BaseException:
                txn.rollback(start)
                raise
        return outcomes, [*caught_up, *changes]

    def commit_one(self, operation: Operation[T]) -> T:
        """Do one operation durably and return what it made. Raises what undid it."""
        (outcome,), _ = self.commit([operation])
        if isinstance(outcome, Exception):
            raise outcome
        return cast(T, outcome)

    def _write(self, events: Sequence[Event]) -> list[Change]:
        """Journal first, then the catalog; a catalog that fails is caught up with the next group."""
        store = self._require_store()
        self._unapplied += store.commit(events)
        return self._apply_written()

    def _apply_written(self) -> list[Change]:
        """Bring the catalog up to the journal."""
        head = self._require_store().journal.head
        try:
            changes = self._catalog.apply_all(self._unapplied, head.sha256)
        except Exception:  # whatever it is: the events are durable, and nothing must undo their records
            log.exception("the catalog refused %d events; they are in the journal", len(self._unapplied))
            return []
        applied, self._unapplied = self._unapplied, []
        try:
            for event in applied:
                self._follow(event)
        except Exception:  # as above; the next open does what is left to do
            log.exception("what follows from the events could not be done")
        return changes

    def _follow(self, event: AnyEvent) -> None:
        """What an event means for the files: a dictionary is used, segments are removed."""
        if isinstance(event, DictionaryTrained):
            self.content.dictionaries.know(event.number, event.name, event.sha256)
            if not event.day:
                self._use_dictionary(event.converter, event.content, event.number)
        elif isinstance(event, Purged | PurgeEnded):
            self._catalog.give_back()
        elif isinstance(event, SegmentsRemoved):
            recovery.remove_gone(self.root / "content", event.segments)
            for name in event.segments:
                self.content.forget(name)

    def keep_house(self) -> None:
        """Compress the journal of finished days and note its end. Raises ``OSError``; try again later."""
        journal = self._require_store().journal
        journal.seal_finished_days()
        journal.write_checkpoint()


def _failed(operation: Operation[Any], error: Exception) -> Exception:
    """What undid an operation, logged where it is a bug."""
    if not isinstance(error, ArchiveError):
        log.error("a %s failed", type(operation).__name__, exc_info=error)
    return error
