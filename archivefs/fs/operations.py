"""FUSE requests as calls to nodes, and errors as errnos; nothing else happens here.

pyfuse3 ends the whole mount when a handler raises anything but ``FUSEError``. ``_boundary`` around every
handler is what keeps a bug in one request to that request: EIO for it, a traceback in the log.
"""

import errno
import functools
import logging
import os
import select
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from archivefs import names
from archivefs.catalog.catalog import Change
from archivefs.errors import ArchiveError, ContentDamagedError, QueryError
from archivefs.fs.capture import Capturer, actor_of
from archivefs.fs.control import ControlFile, Transaction
from archivefs.fs.frame_cache import ContentHandle
from archivefs.fs.inbox import errno_of
from archivefs.fs.inbox_items import InboxDir, InboxFile, InboxHandle, InboxItem
from archivefs.fs.jobs import ProgressHandle
from archivefs.fs.kernel import Known, Pages
from archivefs.fs.listings import Listing, Listings
from archivefs.fs.node import Attributes, Directory, File, Handle, Node
from archivefs.fs.search import QueryDir, QueryListing
from archivefs.fs.tree import Tree

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND | os.O_CREAT


class Presentation(NamedTuple):
    """How the mount shows owners and modes.

    ``uid`` and ``gid`` own everything archived, and inbox files too where they are ``fixed``; otherwise those
    belong to their writers. ``umask`` is taken from every mode.
    """

    uid: int
    gid: int
    fixed_uid: bool = False
    fixed_gid: bool = False
    umask: int = 0
    readonly: bool = False


def _boundary(handler: Callable[_P, Coroutine[Any, Any, _R]]) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """The one place where errors become errnos."""

    @functools.wraps(handler)
    async def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except ArchiveError as error:
            level = logging.ERROR if isinstance(error, ContentDamagedError) else logging.WARNING
            log.log(level, "%s: %s", handler.__name__, error)
            raise FUSEError(errno_of(error)) from None
        except OSError as error:
            log.debug("%s: %s", handler.__name__, error)
            raise FUSEError(errno_of(error)) from None
        except MemoryError:
            log.error("%s: there is not enough memory", handler.__name__)
            raise FUSEError(errno.ENOMEM) from None
        except Exception:
            log.exception("%s failed; the request gets EIO", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return guarded


class Operations(pyfuse3.Operations):
    """The adapter. One for each mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    """Off: with it the kernel acknowledges writes that this process has not seen."""

    def __init__(self, tree: Tree, capturer: Capturer, show: Presentation, known: Known) -> None:
        super().__init__()
        self._tree = tree
        self._inbox = tree.inbox
        self._capturer = capturer
        self._show = show
        self._listings = Listings(self._entry)
        self._pages = Pages()
        self._known = known
        self._handles: dict[int, Handle | Listing | QueryListing] = {}
        self._next_handle = 0

    def changed(self, changes: Sequence[Change]) -> None:
        """A listener for the committer."""
        self._listings.changed(changes)

    # -- answers ---------------------------------------------------------------------------------------

    def _entry(self, attributes: Attributes) -> EntryAttributes:
        entry, show = EntryAttributes(), self._show
        (
            ino, mode, entry.st_size, entry.st_blocks, mtime_ns, ctime_ns, uid, gid, known, attr_known,
            entry.st_blksize,
        ) = attributes  # fmt: skip
        self._known.told(ino)
        entry.st_ino = InodeT(ino)
        entry.st_mode = ModeT(mode & ~show.umask)
        entry.st_uid = show.uid if uid is None or show.fixed_uid else uid
        entry.st_gid = show.gid if gid is None or show.fixed_gid else gid
        entry.st_mtime_ns = entry.st_atime_ns = mtime_ns
        entry.st_ctime_ns = ctime_ns
        entry.entry_timeout = known
        entry.attr_timeout = attr_known
        return entry

    def _found(self, node: Node) -> EntryAttributes:
        """The answer that makes the kernel refer to a node."""
        entry = self._entry(node.attributes())
        if isinstance(node, InboxItem):
            node.lookups += 1
        return entry

    def _keep(self, handle: Handle | Listing | QueryListing) -> FileHandleT:
        self._next_handle += 1
        self._handles[self._next_handle] = handle
        return FileHandleT(self._next_handle)

    def _open_file(self, handle: Handle) -> FileInfo:
        # What is made for each open is read directly: the kernel may know the size of an earlier making.
        direct = not handle.keep_cache
        return FileInfo(fh=self._keep(handle), keep_cache=handle.keep_cache, direct_io=direct)

    def _writable_dir(self, ino: int) -> InboxDir:
        """The inbox folder of that number. Raises EROFS for every other directory."""
        node = self._tree.node(ino)
        if not isinstance(node, InboxDir) or self._show.readonly:
            raise FUSEError(errno.EROFS)
        return node

    def _inbox_handle(self, fh: int) -> InboxHandle:
        handle = self._handles[fh]
        if not isinstance(handle, InboxHandle):
            raise FUSEError(errno.EBADF)
        return handle

    # -- looking ---------------------------------------------------------------------------------------

    @_boundary
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """The node of a name."""
        parent = self._tree.node(parent_inode)
        try:
            if isinstance(parent, QueryDir):
                node = await parent.find(name)
            else:
                node = parent.lookup(name) if isinstance(parent, Directory) else None
        except QueryError as error:
            self._tree.failed(ctx.uid, error)
            raise FUSEError(error.errno) from None
        if node is None:
            raise FUSEError(errno.ENOENT)
        return self._found(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Only inbox items are remembered; all other nodes follow from their numbers."""
        for ino, count in inode_list:
            try:
                self._inbox.forget(ino, count)
            except Exception:
                log.exception("forget of inode %d", ino)

    @_boundary
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """stat."""
        node = self._tree.node(inode)
        if isinstance(node, ControlFile):
            node = node.seen_by(ctx.uid)
        return self._entry(node.attributes())

    @_boundary
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """A listing from the start."""
        node = self._tree.node(inode)
        if isinstance(node, QueryDir):
            return self._keep(QueryListing(node, self._entry))
        if not isinstance(node, Directory):
            raise FUSEError(errno.ENOTDIR)
        return self._keep(self._listings.open(node))

    @_boundary
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """One page of names with their attributes."""
        listing = self._handles[fh]
        if isinstance(listing, QueryListing):
            await listing.fill(start_id)
            listing.send(functools.partial(pyfuse3.readdir_reply, token))
            return
        assert isinstance(listing, Listing)
        listing.send(start_id, functools.partial(pyfuse3.readdir_reply, token))

    @_boundary
    async def releasedir(self, fh: FileHandleT) -> None:
        """End of the listing."""
        self._handles.pop(fh, None)

    @_boundary
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """The disk that the archive lies on."""
        disk, answer = os.statvfs(self._tree.archive.root), StatvfsData()
        for key in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            setattr(answer, f"f_{key}", getattr(disk, f"f_{key}"))
        answer.f_namemax = names.NAME_MAX
        return answer

    @_boundary
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        """``user.archivefs.*``, and in the inbox what writers set."""
        value = self._tree.node(inode).xattrs().get(name) if name.startswith(b"user.") else None
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    @_boundary
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """The names of the extended attributes."""
        return [XAttrNameT(name) for name in self._tree.node(inode).xattrs()]

    # -- reading and writing ---------------------------------------------------------------------------

    @_boundary
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """An archived file for reading, an inbox file as asked."""
        node = self._tree.node(inode)
        if isinstance(node, InboxFile):
            return await self._open_inbox(node, flags, ctx)
        if isinstance(node, ControlFile):
            return self._open_control(node, flags, ctx)
        if flags & _WRITING:
            raise FUSEError(errno.EROFS)
        if not isinstance(node, File):
            raise FUSEError(errno.EISDIR)
        handle = node.open()
        if isinstance(handle, ContentHandle):
            self._pages.opened(inode, handle)
        return self._open_file(handle)

    def _open_control(self, file: ControlFile, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & _WRITING and (self._show.readonly or not file.is_writable):
            raise FUSEError(errno.EROFS)
        return self._open_file(file.open_by(actor_of(ctx.uid, ctx.pid)))

    async def _open_inbox(self, file: InboxFile, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & _WRITING and self._show.readonly:
            raise FUSEError(errno.EROFS)
        handle = self._inbox.open(file, flags, ctx)
        if handle.writable:
            file.actor = actor_of(ctx.uid, ctx.pid)
        if handle.writable and flags & os.O_TRUNC:
            try:
                await self._capturer.truncate(file, 0, handle)
            except BaseException:
                handle.close()
                raise
        return self._open_file(handle)

    @_boundary
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Bytes of an open file."""
        handle = self._handles[fh]
        assert isinstance(handle, Handle)
        return await handle.read(off, size)  # type: ignore[return-value]  # pyfuse3 takes any buffer

    @_boundary
    async def poll(
        self, inode: InodeT, fh: FileHandleT, poll_handle: pyfuse3.PollHandle | None, ctx: RequestContext
    ) -> int:
        """Always ready, as files are; but the progress of a job when it is another than was read."""
        handle = self._handles[fh]
        if not isinstance(handle, ProgressHandle):
            return select.POLLIN | select.POLLOUT
        if handle.has_news():
            return select.POLLIN | select.POLLPRI
        if poll_handle is not None:
            handle.watch(poll_handle.notify)
        return 0

    @_boundary
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """A new inbox file, open for writing."""
        parent = self._writable_dir(parent_inode)
        known = parent.lookup(name)
        if isinstance(known, InboxFile) and not flags & os.O_EXCL:
            return await self._open_inbox(known, flags, ctx), self._found(known)
        handle = self._inbox.create(parent, name, mode, ctx)
        handle.file.actor = actor_of(ctx.uid, ctx.pid)
        self._capturer.created(handle.file)
        return self._open_file(handle), self._found(handle.file)

    @_boundary
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """A new, empty inbox file, captured at once; no other sort of node."""
        if not stat.S_ISREG(mode):
            raise FUSEError(errno.EPERM)
        parent = self._writable_dir(parent_inode)
        handle = self._inbox.create(parent, name, mode, ctx)
        handle.file.actor = actor_of(ctx.uid, ctx.pid)
        try:
            await self._capturer.flush(handle)
        finally:
            handle.close()
        return self._found(handle.file)

    @_boundary
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Bytes into staging; nothing is promised before the file is closed or synced."""
        opened = self._handles[fh]
        if isinstance(opened, Transaction):
            return await opened.write(off, buf)
        handle = self._inbox_handle(fh)
        if not handle.writable:
            raise FUSEError(errno.EBADF)
        return await self._capturer.write(handle, off, buf)

    @_boundary
    async def flush(self, fh: FileHandleT) -> None:
        """close(): what was written is captured, or carried out, and a failure reaches the program."""
        handle = self._handles[fh]
        if isinstance(handle, InboxHandle):
            await self._capturer.flush(handle)
        elif isinstance(handle, Transaction):
            await handle.flush()

    @_boundary
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:  # noqa: FBT001  pyfuse3's signature
        """The bytes so far survive a power cut in staging; after it they come back as quarantined."""
        handle = self._handles[fh]
        if isinstance(handle, InboxHandle):
            await handle.sync()

    @_boundary
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:  # noqa: FBT001  pyfuse3's signature
        """Names are durable with the capture of their files."""

    @_boundary
    async def release(self, fh: FileHandleT) -> None:
        """The last reference to an open file is gone."""
        handle = self._handles.pop(fh)
        if isinstance(handle, InboxHandle):
            await self._capturer.release(handle)
        elif isinstance(handle, ContentHandle):
            self._pages.closed(handle.ino)

    # -- changing the inbox ----------------------------------------------------------------------------

    @_boundary
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """truncate, chmod, chown, utimes on inbox items."""
        node = self._tree.node(inode)
        if isinstance(node, ControlFile) and fields.update_size:  # as of a shell's >
            return self._entry(node.seen_by(ctx.uid).attributes())
        if not isinstance(node, InboxItem) or self._show.readonly:
            raise FUSEError(errno.EROFS)
        if fields.update_size and isinstance(node, InboxFile):
            handle = self._handles.get(fh) if fh is not None else None
            opened = handle if isinstance(handle, InboxHandle) and handle.writable else None
            await self._capturer.truncate(node, attr.st_size, opened)
        if fields.update_mode:
            self._inbox.set_mode(node, attr.st_mode)
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            self._inbox.set_owner(node, uid, attr.st_gid if fields.update_gid else -1)
        if fields.update_mtime or fields.update_atime:
            self._set_times(node, attr, fields)
        if isinstance(node, InboxFile) and not fields.update_size:
            await self._capturer.attributes_changed(node)
        return self._entry(node.attributes())

    def _set_times(self, item: InboxItem, attr: EntryAttributes, fields: SetattrFields) -> None:
        facts = item.attributes()
        atime = attr.st_atime_ns if fields.update_atime else facts.mtime_ns
        mtime = attr.st_mtime_ns if fields.update_mtime else facts.mtime_ns
        self._inbox.set_times(item, atime, mtime)

    @_boundary
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """A folder in a converter's inbox."""
        parent = self._writable_dir(parent_inode)
        return self._found(self._inbox.mkdir(parent, name, mode, ctx))

    @_boundary
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Remove an inbox file; the archive keeps what it has of it."""
        self._capturer.unlink(self._writable_dir(parent_inode), name)

    @_boundary
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Remove an empty inbox folder."""
        self._inbox.rmdir(self._writable_dir(parent_inode), name)

    @_boundary
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """Another name within one converter's inbox; between converters programs copy."""
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)
        old, new = self._writable_dir(parent_inode_old), self._writable_dir(parent_inode_new)
        item = old.lookup(name_old)
        if item is None:
            raise FUSEError(errno.ENOENT)
        replace = not flags & pyfuse3.RENAME_NOREPLACE
        self._inbox.check_rename(item, new, name_new, replace=replace)
        if isinstance(item, InboxFile):
            item.actor = actor_of(ctx.uid, ctx.pid)
        elif isinstance(item, InboxDir):
            await trio.to_thread.run_sync(self._inbox.check_length, item, new, name_new)
        await self._capturer.rename(item, new, name_new)

    @_boundary
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """Never: a link could lead outside."""
        raise FUSEError(errno.EPERM)

    @_boundary
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """Never: one inbox file is one source."""
        raise FUSEError(errno.EPERM)

    @_boundary
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        """``user.*`` on inbox items."""
        self._inbox.set_xattr(self._own_item(inode, name), name, value)

    @_boundary
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """``user.*`` on inbox items."""
        self._inbox.remove_xattr(self._own_item(inode, name), name)

    def _own_item(self, ino: int, name: bytes) -> InboxItem:
        node = self._tree.node(ino)
        if not isinstance(node, InboxItem) or self._show.readonly:
            raise FUSEError(errno.EROFS)
        if not name.startswith(b"user.") or name.startswith(b"user.archivefs."):
            raise FUSEError(errno.ENOTSUP)
        return node
