"""retention, hold, erase: what is purged, what must not be, and what has gone."""

import os
import shlex
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from archivefs import control, describe, names
from archivefs.archive import Archive
from archivefs.cli.common import console, json_option, print_json, size_text, with_archive
from archivefs.cli.watching import finish
from archivefs.errors import RetentionError
from archivefs.policies import Policy
from archivefs.retention import choosing, forecast, plans
from archivefs.settings import quoted
from archivefs.telling import tell

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def retention() -> None:
    """Which entries go when: policies, plans, purges."""


@retention.command("show")
@with_archive
@json_option
def show_policies(root: Path, as_json: bool) -> None:
    """The policies in force, and what each converter takes now."""
    with Archive.open_for_reading(root) as archive:
        rows = [_policy(archive, name) for name in _converters(archive)]
        common = archive.config.retention
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table("converter", "days", "max size", "takes", "keeps", "from", box=None, header_style="bold")
    for row in rows:
        table.add_row(
            row["converter"], str(row["days"] or "-"), size_text(row["max_size"]) if row["max_size"] else "-",
            size_text(row["bytes"]), ", ".join(row["keeps"]) or "-", row["table"] or "-",
        )  # fmt: skip
    console().print(table)
    for word, limit in (("max_total_size", common.max_total_size), ("min_free_space", common.min_free_space)):
        if limit is not None:
            click.echo(f"{word}: {size_text(limit)}")


def _converters(archive: Archive) -> list[str]:
    return sorted({*archive.config.converters, *(total.converter for total in archive.reader.totals())})


def _policy(archive: Archive, name: str) -> dict[str, Any]:
    own = archive.config.converters.get(name)
    table = f"converters.{name}.retention" if own is not None and own.retention is not None else ""
    policy: Policy = archive.config.policy(name)
    number = archive.reader.converter_id(name)
    keeps = [*policy.keep_statuses, *(["what is not submitted"] if policy.only_submitted else [])]
    until = max(policy.retain_until, archive.reader.purges.retained().get(name, ""))
    return {
        "converter": name, "days": policy.days, "max_size": policy.max_size,
        "bytes": archive.reader.purges.bytes_of(number) if number else 0,
        "keeps": [*keeps, *([f"all until {until}"] if until else [])],
        "table": table or ("retention" if policy.limits or policy.retain_until else ""),
    }  # fmt: skip


@retention.command("set")
@click.argument("converter")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@with_archive
@json_option
def set_policy(root: Path, converter: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Set keys of a converter's policy, such as days=90 or max_size="10 GB"; CONVERTER "all": of [retention].

    The file keeps its comments, the journal gets the old and the new value. Nothing is purged by this.
    """
    where = "retention" if converter == "all" else f"converters.{quoted(converter)}.retention"
    with Archive.open_for_reading(root) as archive:
        if converter != "all" and converter not in _converters(archive):
            archive.config.converter(converter)
    words = ["set"]
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or not value:
            raise click.UsageError(f'"{setting}" is no setting; write KEY=VALUE, as in days=90')
        words += [f"{where}.{key}", f'"{value}"' if key == "retain_until" else value]
    reply = tell(root, "config", words, "archivefs retention set")
    for change in reply["changes"]:
        if as_json:
            print_json(change)
        else:
            click.echo(f"{change['key']}: {_said(change.get('old'))} -> {_said(change.get('new'))}")


def _said(value: object) -> str:
    return "-" if value is None else msgspec.json.encode(value).decode()


@retention.command("plan")
@click.argument("query", nargs=-1, metavar="[KEY=VALUE]...")
@with_archive
@json_option
def plan_(root: Path, query: tuple[str, ...], as_json: bool) -> None:
    """List what would be purged now, entry by entry, and why: by the policies, or of a query.

    Purges nothing; the list is kept as a plan for `apply`.
    """
    reply = tell(root, "retention", ["plan", *query], "archivefs retention plan")
    with Archive.open_for_reading(root) as archive:
        number = reply["plan"]
        listed = list(plans.listed(root, plans.get(archive, number))) if number is not None else []
        rows = [(archive.reader.get(each.id), each) for each in listed]
    if as_json:
        for _, each in rows:
            print_json({"id": each.id, "why": each.why, "bytes": each.bytes})
        print_json({key: value for key, value in reply.items() if key != "ok"})
        return
    table = Table("id", "name", "bytes", "why", box=None, header_style="bold")
    for entry, each in rows:
        table.add_row(each.id, names.safe(names.text(entry.name)), size_text(each.bytes), each.why)
    if rows:
        console().print(table)
    for why, count in reply["kept"].items():
        click.echo(f"kept, {count} entries: {names.safe(why)}")
    if reply["early"]:
        click.echo(f"careful: {reply['early']} of these go before the days that retention promises are over")
    size = size_text(reply["bytes"])
    if reply["plan"] is None:
        click.echo("nothing would be purged")
        return
    click.echo(f"plan {reply['plan']}: {reply['entries']} entries, {size} of disk come back")
    if rows:
        click.echo(f"to do it: archivefs --archive {shlex.quote(str(root))} retention apply {reply['plan']}")


@retention.command("apply")
@click.argument("plan", type=click.IntRange(min=1))
@yes_option
@with_archive
@json_option
def apply_(root: Path, plan: int, yes: bool, as_json: bool) -> None:
    """Purge exactly what a plan lists, or nothing where something in it is protected by now."""
    with Archive.open_for_reading(root) as archive:
        row = plans.get(archive, plan)
    question = f"Purge {row.entries} entries ({size_text(row.bytes)} of disk) for good?"
    if not row.begun_ms and row.entries:
        _confirm(question, yes=yes)
    reply = tell(root, "retention", ["apply", f"plan={plan}"], "archivefs retention apply")
    _purged(root, reply, as_json=as_json)


@retention.command("enforce")
@click.option("--converter", metavar="NAME", help="The policy of this converter only.")
@yes_option
@with_archive
@json_option
def enforce(root: Path, converter: str | None, yes: bool, as_json: bool) -> None:
    """Purge now what the policies want to go; a mounted archive does so by itself every few minutes."""
    if not yes:
        with Archive.open_for_reading(root) as archive:
            choice = choosing.by_policies(archive, converter or "")
        if choice.chosen:
            _confirm(f"Purge {len(choice.chosen)} entries for good?", yes=yes)
    words = ["enforce", *([f"converter={converter}"] if converter else [])]
    reply = tell(root, "retention", words, "archivefs retention enforce")
    if reply["plan"] is None:
        print_json(reply) if as_json else click.echo("the policies want nothing to go")
        return
    _purged(root, reply, as_json=as_json)


@retention.command("explain")
@click.argument("id")
@with_archive
@json_option
def explain(root: Path, id: str, as_json: bool) -> None:
    """Why an entry is still there, and when it goes; or when and why it went."""
    with Archive.open_for_reading(root) as archive:
        said = choosing.explain(archive, id)
    if as_json:
        print_json(said)
        return
    click.echo(f"{said['id']} of {said['converter']}, {said['status']}, {size_text(int(str(said['bytes'])))}")
    purged = said.get("purged")
    if isinstance(purged, dict):
        click.echo(f"purged {purged['at']} by plan {purged['plan']}: {purged['why']}")
        return
    protected = said["protected_by"]
    for why in protected if isinstance(protected, list) else []:
        click.echo(f"protected: {names.safe(why)}")
    if said["expires_at"]:
        click.echo(f"its days are over at {said['expires_at']}")
        if not protected and str(said["expires_at"]) <= describe.time_text(int(time.time() * 1000)):
            click.echo("it goes when retention is enforced next")
    elif not protected:
        click.echo("no policy limits its days; a limit of size may take it when it is among the oldest")


@retention.command("history")
@with_archive
@json_option
def history(root: Path, as_json: bool) -> None:
    """The plans that were made and the purges that were done: who, when, why, how much."""
    with Archive.open_for_reading(root) as archive:
        rows = archive.reader.purges.plans()
    if as_json:
        for row in rows:
            print_json({**row._asdict(), "state": row.state})
        return
    table = Table("plan", "state", "when", "who", "entries", "disk", "scope", box=None, header_style="bold")
    for row in rows:
        when = describe.time_text(row.ended_ms or row.begun_ms or row.made_ms)
        who = row.by_uid if row.begun_ms else row.uid
        is_done = row.state == "done"
        table.add_row(
            str(row.plan), row.state, when, "archivefs" if who < 0 else f"uid {who}",
            str(row.purged if row.begun_ms else row.entries), size_text(row.freed if is_done else row.bytes),
            names.safe(row.scope),
        )  # fmt: skip
    console().print(table) if rows else click.echo("nothing was planned or purged yet")


@retention.command("forecast")
@with_archive
@json_option
def forecast_(root: Path, as_json: bool) -> None:
    """When limits of size will be reached, at the rate of the last days."""
    with Archive.open_for_reading(root) as archive:
        rows = forecast.forecast(archive)
    if as_json:
        for row in rows:
            print_json(row._asdict())
        return
    for row in rows:
        click.echo(names.safe(forecast.sentence(row)))
    if not rows:
        click.echo("no limit of size is set, so none will be reached")


@click.group()
def hold() -> None:
    """Protect entries from every purge, until the hold is released."""


@hold.command("add")
@click.option("--reason", required=True, help="Why; stands in the journal.")
@click.option("--name", help="What to call it [hold-N].")
@click.option("--future", is_flag=True, help="Later entries that the query selects, too.")
@click.argument("query", nargs=-1, required=True, metavar="KEY=VALUE...")
@with_archive
@json_option
def add(
    root: Path, reason: str, name: str | None, future: bool, query: tuple[str, ...], as_json: bool
) -> None:
    """Hold the entries that a query selects now; what becomes of them later changes nothing."""
    words = ["add", f"reason={reason}", *([f"hold={name}"] if name else [])]
    words += ["future=yes"] if future else []
    reply = tell(root, "hold", [*words, *query], "archivefs hold add")
    if as_json:
        print_json(reply)
    else:
        later = " and later ones" if reply["future"] else ""
        click.echo(f"{names.safe(reply['hold'])} holds {reply['entries']} entries{later}")


@hold.command("release")
@click.option("--reason", required=True, help="Why; stands in the journal.")
@click.argument("name")
@with_archive
@json_option
def release(root: Path, reason: str, name: str, as_json: bool) -> None:
    """Let a hold protect nothing any more."""
    reply = tell(root, "hold", ["release", f"hold={name}", f"reason={reason}"], "archivefs hold release")
    print_json(reply) if as_json else click.echo(f"{names.safe(name)} is released")


@hold.command("list")
@click.option("--all", "everything", is_flag=True, help="Released ones, too.")
@with_archive
@json_option
def list_holds(root: Path, everything: bool, as_json: bool) -> None:
    """The holds, oldest first."""
    with Archive.open_for_reading(root) as archive:
        rows = [row for row in archive.reader.purges.holds() if everything or not row.released_ms]
    if as_json:
        for row in rows:
            print_json(row._asdict())
        return
    table = Table("hold", "since", "who", "entries", "of", "reason", box=None, header_style="bold")
    for row in rows:
        later = " and later ones" if row.future else ""
        state = (
            f" (released {describe.time_text(row.released_ms)}: {row.released})" if row.released_ms else ""
        )
        table.add_row(
            names.safe(row.name), describe.time_text(row.added_ms), f"uid {row.uid}", f"{row.entries}{later}",
            names.safe(row.query), names.safe(row.reason + state),
        )  # fmt: skip
    console().print(table) if rows else click.echo("nothing is held")


@click.command()
@click.argument("id")
@click.option("--reason", required=True, help="Why; stands in the journal.")
@yes_option
@with_archive
@json_option
def erase(root: Path, id: str, reason: str, yes: bool, as_json: bool) -> None:
    """Remove the bytes of one entry (source, reports and logs), whatever retention says; not what is held.

    The fact stays: its name, times, hash, and that it was erased, by whom and why.
    """
    _confirm(f"Erase the bytes of {names.safe(id)} for good?", yes=yes)
    reply = tell(root, "erase", [f"id={id}", f"reason={reason}"], "archivefs erase")
    _purged(root, reply, as_json=as_json)


def _confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal. Raises ``RetentionError`` where there is none and nobody said yes."""
    if yes:
        return
    if not os.isatty(0):
        raise RetentionError("nothing was purged: this is no terminal to ask at; say --yes")
    click.confirm(question, abort=True)


def _purged(root: Path, reply: control.Reply, *, as_json: bool) -> None:
    """Wait for the job of a purge, and say what it did."""
    result = finish(root, reply["job"], quiet=as_json)
    if as_json:
        print_json({"job": reply["job"], **result})
        return
    kept = f"; {result['kept']} were kept" if result["kept"] else ""
    click.echo(f"purged {result['purged']} entries, {size_text(result['freed'])} of disk came back{kept}")
