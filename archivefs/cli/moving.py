"""capture and restore: files into an archive and out of it."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import click
import msgspec

from archivefs import attributes, names, restoring
from archivefs.archive import Archive
from archivefs.catalog.reader import Entry
from archivefs.cli.common import json_option, print_json, with_archive
from archivefs.config import load
from archivefs.errors import ArchiveError, CaptureFailedError, InvalidNameError
from archivefs.events import Actor
from archivefs.fs import mounts
from archivefs.operations import Capture


@click.command()
@click.option("--converter", required=True, help="The converter the files are for.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...",
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@with_archive
@json_option
def capture(root: Path, converter: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Archive FILEs as if they had been saved into inbox/CONVERTER/; name and mtime are kept.

    When the command returns with 0 they survive a power cut. The files themselves are not touched.
    """
    config = load(root)
    config.converter(converter)
    for file in files:
        if names.matches(os.fsencode(file.name), config.junk):
            raise InvalidNameError(
                f'"{_shown(Path(file.name))}" is a junk name (archive.toml, key junk): rename it first'
            )
    mountpoint = mounts.mountpoint_of(root)
    for file in files:
        if mountpoint is None:
            id_ = _capture_directly(root, converter, file)
        else:
            id_ = _capture_through(root, mountpoint, converter, file)
        if as_json:
            print_json({"id": id_, "file": _shown(file)})
        else:
            click.echo(f"{id_}  {names.safe(_shown(file))}")


def _shown(file: Path) -> str:
    return names.text(os.fsencode(file))


def _capture_directly(root: Path, converter: str, file: Path) -> str:
    with Archive(root) as archive, file.open("rb") as source:
        archive.require_space()
        facts = os.fstat(source.fileno())
        with archive.packing.file(converter, source.fileno(), root / "staging") as content:
            operation = Capture(
                converter=converter, name=os.fsencode(file.name), content=content,
                mtime_ns=facts.st_mtime_ns, mode=facts.st_mode & 0o7777, uid=facts.st_uid, gid=facts.st_gid,
                xattrs=attributes.read(source.fileno()),
                actor=Actor(uid=os.getuid(), program="archivefs capture"),
            )  # fmt: skip
            (receipt,), _ = archive.commit([operation])
    if isinstance(receipt, Exception):
        raise receipt
    return str(receipt.id)


def _capture_through(root: Path, mountpoint: Path, converter: str, file: Path) -> str:
    """Save under a name that is not captured, then rename: one capture, with the right mtime."""
    inbox, digest = mountpoint / "inbox" / converter, hashlib.sha256()
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(prefix=".capture-", suffix=".part", dir=inbox)
        with os.fdopen(fd, "wb") as out, file.open("rb") as source:
            while piece := source.read(1 << 20):
                digest.update(piece)
                out.write(piece)
        shutil.copystat(file, temporary)
        target = inbox / file.name
        Path(temporary).rename(target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise CaptureFailedError(
            f"{_shown(file)} could not be captured: {reason}", error.errno or 5
        ) from None
    try:
        return os.getxattr(target, "user.archivefs.id").decode()
    except OSError:  # converted and gone from the inbox already
        with Archive.open_for_reading(root) as archive:
            name = os.fsencode(file.name)
            entry = archive.reader.newest_with_content(converter, name, digest.hexdigest())
            return entry.id if entry else ""


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.argument("dest", type=click.Path(path_type=Path))
@with_archive
@json_option
def restore(root: Path, ids: tuple[str, ...], dest: Path, as_json: bool) -> None:
    """Copy the sources of entries to DEST under their original name, mtime and mode.

    DEST is a folder, or for a single ID a new file name. Each SHA-256 is checked before the name appears;
    an existing file is never overwritten.
    """
    failed = 0
    with Archive.open_for_reading(root) as archive:
        entries: list[Entry] = [archive.reader.get(id_) for id_ in ids]
        for entry in entries:
            target = restoring.target_of(entry, dest, single=len(entries) == 1)
            try:
                restoring.restore(archive, entry, target)
            except (ArchiveError, OSError) as error:
                failed = error.exit_code if isinstance(error, ArchiveError) else 1
                if as_json:
                    said = {"id": entry.id, "error": str(error), "exit_code": failed}
                    click.echo(msgspec.json.encode(said).decode(), err=True)
                else:
                    click.echo(f"archivefs: {error}", err=True)
                continue
            if as_json:
                print_json({"id": entry.id, "file": names.text(target), "sha256": entry.sha256})
            else:
                click.echo(f"{entry.id}  {names.safe(names.text(target))}")
    if failed:
        raise click.exceptions.Exit(failed)
