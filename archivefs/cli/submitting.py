"""outbox: which reports wait for delivery, which were refused, and what a person decides about them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from archivefs import describe, names
from archivefs.archive import Archive
from archivefs.catalog.outbox import Item
from archivefs.cli.common import console, json_option, print_json, with_archive
from archivefs.errors import LockedError, UnknownEntryError
from archivefs.events import Actor, Submission
from archivefs.submit.operations import DecideDelivery

_COLOURS = {Submission.QUEUED: "yellow", Submission.REFUSED: "red", Submission.DROPPED: "dim"}


@click.command()
@click.option("--retry", multiple=True, metavar="ID", help="Queue these reports again, in their place.")
@click.option("--drop", multiple=True, metavar="ID", help="Never deliver these reports.")
@with_archive
@json_option
def outbox(root: Path, retry: tuple[str, ...], drop: tuple[str, ...], as_json: bool) -> None:
    """Reports that wait for delivery, were refused, or were dropped; in the order of sending.

    ID is that of an entry (or its beginning) or of a report, or the name of a converter for all of its
    reports. --retry and --drop need the archive unmounted.
    """
    if not retry and not drop:
        with Archive.open_for_reading(root) as archive:
            rows = [_facts(archive, item) for item in _unsent(archive)]
        _print(rows, as_json=as_json)
        return
    try:
        archive = Archive(root)
    except LockedError as error:
        raise LockedError(f"{error}; unmount it before --retry or --drop") from None
    with archive:
        for ids, state, command in (
            (retry, Submission.QUEUED, "archivefs outbox --retry"),
            (drop, Submission.DROPPED, "archivefs outbox --drop"),
        ):
            items = [item for id_ in ids for item in _named(archive, id_, state)]
            _decide(archive, items, state, Actor(uid=os.getuid(), program=command), as_json=as_json)


def _unsent(archive: Archive) -> list[Item]:
    reader = archive.reader.outbox
    states = (Submission.QUEUED, Submission.REFUSED, Submission.DROPPED)
    return [item for state in states for item in reader.unsent(state)]


def _named(archive: Archive, id_: str, state: Submission) -> list[Item]:
    """The reports that an ID stands for, without those that are in that state already.

    Of an entry they are those of its latest attempt: what was sent since must not be replaced by an older.
    Raises ``UnknownEntryError``.
    """
    unsent = _unsent(archive)
    if id_ in {item.converter for item in unsent}:
        # What a person has dropped comes back only by its own id.
        found = [item for item in unsent if item.converter == id_ and item.state is not Submission.DROPPED]
    elif not (found := [item for item in unsent if item.report_id == id_]):
        try:
            entry = archive.reader.get(id_)
        except UnknownEntryError:
            raise UnknownEntryError(
                f'the outbox has no report, entry or converter "{id_}"; see archivefs outbox'
            ) from None
        items = archive.reader.outbox.of_entry(entry.n)
        latest = items[-1].attempt if items else 0
        found = [item for item in items if item.attempt == latest and item.state is not Submission.SENT]
        if not found:
            what = "were sent already" if items else "were never queued"
            raise UnknownEntryError(f"the outbox has nothing of {entry.id}: its reports {what}")
    return [item for item in found if item.state is not state]


def _decide(
    archive: Archive, items: Sequence[Item], state: Submission, actor: Actor, *, as_json: bool
) -> None:
    outcomes, _ = archive.commit(
        [DecideDelivery(item.id, item.attempt, item.ordinal, state, actor) for item in items]
    )
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, Exception):
            raise outcome
        if as_json:
            print_json({"id": item.id, "report_id": item.report_id, "state": str(state)})
        else:
            click.echo(f"{item.id}  {names.safe(item.report_id)}  {state}")


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
