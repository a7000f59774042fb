"""Jobs in the catalog: how their events change the rows, and the questions asked of them."""

from typing import NamedTuple

import apsw
import msgspec

from archivefs.events import JobChanged, JobCreated
from archivefs.states import JOB_ENDS, JobState


class JobRow(NamedTuple):
    """One row of ``jobs``, in the order of the table's columns."""

    job: int
    work: str
    request: str
    state: str
    uid: int
    program: str
    created_ms: int
    started_ms: int
    ended_ms: int
    total: int
    done: int
    failed: int
    skipped: int
    error: str


def apply(db: apsw.Connection, event: JobCreated | JobChanged) -> None:
    """Inside the transaction of Catalog.apply."""
    if isinstance(event, JobCreated):
        uid, program = (event.actor.uid, event.actor.program) if event.actor else (-1, "")
        request = msgspec.json.encode(event.request).decode()
        db.execute(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, '')",
            (event.job, event.work, request, JobState.QUEUED, uid, program, event.at_ms),
        )
        return
    db.execute(
        "UPDATE jobs SET state = ?2, total = ?3, done = ?4, failed = ?5, skipped = ?6, error = ?7,"
        " started_ms = CASE WHEN ?2 = ?9 AND started_ms = 0 THEN ?8 ELSE started_ms END,"
        " ended_ms = CASE WHEN ?10 THEN ?8 ELSE 0 END WHERE job = ?1",
        (
            event.job, event.state, event.total, event.done, event.failed, event.skipped, event.error,
            event.at_ms, JobState.RUNNING, event.state in JOB_ENDS,
        ),
    )  # fmt: skip


class JobReader:
    """Questions about jobs."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def get(self, job: int) -> JobRow | None:
        """A job by its number."""
        rows = self._db.execute("SELECT * FROM jobs WHERE job = ?", (job,))
        return next((JobRow(*row) for row in rows), None)

    def all(self, limit: int = 2**31) -> list[JobRow]:
        """The newest jobs, oldest of them first."""
        rows = self._db.execute("SELECT * FROM jobs ORDER BY job DESC LIMIT ?", (limit,))
        return [JobRow(*row) for row in rows][::-1]

    def open(self) -> list[JobRow]:
        """Jobs that are not at their end, oldest first."""
        return [
            JobRow(*row) for row in self._db.execute("SELECT * FROM jobs WHERE ended_ms = 0 ORDER BY job")
        ]

    def ended_before(self, when_ms: int) -> list[int]:
        """The numbers of jobs that came to their end before that time."""
        rows = self._db.execute("SELECT job FROM jobs WHERE ended_ms > 0 AND ended_ms < ?", (when_ms,))
        return [row[0] for row in rows]

    def replayed(self, job: int) -> dict[str, str]:
        """The ids of the entries that have an attempt of a job, and how that ended."""
        sql = "SELECT id, outcome FROM attempts JOIN entries USING (n) WHERE job = ?"
        return dict(self._db.execute(sql, (job,)))

    def mean_ms(self, converter_id: int) -> float:
        """How long a conversion of a converter took lately, 0 where there was none."""
        found = self._db.execute(
            "SELECT avg(duration_ms) FROM (SELECT duration_ms FROM entries JOIN attempts USING (n)"
            " WHERE converter_id = ? AND outcome != '' ORDER BY n DESC LIMIT 200)", (converter_id,)
        ).get  # fmt: skip
        return float(found or 0.0)

    def last(self) -> int:
        """The highest number there is, 0 for none."""
        return int(self._db.execute("SELECT max(job) FROM jobs").get or 0)
