"""What an archive needs of its machine: room, FUSE, the sandbox of its converters and their code."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from archivefs.config import ConverterConfig
from archivefs.convert import sandbox, snapshots, trial
from archivefs.doctor.findings import Case, Line, ok, problem, warning
from archivefs.errors import ArchiveError, FuseMissingError
from archivefs.fs import mounts
from archivefs.names import size_text
from archivefs.states import Outcome
from archivefs.store import code

LOW = 1.5
"""Below so many times the reserve, free space is a warning: captures end at the reserve."""
LOAD_SECONDS = 20.0
"""For loading one converter."""


def space(case: Case) -> Iterator[Line]:
    """The disk's room for bytes and files, and whether it can be written to."""
    disk = os.statvfs(case.root)
    if disk.f_flag & os.ST_RDONLY:
        yield problem(
            "space",
            f"the disk of {case.root} is mounted read-only; nothing can be captured",
            f"dmesg says why; then: mount -o remount,rw {_mount_of(case.root)}",
        )
    elif not os.access(case.root, os.W_OK | os.X_OK):
        owner = case.root.stat().st_uid
        yield warning(
            "space",
            f"uid {os.geteuid()} may not write to {case.root}, of uid {owner}",
            f"run archivefs as its owner, such as: sudo -u '#{owner}' {case.command('doctor')}",
        )
    free, reserve = disk.f_bavail * disk.f_frsize, case.config.reserve_bytes if case.config else 0
    seen = f"{size_text(free)} are free, the reserve is {size_text(reserve)}"
    more = (
        f"make room on the disk of {case.root} (du -xh --max-depth=2 {_mount_of(case.root)} | sort -h), "
        f"or make finished days smaller: {case.command('repack')} (while it is not mounted)"
    )
    if free < reserve:
        yield problem("space", f"{seen}: nothing is captured until there is more", more)
    elif free < reserve * LOW:
        yield warning("space", f"{seen}: captures end soon", more)
    elif disk.f_files and disk.f_favail < 1000:
        yield problem("space", f"the disk has room for {disk.f_favail} more files only", more)
    else:
        yield ok("space", seen)


def _mount_of(path: Path) -> Path:
    """The mountpoint of the disk on which a path lies."""
    while not os.path.ismount(path) and path != path.parent:
        path = path.parent
    return path


def fuse(case: Case) -> Iterator[Line]:
    """What mounting needs: the device, the helper, the Python binding, and the word for other users."""
    try:
        mounts.require_fuse()
        os.close(os.open(mounts.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FuseMissingError as error:
        seen, _, remedy = str(error).partition(": ")
        yield problem("fuse", f"{seen}; nothing can be mounted", remedy)
        return
    except OSError as error:
        yield problem(
            "fuse",
            f"{mounts.DEVICE} cannot be opened: {error.strerror}",
            f"chmod 666 {mounts.DEVICE}; in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN",
        )
        return
    if importlib.util.find_spec("pyfuse3") is None:
        yield problem(
            "fuse",
            "the Python package pyfuse3 is not installed; nothing can be mounted",
            "apt-get install libfuse3-dev pkg-config gcc python3-dev && pip install 'archivefs[mount]'",
        )
    elif os.geteuid() != 0 and not mounts.others_allowed():
        yield ok(
            "fuse",
            f"{mounts.DEVICE} and fusermount3 are there; allow_other is for root only",
            f"where others shall use a mount: echo user_allow_other | sudo tee -a {mounts.FUSE_CONF}",
        )
    else:
        yield ok("fuse", f"{mounts.DEVICE} and fusermount3 are there, allow_other can be used")


def bubblewrap(case: Case) -> Iterator[Line]:
    """Whether the sandbox can be had that converters ask for."""
    if case.config is None:
        return
    strict = {
        name: each for name, each in case.config.converters.items() if each.run and each.sandbox == "strict"
    }
    if not strict:
        there = "is installed" if shutil.which("bwrap") else "is not installed"
        yield ok("sandbox", f"no converter asks for a strict sandbox; bubblewrap {there}")
        return
    try:
        with tempfile.TemporaryDirectory(prefix="archivefs-") as folder:
            sandbox.require(next(iter(strict.values())), Path(folder).resolve())
    except sandbox.SandboxError as error:
        key, less = _key(next(iter(strict))), '"limits"'
        seen, _, remedy = str(error).partition(": install it ")
        remedy = "apt-get install bubblewrap" if remedy else "docs/converters.md tells what a sandbox needs"
        yield problem(
            "sandbox",
            f"{', '.join(strict)} cannot run, their entries wait: {seen}",
            f"{remedy}; or ask for less: {case.command('config', 'set', key, less)}",
        )
    else:
        case.has_sandbox = True
        yield ok("sandbox", f"a strict sandbox starts; used by {', '.join(strict)}")


def _key(converter: str) -> str:
    return f"converters.{converter}.sandbox" if "." not in converter else f'converters."{converter}".sandbox'


def _why_not(case: Case, name: str, config: ConverterConfig) -> str:
    """What keeps a converter from running, '' for nothing.

    Only in a strict sandbox is it loaded: elsewhere its code could do something.
    """
    try:
        if config.sandbox != "strict" or not case.has_sandbox:
            snapshots.pack(case.root, config)
            return ""
        seconds = min(config.timeout_seconds, LOAD_SECONDS)
        told = trial.run(case.root, name, msgspec.structs.replace(config, timeout_seconds=seconds), None)
    except (ArchiveError, OSError) as error:
        return str(error)
    return "" if told.answer.outcome is Outcome.SUCCESS else told.answer.error


def converters(case: Case) -> Iterator[Line]:
    """The code that converters would run now, and all that ever ran."""
    if case.config is None:
        return
    running = {name: each for name, each in case.config.converters.items() if each.run}
    broken = {name: why for name, each in running.items() if (why := _why_not(case, name, each))}
    for name, why in broken.items():
        try_it = case.command("converter", "check", name)
        yield problem(
            "converters", f"{name} cannot run, its entries wait: {why}", f"mend its code; then: {try_it}"
        )
    kept = case.archive.reader.code() if case.archive is not None else []
    there = set(code.files(case.root))
    gone = [file for row in kept if (file := code.file_of(row.converter, row.sha256)) not in there]
    if gone:
        yield warning(
            "converters",
            f"{len(gone)} versions of code that attempts ran are missing, such as {gone[0]}",
            f"put the files back from a backup; then: {case.command('verify')}",
        )
    if not broken and not gone:
        without = len(case.config.converters) - len(running)
        yield ok(
            "converters",
            f"{len(running)} have their code, {without} archive only; {len(kept)} versions are kept",
        )
