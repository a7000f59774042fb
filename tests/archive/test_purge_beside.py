"""A purge beside what else is done to the archive: whatever comes between, what is protected stays."""

import os
from pathlib import Path
from typing import Any

import pytest
from archive_parts import (
    DAY,
    Clock,
    capture,
    captured,
    commit,
    entry,
    finish,
    make,
)
from retention_parts import all_is_well, left, tell, work

from archivefs.archive import Archive
from archivefs.errors import ArchiveError, CatalogError, ControlError, RetentionError
from archivefs.events import Retried
from archivefs.jobs import repack
from archivefs.jobs.job import CreateJob
from archivefs.operations import BeginAttempt, Note, RemoveSegments, Retry
from archivefs.parts import Purging
from archivefs.rebuilding import rebuild
from archivefs.retention import purge as purging
from archivefs.retention.gate import Rule
from archivefs.retention.operations import AddHold, BeginPurge, EndPurge, Purge
from archivefs.states import Outcome, Status
from archivefs.transaction import DEEPEST, Operation


def begun(archive: Archive, id_: str) -> int:
    """A purge of one entry that has begun; its plan."""
    plan = int(tell(archive, "retention", "plan", f"id={id_}")["plan"])
    commit(archive, BeginPurge(plan))
    return plan


def going(plan: int, id_: str) -> Purge:
    """The step that lets it go."""
    return Purge(plan, [(Purging(id_, "asked for"), Rule.AGE)])


def test_a_hold_protects_from_a_purge_that_is_committed_with_it(archive: Archive) -> None:
    id_ = captured(archive, b"1").id
    plan = begun(archive, id_)
    hold = AddHold("case 7", f"id={id_}", "a complaint", [id_], id_, future=False)
    (_, kept), _ = archive.commit([hold, going(plan, id_)])
    assert kept == [(id_, 'held by "case 7"')]
    assert entry(archive, id_).status is Status.ARCHIVED


def test_what_went_is_not_converted_again_nor_superseded_by_what_is_committed_with_its_purge(
    root: Path, clock: Clock
) -> None:
    with make(root, clock) as archive:
        failed, saved = captured(archive, b"1", converter="ict").id, captured(archive, b"2").id
        (attempt,) = commit(archive, BeginAttempt(failed, "capture"))
        commit(archive, finish(failed, attempt, Outcome.FAILED, error="no"))
        plans = begun(archive, failed), begun(archive, saved)
        outcomes, _ = archive.commit(
            [
                going(plans[0], failed), Retry(failed),
                going(plans[1], saved), capture(b"3", supersedes=[saved]),
            ]
        )  # fmt: skip
        assert "purged" in outcomes[1]
        assert [entry(archive, each).status for each in (failed, saved)] == [Status.PURGED] * 2
    rebuild(root)


def test_a_journal_in_which_something_was_asked_of_a_purged_entry_can_be_read(
    root: Path, clock: Clock
) -> None:
    with make(root, clock) as archive:
        id_ = captured(archive, b"1").id
        commit(archive, going(begun(archive, id_), id_))
        commit(archive, Note(Retried(id=id_, due_ms=1)))
        assert entry(archive, id_).status is Status.PURGED
    rebuild(root)
    with Archive(root, clock=clock) as archive:
        assert entry(archive, id_).status is Status.PURGED
        assert tell(archive, "retention", "plan")["plan"] is None


def test_what_comes_to_be_retained_while_a_purge_runs_stays(archive: Archive) -> None:
    for number in range(2 * purging.BATCH):
        captured(archive, b"%d" % number)
    plan = int(tell(archive, "retention", "plan", "converter=files")["plan"])
    steps, outcomes, commits = purging.carry_out(archive, plan, None), list[Any](), 0
    operations = next(steps)
    try:
        while True:
            outcomes = archive.commit(operations)[0]
            commits += 1
            if commits == 2:  # it has begun, and the first are gone
                tell(archive, "config", "set", "converters.files.retention.retain_until", '"2099-01-01"')
            operations = steps.send(outcomes)
    except StopIteration as end:
        result: purging.Result = end.value
    assert (result.purged, len(result.kept)) == (purging.BATCH, purging.BATCH)
    assert {why for _, why in result.kept} == {"files is retained until 2099-01-01"}
    assert len(left(archive)) == purging.BATCH


def test_an_erase_reaches_what_a_stopped_repack_left(root: Path, clock: Clock) -> None:
    secret = b"of a customer" + os.urandom(3000)

    def where() -> list[Path]:
        return [file for file in (root / "content").rglob("*.zst") if secret[:1000] in file.read_bytes()]

    def until_removal(operation: Operation[Any]) -> Any:  # noqa: ANN401
        if isinstance(operation, RemoveSegments):
            raise InterruptedError
        return commit(archive, operation)[0]

    for reopened in (False, True):
        with make(root, clock) if not reopened else Archive(root, clock=clock) as archive:
            id_ = captured(archive, secret, b"secret.bin").id
            for number in range(3):
                captured(archive, os.urandom(3000), b"%d" % number)
            clock.turn(DAY)
            (group,) = repack.groups(archive, None, everything=False)
            with pytest.raises(InterruptedError):
                repack.repack(archive, group, until_removal)
            assert len(where()) == 2
            if not reopened:
                work(archive, tell(archive, "erase", f"id={id_}", "reason=asked for")["job"])
                assert where() == []
    Archive(root, clock=clock).close()
    assert len(where()) == 1
    all_is_well(root)


def test_while_the_catalog_lags_only_captures_are_taken_and_it_catches_up(
    root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    expected_errors.append("the catalog refused")
    with make(root, clock) as archive:
        id_ = captured(archive, b"1").id
        plan = begun(archive, id_)
        db = archive._catalog.db
        db.pragma("max_page_count", db.pragma("page_count"))
        while not archive._unapplied:
            captured(archive, os.urandom(10), b"x" * 200)
        saved = captured(archive, b"2").id
        with pytest.raises(CatalogError, match="try again"):
            commit(archive, going(plan, id_))
        db.pragma("max_page_count", 1 << 30)
        (numbers, _) = zip(*(archive.commit([CreateJob("verify", {})]) for _ in range(2)), strict=True)
        assert [number for (number,) in numbers] == [1, 2]
        assert entry(archive, saved).status is Status.ARCHIVED
        assert not archive._unapplied
    rebuild(root)


def test_a_purge_does_not_end_before_all_its_bytes_are_gone(archive: Archive) -> None:
    id_ = captured(archive, b"1").id
    plan = begun(archive, id_)
    commit(archive, going(plan, id_))
    with pytest.raises(RetentionError, match="is not cleared"):
        commit(archive, EndPurge(plan, 0, 0, []))
    assert archive.reader.purges.unfinished() == [plan]


def test_a_hold_counts_what_it_can_still_protect(archive: Archive) -> None:
    gone, stays = captured(archive, b"1").id, captured(archive, b"2").id
    commit(archive, going(begun(archive, gone), gone))
    said = tell(archive, "hold", "add", "hold=case 8", "reason=why", "converter=files")
    assert said == {"hold": "case 8", "entries": 1, "future": False}
    assert archive.reader.purges.holding(entry(archive, stays).n) == ["case 8"]


@pytest.mark.parametrize("levels", [DEEPEST, 500, 975, 5000])
def test_nothing_is_journaled_that_is_nested_too_deeply_to_be_read_again(
    root: Path, clock: Clock, levels: int
) -> None:
    with make(root, clock) as archive:
        captured(archive, b"1", converter="ict")
        with pytest.raises((ControlError, ArchiveError), match="nested"):
            tell(archive, "reprocess", "converter=ict", f"set.x={'[' * levels}{']' * levels}")
        assert archive.reader.jobs.open() == []
    rebuild(root)


def test_who_reads_beside_goes_by_the_configuration_in_force(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        file = root / "archive.toml"
        file.write_text(file.read_text() + "\n[retention]\ndays = 1\n")
        with archive.beside() as reading:
            assert reading.config.retention.days is None
        file.write_text("this is no TOML")
        with archive.beside() as reading:
            assert reading.config is archive.config
