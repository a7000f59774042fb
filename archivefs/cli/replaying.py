"""reprocess and reproduce: the past converted again."""

import os
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from archivefs import names
from archivefs.archive import Archive
from archivefs.cli.common import console, json_option, print_json, with_archive
from archivefs.cli.watching import finish
from archivefs.control.upkeep import planned_replay, replay_request
from archivefs.errors import ControlError, IncompleteError
from archivefs.jobs.comparison import KINDS
from archivefs.jobs.job import FOLDER, PRIORITIES, REPLAY_PRIORITY
from archivefs.telling import tell

priority_option = click.option(
    "--priority", type=click.IntRange(PRIORITIES[0], PRIORITIES[-1]), default=REPLAY_PRIORITY, metavar="0..9",
    help=f"Before which jobs that wait: 0 is the most urgent [{REPLAY_PRIORITY}].",
)  # fmt: skip


@click.command()
@click.argument("query", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--code", default="current", metavar="current|original|FOLDER",
              help="Which code: that of now, of then, or in a folder that is not installed yet.")  # fmt: skip
@click.option("--arguments", type=click.Choice(["current", "original"]), default="current",
              help="Which arguments.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value of one argument.")
@click.option("--submit", is_flag=True, help="Deliver the reports, in place of the earlier ones.")
@click.option("--no-promote", is_flag=True, help="Keep what the entries are; the attempts stand beside.")
@click.option("--compare", is_flag=True, help="Say what is different from the reports so far.")
@click.option("--on-error", type=click.Choice(["skip", "abort"]), default="skip")
@click.option("--rate", type=click.FloatRange(min=0), default=0, help="At most so many a second.")
@priority_option
@click.option("--dry-run", is_flag=True, help="Only say what would be converted.")
@click.option("--yes", is_flag=True, help="Do not ask before reports are submitted.")
@with_archive
@json_option
def reprocess(
    root: Path, query: tuple[str, ...], code: str, arguments: str, settings: tuple[str, ...], submit: bool,
    no_promote: bool, compare: bool, on_error: str, rate: float, priority: int, dry_run: bool, yes: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Convert entries again. Each result is a further attempt; nothing is overwritten, and nothing is sent
    unless --submit says so.

    A success becomes what the entry is (but with --no-promote, or code of a folder). The exit code is 0 only
    if all conversions succeeded, 28 where some did not.
    """
    if code not in ("current", "original"):
        code = f"path:{Path(code).absolute()}"
    words = [*query, f"code={code}", f"arguments={arguments}", f"on_error={on_error}", f"rate={rate:g}"]
    words += [f"priority={priority}", *(f"set.{each}" for each in settings)]
    words += [f"{key}=yes" for key, wanted in (("submit", submit), ("compare", compare)) if wanted]
    words += ["promote=no"] if no_promote else []
    if dry_run:
        plan = _plan(root, words)
        print_json(plan) if as_json else _print_plan(plan)
        return
    if submit and not yes:
        if not os.isatty(0):
            raise ControlError("reports would be submitted, and this is no terminal to ask at; say --yes")
        count = _plan(root, words)["entries"]
        click.confirm(f"Submit the reports of up to {count} entries?", abort=True)
    reply = tell(root, "reprocess", words, "archivefs reprocess")
    result = finish(root, reply["job"], quiet=as_json)
    if as_json:
        print_json({"job": reply["job"], **result})
    else:
        _print_result(root, reply["job"], result)
    if result["failed"] or result["skipped"]:
        raise IncompleteError(
            f"{result['failed']} conversions failed and {result['skipped']} entries were skipped: see "
            f"{root / FOLDER / str(reply['job']) / 'errors.jsonl'}"
        )


def _plan(root: Path, words: list[str]) -> dict[str, Any]:
    """What a replay would convert."""
    with Archive.open_for_reading(root) as archive:
        return planned_replay(archive, replay_request(archive, words)[0])


def _print_plan(plan: dict[str, Any]) -> None:
    table = Table("converter", "entries", box=None, header_style="bold")
    for name, count in plan["converters"].items():
        table.add_row(name, str(count))
    if plan["converters"]:
        console().print(table)
    for why, count in plan["skipped"].items():
        click.echo(f"skipped, {count} entries: {names.safe(why)}")
    click.echo(f"{plan['entries']} entries would be converted, in about {plan['seconds']:g} s")


def _print_result(root: Path, job: int, result: dict[str, Any]) -> None:
    click.echo(
        f"job {job}: {result['successful']} of {result['total']} converted, {result['failed']} failed,"
        f" {result['skipped']} skipped"
    )
    compared = result.get("comparison")
    if compared is None:
        return
    click.echo(", ".join(f"{compared[kind]} {kind.replace('_', ' ')}" for kind in KINDS))
    for path, count in compared["fields"].items():
        click.echo(f"  {names.safe(path)}: {count}")
    click.echo(f"{root / FOLDER / str(job) / 'comparison.html'}")


@click.command()
@click.argument("query", nargs=-1, required=True, metavar="KEY=VALUE...")
@priority_option
@with_archive
@json_option
def reproduce(root: Path, query: tuple[str, ...], priority: int, as_json: bool) -> None:
    """Convert entries with the very code and arguments of then, and compare the reports byte for byte.

    Nothing is recorded. A field that also differs between two runs of the same code is named as not
    deterministic. The exit code is 0 only if all came out the same, 28 where some did not.
    """
    reply = tell(root, "reproduce", [*query, f"priority={priority}"], "archivefs reproduce")
    result = finish(root, reply["job"], quiet=as_json)
    if as_json:
        print_json({"job": reply["job"], **result})
    else:
        click.echo(
            f"{result['reproduced']} of {result['total']} reproduced,"
            f" {result['different']} came out otherwise, {result['skipped']} skipped"
        )
        for path, count in result["not_deterministic"].items():
            click.echo(f"  {names.safe(path)}: {count}, not deterministic: two runs differ, too")
        for path, count in result["fields"].items():
            click.echo(f"  {names.safe(path)}: {count}")
    if result["different"] or result["skipped"]:
        raise IncompleteError(f"not all came out the same; see {root / FOLDER / str(reply['job'])}")
