"""mount and umount: the daemon's start and end as a person sees them."""

import contextlib
import json
import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from archivefs import config
from archivefs.errors import ArchiveError, FuseMissingError, MountError
from archivefs.fs import mounts
from archivefs.fs.mounts import MountOptions

LOG_FILE = "archivefs.log"
LOG_BYTES = 10 << 20
LOG_KEPT = 3


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("mountpoint", type=Path)  # not click.Path, which would wait for a mount that hangs
@click.option("-o", "words", metavar="OPTIONS", multiple=True,
              help="Comma list: allow_other, uid=N, gid=N, umask=N, ro, ...")  # fmt: skip
@click.option("-f", "--foreground", is_flag=True, help="Stay here and log to stderr.")
@click.option("-d", "--debug", is_flag=True, help="Log more.")
@click.option("--log-file", type=click.Path(path_type=Path), help=f"Instead of ARCHIVE/{LOG_FILE}.")
def mount(
    archive: Path,
    mountpoint: Path,
    words: tuple[str, ...],
    foreground: bool,
    debug: bool,
    log_file: Path | None,
) -> None:
    """Mount ARCHIVE at MOUNTPOINT, an empty folder; returns when it can be used.

    It ends with umount or SIGTERM, with everything committed. Nothing of what a program has closed in the
    inbox is lost however it ends.
    """
    options = mounts.parse_options(",".join(words))
    mounts.require_fuse()
    _warn(config.load(archive))
    root, mountpoint = archive.resolve(), mounts.absolute(mountpoint)
    level = logging.DEBUG if debug else logging.INFO
    if foreground:
        _log_to(logging.StreamHandler(sys.stderr), level)
        _serve(root, mountpoint, options, None)
    else:
        _start_daemon(root, mountpoint, options, log_file or root / LOG_FILE, level)


def _warn(settings: config.Config) -> None:
    """Say at once which converters cannot run; the daemon's log and health.json say it, too."""
    from archivefs.convert import sandbox

    strict = [name for name, each in settings.converters.items() if each.run and each.sandbox == "strict"]
    try:
        if strict:
            sandbox.bubblewrap()
    except sandbox.SandboxError as error:
        click.echo(f"archivefs: {', '.join(strict)} cannot run, the entries wait: {error}", err=True)


def _log_to(handler: logging.Handler, level: int) -> None:
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level)
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)


def _serve(root: Path, mountpoint: Path, options: MountOptions, answer: int | None) -> None:
    try:
        from archivefs.fs import daemon
    except ImportError as error:
        raise FuseMissingError(
            f"the Python package pyfuse3 does not load ({error}); install it: apt-get install libfuse3-dev "
            "pkg-config gcc python3-dev, then pip install 'archivefs[mount]'"
        ) from None

    def ready() -> None:
        if answer is not None:
            os.write(answer, b"{}")
            os.close(answer)

    try:
        daemon.serve(root, mountpoint, options, ready)
    except ExceptionGroup as group:
        raise _single(group) from group


def _single(error: Exception) -> Exception:
    """The one error that trio's nurseries wrapped, so that it keeps its exit code."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _start_daemon(root: Path, mountpoint: Path, options: MountOptions, log_file: Path, level: int) -> None:
    """Fork; the parent returns when the child says that the mount answers, or raises what the child met."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _daemon(root, mountpoint, options, log_file, level, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    if not said:
        raise MountError(f"the daemon ended before the mount was ready; see {log_file}")
    answer = json.loads(said)
    if answer:
        click.echo(f"archivefs: {answer['error']}", err=True)
        raise click.exceptions.Exit(answer["exit_code"])


def _daemon(
    root: Path, mountpoint: Path, options: MountOptions, log_file: Path, level: int, answer: int
) -> NoReturn:
    """The child: apart from the terminal, logging to the file, never returning into the caller's code."""
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.chdir("/")
        os.umask(0o077)
        handler = logging.handlers.RotatingFileHandler(log_file, maxBytes=LOG_BYTES, backupCount=LOG_KEPT)
        _log_to(handler, level)
        _serve(root, mountpoint, options, answer)
        code = 0
    except Exception as error:
        code = error.exit_code if isinstance(error, ArchiveError) else 1
        logging.getLogger(__name__).error("%s", error, exc_info=not isinstance(error, ArchiveError))
        with contextlib.suppress(OSError):  # the parent may have had its answer already
            os.write(answer, json.dumps({"error": str(error), "exit_code": code}).encode())
    finally:
        logging.shutdown()
        os._exit(code)


@click.command()
@click.argument("mountpoints", nargs=-1, required=True, metavar="MOUNTPOINT...", type=Path)
@click.option("--lazy", is_flag=True, help="Take it out of the tree now, end when nobody uses it.")
def umount(mountpoints: tuple[Path, ...], lazy: bool) -> None:
    """Unmount; returns when the daemon has committed everything and ended."""
    for mountpoint in mountpoints:
        mounts.unmount(mountpoint, lazy=lazy)
