"""Folders in the inbox that are one source each: when they are complete and captured, and when they leave.

Their files are captured at each close, as all are; these entries are superseded by that of the whole folder.
"""

import hashlib
import heapq
import itertools
import logging
import math
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, cast

import trio

from archivefs import folders, names
from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.catalog.rows import Entry
from archivefs.committer import Committer
from archivefs.config import ConverterConfig
from archivefs.errors import ArchiveError
from archivefs.folders import Found
from archivefs.fs.inbox import Inbox
from archivefs.fs.inbox_items import InboxDir, InboxFile, InboxItem
from archivefs.operations import Capture
from archivefs.parts import Actor, Member
from archivefs.states import FINAL, Status
from archivefs.store.durable import remove_tree
from archivefs.store.frames import Encoded

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How long after a change a folder is looked at: what many files change at once is looked at once."""
LOOK_SHARE = 20
"""Looks at a folder that is being written are so many times as far apart as one of them takes."""
RETRY_SECONDS = 5.0
PACKED_AT_ONCE = 2
"""Folders that are compressed at the same time; each needs room for a tar of its own."""
HALF_WRITTEN = "a file in it was being written when archivefs stopped"
Key = tuple[bytes, bytes]
"""The converter's name, and the folder's."""


@dataclass
class _Folder:
    """What is known of a folder; ``entry_id`` is its last version, which was in ``state`` then.

    ``changed_at`` is the trio time of the last change, ``leave_at`` from when it may leave (None: not yet),
    ``look_at`` when it is looked at next, at the earliest ``look_seconds`` after a change.
    """

    changed_at: float
    entry_id: str = ""
    state: list[object] = field(default_factory=list)
    leave_at: float | None = None
    actor: Actor | None = None
    look_at: float = math.inf
    look_seconds: float = LOOK_SECONDS


def is_ready(config: ConverterConfig, found: Sequence[Found], quiet_seconds: float) -> bool:
    """Whether a folder is complete that nobody has changed for so long."""
    files = [each.path for each in found if stat.S_ISREG(each.facts.st_mode)]
    marker = [config.ready_marker] if config.ready_marker else []
    data = [path for path in files if not names.matches(path, marker)]
    if not data:
        return False
    expected = config.ready_files
    conditions = (
        bool(marker) and len(data) < len(files),
        bool(expected) and all(any(names.matches(path, [each]) for path in data) for each in expected),
        0 < config.ready_count <= len(data),
        quiet_seconds >= quiet_needed(config),
    )
    return any(conditions)


def quiet_needed(config: ConverterConfig) -> float:
    """Seconds without a change after which a folder is complete, whatever is in it; infinite where never."""
    if config.ready_quiet_seconds:
        return config.ready_quiet_seconds
    has_others = config.ready_marker or config.ready_files or config.ready_count
    return math.inf if has_others else config.settle_seconds


class _Hash:
    """A file that keeps nothing but the SHA-256 of what is written."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._at = 0

    def write(self, data: bytes) -> int:
        """Bytes behind the last."""
        self._digest.update(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """How many were written."""
        return self._at

    def hexdigest(self) -> str:
        """In hexadecimal."""
        return self._digest.hexdigest()


class FolderSources:
    """All folders of the inbox that are sources; one for each mount."""

    def __init__(self, archive: Archive, committer: Committer, inbox: Inbox) -> None:
        self._archive = archive
        self._committer = committer
        self._inbox = inbox
        self._spool_dir = archive.root / "staging"
        self._folders: dict[Key, _Folder] = {}
        self._by_entry: dict[str, Key] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._wake = trio.Event()
        self._busy: set[Key] = set()
        self._packing = trio.CapacityLimiter(PACKED_AT_ONCE)
        committer.on_change(self._committed)

    def changed(self, item: InboxItem, actor: Actor | None = None) -> None:
        """Something was written, renamed or removed; a folder of which it is part is looked at."""
        key = item.source_key if isinstance(item, InboxFile | InboxDir) else None
        if key is None:
            return
        known = self._folders.setdefault(key, _Folder(0))
        known.changed_at = trio.current_time()
        known.actor = actor or known.actor
        self._look_in(key, known.look_seconds)

    def _look_in(self, key: Key, seconds: float) -> None:
        """Look at a folder then, unless it is looked at before."""
        known, when = self._folders.get(key), trio.current_time() + seconds
        if known is not None and when < known.look_at:
            known.look_at = when
            heapq.heappush(self._timers, (when, next(self._order), key))
            self._wake.set()

    async def run(self) -> None:
        """Capture folders when they are complete, and let them leave, when their time has come."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                due = self._timers[0][0] if self._timers else math.inf
                with trio.move_on_at(due):
                    await self._wake.wait()
                for key in self._due():
                    self._busy.add(key)
                    nursery.start_soon(self._look_safely, key)

    def _due(self) -> set[Key]:
        """The folders to look at now; one that is being looked at comes after that."""
        due: set[Key] = set()
        while self._timers and self._timers[0][0] <= trio.current_time():
            when, _, key = heapq.heappop(self._timers)
            known = self._folders.get(key)
            if known is not None and known.look_at == when:
                known.look_at = math.inf
                due.add(key)
        for key in due & self._busy:
            self._look_in(key, LOOK_SECONDS)
        return due - self._busy

    async def _look_safely(self, key: Key) -> None:
        start = trio.current_time()
        try:
            await self._look(key)
        except (ArchiveError, OSError) as error:
            log.error("the folder %r could not be captured, trying again: %s", key, error)
            self._look_in(key, RETRY_SECONDS)
        except Exception:
            log.exception("the folder %r waits in the inbox", key)
            self._look_in(key, RETRY_SECONDS)
        finally:
            self._busy.discard(key)
            if (known := self._folders.get(key)) is not None:
                known.look_seconds = max(LOOK_SECONDS, LOOK_SHARE * (trio.current_time() - start))

    async def _look(self, key: Key) -> None:
        """Do what is due with a folder, if anything."""
        known, path = self._folders.get(key), self._path(key)
        if known is None:
            return
        if not self._exists(key):
            self._drop(key)
            return
        if any(file.dirty or file.writers or file.capturing is not None for file in self._files(key)):
            return  # their end is a change
        found = await trio.to_thread.run_sync(folders.contents, path, self._is_wanted)
        if known.entry_id and known.state == _state(found):
            await self._leave(key, known)
            return
        known.leave_at = None
        config = self._config(key)
        quiet = trio.current_time() - known.changed_at
        if is_ready(config, found, quiet):
            await self._capture(key, known, found)
        elif found and quiet_needed(config) < math.inf:
            self._look_in(key, max(quiet_needed(config) - quiet, 0) + 0.01)

    async def _capture(self, key: Key, known: _Folder, found: list[Found]) -> None:
        """Archive the folder as it is; where it changes meanwhile, it is looked at again."""
        self._archive.require_space()
        path, converter = self._path(key), os.fsdecode(key[0])
        async with self._packing:
            content, members = await trio.to_thread.run_sync(self._packed, converter, path, found)
        after = await trio.to_thread.run_sync(folders.contents, path, self._is_wanted)
        if _state(after) != _state(found) or any(file.dirty for file in self._files(key)):
            content.close()
            self._look_in(key, LOOK_SECONDS)
            return
        parts = [file.entry_id for file in self._files(key) if file.entry_id]
        facts = os.lstat(path)
        operation = Capture(
            converter=converter, name=key[1], content=content, mtime_ns=facts.st_mtime_ns,
            mode=facts.st_mode & 0o7777, uid=facts.st_uid, gid=facts.st_gid, members=members,
            supersedes=[*parts, *([known.entry_id] if known.entry_id else [])],
            quarantine=self._quarantine(parts), actor=known.actor,
        )  # fmt: skip
        receipt = await self._committer.submit(operation)
        self._watch(key, known, receipt.id, receipt.status, _state(found))

    def _packed(self, converter: str, path: bytes, found: list[Found]) -> tuple[Encoded, list[Member]]:
        with tempfile.TemporaryFile(dir=self._spool_dir) as tar:
            members = folders.pack(path, found, tar)
            tar.flush()
            return self._archive.packing.file(converter, tar.fileno(), self._spool_dir), members

    def _quarantine(self, parts: Sequence[str]) -> str:
        rows = (self._archive.reader.by_id(id_) for id_ in parts)
        is_half = any(row is not None and row.status is Status.QUARANTINED for row in rows)
        return HALF_WRITTEN if is_half else ""

    # -- after the capture -----------------------------------------------------------------------------

    def _watch(self, key: Key, known: _Folder, id_: str, status: Status, state: list[object]) -> None:
        self._by_entry.pop(known.entry_id, None)
        known.entry_id, known.state = id_, state
        self._by_entry[id_] = key
        if status in FINAL:
            self._ended(key)

    def _committed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            key = self._by_entry.get(change.id)
            if key is not None and change.after in FINAL and change.before is not change.after:
                self._ended(key)

    def _ended(self, key: Key) -> None:
        """Nothing more happens with its entry by itself: the folder goes after its linger time, or stays."""
        known, config = self._folders[key], self._config(key)
        self._by_entry.pop(known.entry_id, None)
        if config.post_action == "archive":
            known.leave_at = trio.current_time() + config.linger_seconds
            self._look_in(key, config.linger_seconds)

    async def _leave(self, key: Key, known: _Folder) -> None:
        """Take an unchanged folder out of the inbox, whole."""
        if known.leave_at is None or trio.current_time() < known.leave_at:
            return
        folder = self._inbox.root.lookup(key[0])
        item = folder.lookup(key[1]) if isinstance(folder, InboxDir) else None
        if isinstance(item, InboxDir):
            self._drop(key)
            await trio.to_thread.run_sync(remove_tree, self._inbox.take_away(item))

    def _drop(self, key: Key) -> None:
        known = self._folders.pop(key, None)
        if known is not None:
            self._by_entry.pop(known.entry_id, None)

    # -- after a start ---------------------------------------------------------------------------------

    async def take_leftovers(self) -> None:
        """After a start: go on with each folder in staging; those that are archived already only leave."""
        await trio.to_thread.run_sync(remove_tree, self._inbox.leaving)
        for name, config in self._archive.config.converters.items():
            top = self._inbox.top + b"/" + os.fsencode(name)
            if config.kind != "folder":
                continue
            for folder in sorted(os.listdir(top)):  # noqa: PTH208  names are bytes
                key = (os.fsencode(name), folder)
                if self._is_wanted(folder) and self._exists(key):
                    try:
                        await self._take_leftover(key)
                    except OSError as error:
                        log.error("the folder %r stays in staging: %s", key, error)

    async def _take_leftover(self, key: Key) -> None:
        self._folders[key] = known = _Folder(trio.current_time())
        path = self._path(key)
        found = await trio.to_thread.run_sync(folders.contents, path, self._is_wanted)
        digest = _Hash()
        await trio.to_thread.run_sync(folders.pack, path, found, cast(IO[bytes], digest))
        row = self._archive.reader.newest_with_content(os.fsdecode(key[0]), key[1], digest.hexdigest())
        row = row if row is not None and row.members else self._remnant_of(key)
        if row is not None:
            self._watch(key, known, row.id, row.status, _state(found))
        else:
            self._look_in(key, LOOK_SECONDS)

    def _remnant_of(self, key: Key) -> Entry | None:
        """The entry by which all files there are superseded: a power cut may have left less of them."""
        reader = self._archive.reader
        parts = [reader.by_id(file.entry_id) for file in self._files(key)]
        ids = {part.superseded_by if part is not None else "" for part in parts}
        return reader.by_id(ids.pop()) if len(ids) == 1 else None

    # -- asking ----------------------------------------------------------------------------------------

    def _path(self, key: Key) -> bytes:
        return b"/".join((self._inbox.top, *key))

    def _exists(self, key: Key) -> bool:
        return os.path.isdir(self._path(key))  # noqa: PTH112  names are bytes

    def _config(self, key: Key) -> ConverterConfig:
        return self._archive.converter_config(os.fsdecode(key[0]))

    def _is_wanted(self, name: bytes) -> bool:
        return not names.matches(name, self._archive.config.junk)

    def _files(self, key: Key) -> list[InboxFile]:
        """The known files of a folder that are part of the source."""
        files = (file for file in self._inbox.files() if file.source_key == key)
        return [file for file in files if not file.unlinked and not file.is_junk]


def _state(found: Sequence[Found]) -> list[object]:
    """What is another when something in the folder was changed."""
    return [each.state for each in found]
