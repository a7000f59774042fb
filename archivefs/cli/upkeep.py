"""repack: what keeps an archive small."""

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from archivefs.archive import Archive
from archivefs.cli.common import json_option, print_json, size_text, with_archive
from archivefs.errors import ArchiveError
from archivefs.jobs import repack as repacking
from archivefs.jobs.repack import Group, Result
from archivefs.query import parse


@click.command()
@click.argument("query", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--all", "everything", is_flag=True, help="Today's files as well, not only finished days.")
@click.option("--dry-run", is_flag=True, help="Only say what would be repacked.")
@with_archive
@json_option
def repack(root: Path, query: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> None:
    """Write the records of finished days again, as small as possible; their content stays byte for byte.

    KEY=VALUE chooses days and converters as in ls: those of which it selects an entry. Each new file is read
    back and compared with every SHA-256 before the old ones go. Stopped at any moment, nothing is lost, and
    the next repack goes on.
    """
    failed = 0
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
            task = bar.add_task("repack", total=sum(group.content_bytes for group in groups))
            for group in groups:
                bar.update(task, description=group.base)
                try:
                    result = repacking.repack(
                        archive, group, archive.commit_one, lambda size: bar.advance(task, size)
                    )
                except (ArchiveError, OSError) as error:
                    failed = _say_failed(group, error, as_json=as_json)
                    continue
                _say(group, result, as_json=as_json)
    if failed:
        raise click.exceptions.Exit(failed)


def _say(group: Group, result: Result | None, *, as_json: bool) -> None:
    segments = [*group.segments, *group.unused]
    if as_json:
        facts = {"group": group.base, "segments": segments, "bytes_before": group.size}
        print_json(facts | ({"records": result.records, "bytes_after": result.after} if result else {}))
    elif result is None:
        click.echo(f"{group.base}: {group.records} records, {size_text(group.size)} in {len(segments)} files")
    else:
        before, after = size_text(result.before), size_text(result.after)
        click.echo(f"{group.base}: {result.records} records, {after} instead of {before}")


def _say_failed(group: Group, error: ArchiveError | OSError, *, as_json: bool) -> int:
    """Say why a group was left; returns the exit code for that."""
    code = error.exit_code if isinstance(error, ArchiveError) else 1
    if as_json:
        said = {"group": group.base, "error": str(error), "exit_code": code}
        click.echo(msgspec.json.encode(said).decode(), err=True)
    else:
        click.echo(f"archivefs: {group.base} is not repacked: {error}", err=True)
    return code
