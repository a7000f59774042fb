"""verify and quarantine: proof, and what was set aside."""

from datetime import date, datetime, time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from archivefs import config, describe, names
from archivefs import quarantine as quarantines
from archivefs.archive import Archive
from archivefs.cli.common import console, json_option, print_json, size_text, with_archive
from archivefs.states import Status
from archivefs.telling import tell
from archivefs.verify import repair as repairs
from archivefs.verify.findings import EXIT_CODES, Report
from archivefs.verify.verify import Scope, verify_folder

COLOURS = {"notice": "dim", "warning": "yellow", "error": "red", "critical": "bold red"}


class _Percent(click.ParamType[float]):
    name = "N%"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            percent = float(str(value).rstrip("%"))
        except ValueError:
            percent = -1
        if not 0 < percent <= 100:
            self.fail(f"{value!r} is not a percentage above 0 and up to 100")
        return percent


@click.command()
@click.option("--sample", type=_Percent(), default="100%", help="Read only this share of the records.")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d"]), help="Only what was captured on that day or later."
)
@click.option(
    "--repair", is_flag=True, help="Mend what can be mended without guessing; never deletes content."
)
@with_archive
@json_option
def verify(root: Path, sample: float, since: datetime | None, repair: bool, as_json: bool) -> None:
    """Check every record, every journal line, the catalog row by row, and what lies around.

    Works on a mounted archive too (not --repair). The exit code follows the worst finding: 0 for none or
    notices, 50 warning, 51 error, 52 critical.
    """
    report = _verify(root, sample, since, quiet=as_json)
    if repair and repairs.plan(report.findings):
        for step in repairs.plan(report.findings):
            click.echo(f"repair: {step}", err=True)
        backup = repairs.repair(root, report.findings)
        click.echo(f"repair: done; what was there before is in {backup}", err=True)
        report = _verify(root, sample, since, quiet=as_json)
    if as_json:
        print_json(facts_of(report))
    else:
        _print(report)
    raise click.exceptions.Exit(EXIT_CODES[report.worst])


def _verify(root: Path, sample: float, since: datetime | None, *, quiet: bool) -> Report:
    since_ms, day = 0, f"{since:%Y-%m-%d}" if since else ""
    if since is not None:
        start = datetime.combine(date(since.year, since.month, since.day), time(), config.load(root).zone)
        since_ms = int(start.timestamp() * 1000)
    terminal = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    disable = quiet or not terminal.is_terminal
    with Progress(*columns, console=terminal, transient=True, disable=disable) as bar:
        task = bar.add_task("verify", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return verify_folder(root, Scope(sample=sample, since_ms=since_ms, since=day), progress)


def facts_of(report: Report) -> dict[str, object]:
    """A verification as JSON."""
    return {
        "scope": report.scope,
        "records": report.records,
        "bytes": report.bytes,
        "events": report.events,
        "seconds": round(report.seconds, 3),
        "worst": report.worst.name.lower() if report.findings else "",
        "findings": [
            {**finding._asdict(), "severity": finding.severity.name.lower()} for finding in report.findings
        ],
    }


def _print(report: Report) -> None:
    print_findings(report)
    rate = size_text(int(report.bytes / max(report.seconds, 1e-6)))
    console().print(
        f"{report.records} records with {size_text(report.bytes)} and {report.events} events verified in "
        f"{report.seconds:.1f} s ({rate}/s, {report.scope}): {counted(report)}"
    )


def print_findings(report: Report) -> None:
    """Each finding with its remedy, for people."""
    out = console()
    for finding in report.findings:
        word = finding.severity.name.lower()
        out.print(
            Text(f"{word}: ", style=COLOURS[word]).append(f"{finding.where}: {finding.what}", "default")
        )
        out.print(Text(f"  remedy: {finding.remedy}", style="dim"))


def counted(report: Report) -> str:
    """How many findings of which severity."""
    return ", ".join(f"{count} {word}" for word, count in report.counts().items()) or "nothing to find"


@click.group()
def quarantine() -> None:
    """What was being written when the machine stopped, and bytes that were cut off."""


@quarantine.command("list")
@with_archive
@json_option
def list_(root: Path, as_json: bool) -> None:
    """Quarantined entries, and the files kept aside under quarantine/."""
    with Archive.open_for_reading(root) as archive:
        rows = [describe.summary(archive, row) | {"reason": row.reason}
                for row in archive.reader.with_status(Status.QUARANTINED)]  # fmt: skip
        rows += [{"kept": kept.name, "size": kept.size} for kept in quarantines.kept(root)]
    for row in rows:
        if as_json:
            print_json(row)
        elif "id" in row:
            click.echo(
                f"{row['id']}  {size_text(row['size']):>9}  "
                + names.safe(f"{row['converter']}/{row['name']}: {row['reason']}")
            )
        else:
            click.echo(f"quarantine/{names.safe(row['kept'])}  {size_text(row['size'])}")
    if not rows and not as_json:
        click.echo("nothing is quarantined")


@quarantine.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@with_archive
@json_option
def adopt(root: Path, ids: tuple[str, ...], as_json: bool) -> None:
    """Treat quarantined entries as if they had just been captured: they are converted."""
    _decide(root, "adopt", ids, as_json=as_json)


@quarantine.command()
@click.argument("things", nargs=-1, required=True, metavar="ID|FILE...")
@with_archive
@json_option
def drop(root: Path, things: tuple[str, ...], as_json: bool) -> None:
    """Reject quarantined entries (their bytes stay), or remove files kept aside under quarantine/."""
    _decide(root, "drop", things, as_json=as_json)


def _decide(root: Path, what: str, things: tuple[str, ...], *, as_json: bool) -> None:
    for each in tell(root, "quarantine", [what, *things], f"archivefs quarantine {what}")["things"]:
        if as_json:
            print_json(each)
        elif "removed" in each:
            click.echo(f"removed quarantine/{names.safe(each['removed'])}")
        else:
            click.echo(f"{each['id']}  {each['status']}")
