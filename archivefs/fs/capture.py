"""When an inbox file goes into the archive, and when it leaves the inbox again.

``flush`` captures at each close that follows a write, so that an error reaches the program; ``release``
captures what was written after the last close (a mapped file). A file that was captured stays until its
conversion has ended and a linger time has passed.
"""

import contextlib
import heapq
import itertools
import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import trio

from archivefs import attributes, names
from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.catalog.rows import Entry
from archivefs.committer import Committer
from archivefs.convert.scheduler import Scheduler
from archivefs.errors import ArchiveError, ContentDamagedError
from archivefs.fs.folder_sources import FolderSources
from archivefs.fs.inbox import Inbox, errno_of
from archivefs.fs.inbox_items import InboxDir, InboxFile, InboxHandle, InboxItem
from archivefs.operations import Capture, Receipt, Touch
from archivefs.parts import Actor
from archivefs.states import FINAL, WAITING, Status
from archivefs.store.frames import Encoded, encode_file

log = logging.getLogger(__name__)

INLINE_BYTES = 256 << 10
"""Content up to this is handed to the committing thread as it is: one hop instead of two."""
REMEMBERED = 1000
"""Files that editors set aside, by name; more than these are not saved at the same time."""
PAGE_BYTES = 4096
"""What a file system writes at once: a power cut leaves a page as it was, as it is, or zero."""
COMM_BYTES = 64
"""Room for the name of a program, which has 16 (proc(5)); that of a thread of the kernel is longer."""
RETRY_SECONDS = 5.0
"""When to try again what could not be captured at release, where no program can be told."""


class Capturer:
    """Moves files from the inbox into the archive; one for each mount."""

    def __init__(
        self,
        archive: Archive,
        committer: Committer,
        scheduler: Scheduler,
        inbox: Inbox,
        folder_sources: FolderSources,
    ) -> None:
        self._archive = archive
        self._committer = committer
        self._scheduler = scheduler
        self._inbox = inbox
        self._folder_sources = folder_sources
        self._spool_dir = archive.root / "staging"
        self._by_entry: dict[str, InboxFile] = {}
        self._aside: dict[bytes, str] = {}
        self._timers: list[tuple[float, int, InboxFile]] = []
        self._order = itertools.count()
        self._wake = trio.Event()
        committer.on_change(self._changed)

    # -- writing ---------------------------------------------------------------------------------------

    async def before_write(self, file: InboxFile) -> None:
        """Wait for a capture of the file to end, then note that it changes."""
        while file.capturing is not None:
            await file.capturing.wait()
        if not file.dirty:
            file.dirty = True
            if file.entry_id and not file.held:
                file.held = True
                self._scheduler.hold(file.entry_id)

    async def write(self, handle: InboxHandle, offset: int, data: bytes) -> int:
        """Bytes into staging. A failure is remembered: closing the file then fails, too."""
        file = handle.file
        try:
            self._archive.require_space()
            await self.before_write(file)
            return await handle.write(offset, data)
        except (ArchiveError, OSError) as error:
            file.write_error = errno_of(error)
            raise

    async def flush(self, handle: InboxHandle) -> None:
        """A program closed the file: archive what it holds. Durable when this returns.

        Raises ``ArchiveError`` or ``OSError`` with the true errno; then the file is still dirty, and a later
        close tries again.
        """
        file = handle.file
        while file.capturing is not None:
            await file.capturing.wait()
        if handle.writable and file.write_error:
            raise OSError(file.write_error, os.strerror(file.write_error))
        if handle.writable and self._is_due(file) and not self._is_only_passed_on(handle):
            await self._capture(file, handle.fd)

    def _is_only_passed_on(self, handle: InboxHandle) -> bool:
        """Whether a shell closes its first descriptor of ``command > file``: nothing was written yet.

        The command writes through another descriptor of the same process, whose close is the one that counts.
        """
        return os.fstat(handle.fd).st_size == 0 and handle.is_held_elsewhere()

    async def release(self, handle: InboxHandle) -> None:
        """The last reference to an open file is gone: capture what came after the last close."""
        file = handle.file
        try:
            if handle.writable and file.writers == 1 and self._is_due(file):
                await self._capture(file, handle.fd)
        except (ArchiveError, OSError) as error:
            log.error("%r could not be captured, trying again: %s", file.parts, error)
            self._set_timer(file, RETRY_SECONDS)
        finally:
            handle.close()
            if handle.writable:
                self._folder_sources.changed(file)
            if not file.writers and not self._is_due(file):
                self.unhold(file)
            self._leave(file)
            self._inbox.drop_if_idle(file)

    async def capture_path(self, file: InboxFile, target: InboxFile | None = None) -> None:
        """Capture by its path; ``target`` is what it is about to be renamed to."""
        with self._opened(file) as fd:
            await self._capture(file, fd, target)

    def _is_due(self, file: InboxFile) -> bool:
        return file.dirty and not file.unlinked and not file.write_error and not file.is_junk

    async def _capture(
        self, file: InboxFile, fd: int, target: InboxFile | None = None, quarantine: str = ""
    ) -> None:
        """Archive the bytes of ``fd`` as a version of ``file``, under ``target``'s name; writers wait."""
        target = target or file
        converter = target.converter
        file.capturing = done = trio.Event()
        was_dirty, file.dirty = file.dirty, False
        try:
            facts = os.fstat(fd)
            content: bytes | Encoded
            if facts.st_size <= INLINE_BYTES:
                content = os.pread(fd, facts.st_size, 0)
            else:
                pack = self._archive.packing.file
                content = await trio.to_thread.run_sync(pack, converter, fd, self._spool_dir)
            operation = Capture(
                converter=converter, name=target.name, folder=target.folder,
                content=content, mtime_ns=facts.st_mtime_ns,
                mode=(facts.st_mode if file.mode is None else file.mode) & 0o7777,
                uid=facts.st_uid, gid=facts.st_gid, supersedes=self._superseded(file),
                quarantine=quarantine, xattrs=attributes.read(fd), actor=file.actor,
            )  # fmt: skip
            receipt = await self._committer.submit(operation)
        except BaseException:
            file.dirty = was_dirty
            raise
        finally:
            file.capturing = None
            done.set()
        self._captured(file, receipt)

    def _superseded(self, file: InboxFile) -> list[str]:
        """The ids that this version replaces: those that still wait, or were saved just now."""
        earlier = [*file.replaces, *([file.entry_id] if file.entry_id else [])]
        settle_ms = self._archive.converter_config(file.converter).settle_seconds * 1000
        found = []
        for id_ in earlier:
            entry = self._archive.reader.by_id(id_)
            recent = entry is not None and self._archive.now_ms() - entry.captured_ms < settle_ms
            if entry is None or recent or entry.status in WAITING:
                found.append(id_)
        return found

    def _captured(self, file: InboxFile, receipt: Receipt) -> None:
        self.unhold(file)
        self._by_entry.pop(file.entry_id, None)
        file.leave_at = None
        file.replaces = []
        self.watch(file, receipt.id, receipt.status)
        self._folder_sources.changed(file, file.actor)

    def watch(self, file: InboxFile, id_: str, status: Status) -> None:
        """Connect a file with the entry of its content; it leaves when that has come to its end."""
        file.entry_id = id_
        self._by_entry[id_] = file
        if status in FINAL:
            self._ended(file)

    def unhold(self, file: InboxFile) -> None:
        """Let the conversion of the last version go on."""
        if file.held:
            file.held = False
            self._scheduler.unhold(file.entry_id)

    # -- names and attributes --------------------------------------------------------------------------

    async def rename(self, item: InboxItem, parent: InboxDir, name: bytes) -> None:
        """A rename is a capture under the new name, where that is no junk; the archive has it first."""
        if isinstance(item, InboxFile):
            while item.capturing is not None:
                await item.capturing.wait()
            if item.write_error:
                raise OSError(item.write_error, os.strerror(item.write_error))
            target = InboxFile(0, parent, name, self._inbox)
            if target.is_junk:
                self._set_aside(item)
            else:
                item.replaces += self._replaced_by(target, self._inbox.find(parent, name))
                if item.writers == 0 or not item.dirty:
                    await self.capture_path(item, target)
        self._folder_sources.changed(item)
        replaced = self._inbox.rename(item, parent, name)
        self._folder_sources.changed(item)
        if replaced is not None:
            self.unhold(replaced)
        if isinstance(item, InboxDir):
            for file in self._inbox.below(item):
                if file.writers == 0 and self._is_due(file):
                    await self.capture_path(file)

    def _set_aside(self, item: InboxFile) -> None:
        """An editor keeps the old version as a backup: what it saves under the old name replaces that."""
        if item.entry_id and not item.is_junk:
            if len(self._aside) >= REMEMBERED:
                self._aside.clear()
            self._aside[b"/".join(item.parts)] = item.entry_id

    def _replaced_by(self, target: InboxFile, there: InboxItem | None) -> list[str]:
        """The entries of the file that stands under a name, and of one that stood there before."""
        aside = self._aside.pop(b"/".join(target.parts), "")
        standing = there.entry_id if isinstance(there, InboxFile) else ""
        return [id_ for id_ in (aside, standing) if id_]

    def created(self, file: InboxFile) -> None:
        """A program made a file, perhaps in place of one that was set aside."""
        file.replaces += self._replaced_by(file, None)

    def unlink(self, parent: InboxDir, name: bytes) -> None:
        """A program removed a file; the conversion of what was archived of it goes on."""
        file = self._inbox.unlink(parent, name)
        self._folder_sources.changed(file)
        self.unhold(file)

    async def attributes_changed(self, file: InboxFile) -> None:
        """mtime, mode or owner were set after the capture: the entry learns of it."""
        self._folder_sources.changed(file)
        if file.entry_id and not file.dirty:
            facts = os.lstat(self._inbox.path(file))
            mode = (facts.st_mode if file.mode is None else file.mode) & 0o7777
            await self._committer.submit(
                Touch(file.entry_id, facts.st_mtime_ns, mode, facts.st_uid, facts.st_gid)
            )

    async def truncate(self, file: InboxFile, size: int, handle: InboxHandle | None) -> None:
        """Set the size; without an open file this is a change and a close at once."""
        if size > 0:
            self._archive.require_space()
        await self.before_write(file)
        os.truncate(handle.fd if handle else self._inbox.path(file), size)
        if size == 0:
            file.write_error = 0
        if file.writers == 0 and self._is_due(file):
            await self.capture_path(file)

    # -- leaving ---------------------------------------------------------------------------------------

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.after in FINAL and change.before is not change.after:
                file = self._by_entry.get(change.id)
                if file is not None:
                    self._ended(file)

    def _ended(self, file: InboxFile) -> None:
        """Nothing more happens with the entry by itself: the file goes after its linger time, or stays."""
        del self._by_entry[file.entry_id]
        if file.source_key is not None:  # it stays as long as its folder
            return
        entry = self._archive.reader.by_id(file.entry_id)
        name = self._archive.reader.converter_name(entry.converter_id) if entry else file.converter
        config = self._archive.converter_config(name)
        if config.post_action == "archive":
            file.leave_at = trio.current_time() + config.linger_seconds
            self._set_timer(file, config.linger_seconds)

    def _set_timer(self, file: InboxFile, seconds: float) -> None:
        heapq.heappush(self._timers, (trio.current_time() + seconds, next(self._order), file))
        self._wake.set()

    async def run(self) -> None:
        """Let files leave, and capture again what failed, when their time has come."""
        while True:
            self._wake = trio.Event()
            due = self._timers[0][0] if self._timers else math.inf
            with trio.move_on_at(due):
                await self._wake.wait()
            while self._timers and self._timers[0][0] <= trio.current_time():
                file = heapq.heappop(self._timers)[2]
                try:
                    await self._due(file)
                except Exception:
                    log.exception("%r waits in the inbox", file.parts)
                    self._set_timer(file, 2 * RETRY_SECONDS)

    async def _due(self, file: InboxFile) -> None:
        self._leave(file)
        if file.writers == 0 and self._is_due(file):
            try:
                await self.capture_path(file)
            except (ArchiveError, OSError) as error:
                log.error("%r could still not be captured: %s", file.parts, error)
                self._set_timer(file, 2 * RETRY_SECONDS)

    def _leave(self, file: InboxFile) -> None:
        """Take a file out of the inbox, unless someone writes it again."""
        if file.leave_at is None or trio.current_time() < file.leave_at:
            return
        if file.unlinked or file.dirty or file.writers or file.capturing is not None:
            return
        try:
            self._inbox.unlink(file.parent, file.name)
        except OSError as error:
            log.error("%s could not be removed from staging: %s", file.name, error)

    # -- start and end ---------------------------------------------------------------------------------

    async def drain(self, *, everything: bool) -> None:
        """Before the end: capture what is still dirty; files open for writing only if ``everything``."""
        for file in self._inbox.files():
            if self._is_due(file) and (everything or file.writers == 0):
                try:
                    await self.capture_path(file)
                except (ArchiveError, OSError) as error:
                    log.error("%r stays in staging: %s", file.parts, error)

    async def take_leftovers(self) -> None:
        """After a start: find for each file in staging whether its bytes are archived.

        What is not was being written when archivefs stopped: it becomes a quarantined entry.
        """
        unknown: dict[str, list[InboxFile]] = defaultdict(list)
        for file in self._inbox.staged():
            try:
                if not await self._is_known(file):
                    unknown["" if file.is_at_top else file.converter].append(file)
            except OSError as error:
                log.error("%r stays in staging: %s", file.parts, error)
        for converter, files in unknown.items():
            newest = self._archive.reader.newest_of_names(converter, {file.name for file in files})
            for file in files:
                try:
                    await self._take_unknown(file, newest.get(file.name))
                except (ArchiveError, OSError) as error:
                    log.error("%r stays in staging: %s", file.parts, error)

    async def _is_known(self, file: InboxFile) -> bool:
        """Whether nothing needs to be done: junk, or bytes that are archived already."""
        if file.is_junk:
            file.dirty = True
            return True
        with self._opened(file) as fd:
            encoded = await trio.to_thread.run_sync(encode_file, fd, 1, self._spool_dir)
        encoded.close()
        converter = "" if file.is_at_top else file.converter  # from there it may have been routed to any
        entry = self._archive.reader.newest_with_content(converter, file.name, encoded.sha256, file.folder)
        if entry is None:
            return False
        self.watch(file, entry.id, entry.status)
        return True

    async def _take_unknown(self, file: InboxFile, newest: Entry | None) -> None:
        """Quarantine a file, unless it is what a power cut left of the newest entry of its name."""
        with self._opened(file) as fd:
            if newest is not None and newest.status is not Status.QUARANTINED:
                place = self._archive.reader.location(newest)
                pieces = self._archive.content.pieces(place, newest.size)
                with contextlib.suppress(ContentDamagedError):
                    if await trio.to_thread.run_sync(_is_remnant, fd, pieces, newest.size):
                        self.watch(file, newest.id, newest.status)
                        return
            log.warning("%r was being written when archivefs stopped; it is quarantined", file.parts)
            file.dirty = True
            await self._capture(file, fd, quarantine="it was being written when archivefs stopped")

    @contextlib.contextmanager
    def _opened(self, file: InboxFile) -> Iterator[int]:
        fd = os.open(self._inbox.path(file), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def _is_remnant(fd: int, pieces: Iterable[bytes], size: int) -> bool:
    """Whether a file has nothing that the archived content has not: it is shorter, or pages of it are zeros.

    The copy in staging is not synced, so a power cut may leave less of it than was archived.
    """
    if os.fstat(fd).st_size > size:
        return False
    at = 0
    for piece in pieces:
        mine = os.pread(fd, len(piece), at)
        for start in range(0, len(mine), PAGE_BYTES):
            page = mine[start : start + PAGE_BYTES]
            if page != piece[start : start + len(page)] and page.strip(b"\0"):
                return False
        at += len(piece)
    return True


def actor_of(uid: int, pid: int) -> Actor:
    """Who writes: the uid that the kernel gives, and the name of the program where it still runs."""
    program = b""
    if pid > 0:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb", buffering=0) as comm:  # noqa: PTH123
            program = comm.read(COMM_BYTES)
    return Actor(uid=uid, program=names.text(program.strip()))
