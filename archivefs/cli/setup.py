"""init and rebuild: an archive's folder itself."""

from pathlib import Path

import click

from archivefs import archive as archives
from archivefs import rebuilding
from archivefs.cli.common import json_option, print_json, with_archive
from archivefs.verify import from_segments as from_segments_module


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Start with this archive.toml instead of a minimal one.")  # fmt: skip
def init(archive: Path, config: Path | None) -> None:
    """Make an empty archive in the folder ARCHIVE, which must be empty or not exist."""
    toml = archives.DEFAULT_TOML if config is None else config.read_text()
    archives.Archive.create(archive, toml)
    click.echo(f"made {archive}; edit {archive / 'archive.toml'}, then: archivefs mount {archive} MOUNTPOINT")


@click.command()
@click.option("--from-segments", is_flag=True, help="The journal is damaged or gone: make it again, too.")
@with_archive
@json_option
def rebuild(root: Path, from_segments: bool, as_json: bool) -> None:
    """Make catalog.sqlite again from the journal. The archive must not be mounted.

    With --from-segments the journal is made again from the sources and reports; the old one is kept in
    quarantine/, and what cannot come back is listed.
    """
    if from_segments:
        _rebuild_from_segments(root, as_json=as_json)
        return
    count = rebuilding.rebuild(root)
    if as_json:
        print_json({"events": count})
    else:
        click.echo(f"made {root / rebuilding.CATALOG} again from {count} events")


def _rebuild_from_segments(root: Path, *, as_json: bool) -> None:
    rescue = from_segments_module.rebuild_from_segments(root)
    if as_json:
        print_json({"entries": rescue.entries, "records": rescue.records, "strays": rescue.strays,
                    "damaged": rescue.damaged, "dictionaries": rescue.dictionaries, "backup": rescue.backup,
                    "lost": from_segments_module.LOST})  # fmt: skip
        return
    click.echo(f"{rescue.entries} entries came back from {rescue.records} records; what cannot come back:")
    for line in from_segments_module.LOST:
        click.echo(f"  - {line}")
    for stray in rescue.strays:
        click.echo(f"  - {stray} belongs to no source that was found")
    for stretch in rescue.damaged:
        click.echo(f"  - {stretch} are damaged, what was in them is lost")
    for dictionary in rescue.dictionaries:
        click.echo(f"  - {dictionary}; until it is put back, what was compressed with it cannot be read")
    click.echo(f"the former journal and catalog are in {root / 'quarantine' / rescue.backup}")
