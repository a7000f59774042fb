"""status, ls and show: reading an archive, mounted or not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from archivefs import describe, names, query, statistics
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.cli.common import console, json_option, print_json, size_text, with_archive
from archivefs.fs import mounts
from archivefs.states import Submission

LISTED = 50
"""Entries that ``ls`` shows to a person unless the query says ``limit=``."""
_COLOURS = {
    "success": "green",
    "failed": "red",
    "rejected": "red",
    "quarantined": "red",
    "suspended": "yellow",
}


@click.command()
@with_archive
@json_option
def status(root: Path, as_json: bool) -> None:
    """Entries by converter and status, bytes before and after, the disk's room, and where it is mounted."""
    with Archive.open_for_reading(root) as archive:
        facts = statistics.collect(archive)
        facts["disk_bytes"] = statistics.disk_bytes(archive)
    where = mounts.mountpoint_of(root)
    facts = {"archive": str(root), "mountpoint": str(where) if where else "", **facts}
    if as_json:
        print_json(facts)
        return
    out = console()
    out.print(f"{root}, " + (f"mounted at {where}" if where else "not mounted"))
    table = Table("converter", "status", "entries", box=None, header_style="bold")
    for converter, row in facts["converters"].items():
        for each, count in row["by_status"].items():
            table.add_row(converter, Text(each, style=_COLOURS.get(each, "")), str(count))
    out.print(table)
    out.print(
        f"{facts['entries']} entries, {size_text(facts['source_bytes'])} of sources in "
        f"{size_text(facts['stored_bytes'])}; the archive takes {size_text(facts['disk_bytes'])} on disk, "
        f"{size_text(facts['free_bytes'])} are free"
    )
    states = {state: facts["outbox"][state] for state in Submission if facts["outbox"][state]}
    if states:
        out.print("outbox: " + ", ".join(f"{count} {state}" for state, count in states.items()))


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@with_archive
@json_option
def ls(root: Path, words: tuple[str, ...], as_json: bool) -> None:
    """List the entries that all conditions select, newest first.

    Keys: id converter status from to date name sha256 text version report min_size max_size limit.
    Commas separate alternatives, name is a pattern: archivefs ls status=failed,rejected 'name=*.csv'
    """
    with Archive.open_for_reading(root) as archive:
        wanted = query.parse(list(words), archive.zone)
        rows = archive.reader.search(wanted)
        if as_json:
            for row in rows:
                print_json(describe.summary(archive, row))
        else:
            _print_entries(archive, rows, LISTED if wanted.limit == query.NO_LIMIT else wanted.limit)


def _print_entries(archive: Archive, rows: Iterator[Entry], limit: int) -> None:
    table = Table("id", "converter", "status", "size", "name", box=None, header_style="bold")
    table.columns[3].justify = "right"
    table.columns[4].overflow = "fold"
    for column in table.columns[:4]:
        column.no_wrap = True
    more = False
    for count, row in enumerate(rows):
        if count == limit:
            more = True
            break
        shown = names.text(row.folder + b"/" + row.name if row.folder else row.name)
        colour = _COLOURS.get(row.status, "")
        converter = archive.reader.converter_name(row.converter_id)
        table.add_row(
            row.id, converter, Text(row.status, style=colour), size_text(row.size), Text(names.safe(shown))
        )
    console().print(table)
    if more:
        click.echo(f"the newest {limit}; say limit=N for more, or narrow the query", err=True)


@click.command()
@click.argument("id_", metavar="ID")
@with_archive
@json_option
def show(root: Path, id_: str, as_json: bool) -> None:
    """Everything about one entry; ID may be shortened to its beginning (8 characters or more)."""
    with Archive.open_for_reading(root) as archive:
        facts = describe.entry(archive, archive.reader.get(id_))
    if as_json:
        print_json(facts)
        return
    out = console()
    attempts = facts.pop("attempts", [])
    for key, value in facts.items():
        text = _told(value) if isinstance(value, dict) else str(value)
        out.print(Text(f"{key:<14} ", style="bold").append(names.safe(text), style="not bold"))
    for attempt in attempts:
        _print_attempt(out, attempt)


def _told(facts: dict[str, Any]) -> str:
    """Facts within facts, in a line."""
    return ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)


def _report_text(report: dict[str, Any]) -> str:
    """Name and size of a report, and where it stands in the outbox."""
    state = f", {report['submission']['state']}" if "submission" in report else ""
    return f"{report['name']} ({size_text(report['size'])}{state})"


def _print_attempt(out: Console, attempt: dict[str, Any]) -> None:
    reports = ", ".join(map(_report_text, attempt.get("reports", [])))
    version = f" version {attempt['version']}" if "version" in attempt else ""
    arguments = msgspec.json.encode(attempt["arguments"]).decode()
    out.print(
        Text(f"attempt {attempt['attempt']:<6} ", style="bold").append(
            f"{attempt['outcome']} at {attempt['started_at']} in {attempt['duration_seconds']:.3f} s, "
            f"{attempt['cause']},{version} arguments {arguments}",
            style=f"not bold {_COLOURS.get(attempt['outcome'], '')}",
        )
    )
    for line in (reports, attempt.get("error", ""), *attempt.get("warnings", [])):
        if line:
            out.print(Text(" " * 15 + line.replace("\n", "\n" + " " * 15)))
