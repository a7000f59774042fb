"""What is tried again: how often and when, what a person may ask for; one cause starts one attempt."""

import random
from pathlib import Path

import pytest
from archive_parts import Clock, captured, catalog_rows, commit, converted, due, entry, finish, make

from archivefs.archive import Archive
from archivefs.catalog.catalog import RETRY_REASON
from archivefs.catalog.rows import Attempt
from archivefs.config import ConverterConfig
from archivefs.convert.process import Answer
from archivefs.convert.verdict import LONGEST_SECONDS, Verdict, backoff, cause_of, verdict
from archivefs.operations import BeginAttempt, Retry
from archivefs.parts import Actor
from archivefs.rebuilding import rebuild
from archivefs.states import Outcome, Status

CONFIG = ConverterConfig(max_retries=2, retry_delay_seconds=60)
NOW = 1_000_000


def attempts(*ends: tuple[str, str]) -> list[Attempt]:
    """Attempts of these causes and outcomes, and the one that runs."""
    rows = [
        Attempt(1, number, *end, 0, 0, "", "{}", "", "[]", "", 0, 1) for number, end in enumerate(ends, 1)
    ]
    return [
        *rows,
        Attempt(1, len(rows) + 1, "retry" if rows else "capture", "", 0, 0, "", "{}", "", "[]", "", 0, 1),
    ]


def judged(outcome: Outcome, *before: tuple[str, str], retry_after: float | None = None) -> Verdict:
    answer = Answer(outcome=outcome, error="why", retry_after=retry_after)
    return verdict(CONFIG, answer, attempts(*before), NOW)


@pytest.mark.parametrize("seed", range(5))
def test_the_wait_doubles_with_each_fault_and_half_of_it_is_chance(seed: int) -> None:
    random.seed(seed)
    for count, whole in (
        (1, 60),
        (2, 120),
        (3, 240),
        (6, 1920),
        (7, LONGEST_SECONDS),
        (5000, LONGEST_SECONDS),
    ):
        assert whole / 2 <= backoff(60, count) <= whole
    assert backoff(7200, 3) >= 3600
    assert backoff(0, 9) == 0


def test_waits_differ_so_that_what_failed_together_does_not_come_back_together() -> None:
    assert len({round(backoff(60, 1), 3) for _ in range(50)}) > 40


def test_a_transient_fault_is_tried_again_max_retries_times() -> None:
    first = judged(Outcome.TRANSIENT)
    assert (first.status, first.error) == (Status.SUSPENDED, "why")
    assert NOW + 30_000 <= first.due_ms <= NOW + 60_001
    second = judged(Outcome.TRANSIENT, ("capture", "transient"))
    assert NOW + 60_000 <= second.due_ms <= NOW + 120_001
    end = judged(Outcome.TRANSIENT, ("capture", "transient"), ("retry", "transient"))
    assert end == (Status.FAILED, 0, "given up after 3 attempts: why")


def test_suspended_attempts_and_faults_are_counted_apart_and_interruptions_not_at_all() -> None:
    before = [
        ("capture", "suspended"),
        ("retry", "interrupted"),
        ("retry", "suspended"),
        ("retry", "interrupted"),
    ]
    assert judged(Outcome.TRANSIENT, *before).status is Status.SUSPENDED
    assert judged(Outcome.SUSPENDED, *before[:2]).status is Status.SUSPENDED
    end = judged(Outcome.SUSPENDED, *before)
    assert end == (Status.FAILED, 0, "given up after 3 suspended attempts: why")


def test_a_converter_may_say_when_it_is_to_be_asked_again() -> None:
    assert judged(Outcome.SUSPENDED).due_ms == NOW + 60_001
    assert judged(Outcome.SUSPENDED, retry_after=0.5).due_ms == NOW + 501


def test_what_a_person_asks_for_is_counted_anew() -> None:
    before = [
        ("capture", "suspended"),
        ("retry", "suspended"),
        ("retry", "suspended"),
        ("request", "suspended"),
    ]
    assert judged(Outcome.SUSPENDED, *before).status is Status.SUSPENDED
    assert judged(Outcome.SUSPENDED, *before, ("retry", "suspended")).status is Status.FAILED


@pytest.mark.parametrize("outcome", ["success", "failed", "skipped", "rejected"])
def test_what_a_converter_decides_is_final(outcome: str) -> None:
    assert judged(Outcome(outcome)) == (Status(outcome), 0, "why")


def test_an_interrupted_conversion_is_due_at_once() -> None:
    assert judged(Outcome.INTERRUPTED) == (Status.PENDING, NOW, "why")


# -- one cause, one attempt --------------------------------------------------------------------------------


def test_what_was_read_once_starts_one_attempt_however_often_it_is_tried(archive: Archive) -> None:
    id_ = captured(archive, b"1", converter="ict").id
    again = [BeginAttempt(id_, "capture", 1) for _ in range(3)]
    assert commit(archive, *again) == [1, None, None]
    assert commit(archive, BeginAttempt(id_, "capture", 1)) == [None]
    commit(archive, finish(id_, outcome=Outcome.SUSPENDED, due_ms=5))
    assert commit(archive, BeginAttempt(id_, "capture", 1)) == [None]
    assert commit(archive, BeginAttempt(id_, "retry", 2), BeginAttempt(id_, "retry", 2)) == [2, None]
    assert len(archive.reader.attempts(entry(archive, id_).n)) == 2


# -- what a person asks for --------------------------------------------------------------------------------


def ended(archive: Archive, outcome: Outcome, converter: str = "ict", **more: object) -> str:
    """An entry whose first attempt ended so."""
    id_ = captured(archive, outcome.encode(), converter=converter).id
    commit(archive, BeginAttempt(id_, "capture"), finish(id_, outcome=outcome, **more))
    return id_


def test_an_entry_that_came_to_its_end_is_converted_again_and_the_journal_says_who_asked(
    root: Path, clock: Clock
) -> None:
    with make(root, clock) as archive:
        ask_for_each(archive, clock)
    before = catalog_rows(root)
    rebuild(root)
    assert catalog_rows(root) == before


def ask_for_each(archive: Archive, clock: Clock) -> None:
    """Have an entry of each end converted again."""
    for outcome in (Outcome.FAILED, Outcome.REJECTED, Outcome.SKIPPED, Outcome.SUSPENDED):
        id_ = ended(archive, outcome, due_ms=clock.ms + 10**9 if outcome is Outcome.SUSPENDED else 0)
        assert cause_of(entry(archive, id_)) == "retry"
        assert commit(archive, Retry(id_, Actor(uid=7, program="archivefs retry"))) == [""]
        row = entry(archive, id_)
        assert (row.status, row.due_ms, row.reason) == (Status.PENDING, clock.ms, RETRY_REASON)
        assert cause_of(row) == "request"
        assert commit(archive, BeginAttempt(id_, cause_of(row), 2)) == [2]
        assert entry(archive, id_).reason == ""
        commit(archive, finish(id_, 2, Outcome.INTERRUPTED, due_ms=clock.ms))
        assert cause_of(entry(archive, id_)) == "retry"
        assert due(archive, clock.ms) == [id_]
        commit(archive, BeginAttempt(id_, "retry", 3), finish(id_, 3))


def test_asking_twice_is_asking_once(archive: Archive) -> None:
    id_ = ended(archive, Outcome.FAILED)
    first, second = commit(archive, Retry(id_), Retry(id_))
    assert first == ""
    assert second.startswith("is pending; tried again is what is failed, rejected, skipped, suspended")


def test_what_cannot_be_converted_is_left_alone_with_the_reason(archive: Archive) -> None:
    success = captured(archive, b"fine", converter="ict").id
    converted(archive, success)
    text = captured(archive, b"text", b"notes.txt", "ict").id
    plain = captured(archive, b"plain").id
    assert entry(archive, text).status is Status.SKIPPED
    assert commit(archive, Retry(success), Retry(text), Retry(plain)) == [
        "is success; tried again is what is failed, rejected, skipped, suspended",
        "the name fits none of: *.csv",
        "is archived; tried again is what is failed, rejected, skipped, suspended",
    ]
