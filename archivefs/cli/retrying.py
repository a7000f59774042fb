"""retry: conversions that came to their end, once more."""

import os
from collections import Counter
from pathlib import Path

import click

from archivefs import names
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.cli.common import json_option, print_json, with_archive
from archivefs.committer import GROUP
from archivefs.errors import LockedError
from archivefs.events import Actor
from archivefs.fs import mounts
from archivefs.operations import Retry
from archivefs.query import parse
from archivefs.statuses import why_not_again


@click.command()
@click.argument("query", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--dry-run", is_flag=True, help="Only say which entries would be converted again.")
@with_archive
@json_option
def retry(root: Path, query: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Convert again what failed, or was rejected, skipped or suspended; at the next mount, at once.

    Needs at least one condition, in the words of ls: archivefs retry status=failed converter=ict-csv
    """
    with _opened(root, dry_run=dry_run) as archive:
        rows = list(archive.reader.search(parse(list(query), archive.zone), newest_first=False))
        reasons: Counter[str] = Counter()
        for start in range(0, len(rows), GROUP):
            group = rows[start : start + GROUP]
            for row, reason in zip(group, _retried(archive, group, dry_run=dry_run), strict=True):
                reasons[reason] += 1
                _say(row, reason, as_json=as_json)
    if not as_json:
        _sum_up(reasons, dry_run=dry_run)


def _retried(archive: Archive, rows: list[Entry], *, dry_run: bool) -> list[str]:
    """Why each is not converted again, '' where it is. Raises what stood in the way."""
    if dry_run:
        name = archive.reader.converter_name
        return [why_not_again(archive.config, name(row.converter_id), row, row.status) for row in rows]
    me = Actor(uid=os.getuid(), program="archivefs retry")
    reasons, _ = archive.commit([Retry(row.id, me) for row in rows])
    for each in reasons:
        if isinstance(each, Exception):
            raise each
    return reasons


def _opened(root: Path, *, dry_run: bool) -> Archive:
    """The archive, to be written unless nothing shall be. Raises ``LockedError`` that says what to do."""
    if dry_run:
        return Archive.open_for_reading(root)
    try:
        return Archive(root)
    except LockedError as error:
        where = mounts.mountpoint_of(root)
        remedy = f"; retry needs it unmounted: archivefs umount {where}, and mount again after it"
        raise LockedError(f"{error}{remedy if where else ''}") from None


def _say(row: Entry, reason: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": row.id, "retried": not reason, **({"reason": reason} if reason else {})})
    elif not reason:
        click.echo(f"{row.id}  {names.safe(names.text(row.name))}")


def _sum_up(reasons: Counter[str], *, dry_run: bool) -> None:
    done = reasons.pop("", 0)
    when = "would be converted again" if dry_run else "will be converted again when the archive is mounted"
    click.echo(f"{done} {'entry' if done == 1 else 'entries'} {when}", err=True)
    for reason, count in reasons.most_common():
        click.echo(f"left alone {count}: {names.safe(reason)}", err=True)
