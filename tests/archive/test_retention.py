"""Retention: what policies and people want to go goes, what anything protects stays, all of it is told."""

import os
from pathlib import Path

import pytest
from archive_parts import DAY, Clock, capture, captured, commit, converted, entry, finish, make, source
from retention_parts import all_is_well, disk, left, purge, tell, work

from archivefs import config
from archivefs.archive import Archive
from archivefs.errors import ConfigError, ControlError, QueryError, RetentionError, UnknownEntryError
from archivefs.events import DeliveryAttempted
from archivefs.operations import BeginAttempt, Note, Retry
from archivefs.retention import choosing, forecast
from archivefs.retention.operations import Retain
from archivefs.states import Outcome, Status, Submission

BASE = """\
schema_version = 1
reserve = 0
[converters.ict]
run = "command:true"
patterns = ["*.csv"]
"""
SIZE = 20_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


def some(archive: Archive, count: int, converter: str = "files", size: int = SIZE) -> list[str]:
    """The ids of new sources that do not compress, one behind the other."""
    return [captured(archive, os.urandom(size), b"f%03d.csv" % n, converter).id for n in range(count)]


def configured(archive: Archive, *settings: tuple[str, str]) -> None:
    for key, value in settings:
        tell(archive, "config", "set", key, value)
    archive.use(config.load(archive.root))


# -- plans and purges ----------------------------------------------------------------------------------------


def test_a_plan_lists_what_a_purge_then_takes_and_nothing_else(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        ids = some(archive, 60)
        before = disk(root)
        reply = tell(archive, "retention", "plan", "name=f01*,f02*")
        assert (reply["entries"], reply["kept"]) == (20, {})
        shown = tell(archive, "retention", "show", f"plan={reply['plan']}")
        assert {each["id"] for each in shown["list"]} == set(ids[10:30])
        assert len(left(archive)) == 60
        result = work(archive, tell(archive, "retention", "apply", f"plan={reply['plan']}")["job"])
        assert result["purged"] == 20
        assert [row.id for row in left(archive)] == ids[:10] + ids[30:]
        assert before - disk(root) == result["freed"] == pytest.approx(reply["bytes"], abs=4096)
        assert entry(archive, ids[10]).status is Status.PURGED
        with pytest.raises(UnknownEntryError):
            source(archive, ids[10])
        row = archive.reader.purges.plan(reply["plan"])
        assert row is not None
        assert (row.state, row.purged, row.uid, row.by_uid) == ("done", 20, 1234, 1234)
    all_is_well(root)


def test_whole_days_are_unlinked_and_the_day_in_use_is_punched(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        some(archive, 10)
        clock.turn(DAY)
        ids = some(archive, 10)
        result = purge(archive, "converter=files")
        assert result["purged"] == 20
        assert [file.name for file in (root / "content").rglob("*.zst")] == ["files.sources.zst"]
        assert disk(root) <= 4 * 4096  # its first and last block, and what the disk notes of holes
        captured(archive, b"the day goes on", b"later.bin")
        assert source(archive, left(archive)[0].id) == b"the day goes on"
        assert ids[0] not in {row.id for row in left(archive)}
    all_is_well(root)


def test_holes_that_touch_become_one_and_a_purge_of_the_rest_takes_the_file(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        some(archive, 30, size=3000)
        for names in ("f00*", "f02*", "f01[0-4].csv"):
            purge(archive, f"name={names}")
        assert len(archive.reader.purges.segment_holes(next(iter(archive.reader.segment_ends())))) == 2
    all_is_well(root)
    clock.turn(DAY)
    with Archive(root, clock=clock) as archive:
        purge(archive, "status=archived")
        assert list((root / "content").rglob("*.zst")) == []
    all_is_well(root)


def test_reports_logs_and_attempts_go_with_their_source(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        ids = some(archive, 2, "ict")
        for id_ in ids:
            converted(archive, id_)
        purge(archive, f"id={ids[0]}")
        gone, kept = entry(archive, ids[0]), entry(archive, ids[1])
        assert {piece.location for piece in archive.reader.contents(gone.n)} == {None}
        assert None not in {piece.location for piece in archive.reader.contents(kept.n)}
        assert [each.outcome for each in archive.reader.attempts(gone.n)] == ["success"]
    all_is_well(root)


def test_a_plan_with_something_that_is_protected_by_now_purges_nothing(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        ids = some(archive, 5)
        plan = tell(archive, "retention", "plan", "name=*")["plan"]
        tell(archive, "hold", "add", "hold=case 7", "reason=lawsuit", f"id={ids[3]}")
        with pytest.raises(
            RetentionError, match=f'nothing was purged: 1 of its 5.*{ids[3]}: held by "case 7"'
        ):
            tell(archive, "retention", "apply", f"plan={plan}")
        assert len(left(archive)) == 5
        again = tell(archive, "retention", "plan", "name=*")
        assert (again["entries"], again["kept"]) == (4, {'held by "case 7"': 1})


def test_a_plan_is_applied_once_and_only_as_it_was_made(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        some(archive, 3)
        with pytest.raises(RetentionError, match="no plan 7; these can be applied: none"):
            tell(archive, "retention", "apply", "plan=7")
        plan = tell(archive, "retention", "plan", "name=f000.csv")["plan"]
        file = root / "plans" / f"{plan}.jsonl"
        file.write_bytes(file.read_bytes() * 2)
        with pytest.raises(RetentionError, match="is not what was planned"):
            tell(archive, "retention", "apply", f"plan={plan}")
        purge(archive, "name=f000.csv")
        with pytest.raises(RetentionError, match="was applied already"):
            tell(archive, "retention", "apply", f"plan={plan + 1}")


@pytest.mark.parametrize(("words", "error"), [
    ([], ControlError), (["purge"], ControlError), (["apply"], ControlError),
    (["apply", "plan=x"], ControlError), (["apply", "plan=1", "plan=2"], ControlError),
    (["plan", "stauts=failed"], QueryError), (["enforce", "all"], ControlError), (["explain"], ControlError),
    (["explain", "id=20260101T000000000-abcdef"], UnknownEntryError),
])  # fmt: skip
def test_what_is_no_command_of_retention_is_told(
    root: Path, clock: Clock, words: list[str], error: type[Exception]
) -> None:
    with make(root, clock) as archive, pytest.raises(error):
        tell(archive, "retention", *words)


# -- what protects -------------------------------------------------------------------------------------------


def test_unfinished_conversions_quarantine_and_waiting_reports_protect(root: Path, clock: Clock) -> None:
    toml = BASE + '[converters.ict.submit]\nkind = "directory"\npath = "/nowhere"\n'
    with make(root, clock, toml) as archive:
        waiting, running, unsent = (captured(archive, b"%d" % n, b"u%d.csv" % n, "ict").id for n in range(3))
        commit(archive, BeginAttempt(running, "capture"))
        converted(archive, unsent)
        commit(archive, capture(b"torn", b"torn.csv", "ict", quarantine="it was being written"))
        reply = tell(archive, "retention", "plan", "converter=ict")
        assert (reply["entries"], sorted(reply["kept"])) == (0, [
            "1 of its reports wait for delivery", "it is quarantined",
            "its conversion is not finished: it is converting",
            "its conversion is not finished: it is pending",
        ])  # fmt: skip
        assert waiting


def test_a_hold_covers_what_it_found_whatever_becomes_of_it_and_later_ones_if_asked(
    root: Path, clock: Clock
) -> None:
    with make(root, clock) as archive:
        first = some(archive, 1, "ict")[0]
        (number,) = commit(archive, BeginAttempt(first, "capture"))
        commit(archive, finish(first, number, Outcome.FAILED, error="no good"))
        assert tell(archive, "hold", "add", "reason=look", "future=yes", "status=failed")["entries"] == 1
        second = some(archive, 2, "ict")[1]
        converted(archive, second)
        commit(archive, Retry(first))
        converted(archive, first)
        clock.turn(1)
        third = captured(archive, b"third", b"t.csv", "ict").id
        (number,) = commit(archive, BeginAttempt(third, "capture"))
        commit(archive, finish(third, number, Outcome.FAILED, error="no good"))
        reply = tell(archive, "retention", "plan", f"id={first},{second},{third}")
        assert (reply["entries"], reply["kept"]) == (1, {'held by "hold-1"': 2})
        tell(archive, "hold", "release", "hold=hold-1", "reason=looked")
        assert tell(archive, "retention", "plan", f"id={first},{second},{third}")["entries"] == 3
        with pytest.raises(RetentionError, match="these do: none"):
            tell(archive, "hold", "release", "hold=hold-1", "reason=again")
        with pytest.raises(RetentionError, match="not used again"):
            tell(archive, "hold", "add", "hold=hold-1", "reason=x", f"id={first}")
    all_is_well(root)


@pytest.mark.parametrize("words", [
    ["add", "status=failed"], ["add", "reason=x"], ["add", "reason=x", "future=maybe", "name=*"],
    ["add", "reason=x", "name=none"], ["release", "hold=a"], ["drop"], [],
])  # fmt: skip
def test_a_hold_that_would_hold_nothing_or_says_no_reason_is_refused(
    root: Path, clock: Clock, words: list[str]
) -> None:
    with make(root, clock) as archive, pytest.raises(ControlError):
        tell(archive, "hold", *words)


def test_policies_protect_from_plans_of_people_too(root: Path, clock: Clock) -> None:
    with make(root, clock, BASE) as archive:
        ids = some(archive, 3, "ict")
        converted(archive, ids[0])
        for id_ in ids[1:]:
            (number,) = commit(archive, BeginAttempt(id_, "capture"))
            commit(archive, finish(id_, number, Outcome.FAILED, error="no good"))
        where = "converters.ict.retention"
        configured(archive, (f"{where}.days", "10"), (f"{where}.keep_statuses", '["failed"]'))
        kept = tell(archive, "retention", "plan", "converter=ict")["kept"]
        assert sorted(kept) == [
            "retention of ict keeps it for 10 days",
            "retention of ict keeps what is failed",
        ]  # fmt: skip
        clock.turn(11 * DAY)
        assert tell(archive, "retention", "plan", "converter=ict")["entries"] == 1
        said = tell(archive, "retention", "explain", f"id={ids[1]}")
        assert said["protected_by"] == ["retention of ict keeps what is failed"]


def test_only_submitted_keeps_what_the_receiver_does_not_have(root: Path, clock: Clock) -> None:
    toml = BASE + (
        '[converters.ict.submit]\nkind = "directory"\npath = "/nowhere"\n'
        "[converters.ict.retention]\ndays = 5\nonly_submitted = true\n"
    )
    with make(root, clock, toml) as archive:
        sent, refused, failed = some(archive, 3, "ict", 1000)
        for id_ in (sent, refused):
            converted(archive, id_)
        (number,) = commit(archive, BeginAttempt(failed, "capture"))
        commit(archive, finish(failed, number, Outcome.FAILED, error="no good"))
        for id_, state in ((sent, Submission.SENT), (refused, Submission.REFUSED)):
            delivered = DeliveryAttempted(
                id=id_, attempt=1, ordinal=1, state=state, started_ms=clock.ms, duration_ms=1
            )
            commit(archive, Note(delivered))
        clock.turn(6 * DAY)
        assert [each.id for each in choosing.by_policies(archive).chosen] == [sent]
        kept = tell(archive, "retention", "plan", "converter=ict")["kept"]
        assert kept == {"retention of ict keeps what its receiver does not have": 2}


def test_a_repack_lets_go_first_what_retention_wants_to_go(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        some(archive, 3)
        clock.turn(20 * DAY)
        some(archive, 2)
        clock.turn(2 * DAY)
        configured(archive, ("converters.files.retention.days", "10"))
        assert len(work(archive, tell(archive, "repack")["job"])["groups"]) == 1
        assert len(left(archive)) == 2
    all_is_well(root)


def test_retain_until_is_never_shortened(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        ids = some(archive, 2)
        commit(archive, Retain("files", "2027-01-01"))
        commit(archive, Retain("files", "2026-06-01"))
        assert archive.reader.purges.retained() == {"files": "2027-01-01"}
        said = tell(archive, "retention", "plan", "name=*")
        assert said["kept"] == {"files is retained until 2027-01-01": 2}
        with pytest.raises(RetentionError, match="retained until 2027-01-01"):
            tell(archive, "erase", f"id={ids[0]}", "reason=asked")
        clock.turn(330 * DAY)
        assert tell(archive, "retention", "plan", "name=*")["entries"] == 2


def test_an_erasure_goes_before_retention_but_not_before_a_hold(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        ids = some(archive, 2)
        configured(archive, ("converters.files.retention.days", "3000"))
        tell(archive, "hold", "add", "reason=x", f"id={ids[1]}")
        work(archive, tell(archive, "erase", f"id={ids[0]}", "reason=request 12")["job"])
        with pytest.raises(RetentionError, match="held by"):
            tell(archive, "erase", f"id={ids[1]}", "reason=request 13")
        purged = archive.reader.purges.purged(entry(archive, ids[0]).n)
        assert purged is not None
        assert purged.why == "erased: request 12"
    all_is_well(root)


# -- policies ------------------------------------------------------------------------------------------------


def test_days_take_what_is_older_and_say_so(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        old = some(archive, 3)
        clock.turn(20 * DAY)
        some(archive, 2)
        configured(archive, ("converters.files.retention.days", "15"))
        reply = tell(archive, "retention", "enforce")
        assert work(archive, reply["job"])["purged"] == 3
        assert not {row.id for row in left(archive)} & set(old)
        why = tell(archive, "retention", "explain", f"id={old[0]}")["purged"]
        assert why["why"] == "days = 15 of files, over on 2026-02-28"
        assert tell(archive, "retention", "enforce")["plan"] is None
    all_is_well(root)


def test_max_size_takes_the_oldest_and_tells_what_goes_early(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        ids = some(archive, 10)
        where = "converters.files.retention"
        configured(archive, (f"{where}.max_size", '"100 kB"'), (f"{where}.days", "30"))
        choice = choosing.by_policies(archive)
        assert [each.id for each in choice.chosen] == ids[:6]
        assert all(each.is_early for each in choice.chosen)
        row = next(each for each in forecast.forecast(archive) if each.limit == "max_size of files")
        assert (row.days, row.early) == (0.0, True)
        work(archive, tell(archive, "retention", "enforce", "converter=files")["job"])
        assert archive.reader.purges.bytes_of(left(archive)[0].converter_id) <= 100_000
    all_is_well(root)


def test_limits_of_the_archive_take_the_oldest_of_all_converters(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        first = some(archive, 3)
        clock.turn(60)
        for id_ in some(archive, 3, "log"):
            converted(archive, id_, converter="log")
        clock.turn(60)
        some(archive, 3)
        configured(archive, ("retention.max_total_size", '"105 kB"'))
        chosen = choosing.by_policies(archive).chosen
        assert {each.id for each in chosen[:3]} == set(first)
        assert len(chosen) == 4
        configured(archive, ("retention.max_total_size", '"1 GB"'), ("retention.min_free_space", '"900 TB"'))
        assert len(choosing.by_policies(archive).chosen) == 9


@pytest.mark.parametrize(("table", "key"), [
    ("[converters.files.retention]\n", "converters.files.retention"),
    ("[converters.files.retention]\ndays = 0\n", "days"),
    ("[converters.files.retention]\nday = 9\n", 'did you mean "days"'),
    ("[converters.files.retention]\ndays = -1\n", "days"),
    ("[converters.files.retention]\nmax_size = \"lots\"\n", "max_size"),
    ("[converters.files.retention]\nmax_size = 0\n", "max_size"),
    ("[converters.files.retention]\nkeep_statuses = [\"failed\"]\n", "limits nothing"),
    ("[converters.files.retention]\ndays = 3\nkeep_statuses = [\"fialed\"]\n", "keep_statuses"),
    ("[converters.files.retention]\ndays = 3\nonly_submitted = true\n", "only_submitted"),
    ("[converters.files.retention]\ndays = 3\nretain_until = \"soon\"\n", "retain_until"),
    ("[converters.files.retention]\ndays = 3\nmin_free_space = 1\n", "min_free_space"),
    ("[converters.files.retention]\nmax_size = \"2 GB\"\n[retention]\nmax_total_size = \"1 GB\"\n", "more"),
    ("[retention]\nmin_free_space = 5\n", "reserve"),
    ("[retention]\nkeep_statuses = [\"failed\"]\n", "limits nothing"),
    ("retention = 5\n", "must be a table"),
])  # fmt: skip
def test_a_policy_that_says_nothing_contradicts_itself_or_is_misspelled_is_an_error(
    root: Path, clock: Clock, table: str, key: str
) -> None:
    toml = 'schema_version = 1\nreserve = "1 MB"\n' + table + "[converters.files]\n"
    with pytest.raises(ConfigError, match=key):
        Archive.create(root, toml, clock=clock)
