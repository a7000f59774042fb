"""The life of a mount: open the archive, mount, serve until unmounted or told to stop, commit, close."""

import contextlib
import errno
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pyfuse3
import trio

from archivefs import configuring, metrics
from archivefs.archive import Archive
from archivefs.committer import Committer
from archivefs.convert.scheduler import Scheduler
from archivefs.errors import ArchiveError, ConnectionLostError, MountError, OutOfMemoryError
from archivefs.fs import memory, mounts
from archivefs.fs.capture import Capturer
from archivefs.fs.control import Control
from archivefs.fs.folder_sources import FolderSources
from archivefs.fs.frame_cache import LEAST_BYTES, FrameCache
from archivefs.fs.inbox import Inbox
from archivefs.fs.jobs import JobsTree
from archivefs.fs.kernel import Invalidator, Kernel, Known
from archivefs.fs.mounts import MountOptions
from archivefs.fs.operations import Operations, Presentation
from archivefs.fs.tree import Tree
from archivefs.jobs.enforcement import Enforcement
from archivefs.jobs.engine import Engine
from archivefs.jobs.scheduled_verify import Schedule
from archivefs.jobs.training import Training
from archivefs.jobs.works import WORKS
from archivefs.operations import Note
from archivefs.submit.outbox import Outbox

log = logging.getLogger(__name__)

MAX_REQUESTS = 512
"""Requests served at once; closes that wait for the disk must not keep readers out."""
HOUSEKEEPING_SECONDS = 600.0
RELOAD = "configuration"
"""The alarm of an archive.toml that could not be read again."""


def serve(root: Path, mountpoint: Path, options: MountOptions, ready: Callable[[], None]) -> None:
    """Mount an archive and serve it; returns when it was unmounted or SIGTERM came, everything committed.

    ``ready`` is called when the mount answers. Raises ``ArchiveError``; ``ConnectionLostError`` where the
    kernel ended the connection without an unmount.
    """
    mounts.check_mountpoint(mountpoint)
    _raise_file_limit()
    memory.keep_heap_small()
    with Archive(root) as archive:
        trio.run(_Mount(archive, mountpoint, options).run, ready)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _fuse_options(root: Path, options: MountOptions) -> set[str]:
    fixed = {"default_permissions", f"fsname={mounts.source_of(root)}", f"subtype={mounts.SUBTYPE}"}
    wanted = {"nodev", "nosuid", "noatime"}
    given = {f"no{word}" for word in options.passed} & wanted
    return fixed | (wanted - given) | options.passed


def _is_about_memory(error: BaseException) -> bool:
    """Python's own error, or that of libfuse."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


class _Mount:
    """The parts of a mounted archive and how they are started and stopped."""

    def __init__(self, archive: Archive, mountpoint: Path, options: MountOptions) -> None:
        self._archive = archive
        self._mountpoint = mountpoint
        self._options = options
        self._committer = Committer(archive)
        self._kernel = Kernel()
        self._inbox = Inbox(archive)
        self._cache = FrameCache(archive.content, max(archive.config.read_cache_bytes, LEAST_BYTES))
        self._scheduler = Scheduler(archive, self._committer)
        self._outbox = Outbox(archive, self._committer, self._scheduler.look_again)
        self._engine = Engine(archive, self._committer, WORKS)
        self._enforcement = Enforcement(archive, self._committer, self._engine)
        control = Control(archive, self._committer, self._reload, self._engine, options.operators)
        self._jobs = JobsTree(archive, self._engine, control)
        self._tree = tree = Tree(archive, self._inbox, self._cache, control, self._jobs)
        self._committer.on_change(tree.changed)
        known = Known()
        self._committer.on_change(Invalidator(archive, tree.levels, self._kernel, known).changed)
        self._folder_sources = FolderSources(archive, self._committer, self._inbox)
        self._capturer = Capturer(
            archive, self._committer, self._scheduler, self._inbox, self._folder_sources
        )
        show = Presentation(
            uid=os.geteuid() if options.uid is None else options.uid,
            gid=os.getegid() if options.gid is None else options.gid,
            fixed_uid=options.uid is not None,
            fixed_gid=options.gid is not None,
            umask=options.umask,
            readonly=options.readonly,
        )
        self._operations = Operations(tree, self._capturer, show, known)
        self._committer.on_change(self._operations.changed)
        self._stopped = False
        self._starved = False

    async def run(self, ready: Callable[[], None]) -> None:
        """Everything from leftovers to the last commit."""
        async with trio.open_nursery() as writers:
            writers.start_soon(self._committer.run)
            try:
                await self._capturer.take_leftovers()
                await self._folder_sources.take_leftovers()
                await self._serve(ready)
                await self._capturer.drain(everything=not self._stopped)
            finally:
                self._committer.close()

    async def _serve(self, ready: Callable[[], None]) -> None:
        try:
            pyfuse3.init(
                self._operations, str(self._mountpoint), _fuse_options(self._archive.root, self._options)
            )
        except RuntimeError as error:
            raise MountError(f"{self._mountpoint} could not be mounted: {error}") from None
        self._archive.note_mountpoint(str(self._mountpoint))
        log.info("mounted %s at %s", self._archive.root, self._mountpoint)
        lost, hook = False, sys.unraisablehook
        try:
            sys.unraisablehook = self._unanswered
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._scheduler.run)
                nursery.start_soon(self._outbox.run)
                nursery.start_soon(self._capturer.run)
                nursery.start_soon(self._folder_sources.run)
                nursery.start_soon(self._cache.run)
                nursery.start_soon(self._keep_house)
                nursery.start_soon(self._engine.run)
                nursery.start_soon(self._jobs.run)
                nursery.start_soon(self._enforcement.run)
                nursery.start_soon(trio.to_thread.run_sync, metrics.load)
                nursery.start_soon(Schedule(self._archive, self._committer).run)
                nursery.start_soon(Training(self._archive, self._committer).run)
                nursery.start_soon(self._stop_on_signal)
                nursery.start_soon(self._main, nursery.cancel_scope)
                ready()
            lost = not self._stopped and self._is_mounted()
        finally:
            sys.unraisablehook = hook
            self._kernel.stop()
            pyfuse3.close(unmount=not lost)
            self._kernel.join()
            self._archive.note_mountpoint("")
        if lost:
            raise ConnectionLostError(
                f"the kernel ended the connection of {self._mountpoint}; what was closed is archived; "
                "mount it again to heal"
            )
        log.info("unmounted %s", self._mountpoint)

    async def _main(self, everything: trio.CancelScope) -> None:
        """Serve requests; when that ends, for whatever reason, the rest ends too."""
        try:
            await pyfuse3.main(min_tasks=1, max_tasks=MAX_REQUESTS)
        except* (MemoryError, OSError) as group:  # there is no room for a request, so nobody can answer it
            if group.split(_is_about_memory)[1] is not None:
                raise
            self._starved = True
        if self._starved:
            raise OutOfMemoryError(
                f"there is not enough memory to serve {self._mountpoint}; what was closed is archived; "
                "mount it again"
            )
        everything.cancel()

    def _unanswered(self, what: "sys.UnraisableHookArgs") -> None:
        """What Python cannot catch. Where pyfuse3 has no memory to begin a request, nobody answers it."""
        if not isinstance(what.exc_value, MemoryError):
            log.error("%s: %r", what.err_msg or "ignored", what.object, exc_info=what.exc_value)
            return
        self._starved = True
        try:
            pyfuse3.terminate()
        except MemoryError:
            os._exit(OutOfMemoryError.exit_code)

    def _is_mounted(self) -> bool:
        return any(each.mountpoint == self._mountpoint for each in mounts.mounted())

    async def _stop_on_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    with contextlib.suppress(ArchiveError, OSError):  # logged, and an alarm
                        await self._reload()
                    continue
                log.info("%s: unmounting", signal.Signals(number).name)
                self._stopped = True
                # While requests are still served: a message to the kernel may wait for one of them.
                self._kernel.stop()
                await trio.to_thread.run_sync(self._kernel.join)
                pyfuse3.terminate()

    async def _reload(self, *, noted: bool = False) -> list[str]:
        """Go by archive.toml as it is now; where anything in it is wrong, by what was read before.

        Conversions and deliveries that run go on as they began. Returns the keys that changed; ``noted``:
        the journal says so already. Raises ``ArchiveError``, ``OSError``.
        """
        archive = self._archive
        try:
            event = await trio.to_thread.run_sync(configuring.read_again, archive)
            self._inbox.add_converters()
        except (ArchiveError, OSError) as error:
            log.error("archive.toml was not read again: %s", error)
            archive.alarms[RELOAD] = f"{error}; what was read before stays in force"
            raise
        archive.alarms.pop(RELOAD, None)
        self._tree.reload()
        self._scheduler.look_again()
        self._outbox.reload()
        self._enforcement.reload()
        changed = [each.key for each in event.changes]
        log.info("archive.toml was read again; changed: %s", ", ".join(changed) or "nothing")
        if changed and not noted:
            try:
                await self._committer.submit(Note(event))
            except ArchiveError as error:
                log.error("that archive.toml was read again could not be noted: %s", error)
        return changed

    async def _keep_house(self) -> None:
        """Now and then: compress the journal of days that have ended, and note its count outside it."""
        while True:
            await trio.sleep(HOUSEKEEPING_SECONDS if self._archive.writable else math.inf)
            try:
                await trio.to_thread.run_sync(self._archive.keep_house)
            except Exception:
                log.exception("keeping house failed; it is tried again")
