"""What follows from the end of an attempt: the status of the entry, and when it is tried again.

A suspended conversion asked for a later attempt. A transient fault is one of the machine, not of the source
or its converter: the next attempt may well succeed. Each of both has ``max_retries`` further attempts.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from archivefs.catalog.catalog import RETRY_REASON
from archivefs.catalog.rows import Attempt, Entry
from archivefs.config import ConverterConfig
from archivefs.convert.process import Answer
from archivefs.states import AUTOMATIC, Cause, Outcome, Status

LONGEST_SECONDS = 3600.0
"""Longest wait before a transient fault is tried again, unless ``retry_delay_seconds`` is longer."""
_STATUS = {
    Outcome.SUCCESS: Status.SUCCESS,
    Outcome.FAILED: Status.FAILED,
    Outcome.SKIPPED: Status.SKIPPED,
    Outcome.REJECTED: Status.REJECTED,
}


class Verdict(NamedTuple):
    """What the entry becomes; ``due_ms``: Unix milliseconds of the next attempt, 0 for none by itself."""

    status: Status
    due_ms: int
    error: str


def cause_of(entry: Entry) -> Cause:
    """Why the next attempt of a waiting entry is made."""
    if entry.reason == RETRY_REASON:
        return Cause.REQUEST
    return Cause.CAPTURE if entry.attempts == 0 else Cause.RETRY


def verdict(config: ConverterConfig, answer: Answer, before: Sequence[Attempt], now_ms: int) -> Verdict:
    """Judge an attempt by its answer; ``before`` are the attempts of the entry up to and with this one."""
    if answer.outcome is Outcome.INTERRUPTED:
        return Verdict(Status.PENDING, now_ms, answer.error)
    if answer.outcome not in (Outcome.SUSPENDED, Outcome.TRANSIENT):
        return Verdict(_STATUS[answer.outcome], 0, answer.error)
    count = 1 + _so_far(before, answer.outcome)
    if count > config.max_retries:
        attempts = "1 attempt" if count == 1 else f"{count} attempts"
        how = f"{count} suspended attempts" if answer.outcome is Outcome.SUSPENDED else attempts
        return Verdict(Status.FAILED, 0, f"given up after {how}: {answer.error}")
    if answer.outcome is Outcome.TRANSIENT:
        delay = backoff(config.retry_delay_seconds, count)
    else:
        delay = config.retry_delay_seconds if answer.retry_after is None else answer.retry_after
    return Verdict(Status.SUSPENDED, now_ms + int(delay * 1000) + 1, answer.error)


def _so_far(before: Sequence[Attempt], outcome: Outcome) -> int:
    """How many attempts ended so since the last one that a capture or a person caused."""
    count = 0
    for attempt in reversed(before):
        count += attempt.outcome == outcome
        if attempt.cause not in AUTOMATIC:
            break
    return count


def backoff(delay_seconds: float, count: int) -> float:
    """Seconds until the attempt after the ``count``-th transient fault.

    They double with each, up to an hour; half of them are left to chance, so that what failed together does
    not come back together ("equal jitter": M. Brooker, "Exponential Backoff And Jitter", 2015).
    """
    longest = max(delay_seconds, LONGEST_SECONDS)
    whole = min(delay_seconds * 2.0 ** min(count - 1, 40), longest)
    return whole * random.uniform(0.5, 1.0)
