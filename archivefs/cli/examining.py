"""doctor and metrics: how an archive and its machine are, for a person and for a monitor."""

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from archivefs import metrics as numbers
from archivefs import names
from archivefs.archive import Archive
from archivefs.cli.common import console, json_option, print_json, with_archive
from archivefs.doctor.examine import examine
from archivefs.doctor.findings import EXIT_CODES, Line, State

_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.PROBLEM: "bold red"}


@click.command()
@click.argument("mountpoints", nargs=-1, metavar="[MOUNTPOINT]...", type=Path)
@with_archive
@json_option
def doctor(root: Path, mountpoints: tuple[Path, ...], as_json: bool) -> None:
    """Look at an archive and its machine: what is wrong, and the command that mends it.

    Changes nothing, waits for no mount, and works on a broken archive. MOUNTPOINT is one more
    folder to search for files that were saved while nothing was mounted. The exit
    code follows the worst: 0 for ok, 53 for a warning, 54 for a problem.
    """
    lines = examine(root, mountpoints)
    worst = max(line.state for line in lines)
    if as_json:
        facts = [{**line._asdict(), "state": line.state.name.lower()} for line in lines]
        print_json({"archive": str(root), "worst": worst.name.lower(), "checks": facts})
    else:
        _print(lines)
    raise click.exceptions.Exit(EXIT_CODES[worst])


@click.command()
@with_archive
def metrics(root: Path) -> None:
    """The archive's numbers in the text format of Prometheus; those of a mount are in its file metrics."""
    with Archive.open_for_reading(root) as archive:
        click.echo(numbers.text(archive), nl=False)


def _print(lines: list[Line]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        style = _COLOURS[line.state]
        table.add_row(
            Text(line.state.name.lower(), style=style),
            Text(line.check, style="bold"),
            Text(names.safe(line.seen)),
        )
        if line.remedy:
            word, style = ("hint", "dim") if line.state is State.OK else ("remedy", "cyan")
            table.add_row("", "", Text(f"{word}: {names.safe(line.remedy)}", style=style))
    out = console()
    out.print(table)
    counts = {state: sum(line.state is state for line in lines) for state in reversed(State)}
    out.print(
        ", ".join(
            f"{count} {state.name.lower()}{'s' if count != 1 and state is not State.OK else ''}"
            for state, count in counts.items()
            if count
        )
    )
