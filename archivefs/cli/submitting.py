"""outbox: which reports wait for delivery, which were refused, and what a person decides about them."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from archivefs import control, describe, names
from archivefs.archive import Archive
from archivefs.catalog.outbox import Item
from archivefs.cli.common import console, json_option, print_json, with_archive
from archivefs.states import Submission
from archivefs.submit.decisions import unsent
from archivefs.telling import tell

_COLOURS = {Submission.QUEUED: "yellow", Submission.REFUSED: "red", Submission.DROPPED: "dim"}


@click.command()
@click.option("--retry", multiple=True, metavar="ID", help="Queue these reports again, in their place.")
@click.option("--drop", multiple=True, metavar="ID", help="Never deliver these reports.")
@with_archive
@json_option
def outbox(root: Path, retry: tuple[str, ...], drop: tuple[str, ...], as_json: bool) -> None:
    """Reports that wait for delivery, were refused, or were dropped; in the order of sending.

    ID is that of an entry (or its beginning) or of a report, or the name of a converter for all of its
    reports.
    """
    if not retry and not drop:
        with Archive.open_for_reading(root) as archive:
            rows = [_facts(archive, item) for item in unsent(archive)]
        _print(rows, as_json=as_json)
        return
    for ids, command in ((retry, "retry"), (drop, "drop")):
        if ids:
            _print_decided(
                tell(root, "outbox", [command, *ids], f"archivefs outbox --{command}"), as_json=as_json
            )


def _print_decided(reply: control.Reply, *, as_json: bool) -> None:
    for each in reply["reports"]:
        if as_json:
            print_json(each)
        else:
            click.echo(f"{each['id']}  {names.safe(each['report_id'])}  {each['state']}")


def _facts(archive: Archive, item: Item) -> dict[str, Any]:
    """A report in the outbox, with how its last delivery ended; keys without a value are left out."""
    entry = archive.reader.entry(item.n)
    last = archive.reader.outbox.last_delivery(item)
    facts: dict[str, Any] = {
        "state": str(item.state),
        "converter": item.converter,
        "id": item.id,
        "name": names.text(entry.name) if entry else "",
        "attempt": item.attempt,
        "ordinal": item.ordinal,
        "report_id": item.report_id,
        "queued_at": describe.time_text(item.queued_ms),
        "due_at": describe.time_text(item.due_ms) if item.state is Submission.QUEUED else "",
        "deliveries": last.number if last else 0,
        "tried_at": describe.time_text(last.started_ms) if last else "",
        "http_status": (last.http_status if last else 0) or "",
        "error": last.error if last else "",
    }
    return {key: value for key, value in facts.items() if value != ""}


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row)
        return
    if not rows:
        click.echo("nothing waits in the outbox, and nothing was refused")
        return
    table = Table(
        "state", "converter", "id", "report", "tried", "next", "error", box=None, header_style="bold"
    )
    for column in table.columns[:6]:
        column.no_wrap = True
    for row in rows:
        table.add_row(
            Text(row["state"], style=_COLOURS[Submission(row["state"])]), row["converter"], row["id"],
            f"{row['ordinal']}", f"{row['deliveries']} times", row.get("due_at", ""),
            Text(names.safe(row.get("error", ""))),
        )  # fmt: skip
    console().print(table)
