"""The archive for programs in Python, as calls that block: what the commands do. docs/api.md has examples.

Whether the archive is mounted makes no difference: what changes it goes through the control files of the
mount where there is one, and is done in this process where there is none.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast

import msgspec

from archivefs import describe, restoring, settings, statistics, watching
from archivefs.archive import Archive as OpenArchive
from archivefs.control.upkeep import planned_replay, replay_request
from archivefs.errors import JobError
from archivefs.jobs import job as job_files
from archivefs.jobs.job import REPLAY_PRIORITY, REPROCESS, REPRODUCE, Progress
from archivefs.jobs.replaying import ITEMS
from archivefs.jobs.running import Wanted
from archivefs.policies import Policy
from archivefs.query import Query as Parsed
from archivefs.query import parse, split
from archivefs.states import JobState
from archivefs.telling import tell

PAGE = 500
"""Entries that are looked up at once: some 500 kB of facts."""
PROGRAM = "archivefs.api"
"""What the journal calls who changes an archive that is not mounted."""
Query = str | Sequence[str]
"""``"converter=ict-csv status=failed"``, quoted as for a shell, or its words."""
OnProgress = Callable[[int, int, str | None], object]
"""Called with how many entries are behind a job, how many there are, and the id of the last one behind it."""


class ReplayOptions(TypedDict, total=False):
    """What ``reprocess`` may be told; docs/replay.md says what each means, and its default.

    ``code``: "current", "original", or a folder. ``settings``: argument to value. ``rate``: entries a second.
    ``priority``: 0, most urgent, to 9.
    """

    code: str | os.PathLike[str]
    arguments: Literal["current", "original"]
    settings: Mapping[str, Any]
    submit: bool
    promote: bool
    compare: bool
    on_error: Literal["skip", "abort"]
    rate: float
    priority: int


class Archive:
    """An archive; may be used by several threads at once.

    Nothing is held open between two calls, so there is nothing to close. Every method raises
    ``ArchiveError``, such as ``NotAnArchiveError``, and ``OSError``.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """``root``: its folder, not its mountpoint. Nothing is looked at yet."""
        self.root = Path(root).absolute()

    def entries(self, query: Query = ()) -> Iterator[dict[str, Any]]:
        """The entries of a query, the newest first: a line of ``archivefs ls --json`` each, see ``Pages``."""
        pages = Pages(self.root, query)
        while page := pages.next():
            yield from page

    def entry(self, id: str) -> dict[str, Any]:
        """Everything about an entry, as entry.json has it."""
        with OpenArchive.open_for_reading(self.root) as archive:
            return describe.entry(archive, archive.reader.get(id))

    def restore(self, id: str, folder: str | os.PathLike[str]) -> Path:
        """Write the source of an entry into a folder that exists, under its own name; the path of it.

        It is there only when all bytes are, synced, with the right SHA-256. Nothing is overwritten.
        Raises ``DestinationExistsError``, ``ContentDamagedError``, ``OSError``.
        """
        with OpenArchive.open_for_reading(self.root) as archive:
            row = archive.reader.get(id)
            target = restoring.target_of(row, Path(folder), single=False)
            restoring.restore(archive, row, target)
            return Path(os.fsdecode(target))

    def plan_reprocess(self, query: Query, **options: Unpack[ReplayOptions]) -> dict[str, Any]:
        """What ``reprocess`` with the same options would convert: entries, converters, skipped, seconds."""
        with OpenArchive.open_for_reading(self.root) as archive:
            return planned_replay(archive, replay_request(archive, replay_words(query, **options))[0])

    def reprocess(
        self, query: Query, *, progress: OnProgress | None = None, **options: Unpack[ReplayOptions]
    ) -> dict[str, Any]:
        """Convert entries again, as ``archivefs reprocess`` does, without a question; waits for the end.

        Returns ``job`` and its result, in which conversions that failed are counted: they raise nothing.
        Raises ``JobError`` where the job failed, was cancelled or is paused, and what ``progress`` raises.
        Without a mount the job is done in this process; an error of ``progress``, or Ctrl-C in the main
        thread, then pauses it. One of a mount goes on whoever waits for it.
        """
        return follow(self.root, REPROCESS, replay_words(query, **options), progress, Wanted())

    def reproduce(
        self, query: Query, *, progress: OnProgress | None = None, priority: int = REPLAY_PRIORITY
    ) -> dict[str, Any]:
        """Compare with the code and arguments of then, as ``archivefs reproduce``; ``job`` and its result.

        ``progress``, errors and Ctrl-C as with ``reprocess``.
        """
        words = [*words_of(query), f"priority={priority}"]
        return follow(self.root, REPRODUCE, words, progress, Wanted())

    def policy(self, converter: str) -> Policy:
        """What is retained of a converter of archive.toml: its own table, or else the common one."""
        with OpenArchive.open_for_reading(self.root) as archive:
            archive.config.converter(converter)
            return archive.config.policy(converter)

    def set_policy(self, converter: str, **values: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Set keys of a converter's own table, such as ``days=90``; None takes one out. What changed.

        One change, in the file and in the journal: all keys, or none where one is refused (``ConfigError``).
        """
        table = f"converters.{settings.quoted(converter)}.retention"
        words = [
            word
            for key, value in values.items()
            if value is not None
            for word in (f"{table}.{key}", settings.literal(value))
        ]
        gone = [f"{table}.{key}" for key, value in values.items() if value is None]
        words = [*(["set", *words] if words else []), *(["unset", *gone] if gone else [])]
        if not words:
            return []
        changes: list[dict[str, Any]] = tell(self.root, "config", words, PROGRAM)["changes"]
        return changes

    def statistics(self) -> dict[str, Any]:
        """Entries and bytes by converter and status, the outbox, room on the disk: as stats.json."""
        with OpenArchive.open_for_reading(self.root) as archive:
            return statistics.collect(archive)


class Pages:
    """The entries of a query, a page at a time, the newest first.

    Between two pages nothing is open, and only one is in memory. An entry comes at most once, as it is when
    its page is looked up; what is captured after the first page does not come.
    """

    def __init__(self, root: Path, query: Query) -> None:
        self._root = root
        self._words = words_of(query)
        self._left: Parsed | None = None
        self._behind: tuple[int, int] | None = None

    def next(self) -> list[dict[str, Any]]:
        """The next page, empty at the end. Raises ``ArchiveError``."""
        is_first = self._left is None
        opened = OpenArchive.open_for_reading if is_first else OpenArchive.open_as_it_is
        with opened(self._root) as archive:
            left = parse(self._words, archive.zone) if self._left is None else self._left
            page = left._replace(limit=min(left.limit, PAGE))
            rows = list(archive.reader.search(page, behind=self._behind)) if page.limit else []
            self._left = left._replace(limit=left.limit - len(rows))
            self._behind = (rows[-1].day, rows[-1].n) if rows else self._behind
            return [describe.summary(archive, row) for row in rows]


def follow(
    root: Path, command: str, words: list[str], progress: OnProgress | None, wanted: Wanted
) -> dict[str, Any]:
    """Ask for a job and wait for its end, see ``reprocess``; ``wanted``: as in ``watching.finish``."""
    number = int(tell(root, command, words, PROGRAM)["job"])
    watch = _Watch(root, number, progress, wanted)
    try:
        result = watching.finish(root, number, watch, wanted)
    except JobError:
        if watch.error is None:
            raise
    if watch.error is not None:
        raise watch.error
    watch.at(result["total"], result["total"])
    return {"job": number, **result}


class _Watch:
    """Tells the caller of how far a job is; what that raises ends the waiting."""

    def __init__(self, root: Path, number: int, progress: OnProgress | None, wanted: Wanted) -> None:
        self.error: Exception | None = None
        self._wanted = wanted
        self._items = root / job_files.FOLDER / str(number) / ITEMS
        self._progress = progress
        self._told = -1

    def __call__(self, progress: Progress) -> None:
        """In a thread of the job where that is done here: it must not be hit by an error."""
        if self.error is not None or not progress.gone:
            return
        try:
            self.at(progress.gone, progress.total)
        except Exception as error:
            self.error = error
            self._wanted.stop(JobState.PAUSED)

    def at(self, current: int, total: int) -> None:
        """Tell once of each number."""
        if self._progress is None or current == self._told:
            return
        self._told = current
        self._progress(current, total, self._id(current))

    def _id(self, current: int) -> str | None:
        """Entries are converted in the order of the job's list, in which all ids have the same length."""
        with contextlib.suppress(FileNotFoundError), self._items.open("rb") as file:
            file.seek(max(current - 1, 0) * len(file.readline()))
            line = file.readline()
            return msgspec.json.decode(line, type=str) if current and line else None
        return None


def words_of(query: Query) -> list[str]:
    """The words of a query. Raises ``QueryError`` where it is not quoted well."""
    return split(query) if isinstance(query, str) else list(query)


def replay_words(query: Query, **options: Unpack[ReplayOptions]) -> list[str]:
    """The words of the control file. Raises ``TypeError`` for an option that there is not."""
    if unknown := options.keys() - ReplayOptions.__annotations__.keys():
        allowed = ", ".join(ReplayOptions.__annotations__)
        raise TypeError(f"no option {', '.join(sorted(unknown))}; allowed are: {allowed}")
    words = words_of(query)
    for key, value in options.items():
        if key == "settings":
            given = cast("Mapping[str, Any]", value)
            words += [f"set.{each}={msgspec.json.encode(given[each]).decode()}" for each in given]
        elif key == "code" and value not in ("current", "original"):
            words.append(f"code=path:{Path(cast('str', value)).absolute()}")
        else:
            words.append(f"{key}={('no', 'yes')[value] if isinstance(value, bool) else value}")
    return words
