"""capture and import: files and whole folders into an archive, past the mount or through it."""

import contextlib
import functools
import hashlib
import itertools
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Set
from dataclasses import asdict
from pathlib import Path
from typing import IO

import click
import msgspec

from archivefs import names
from archivefs.archive import Archive
from archivefs.bulk.capture import Bulk, Manner, Tally
from archivefs.bulk.read import pieces, unchanged
from archivefs.bulk.walk import (
    NO_FILE,
    Found,
    Identity,
    LeftOut,
    Opener,
    SourceError,
    Tree,
    Why,
    reason_of,
    walk,
)
from archivefs.cli.common import json_option, print_json, size_text, with_archive
from archivefs.config import Config, load
from archivefs.errors import CaptureFailedError, IncompleteError, InvalidNameError, LockedError
from archivefs.fs import mounts
from archivefs.jobs import dictionaries
from archivefs.packing import SOURCES
from archivefs.parts import Actor

TOLD = 100
"""The progress bar moves once for so many files."""
Things = Generator[Found | LeftOut, None, None]


@click.command()
@click.option("--converter", required=True, help="The converter the files are for.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...",
                type=click.Path(exists=True, readable=False, path_type=Path))  # fmt: skip
@with_archive
@json_option
def capture(root: Path, converter: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Archive FILEs as if they had been saved into inbox/CONVERTER/; name and mtime are kept.

    Of a folder everything below it is archived, with its sub-folders. What the command has printed survives a
    power cut. The files themselves are not touched.
    """
    config = load(root)
    config.converter(converter)
    for file in files:
        if not file.is_dir() and names.matches(os.fsencode(file.name), config.junk):
            shown = names.text(os.fsencode(file.name))
            raise InvalidNameError(f'"{shown}" is a junk name (archive.toml, key junk): rename it first')
    mountpoint = mounts.mountpoint_of(root)
    own = _own(root, mountpoint)
    _require_outside(files, own)
    said = _Said(as_json=as_json)
    with contextlib.ExitStack() as stack:
        things = _named(files, config, own, stack)
        if mountpoint is not None:
            tally = _Inbox(root, mountpoint, converter, said).run(things)
        else:
            archive = stack.enter_context(Archive(root))
            manner = Manner(converter, Actor(uid=os.getuid(), program="archivefs capture"))
            tell = lambda found, receipt: said.captured(found, receipt.id)  # noqa: E731
            bulk = Bulk(archive, manner, tell, said.left_out)
            _run(bulk, archive, converter, things)
            tally = bulk.tally
    _require_complete(tally)


@click.command(name="import")
@click.option("--converter", required=True, help="The converter the files are for.")
@click.option("--convert", is_flag=True, help="Convert them as if they had been saved into the inbox.")
@click.option("--again", is_flag=True, help="Import what is in the archive already, too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.argument("folder", metavar="DIR",
                type=click.Path(exists=True, file_okay=False, readable=False, path_type=Path))  # fmt: skip
@with_archive
@json_option
def import_(
    root: Path, converter: str, convert: bool, again: bool, dry_run: bool, folder: Path, as_json: bool
) -> None:
    """Archive everything below DIR, quickly: for old files. Names, sub-folders and mtimes are kept.

    They become "archived" and are not converted, but with --convert. What is in the archive already is passed
    over, so an import that was stopped can be run again. The archive must not be mounted.
    """
    config = load(root)
    config.converter(converter)
    mountpoint = mounts.mountpoint_of(root)
    if mountpoint is not None and not dry_run:
        raise LockedError(
            f"{root} is mounted at {mountpoint}, and an import goes past the mount: unmount it first "
            f"(archivefs umount {mountpoint}), or use archivefs capture"
        )
    own = _own(root, mountpoint)
    _require_outside([folder], own)
    manner = Manner(
        converter, Actor(uid=os.getuid(), program="archivefs import"),
        imported=not convert, again=again, dry_run=dry_run,
    )  # fmt: skip
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        things = _named([folder], config, own, stack)
        total = functools.partial(_count, _named([folder], config, own, stack))
        archive = stack.enter_context(Archive.open_for_reading(root) if dry_run else Archive(root))
        bulk = Bulk(archive, manner, on_left_out=_Said(as_json=as_json).left_out)
        try:
            with contextlib.closing(_with_bar(things, total, quiet=as_json)) as watched:
                if dry_run:
                    bulk.run(watched)
                else:
                    _run(bulk, archive, converter, watched)
        finally:
            _print_tally(bulk.tally, time.monotonic() - started, dry_run=dry_run, as_json=as_json)
    _require_complete(bulk.tally)


def _run(bulk: Bulk, archive: Archive, converter: str, things: Things) -> None:
    """Capture all; where there is no dictionary yet, the first files make one for the others."""
    waiting = iter(things)
    if archive.packing.dictionary(converter, SOURCES) is None:
        bulk.run(itertools.islice(waiting, 2 * dictionaries.SAMPLES))
        dictionaries.train_missing(archive)
    bulk.run(waiting)


def _require_complete(tally: Tally) -> None:
    if tally.failed:
        raise IncompleteError(f"files that could not be read: {tally.failed}")


def _count(things: Things) -> int:
    return sum(1 for _ in things)


# -- what is there -----------------------------------------------------------------------------------------


def _own(root: Path, mountpoint: Path | None) -> set[Identity]:
    """The folders of the archive itself, which must not go into it."""
    return {_identity(each) for each in (root, mountpoint) if each is not None}


def _identity(folder: Path) -> Identity:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def _require_outside(given: Iterable[Path], own: Set[Identity]) -> None:
    for path in given:
        whole = path.resolve()
        if whole.is_dir() and any(_identity(each) in own for each in (whole, *whole.parents)):
            raise click.UsageError(f"{path} lies in the archive itself")


def _named(given: Iterable[Path], config: Config, own: Set[Identity], stack: contextlib.ExitStack) -> Things:
    """The files that were named, and those below the folders that were."""
    for path in given:
        where = os.fsencode(path)
        try:
            facts = path.stat()
            if stat.S_ISDIR(facts.st_mode):
                tree = Tree(where)
                stack.callback(tree.close)
                yield from walk(tree, config.junk, own)
            elif stat.S_ISREG(facts.st_mode):
                yield Found(b"", os.fsencode(path.name), facts.st_size, None, where)
            else:
                yield LeftOut(where, Why.FAILED, NO_FILE)
        except OSError as error:
            yield LeftOut(where, Why.FAILED, reason_of(error))


# -- through the mount -------------------------------------------------------------------------------------


class _Inbox:
    """Saves files into the inbox of a mounted archive, one after the other."""

    def __init__(self, root: Path, mountpoint: Path, converter: str, said: "_Said") -> None:
        self._root = root
        self._inbox = mountpoint / "inbox" / converter
        self._converter = converter
        self._said = said

    def run(self, things: Things) -> Tally:
        """Save them all. Raises ``CaptureFailedError`` where the inbox does not take one."""
        tally = Tally()
        with Opener() as opener:
            for each in things:
                try:
                    if isinstance(each, Found):
                        with opener.open(each) as fd:
                            id_ = self._save(each, fd)
                except OSError as error:
                    each = LeftOut(each.path, Why.FAILED, reason_of(error))
                if isinstance(each, LeftOut):
                    tally.leave_out(each.why)
                    self._said.left_out(each)
                else:
                    self._said.captured(each, id_)
        return tally

    def _save(self, found: Found, source: int) -> str:
        """Save under a name that is not captured, then rename: one capture, with the right mtime."""
        folder, temporary = self._inbox / os.fsdecode(found.folder), ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(prefix=".capture-", suffix=".part", dir=folder)
            with os.fdopen(fd, "wb") as out:
                sha256, facts = unchanged(source, lambda facts: (_copy(source, facts.st_size, out), facts))
            shutil.copystat(f"/proc/self/fd/{source}", temporary)
            os.utime(temporary, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            target = folder / os.fsdecode(found.name)
            Path(temporary).rename(target)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            if isinstance(error, SourceError):
                raise
            where = names.text(found.path)
            raise CaptureFailedError(
                f"{where} could not be captured: {reason_of(error)}", error.errno or 5
            ) from None
        try:
            return os.getxattr(target, "user.archivefs.id").decode()
        except OSError:  # converted and gone from the inbox already
            with Archive.open_for_reading(self._root) as archive:
                entry = archive.reader.newest_with_content(self._converter, found.name, sha256)
                return entry.id if entry else ""


def _copy(source: int, size: int, out: IO[bytes]) -> str:
    """Write the file anew and return its SHA-256."""
    digest = hashlib.sha256()
    out.seek(0)
    out.truncate()
    for piece in pieces(source, size):
        digest.update(piece)
        out.write(piece)
    return digest.hexdigest()


# -- what is said ------------------------------------------------------------------------------------------


class _Said:
    """Says of each file what came of it: captures on stdout, what is left out on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def captured(self, found: Found, id_: str) -> None:
        """One line."""
        if self._as_json:
            print_json({"id": id_, "file": names.text(found.path)})
        else:
            click.echo(f"{id_}  {names.safe(names.text(found.path))}")

    def left_out(self, what: LeftOut) -> None:
        """One line, where there is something to say."""
        if what.why in (Why.JUNK, Why.KNOWN):
            return
        where = names.text(what.path)
        if self._as_json:
            code = {"exit_code": IncompleteError.exit_code} if what.why is Why.FAILED else {}
            said = {"file": where, "error": what.reason, **code}
            click.echo(msgspec.json.encode(said).decode(), err=True)
        else:
            click.echo(f"archivefs: {names.safe(where)}: {what.reason}", err=True)


def _print_tally(tally: Tally, seconds: float, *, dry_run: bool, as_json: bool) -> None:
    """What came of an import."""
    if as_json:
        print_json({**asdict(tally), "seconds": round(seconds, 3), "dry_run": dry_run})
        return
    files = f"{tally.files} files with {size_text(tally.bytes)}"
    if dry_run:
        said = f"would import {files}"
    else:
        rate = tally.files / seconds
        said = f"imported {files} as {size_text(tally.stored)} in {seconds:.1f} s ({rate:.0f} files/s)"
    counts = {
        "in the archive already": tally.known,
        "junk names": tally.junk,
        "symbolic links": tally.link,
        "neither files nor folders": tally.special,
        "not readable": tally.failed,
    }
    left = ", ".join(f"{what} {count}" for what, count in counts.items() if count)
    click.echo(said + (f"; left out: {left}" if left else ""))


def _with_bar(things: Things, total: Callable[[], int], *, quiet: bool) -> Things:
    """The same things; on a terminal, a bar shows how many of ``total`` were taken."""
    if quiet or not sys.stderr.isatty():
        yield from things
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("counting", total=None)
        bar.update(task, total=total(), description="importing")
        for number, each in enumerate(things):
            if number % TOLD == 0:
                bar.update(task, completed=number)
            yield each
