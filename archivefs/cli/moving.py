"""restore: sources out of an archive."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from archivefs import names, query, restoring
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.cli.common import json_option, print_json, with_archive
from archivefs.errors import ArchiveError


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="ID|KEY=VALUE...")
@click.argument("dest", type=click.Path(path_type=Path))
@with_archive
@json_option
def restore(root: Path, words: tuple[str, ...], dest: Path, as_json: bool) -> None:
    """Copy the sources of entries to DEST under their original name, mtime and mode.

    DEST is a folder, or for a single ID a new file name. What a query selects goes to
    DEST/CONVERTER/DATE/NAME. Each SHA-256 is checked before the name appears; an existing file is never
    overwritten.
    """
    failed = 0
    with Archive.open_for_reading(root) as archive:
        for entry, target in _wanted(archive, words, dest):
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


def _wanted(archive: Archive, words: tuple[str, ...], dest: Path) -> Iterator[tuple[Entry, bytes]]:
    """The entries, and where their sources go."""
    if any("=" in word for word in words):
        for entry in archive.reader.search(query.parse(list(words), archive.zone)):
            yield entry, restoring.target_among(archive, entry, dest)
        return
    entries = [archive.reader.get(id_) for id_ in words]
    for entry in entries:
        yield entry, restoring.target_of(entry, dest, single=len(entries) == 1)
