"""init and rebuild: an archive's folder itself."""

from pathlib import Path

import click

from archivefs import archive as archives
from archivefs.cli.common import json_option, print_json, with_archive


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
@with_archive
@json_option
def rebuild(root: Path, as_json: bool) -> None:
    """Make catalog.sqlite again from the journal. The archive must not be mounted."""
    count = archives.rebuild(root)
    if as_json:
        print_json({"events": count})
    else:
        click.echo(f"made {root / archives.CATALOG} again from {count} events")
