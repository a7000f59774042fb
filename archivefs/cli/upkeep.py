"""repack: what keeps an archive small."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from archivefs.archive import Archive
from archivefs.cli.common import json_option, print_json, size_text, with_archive
from archivefs.errors import ArchiveError
from archivefs.jobs import repack as repacking
from archivefs.jobs.repack import Group, Result
from archivefs.query import parse


@click.command()
@click.argument("query", nargs=-1, metavar="[QUERY]...")
@click.option("--all", "everything", is_flag=True, help="Today's files as well, not only finished days.")
@click.option("--dry-run", is_flag=True, help="Only say what would be repacked.")
@with_archive
@json_option
def repack(root: Path, query: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> None:
    """Write the records of finished days again, as small as possible; their content stays byte for byte.

    QUERY chooses days and converters: those of which it selects an entry. Each new file is read back and
    compared with every SHA-256 before the old ones go. Stopped at any moment, nothing is lost, and the next
    repack goes on.
    """
    failed: ArchiveError | OSError | None = None
    with Archive(root) as archive:
        chosen = parse(list(query), archive.zone) if query else None
        groups = repacking.groups(archive, chosen, everything=everything)
        if dry_run:
            for group in groups:
                _say(group, None, as_json=as_json)
            return
        terminal = Console(stderr=True)
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
        disable = as_json or not terminal.is_terminal
        with Progress(*columns, console=terminal, transient=True, disable=disable) as bar:
            total = sum(archive.reader.content_size(name) for group in groups for name in group.segments)
            task = bar.add_task("repack", total=total)
            for group in groups:
                bar.update(task, description=group.base)
                try:
                    result = repacking.repack(
                        archive, group, archive.commit_one, lambda size: bar.advance(task, size)
                    )
                except (ArchiveError, OSError) as error:
                    failed = error
                    click.echo(f"archivefs: {group.base} stays as it is: {error}", err=True)
                    continue
                _say(group, result, as_json=as_json)
    if failed is not None:
        raise click.exceptions.Exit(failed.exit_code if isinstance(failed, ArchiveError) else 1)


def _say(group: Group, result: Result | None, *, as_json: bool) -> None:
    if as_json:
        facts = {"segments": group.segments, "bytes_before": group.size}
        print_json(facts | ({"records": result.records, "bytes_after": result.after} if result else {}))
    elif result is None:
        click.echo(f"{group.base}: {size_text(group.size)} in {len(group.segments)} files")
    else:
        before, after = size_text(result.before), size_text(result.after)
        click.echo(f"{group.base}: {result.records} records, {after} instead of {before}")
