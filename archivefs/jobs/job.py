"""A job: what its work is given, what it keeps on the disk, and how it is stepped through.

``jobs/N/`` of the archive holds what is too much for the journal: ``errors.jsonl``, ``result.json``, and
``position.json``, with which work that cannot see in the catalog how far it came begins again.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from archivefs.archive import Archive
from archivefs.catalog.jobs import JobRow
from archivefs.convert.task import Done, Task
from archivefs.errors import ArchiveError, JobError
from archivefs.events import JobChanged, JobCreated
from archivefs.parts import Actor
from archivefs.states import JOB_ENDS, JobState
from archivefs.steps import Commit, Stepwise, made
from archivefs.store.durable import make_dirs, replacing
from archivefs.transaction import Operation, Transaction

FOLDER = "jobs"
ERRORS, RESULT, POSITION = "errors.jsonl", "result.json", "position.json"
ERRORS_BYTES = 16 << 20
"""Most bytes of errors.jsonl; what does not fit is counted only."""
PRIORITIES = range(10)
"""How urgent a job is, 0 before all others."""
PRIORITY, REPLAY_PRIORITY = 5, 8
"""Of a job that says nothing else, and of a replay: it gives way to what looks after the archive."""
PURGE, VERIFY, REPACK, REPROCESS, REPRODUCE = "purge", "verify", "repack", "reprocess", "reproduce"
"""Kinds of work (``works``)."""
REPLAYS = (REPROCESS, REPRODUCE)
Result = dict[str, Any]
Steps = Stepwise[Result]
"""Work; run again after any stop, it does nothing twice."""
Work = Callable[[Archive, "Job"], Steps]


@dataclass
class Progress:
    """How far a job is: things of ``total``; ``began``: monotonic seconds when this run of it began."""

    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    began: float = field(default_factory=time.monotonic)
    before: int = 0
    """Things that were done before this run began."""

    @property
    def gone(self) -> int:
        """Things that are behind it."""
        return self.done + self.failed + self.skipped

    @property
    def rate(self) -> float:
        """Things a second, in this run."""
        seconds = time.monotonic() - self.began
        return (self.gone - self.before) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated time to its end, None while nobody can say."""
        rate = self.rate
        return (self.total - self.gone) / rate if rate > 0 and self.total else None


class Job:
    """What a work knows of itself. For one thread; others may read ``progress``."""

    def __init__(self, root: Path, row: JobRow) -> None:
        self.number = row.job
        self.work = row.work
        self.request: Mapping[str, Any] = msgspec.json.decode(row.request)
        self.actor = Actor(uid=row.uid, program=row.program) if row.uid >= 0 else None
        self.progress = Progress(row.total, row.done, row.failed, row.skipped)
        self.progress.before = self.progress.gone
        self.folder = root / FOLDER / str(row.job)
        self.commit: Commit | None = None
        self.replayer: Callable[[list[Task]], list[Done | ArchiveError]] | None = None
        self.sleep: Callable[[float], object] = time.sleep

    def replay(self, tasks: list[Task]) -> list[Done | ArchiveError]:
        """Convert, and wait for all of them."""
        assert self.replayer is not None
        return self.replayer(tasks) if tasks else []

    def wait(self, seconds: float) -> None:
        """Do nothing for a while, for a job that is to go slowly."""
        if seconds > 0:
            self.sleep(seconds)

    def commit_one(self, operation: Operation[Any]) -> Any:  # noqa: ANN401  whatever the operation makes
        """For work that cannot yield: commit in its midst. Raises what undid the operation."""
        assert self.commit is not None
        (outcome,) = made(self.commit([operation]))
        return outcome

    def error(self, **facts: object) -> None:
        """Note that something failed, as a line of errors.jsonl."""
        make_dirs(self.folder)
        path = self.folder / ERRORS
        line = msgspec.json.encode(facts) + b"\n"
        with path.open("ab") as file:
            if file.tell() + len(line) <= ERRORS_BYTES:
                file.write(line)

    def errors(self) -> Iterator[dict[str, Any]]:
        """The lines of errors.jsonl, without what a stop tore."""
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / ERRORS).read_bytes().splitlines():
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    yield msgspec.json.decode(line, type=dict[str, Any])

    def keep_errors(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Have these lines, and no others, in errors.jsonl; durable."""
        encoded = [msgspec.json.encode(line) + b"\n" for line in lines]
        if encoded or self.errors_size():
            make_dirs(self.folder)
            with replacing(self.folder / ERRORS) as out:
                out.writelines(encoded)

    def errors_size(self) -> int:
        """Bytes of errors.jsonl."""
        path = self.folder / ERRORS
        return path.stat().st_size if path.exists() else 0

    def cut_errors(self, size: int) -> None:
        """Leave only the first bytes of errors.jsonl: what is behind them is told again."""
        if self.errors_size() > size:
            os.truncate(self.folder / ERRORS, size)

    def remember(self, position: Mapping[str, Any]) -> None:
        """Keep, durably, how far the work came."""
        make_dirs(self.folder)
        with replacing(self.folder / POSITION) as out:
            out.write(msgspec.json.encode(position))

    def position(self) -> dict[str, Any]:
        """What was remembered last, nothing in a new job."""
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            found: dict[str, Any] = msgspec.json.decode((self.folder / POSITION).read_bytes())
            return found
        return {}

    def keep_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, durably."""
        make_dirs(self.folder)
        with replacing(self.folder / RESULT) as out:
            out.write(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")

    def change(self, state: JobState, error: str = "") -> "ChangeJob":
        """The operation that notes a state, and how far it is."""
        return ChangeJob(self._changed(state, error))

    def count(self) -> "CountJob":
        """The operation that notes how far it is."""
        return CountJob(self._changed(JobState.RUNNING, ""))

    def _changed(self, state: JobState, error: str) -> JobChanged:
        counts = self.progress
        return JobChanged(
            job=self.number, state=state, total=counts.total, done=counts.done, failed=counts.failed,
            skipped=counts.skipped, error=error,
        )  # fmt: skip


@dataclass
class CreateJob(Operation[int]):
    """Put a job into the queue; returns its number."""

    work: str
    request: dict[str, Any]
    actor: Actor | None = None

    def run(self, txn: Transaction) -> int:
        """One event."""
        made = sum(isinstance(event, JobCreated) for event in txn.events)
        number = txn.reader.jobs.last() + made + 1
        txn.record(JobCreated(job=number, work=self.work, request=self.request, actor=self.actor))
        return number


FROM: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.PAUSED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.RUNNING}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.RUNNING}),
    JobState.CANCELLED: frozenset(JobState) - JOB_ENDS,
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.RUNNING}),
    JobState.DONE: frozenset({JobState.RUNNING}),
}
"""From which states a job comes into one; into ``running`` again after a stop."""


@dataclass
class ChangeJob(Operation[None]):
    """Note that a job came into another state, one of those that it can come into."""

    event: JobChanged
    actor: Actor | None = None

    def run(self, txn: Transaction) -> None:
        """One event. Raises ``JobError`` where it is in another state by now."""
        state = _state_in(txn, self.event.job)
        if state is None or state not in FROM[JobState(self.event.state)]:
            raise JobError(f"job {self.event.job} is {state or 'unknown'}")
        txn.record(msgspec.structs.replace(self.event, actor=self.actor))


@dataclass
class CountJob(Operation[None]):
    """Say how far a job came that was paused or cancelled in the midst of a step; its state stays."""

    event: JobChanged

    def run(self, txn: Transaction) -> None:
        """One event, or none."""
        row, state = txn.reader.jobs.get(self.event.job), _state_in(txn, self.event.job)
        assert row is not None
        assert state is not None
        said = self.event
        if (row.total, row.done, row.failed, row.skipped) != (
            said.total, said.done, said.failed, said.skipped,
        ):  # fmt: skip
            txn.record(msgspec.structs.replace(said, state=state, error=row.error))


def _state_in(txn: Transaction, number: int) -> JobState | None:
    """The state of a job, as the transaction leaves it so far; None for an unknown one."""
    changes = [each for each in txn.events if isinstance(each, JobChanged) and each.job == number]
    if changes:
        return JobState(changes[-1].state)
    row = txn.reader.jobs.get(number)
    return None if row is None else JobState(row.state)


def get(archive: Archive, number: int) -> JobRow:
    """A job. Raises ``JobError``."""
    row = archive.reader.jobs.get(number)
    if row is None:
        last = archive.reader.jobs.last()
        raise JobError(
            f"no job {number}; the last one is {last}" if last else f"no job {number}; there are none"
        )
    return row


def priority_of(row: JobRow) -> int:
    """How urgent a job is, one of ``PRIORITIES``; the usual one where it says something else."""
    usual = REPLAY_PRIORITY if row.work in REPLAYS else PRIORITY
    said = msgspec.json.decode(row.request).get("priority", usual)
    return said if isinstance(said, int) and said in PRIORITIES else usual


def describe(row: JobRow, progress: Progress | None = None) -> dict[str, Any]:
    """What job.json says; ``progress``: of one that runs here."""
    counts = progress or Progress(row.total, row.done, row.failed, row.skipped)
    left = progress.seconds_left if progress else None
    return {
        "job": row.job, "work": row.work, "request": msgspec.json.decode(row.request), "state": row.state,
        "priority": priority_of(row), "uid": row.uid if row.uid >= 0 else None, "program": row.program,
        "created_ms": row.created_ms, "started_ms": row.started_ms or None, "ended_ms": row.ended_ms or None,
        "total": counts.total, "done": counts.done, "failed": counts.failed, "skipped": counts.skipped,
        "per_second": round(progress.rate, 1) if progress else None,
        "seconds_left": None if left is None else round(left), "error": row.error,
    }  # fmt: skip


def progress_line(row: JobRow, progress: Progress | None = None) -> str:
    """One line for people."""
    counts = progress or Progress(row.total, row.done, row.failed, row.skipped)
    words = [f"job {row.job} {row.work} {row.state}"]
    if counts.total:
        words.append(f"{counts.gone} of {counts.total} ({100 * counts.gone // counts.total} %)")
    words += [f"{counts.failed} failed"] if counts.failed else []
    words += [f"{counts.skipped} skipped"] if counts.skipped else []
    if progress is not None:
        words.append(f"{progress.rate:.0f}/s")
        if progress.seconds_left is not None:
            words.append(f"{progress.seconds_left:.0f} s left")
    words += [row.error] if row.error else []
    return ", ".join(words) + "\n"


def forget(root: Path, number: int) -> None:
    """Remove what a job kept on the disk; the journal knows of it as before."""
    shutil.rmtree(root / FOLDER / str(number), ignore_errors=True)
