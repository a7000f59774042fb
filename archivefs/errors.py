"""Every error a user can meet: each class owns its exit code, its errno and the wording around the facts.

Exit codes are unique and documented in docs/commands.md; a test compares the two. ``errno`` is what a
program on the mount sees. Anything that is not an ``ArchiveError`` is a bug: EIO and a traceback in the log.
"""

import errno as _errno
from typing import ClassVar


class ArchiveError(Exception):
    """Base of all errors with a message written for the person who meets it."""

    exit_code: ClassVar[int] = 9
    errno: ClassVar[int] = _errno.EIO

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigError(ArchiveError):
    """archive.toml says something that is not allowed; names the file, the key and what is."""

    exit_code = 10
    errno = _errno.EINVAL


class NotAnArchiveError(ArchiveError):
    """The folder holds no archive, or one that a newer version wrote."""

    exit_code = 11
    errno = _errno.ENOENT


class ArchiveExistsError(ArchiveError):
    """`init` met something that is already there."""

    exit_code = 12
    errno = _errno.EEXIST


class LockedError(ArchiveError):
    """Another process has the archive open for writing; says which."""

    exit_code = 13
    errno = _errno.EBUSY


class UnknownEntryError(ArchiveError):
    """No entry has this id."""

    exit_code = 14
    errno = _errno.ENOENT


class UnknownConverterError(ArchiveError):
    """No converter has this name in archive.toml."""

    exit_code = 15
    errno = _errno.EPERM


class ContentDamagedError(ArchiveError):
    """Bytes on disk are not what was written; only the entries in them are affected."""

    exit_code = 16
    errno = _errno.EIO


class SegmentMissingError(ContentDamagedError):
    """The file of a segment is not there: lost, or its records were moved to another since."""

    exit_code = 25


class DictionaryError(ContentDamagedError):
    """A dictionary is missing or not what was written; what was compressed with it cannot be read.

    ``name`` says which, '' where only its number is known.
    """

    exit_code = 27

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class JournalDamagedError(ArchiveError):
    """A journal line is altered, missing or out of order."""

    exit_code = 17
    errno = _errno.EIO


class DestinationExistsError(ArchiveError):
    """`restore` would have overwritten a file."""

    exit_code = 18
    errno = _errno.EEXIST


class QueryError(ArchiveError):
    """A query has an unknown key or a value that is not allowed."""

    exit_code = 19
    errno = _errno.EINVAL


class ControlError(ArchiveError):
    """What was written to a control file is no command, or there are too many of them."""

    exit_code = 45
    errno = _errno.EINVAL


class TooManyError(ControlError):
    """A user gives commands faster than they are taken."""

    exit_code = 46
    errno = _errno.EAGAIN


class JobError(ArchiveError):
    """There is no such job, or it is in a state that does not allow what a command asks for."""

    exit_code = 55
    errno = _errno.EINVAL


class RetentionError(ArchiveError):
    """A plan cannot be applied as it is, or a hold is not what a command says."""

    exit_code = 56
    errno = _errno.EBUSY


class NoSpaceError(ArchiveError):
    """The disk has less free space than the configured reserve."""

    exit_code = 20
    errno = _errno.ENOSPC


class ReadOnlyError(ArchiveError):
    """The archive takes no new data: opened for reading, or a write to it failed for good."""

    exit_code = 21
    errno = _errno.EROFS


class InvalidNameError(ArchiveError):
    """A name that the inbox cannot keep, such as a path that is too long."""

    exit_code = 22
    errno = _errno.ENAMETOOLONG


class CatalogError(ArchiveError):
    """SQLite cannot open or read the catalog, and not because its content is damaged."""

    exit_code = 24


class OtherSchemaError(CatalogError):
    """The catalog was made by another version; it is only an index, and is made again."""

    exit_code = 26


class CaptureFailedError(ArchiveError):
    """The disk refused a write that a capture needed; carries the true errno in ``os_errno``."""

    exit_code = 23
    errno = _errno.EIO

    def __init__(self, message: str, os_errno: int = _errno.EIO) -> None:
        super().__init__(message)
        self.os_errno = os_errno


class IncompleteError(ArchiveError):
    """Some of many files could not be read; the others are archived."""

    exit_code = 28


class MountError(ArchiveError):
    """The mount could not be made."""

    exit_code = 30


class FuseMissingError(MountError):
    """FUSE or its Python binding is not there; says what to install."""

    exit_code = 31


class MountpointError(MountError):
    """The mountpoint is missing, not empty, or already in use."""

    exit_code = 32


class NotMountedError(MountError):
    """`umount` met a folder on which no archive is mounted."""

    exit_code = 33


class UnmountError(MountError):
    """The mount is busy, or the daemon did not end."""

    exit_code = 34


class OutOfMemoryError(MountError):
    """The daemon had no memory for a request; it unmounted and left."""

    exit_code = 36


class ConnectionLostError(MountError):
    """The kernel ended the connection without an unmount; the daemon leaves with everything committed."""

    exit_code = 35
