"""Reprocessing: entries of a query converted again, each result an attempt beside the others.

A replay never overwrites anything. What an entry already has of a job is not made again by it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from archivefs.archive import Archive
from archivefs.catalog.rows import Attempt, Entry, arguments_of
from archivefs.config import ConverterConfig
from archivefs.convert import snapshots
from archivefs.convert.snapshots import CodeError
from archivefs.convert.task import Done, Task
from archivefs.errors import ArchiveError, JobError
from archivefs.events import Replayed
from archivefs.jobs.comparison import UNREADABLE, Comparison, Side, fields
from archivefs.jobs.job import REPLAY_PRIORITY, Job, Steps
from archivefs.operations import FinishAttempt, Report, reports_of, sound
from archivefs.query import parse
from archivefs.routing import UNROUTED
from archivefs.states import UNPURGEABLE, Outcome, Status
from archivefs.store.durable import make_dirs, replacing
from archivefs.transaction import Transaction

CHUNK = 48
"""Entries that are converted together, and committed as one group."""
ITEMS = "items.jsonl"
FOLDER = "path:"
"""What stands before the folder of code that is not installed."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked for; docs/replay.md says what each means."""

    query: list[str]
    code: str = "current"
    arguments: str = "current"
    settings: dict[str, Any] = {}
    submit: bool = False
    on_error: str = "skip"
    promote: bool = True
    compare: bool = False
    rate: float = 0.0
    priority: int = REPLAY_PRIORITY


@dataclass
class RecordReplay(FinishAttempt):
    """Store what a replay gave as a further attempt; promoted where it is wanted and was a success.

    ``promote``: see ``Replayed``. ``submit``: a promoted success is delivered.
    """

    job: int = 0
    code: str = ""
    promote: bool = False
    submit: bool = False

    def run(self, txn: Transaction) -> None:
        """One record for the log and each report, and one event. Raises where it is being converted."""
        status, attempts = txn.state(self.id)
        if status in UNPURGEABLE:
            raise ArchiveError(f"it is {status}")
        self.attempt = attempts + 1
        config = txn.config.converters.get(self.converter, ConverterConfig())
        promoted = self.promote and self.outcome is Outcome.SUCCESS
        log, stored = self._stored(txn, config)
        txn.record(
            Replayed(
                id=self.id, attempt=self.attempt, job=self.job, outcome=self.outcome, promoted=promoted,
                code=self.code, started_ms=self.started_ms, duration_ms=self.duration_ms,
                version=sound(self.version), arguments=self.arguments, error=sound(self.error),
                warnings=[sound(each) for each in self.warnings], log=log, reports=stored,
                report_ids=self._report_ids(txn) if promoted and self.submit and config.submit else [],
            )
        )  # fmt: skip


def options_of(job: Job) -> Options:
    """What a job was asked for."""
    return msgspec.convert(dict(job.request), Options)


def reprocess(archive: Archive, job: Job) -> Steps:
    """Convert, record, and compare where that is asked for; returns the statistics."""
    options = options_of(job)
    ids = _items(archive, job, options)
    done = archive.reader.jobs.replayed(job.number)
    comparison = _so_far(archive, job, options, {id_: done[id_] for id_ in ids if id_ in done})
    counts = job.progress
    counts.total = len(ids)
    waiting = (id_ for id_ in ids if id_ not in done)
    counts.done = sum(outcome == Outcome.SUCCESS for outcome in done.values())
    counts.failed, counts.skipped, counts.before = len(done) - counts.done, 0, len(done)
    size = min(CHUNK, max(int(options.rate), 1)) if options.rate else CHUNK  # so it can be stopped soon
    while chunk := list(islice(waiting, size)):
        tasks = [task for task in (_task(archive, job, options, id_) for id_ in chunk) if task is not None]
        made = job.replay(tasks)
        operations = [_operation(job, options, *pair) for pair in zip(tasks, made, strict=True)]
        outcomes = iter((yield [each for each in operations if each is not None]))
        for task, result, operation in zip(tasks, made, operations, strict=True):
            refused = next(outcomes) if operation is not None else None
            _count(job, task, result, refused)
            if comparison is not None and isinstance(result, Done) and refused is None:
                _compare(archive, job, comparison, task.entry, Side.made(result))
        if comparison is not None:
            comparison.save(job.folder)
        if options.on_error == "abort" and counts.failed:
            raise JobError("a conversion failed, and on_error=abort was said; see errors.jsonl")
        job.wait(len(chunk) / options.rate if options.rate else 0.0)
    said: dict[str, Any] = {
        "total": counts.total, "processed": counts.gone, "successful": counts.done, "failed": counts.failed,
        "skipped": counts.skipped,
    }  # fmt: skip
    return said | ({"comparison": comparison.summary()} if comparison is not None else {})


def _items(archive: Archive, job: Job, options: Options) -> list[str]:
    """The ids of the entries, as they were when the job began for the first time."""
    path = job.folder / ITEMS
    if not path.exists():
        query = parse(options.query, archive.zone)
        ids = [entry.id for entry in archive.reader.search(query, newest_first=False)]
        make_dirs(job.folder)
        with replacing(path) as out:
            out.writelines(msgspec.json.encode(id_) + b"\n" for id_ in ids)
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def _so_far(archive: Archive, job: Job, options: Options, done: Mapping[str, str]) -> Comparison | None:
    """The comparison of what this job has converted; it and errors.jsonl as the archive says where a stop
    came between what was committed and what was written. What is tried again is told again.
    """
    comparison = Comparison.load(job.folder) if options.compare else None
    is_behind = comparison is not None and comparison.total != len(done)
    told = {
        (line["id"], "compared" in line): line
        for line in job.errors()
        if line.get("id") in done and not (is_behind and "compared" in line)
    }
    for id_, outcome in done.items():
        if outcome != Outcome.SUCCESS and (id_, False) not in told:
            error = Side.recorded(archive, archive.reader.get(id_), job.number).error
            told[id_, False] = {"id": id_, "outcome": outcome, "error": error}
    job.keep_errors(told.values())
    if is_behind:
        comparison = Comparison()
        for entry in filter(None, map(archive.reader.by_id, done)):
            _compare(archive, job, comparison, entry, Side.recorded(archive, entry, job.number))
    if comparison is not None:
        comparison.save(job.folder)
    return comparison


def _compare(archive: Archive, job: Job, comparison: Comparison, entry: Entry, now: Side) -> None:
    """Count an entry in the comparison; what cannot be compared is told, and the job goes on."""
    why = comparison.add(entry.id, Side.before(archive, entry, job.number), now)
    if why:
        job.error(id=entry.id, compared=False, error=why)


def _task(archive: Archive, job: Job, options: Options, id_: str) -> Task | None:
    """What is to be converted how; None, and counted, where it is not."""
    entry = archive.reader.by_id(id_)
    why = "it is not there any more" if entry is None else why_not(archive, entry, options.code)
    if entry is not None and not why:
        found = task_of(archive, options, entry)
        if isinstance(found, Task):
            return found
        why = found
    job.progress.skipped += 1
    job.error(id=id_, skipped=True, error=why)
    return None


def why_not(archive: Archive, entry: Entry, code: str) -> str:
    """Why an entry cannot be replayed with that code now, '' where nothing is known against it."""
    name = archive.reader.converter_name(entry.converter_id)
    if entry.status in UNPURGEABLE or entry.status is Status.SUPERSEDED:
        return f"it is {entry.status}"
    if name == UNROUTED:
        return "it has no converter"
    config = archive.converter_config(name)
    if not config.run:
        return f"archive.toml does not say how to convert for {name}"
    try:
        _with_code(archive, config, code)
    except CodeError as error:
        return str(error)
    return ""


def _with_code(archive: Archive, config: ConverterConfig, code: str) -> ConverterConfig:
    """The converter with the code of a folder, where that is wanted. Raises ``CodeError``."""
    folder = code.removeprefix(FOLDER)
    return config if folder == code else snapshots.taken_from(archive.root, config, folder)


def task_of(archive: Archive, options: Options, entry: Entry) -> Task | str:
    """How an entry is converted that ``why_not`` says nothing against, or why it cannot be so."""
    name = archive.reader.converter_name(entry.converter_id)
    config, code = _with_code(archive, archive.converter_config(name), options.code), ""
    last = _last_real(archive.reader.attempts(entry.n))
    if "original" in (options.code, options.arguments) and last is None:
        return "it was never converted, so nothing of then is known"
    if options.code == "original":
        assert last is not None
        if not last.code:
            return f"nobody knows which code made attempt {last.attempt}"
        code = last.code
    arguments = config.arguments
    if options.arguments == "original":
        assert last is not None
        arguments = arguments_of(last)
    config = msgspec.structs.replace(config, arguments={**arguments, **options.settings})
    return Task(entry, name, config, code)


def _last_real(attempts: Sequence[Attempt]) -> Attempt | None:
    """The last attempt that says what the entry is."""
    return next((each for each in reversed(attempts) if each.promoted and each.outcome), None)


def _operation(job: Job, options: Options, task: Task, made: Done | ArchiveError) -> RecordReplay | None:
    if isinstance(made, ArchiveError):
        return None
    return RecordReplay(
        id=task.entry.id, converter=task.converter, attempt=0, outcome=made.answer.outcome,
        status=task.entry.status, started_ms=made.started_ms, duration_ms=int(made.seconds * 1000),
        version=made.answer.version, arguments=task.config.arguments, error=made.answer.error,
        warnings=made.answer.warnings, log=Report("log.txt", made.log) if made.log else None,
        reports=reports_of(made.reports), job=job.number, code=made.code, submit=options.submit,
        promote=options.promote and not options.code.startswith(FOLDER),
    )  # fmt: skip


def _count(job: Job, task: Task, made: Done | ArchiveError, refused: object) -> None:
    """What came of a task, in numbers and as a line of errors.jsonl."""
    if isinstance(refused, Exception):
        job.progress.skipped += 1
        job.error(id=task.entry.id, skipped=True, error=str(refused))
    elif isinstance(made, ArchiveError):
        job.progress.failed += 1
        job.error(id=task.entry.id, error=str(made))
    elif made.answer.outcome is Outcome.SUCCESS:
        job.progress.done += 1
    else:
        job.progress.failed += 1
        job.error(id=task.entry.id, outcome=str(made.answer.outcome), error=made.answer.error)


def reproduce(archive: Archive, job: Job) -> Steps:
    """Convert again with code and arguments of then, record nothing, and say which come out the same."""
    options = msgspec.structs.replace(options_of(job), code="original", arguments="original")
    ids = _items(archive, job, options)
    position = job.position() or {"at": 0, "same": 0, "different": 0, "changing": {}, "fields": {}}
    job.cut_errors(position.get("errors", 0))
    counts = job.progress
    counts.total, counts.done = len(ids), position["at"]
    counts.failed, counts.skipped = position["different"], position.get("skipped", 0)
    counts.done -= counts.failed + counts.skipped
    waiting: Iterator[str] = iter(ids[position["at"] :])
    while chunk := list(islice(waiting, CHUNK)):
        tasks = [task for task in (_task(archive, job, options, id_) for id_ in chunk) if task is not None]
        for task, made in zip(tasks, job.replay(tasks), strict=True):
            _judge(archive, job, position, task, made)
        position |= {
            "at": position["at"] + len(chunk),
            "skipped": counts.skipped,
            "errors": job.errors_size(),
        }
        job.remember(position)
        yield []
    return {
        "total": counts.total, "reproduced": position["same"], "different": position["different"],
        "skipped": counts.skipped, "not_deterministic": position["changing"], "fields": position["fields"],
    }  # fmt: skip


def _judge(
    archive: Archive, job: Job, position: dict[str, Any], task: Task, made: Done | ArchiveError
) -> None:
    before = Side.before(archive, task.entry, job.number)
    now = Side.made(made) if isinstance(made, Done) else None
    if now is not None and (now.outcome, now.hashes) == (before.outcome, before.hashes):
        position["same"] += 1
        job.progress.done += 1
        return
    position["different"] += 1
    job.progress.failed += 1
    if isinstance(made, ArchiveError):
        job.error(id=task.entry.id, error=str(made))
        return
    assert now is not None
    try:
        changed = fields(before, now)
        (again,) = job.replay([task])
        unstable = fields(now, Side.made(again)) if isinstance(again, Done) else {}
    except UNREADABLE as error:
        job.error(id=task.entry.id, compared=False, error=f"its reports cannot be compared: {error}")
        return
    for path in changed:
        kind = "changing" if path in unstable else "fields"
        position[kind][path] = position[kind].get(path, 0) + 1
    job.error(
        id=task.entry.id, error="the report comes out otherwise", fields=sorted(changed)[:20],
        not_deterministic=sorted(set(changed) & set(unstable))[:20],
    )  # fmt: skip
