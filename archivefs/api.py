"""An archive for programs in Python: what the commands do, as calls that block. docs/api.md has examples.

Whether the archive is mounted makes no difference: what changes it goes through the control files of the
mount where there is one, and is done in this process where there is none.
"""

import contextlib
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast

import msgspec

from archivefs import describe, restoring, settings, statistics, watching
from archivefs.archive import Archive
from archivefs.control.upkeep import REPROCESS, REPRODUCE, planned_replay, replay_request
from archivefs.errors import JobError
from archivefs.jobs import job as job_files
from archivefs.jobs.engine import Wanted
from archivefs.jobs.job import Progress
from archivefs.jobs.replaying import ITEMS
from archivefs.policies import Policy
from archivefs.query import parse
from archivefs.states import JobState
from archivefs.telling import tell

PROGRAM = "archivefs.api"
"""What the journal calls who changes an archive that is not mounted."""
Query = str | Sequence[str]
"""``"converter=ict-csv status=failed"``, quoted as for a shell, or its words."""
OnProgress = Callable[[int, int, str | None], object]
"""Called with how many entries are behind a job, how many there are, and the id of the last one behind it."""


class ReplayOptions(TypedDict, total=False):
    """What ``reprocess`` may be told; docs/replay.md says what each means, and its default.

    ``code``: "current", "original", or a folder. ``settings``: argument to value. ``rate``: entries a second.
    """

    code: str | os.PathLike[str]
    arguments: Literal["current", "original"]
    settings: Mapping[str, Any]
    submit: bool
    promote: bool
    compare: bool
    on_error: Literal["skip", "abort"]
    rate: float


def open_archive(root: str | os.PathLike[str]) -> "OpenArchive":
    """The archive in a folder (not its mountpoint). Holds nothing open, so there is nothing to close.

    Raises ``ArchiveError`` where there is no archive, or none that can be read.
    """
    with Archive.open_for_reading(Path(root)) as archive:
        return OpenArchive(archive.root)


class OpenArchive:
    """An archive; may be used by several threads. Every method raises ``ArchiveError``, and it may block."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self, query: Query = ()) -> Iterator[dict[str, Any]]:
        """The entries of a query, the newest first: a line of ``archivefs ls --json`` each.

        For one thread. The archive is open for reading until the iterator ends or is closed.
        """
        words = _words(query)
        with Archive.open_for_reading(self.root) as archive:
            for row in archive.reader.search(parse(words, archive.zone)):
                yield describe.summary(archive, row)

    def entry(self, id: str) -> dict[str, Any]:
        """Everything about an entry, as entry.json has it."""
        with Archive.open_for_reading(self.root) as archive:
            return describe.entry(archive, archive.reader.get(id))

    def restore(self, id: str, folder: str | os.PathLike[str]) -> Path:
        """Write the source of an entry into a folder that exists, under its own name; the path of it.

        It is there only when all bytes are, synced, with the right SHA-256. Nothing is overwritten.
        Raises ``DestinationExistsError``, ``ContentDamagedError``, ``OSError``.
        """
        with Archive.open_for_reading(self.root) as archive:
            row = archive.reader.get(id)
            target = restoring.target_of(row, Path(folder), single=False)
            restoring.restore(archive, row, target)
            return Path(os.fsdecode(target))

    def plan_reprocess(self, query: Query, **options: Unpack[ReplayOptions]) -> dict[str, Any]:
        """What ``reprocess`` with the same options would convert: entries, converters, skipped, seconds."""
        with Archive.open_for_reading(self.root) as archive:
            return planned_replay(archive, replay_request(archive, _replay_words(query, **options))[0])

    def reprocess(
        self, query: Query, *, progress: OnProgress | None = None, **options: Unpack[ReplayOptions]
    ) -> dict[str, Any]:
        """Convert entries again, as ``archivefs reprocess`` does, without a question; waits for the end.

        Returns ``job`` and its result, in which conversions that failed are counted: they raise nothing.
        Raises ``JobError`` where the job failed, was cancelled or is paused, and what ``progress`` raises.
        Without a mount the job is done in this process, which wants the main thread; an error of
        ``progress`` or Ctrl-C then pauses it. One of a mount goes on whoever waits for it.
        """
        return self._follow(REPROCESS, _replay_words(query, **options), progress)

    def reproduce(self, query: Query, *, progress: OnProgress | None = None) -> dict[str, Any]:
        """Compare with the code and arguments of then, as ``archivefs reproduce``; ``job`` and its result."""
        return self._follow(REPRODUCE, _words(query), progress)

    def _follow(self, command: str, words: list[str], progress: OnProgress | None) -> dict[str, Any]:
        """Ask for a job and wait for its end, see ``reprocess``."""
        number = int(tell(self.root, command, words, PROGRAM)["job"])
        watch = _Watch(self.root, number, progress)
        try:
            result = watching.finish(self.root, number, watch, watch.wanted)
        except JobError:
            if watch.error is None:
                raise
        if watch.error is not None:
            raise watch.error
        watch.at(result["total"], result["total"])
        return {"job": number, **result}

    def policy(self, converter: str) -> Policy:
        """What is retained of a converter of archive.toml: its own table, or else the common one."""
        with Archive.open_for_reading(self.root) as archive:
            archive.config.converter(converter)
            return archive.config.policy(converter)

    def set_policy(self, converter: str, **values: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Set keys of a converter's own table, such as ``days=90``; None takes one out. What changed.

        One key after the other, each an event of its own with old and new value: where one is refused
        (``ConfigError``), those before it are set.
        """
        changes: list[dict[str, Any]] = []
        for key, value in values.items():
            where = f"converters.{converter}.retention.{key}"
            words = ["unset", where] if value is None else ["set", where, settings.literal(value)]
            changes += msgspec.to_builtins(tell(self.root, "config", words, PROGRAM)["changes"])
        return changes

    def statistics(self) -> dict[str, Any]:
        """Entries and bytes by converter and status, the outbox, room on the disk: as stats.json."""
        with Archive.open_for_reading(self.root) as archive:
            return statistics.collect(archive)


class _Watch:
    """Tells the caller of how far a job is; what that raises ends the waiting."""

    def __init__(self, root: Path, number: int, progress: OnProgress | None) -> None:
        self.wanted = Wanted()
        self.error: Exception | None = None
        self._items = root / job_files.FOLDER / str(number) / ITEMS
        self._ids: list[str] = []
        self._progress = progress
        self._told = -1
        self._thread = threading.current_thread()

    def __call__(self, progress: Progress) -> None:
        """In the thread of the caller, or of a job that is done here: that must not be hit by an error."""
        if self.error is not None or not progress.gone:
            return
        try:
            self.at(progress.gone, progress.total)
        except Exception as error:
            self.error = error
            self.wanted.stop(JobState.PAUSED)
            if threading.current_thread() is self._thread:
                raise

    def at(self, current: int, total: int) -> None:
        """Tell once of each number."""
        if self._progress is None or current == self._told:
            return
        self._told = current
        self._progress(current, total, self._id(current))

    def _id(self, current: int) -> str | None:
        """Entries are converted in the order of the job's list."""
        if not self._ids:
            with contextlib.suppress(FileNotFoundError):
                self._ids = [msgspec.json.decode(line) for line in self._items.read_bytes().splitlines()]
        return self._ids[current - 1] if 0 < current <= len(self._ids) else None


def _words(query: Query) -> list[str]:
    return shlex.split(query) if isinstance(query, str) else list(query)


def _replay_words(query: Query, **options: Unpack[ReplayOptions]) -> list[str]:
    """The words of the control file. Raises ``TypeError`` for an option that there is not."""
    if unknown := options.keys() - ReplayOptions.__annotations__.keys():
        allowed = ", ".join(ReplayOptions.__annotations__)
        raise TypeError(f"no option {', '.join(sorted(unknown))}; allowed are: {allowed}")
    words = _words(query)
    for key, value in options.items():
        if key == "settings":
            given = cast("Mapping[str, Any]", value)
            words += [f"set.{each}={msgspec.json.encode(given[each]).decode()}" for each in given]
        elif key == "code" and value not in ("current", "original"):
            words.append(f"code=path:{Path(cast('str', value)).absolute()}")
        else:
            words.append(f"{key}={('no', 'yes')[value] if isinstance(value, bool) else value}")
    return words
