"""retry: conversions that came to their end, once more."""

from collections import Counter
from pathlib import Path

import click

from archivefs import control, names
from archivefs.archive import Archive
from archivefs.cli.common import json_option, print_json, with_archive
from archivefs.fs import mounts
from archivefs.query import parse
from archivefs.statuses import why_not_again
from archivefs.telling import tell


@click.command()
@click.argument("query", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--dry-run", is_flag=True, help="Only say which entries would be converted again.")
@with_archive
@json_option
def retry(root: Path, query: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Convert again what failed, or was rejected, skipped or suspended: now, or at the next mount.

    Needs at least one condition, in the words of ls: archivefs retry status=failed converter=ict-csv
    """
    rows = _would(root, query) if dry_run else tell(root, "retry", query, "archivefs retry")["entries"]
    reasons = Counter[str](row.get("reason", "") for row in rows)
    for row in rows:
        if as_json:
            print_json({key: value for key, value in row.items() if key != "name"})
        elif row["retried"]:
            click.echo(f"{row['id']}  {names.safe(row['name'])}")
    if not as_json:
        when = "when the archive is mounted" if mounts.mountpoint_of(root) is None else "now"
        _sum_up(reasons, f"would be converted again {when}" if dry_run else f"will be converted again {when}")


def _would(root: Path, query: tuple[str, ...]) -> list[control.Reply]:
    """As the reply to the command, with nothing done."""
    with Archive.open_for_reading(root) as archive:
        name, said = archive.reader.converter_name, list[control.Reply]()
        for row in archive.reader.search(parse(list(query), archive.zone), newest_first=False):
            reason = why_not_again(archive.config, name(row.converter_id), row, row.status)
            said.append(control.retried(row, reason))
        return said


def _sum_up(reasons: Counter[str], what: str) -> None:
    done = reasons.pop("", 0)
    click.echo(f"{done} {'entry' if done == 1 else 'entries'} {what}", err=True)
    for reason, count in reasons.most_common():
        click.echo(f"left alone {count}: {names.safe(reason)}", err=True)
