"""manifest: what an archive holds, for those who check it without archivefs."""

import csv
import io
import sys
from pathlib import Path

import click
import msgspec

from archivefs import manifest as manifests
from archivefs import query
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.cli.common import with_archive
from archivefs.errors import ArchiveError


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--format", "kind", type=click.Choice(["sha256", "csv", "json"]), default="sha256",
    help="Lines for sha256sum -c (the default), or everything about entries and attempts.",
)  # fmt: skip
@with_archive
def manifest(root: Path, words: tuple[str, ...], kind: str) -> None:
    """SHA-256 sums of the sources that a query selects, or all facts about them.

    After archivefs restore QUERY DEST, sha256sum -c checks the files in DEST.
    """
    failed, out = 0, sys.stdout.buffer
    with Archive.open_for_reading(root) as archive:
        if kind == "csv":
            out.write(_row(list(manifests.COLUMNS)))
        for entry in archive.reader.search(query.parse(list(words), archive.zone)):
            try:
                out.writelines(_lines(archive, entry, kind))
            except (ArchiveError, OSError) as error:
                failed = error.exit_code if isinstance(error, ArchiveError) else 1
                click.echo(f"archivefs: {error}; it is left out", err=True)
        out.flush()
    if failed:
        raise click.exceptions.Exit(failed)


def _lines(archive: Archive, entry: Entry, kind: str) -> list[bytes]:
    match kind:
        case "csv":
            return [_row(cells) for cells in manifests.table(archive, entry)]
        case "json":
            return [msgspec.json.encode(manifests.facts(archive, entry)) + b"\n"]
        case _:
            return list(manifests.sums(archive, entry))


def _row(cells: list[object]) -> bytes:
    """A line of CSV as RFC 4180 says."""
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()
