"""Where things stand: entries, attempts, reports on their way, jobs. Imports nothing of archivefs."""

from enum import StrEnum


class Status(StrEnum):
    """Where an entry stands. The order is the order of the catalog's numbers and must never change."""

    PENDING = "pending"
    CONVERTING = "converting"
    SUCCESS = "success"
    FAILED = "failed"
    SUSPENDED = "suspended"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    ARCHIVED = "archived"
    SUPERSEDED = "superseded"
    QUARANTINED = "quarantined"
    PURGED = "purged"


STATUSES = tuple(Status)
WAITING = frozenset({Status.PENDING, Status.SUSPENDED})
"""Statuses from which a conversion can start by itself."""
FINAL = frozenset(Status) - {Status.PENDING, Status.CONVERTING, Status.SUSPENDED}
"""Statuses in which nothing more happens by itself."""
UNPURGEABLE = (frozenset(Status) - FINAL) | {Status.QUARANTINED, Status.PURGED}
"""Statuses of entries of which nothing may be purged, whoever asks."""


class Outcome(StrEnum):
    """How one attempt ended.

    ``interrupted``: the daemon stopped, the entry waits again. ``transient``: a fault of the machine, not of
    the source or its converter.
    """

    SUCCESS = "success"
    FAILED = "failed"
    SUSPENDED = "suspended"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    INTERRUPTED = "interrupted"
    TRANSIENT = "transient"


class Cause(StrEnum):
    """Why an attempt was made. ``request``: by ``archivefs retry``; ``replay``: by a job."""

    CAPTURE = "capture"
    RETRY = "retry"
    REQUEST = "request"
    REPLAY = "replay"


AUTOMATIC = frozenset({Cause.RETRY})
"""Causes of attempts that follow by themselves from an earlier one."""


class Submission(StrEnum):
    """Where a report in the outbox stands. ``refused``: its receiver does not want it as it is."""

    QUEUED = "queued"
    SENT = "sent"
    REFUSED = "refused"
    DROPPED = "dropped"


class JobState(StrEnum):
    """Where a long piece of work stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_ENDS = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
"""States that a job does not leave."""
