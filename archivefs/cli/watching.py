"""jobs: long work, watched and steered; and how a command waits for the job that it has made."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from archivefs import describe, names, telling, watching
from archivefs.archive import Archive
from archivefs.cli.common import archive_root, console, json_option, print_json, with_archive
from archivefs.errors import JobError, LockedError
from archivefs.fs import mounts
from archivefs.jobs import job as job_files
from archivefs.jobs import running
from archivefs.jobs.job import Job, Progress
from archivefs.parts import Actor
from archivefs.states import JobState


@click.group(invoke_without_command=True)
@click.option("--archive", metavar="DIR", help="The archive [ARCHIVEFS_ARCHIVE].")
@json_option
@click.pass_context
def jobs(ctx: click.Context, archive: str | None, as_json: bool) -> None:
    """Long work: what there is, how far it is; without a command, the list."""
    ctx.find_root().obj = archive or ctx.find_root().obj
    if ctx.invoked_subcommand is None:
        _list(archive_root(ctx), as_json=as_json)


def _list(root: Path, *, as_json: bool) -> None:
    with Archive.open_for_reading(root) as archive:
        rows = archive.reader.jobs.all(100)
    if as_json:
        for row in rows:
            print_json(watching.facts(root, row))
        return
    table = Table("job", "work", "state", "asked", "by", "things", "error", box=None, header_style="bold")
    for row in rows:
        facts = watching.facts(root, row)
        gone = facts["done"] + facts["failed"] + facts["skipped"]
        table.add_row(
            str(row.job), row.work, row.state, describe.time_text(row.created_ms),
            "archivefs" if row.uid < 0 else f"uid {row.uid}", f"{gone} of {facts['total']}",
            names.safe(row.error),
        )  # fmt: skip
    console().print(table) if rows else click.echo("there were no jobs yet")


@jobs.command()
@click.argument("job", type=click.IntRange(min=1))
@with_archive
@json_option
def watch(root: Path, job: int, as_json: bool) -> None:
    """Wait for a job to end, with a progress bar on a terminal; the exit code is 0 only if it was done."""
    result = finish(root, job, quiet=as_json)
    if as_json:
        print_json({"job": job, **result})
    else:
        click.echo(f"job {job}: {json.dumps(result)}")


def _steer(word: str) -> Callable[..., None]:
    @click.argument("job", type=click.IntRange(min=1))
    @with_archive
    def steer(root: Path, job: int) -> None:
        where = mounts.mountpoint_of(root)
        actor = Actor(uid=os.getuid(), program=f"archivefs jobs {word}")
        try:
            with Archive(root) as archive:
                row = job_files.get(archive, job)
                state = JobState(row.state)
                change, state = running.decide(archive, Job(root, row), state, word, actor)
                archive.commit_one(change)
        except LockedError as error:
            if where is None:
                raise
            file = where / "jobs" / str(job) / "control"
            if not file.exists():
                raise JobError(f"no job {job}") from None
            state = JobState(telling.write(file, [word], error)["state"])
        click.echo(f"job {job} is {state}")

    return steer


for _word, _help in (
    ("pause", "Stop a job for now, between two of its steps."),
    ("resume", "Let a paused job go on."),
    ("cancel", "End a job; what it has done stays done."),
):
    jobs.command(_word, help=_help)(_steer(_word))


def finish(root: Path, number: int, *, quiet: bool) -> dict[str, Any]:
    """As ``archivefs.watching.finish``, with a bar on a terminal."""
    with _bar(number, quiet=quiet) as show:
        return watching.finish(root, number, show)


@contextmanager
def _bar(number: int, *, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    disable = quiet or not terminal.is_terminal
    with Bar(*columns, console=terminal, transient=True, disable=disable) as bar:
        task = bar.add_task(f"job {number}", total=None)

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.gone, total=progress.total or None)

        yield show
