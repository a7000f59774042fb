"""archivefs retry: what it takes, what it leaves alone, and what it says."""

import json
from pathlib import Path

import pytest
from archive_parts import Clock, captured, catalog_rows, commit, converted, due, entry, finish, make
from test_verify_parts import archivefs, events_of

from archivefs.archive import Archive
from archivefs.events import Retried
from archivefs.operations import BeginAttempt
from archivefs.states import Outcome, Status


@pytest.fixture
def ids(root: Path, clock: Clock) -> dict[str, str]:
    """Entries that failed, were suspended, succeeded, and were skipped for their name."""
    with make(root, clock) as archive:
        made = {
            name: captured(archive, name.encode(), name.encode() + suffix, "ict").id
            for name, suffix in (("bad", b".csv"), ("late", b".csv"), ("good", b".csv"), ("text", b".txt"))
        }
        commit(archive, *[BeginAttempt(made[name], "capture") for name in ("bad", "late")])
        commit(archive, finish(made["bad"], outcome=Outcome.FAILED, error="line 1"))
        commit(archive, finish(made["late"], outcome=Outcome.SUSPENDED, due_ms=clock.ms + 10**9))
        converted(archive, made["good"])
    return made


def test_what_is_selected_and_can_be_is_converted_again(root: Path, ids: dict[str, str]) -> None:
    ran = archivefs("retry", "--archive", root, "converter=ict")
    assert ran.code == 0
    assert ran.out.splitlines() == [f"{ids['bad']}  bad.csv", f"{ids['late']}  late.csv"]
    assert ran.err.splitlines() == [
        "2 entries will be converted again when the archive is mounted",
        "left alone 1: is success; tried again is what is failed, rejected, skipped, suspended",
        "left alone 1: the name fits none of: *.csv",
    ]
    with Archive(root) as archive:
        assert due(archive, archive.now_ms()) == [ids["bad"], ids["late"]]
        assert entry(archive, ids["bad"]).status is Status.PENDING
    asked = [event for event in events_of(root) if isinstance(event, Retried)]
    assert [event.id for event in asked] == [ids["bad"], ids["late"]]
    assert {event.actor.program for event in asked if event.actor} == {"archivefs retry"}


def test_a_dry_run_says_the_same_and_changes_nothing(root: Path, ids: dict[str, str]) -> None:
    before = catalog_rows(root)
    dry = archivefs("retry", "--archive", root, "--dry-run", "--json", "converter=ict")
    assert catalog_rows(root) == before
    wet = archivefs("retry", "--archive", root, "--json", "converter=ict")
    assert (dry.code, dry.out, dry.err) == (0, wet.out, "")
    said = [json.loads(line) for line in dry.out.splitlines()]
    assert [(each["id"], each["retried"]) for each in said] == [
        (ids["bad"], True), (ids["late"], True), (ids["good"], False), (ids["text"], False)
    ]  # fmt: skip
    assert said[-1]["reason"] == "the name fits none of: *.csv"


def test_without_a_condition_nothing_is_done(root: Path, ids: dict[str, str]) -> None:
    ran = archivefs("retry", "--archive", root)
    assert (ran.code, ran.out) == (2, "")
    assert "Missing argument 'KEY=VALUE...'" in ran.err
    assert archivefs("retry", "--archive", root, "stauts=failed").code == 19


def test_while_another_process_writes_it_says_so(root: Path, ids: dict[str, str]) -> None:
    with Archive(root):
        ran = archivefs("retry", "--archive", root, "status=failed")
        assert ran.code == 13
        assert "is in use by process" in ran.err
        assert archivefs("retry", "--archive", root, "--dry-run", "status=failed").code == 0
