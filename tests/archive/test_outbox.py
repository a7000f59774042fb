"""The outbox of an archive: what is queued, noted, decided, and made again from the journal."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from archive_parts import (
    NOON_MS,
    Clock,
    captured,
    catalog_rows,
    child_environment,
    commit,
    finish,
    journal_lines,
    make,
)
from test_verify_parts import archivefs

from archivefs import rebuilding, reports, statistics
from archivefs.archive import Archive
from archivefs.catalog.outbox import Item
from archivefs.errors import ArchiveError, UnknownEntryError
from archivefs.operations import BeginAttempt, Report
from archivefs.states import Outcome, Submission
from archivefs.submit.delivery import Answer, later, refused
from archivefs.submit.operations import DecideDelivery, RecordDelivery
from archivefs.verify.verify import Scope, verify

TOML = """\
schema_version = 1
reserve = 0
[converters.ict]
run = "command:true"
[converters.ict.submit]
kind = "http"
url = "http://127.0.0.1:9/"
max_queue_size = 3
[converters.other]
run = "command:true"
[converters.other.submit]
kind = "directory"
path = "out"
[converters.nowhere]
run = "command:true"
"""


@pytest.fixture
def archive(root: Path, clock: Clock) -> Any:  # noqa: ANN401  a generator
    archive = make(root, clock, TOML)
    yield archive
    with contextlib.suppress(OSError):  # a test may have closed it
        archive.close()


def attempt(
    archive: Archive, id_: str, *contents: bytes, outcome: Outcome = Outcome.SUCCESS, converter: str = "ict"
) -> int:
    """An attempt that ended so, with these reports."""
    (number,) = commit(archive, BeginAttempt(id_, "capture"))
    made = [Report(f"report-{n}.json", content) for n, content in enumerate(contents, 1)]
    commit(archive, finish(id_, number, outcome, converter=converter, reports=made))
    return int(number)


def success(archive: Archive, content: bytes, *made: bytes, converter: str = "ict") -> str:
    """A converted source; returns its id."""
    id_ = captured(archive, content, b"unit.csv", converter).id
    attempt(archive, id_, *(made or (b'{"ok":true}',)), converter=converter)
    return id_


def record(archive: Archive, id_: str, answer: Answer, ordinal: int = 1, number: int = 1) -> None:
    commit(archive, RecordDelivery(id_, number, ordinal, answer, NOON_MS, 7, due_ms=NOON_MS + 60_000))


def item(archive: Archive, id_: str, ordinal: int = 1, number: int = 1) -> Item:
    found = archive.reader.outbox.item(id_, number, ordinal)
    assert found is not None
    return found


def head(archive: Archive, converter: str = "ict") -> str:
    found = archive.reader.outbox.head(converter)
    return found.id if found else ""


def is_full(archive: Archive, converter: str) -> bool:
    return archive.reader.outbox.is_full(converter, archive.converter_config(converter).submit)


SENT = Answer(Submission.SENT, 200, "server-1")


def test_a_success_and_its_submission_are_one_line_of_the_journal(archive: Archive) -> None:
    id_ = success(archive, b"1", b'{"a":1}', b'{"id":"mine"}')
    last = json.loads(journal_lines(archive.root)[-1])
    sha256 = archive.reader.get(id_).sha256
    assert last["kind"] == "attempt_finished"
    assert last["report_ids"] == [reports.make_id(sha256, "ict", 1), "mine"]
    first, second = archive.reader.outbox.of_entry(archive.reader.get(id_).n)
    assert (first.state, first.ordinal, first.converter) == (Submission.QUEUED, 1, "ict")
    assert (second.ordinal, second.report_id) == (2, "mine")


def test_nothing_is_queued_of_what_failed_made_no_report_or_goes_nowhere(archive: Archive) -> None:
    for outcome in (Outcome.FAILED, Outcome.SKIPPED, Outcome.REJECTED):
        attempt(archive, captured(archive, outcome.encode(), b"a", "ict").id, b"{}", outcome=outcome)
    attempt(archive, captured(archive, b"none", b"a", "ict").id)
    success(archive, b"1", converter="nowhere")
    assert archive.reader.outbox.totals() == {}
    assert b"report_ids" not in b"".join(journal_lines(archive.root))


def test_the_queue_is_in_the_order_of_the_ends_of_conversions(archive: Archive) -> None:
    ids = [captured(archive, b"%d" % number, b"a", "ict").id for number in range(4)]
    commit(archive, *(BeginAttempt(id_, "capture") for id_ in ids))
    order = [ids[2], ids[0], ids[3], ids[1]]
    for id_ in order:
        commit(archive, finish(id_, reports=[Report("report.json", b"{}")]))
    assert [each.id for each in archive.reader.outbox.unsent(Submission.QUEUED)] == order
    seen = []
    while id_ := head(archive):
        seen.append(id_)
        record(archive, id_, SENT)
    assert seen == order


def test_each_delivery_is_noted(archive: Archive) -> None:
    id_ = success(archive, b"1")
    record(archive, id_, later("HTTP 503: busy", http_status=503))
    record(archive, id_, later("ConnectError"))
    assert item(archive, id_).failures == 2
    assert item(archive, id_).due_ms == NOON_MS + 60_000
    record(archive, id_, SENT)
    n = archive.reader.get(id_).n
    told = [(each.number, each.state, each.http_status) for each in archive.reader.outbox.deliveries(n)]
    assert told == [(1, "queued", 503), (2, "queued", 0), (3, "sent", 200)]
    assert archive.reader.outbox.deliveries(n)[-1].answer_id == "server-1"
    assert (item(archive, id_).state, item(archive, id_).due_ms) == (Submission.SENT, 0)
    with pytest.raises(ArchiveError, match="is not queued: it is sent"):
        record(archive, id_, SENT)
    with pytest.raises(UnknownEntryError):
        record(archive, id_, SENT, ordinal=2)


def test_the_first_waits_with_those_behind_it_and_a_refused_one_lets_them_go_on(archive: Archive) -> None:
    first, second = success(archive, b"1"), success(archive, b"2")
    other = success(archive, b"3", converter="other")
    record(archive, first, later("busy"))
    assert head(archive) == first
    assert head(archive, "other") == other
    record(archive, first, refused("no"))
    assert head(archive) == second
    commit(archive, DecideDelivery(first, 1, 1, Submission.QUEUED))
    assert head(archive) == first
    assert item(archive, first).failures == 0
    commit(archive, DecideDelivery(first, 1, 1, Submission.DROPPED))
    assert head(archive) == second
    record(archive, second, SENT)
    with pytest.raises(ArchiveError, match="was sent already"):
        commit(archive, DecideDelivery(second, 1, 1, Submission.DROPPED))


def test_totals_and_alarms_follow(archive: Archive, root: Path) -> None:
    ids = [success(archive, b"%d" % number) for number in range(3)]
    assert is_full(archive, "ict")
    assert not is_full(archive, "other")
    alarm = statistics.health(archive)["alarms"]["outbox ict"]
    assert alarm == "3 reports wait, so many that nothing is converted until some are delivered"
    record(archive, ids[0], SENT)
    assert not is_full(archive, "ict")
    for _ in range(3):
        record(archive, ids[1], later("ConnectError: refused"))
    assert "2 reports wait since 3 deliveries failed: ConnectError: refused" in str(
        statistics.health(archive)
    )
    record(archive, ids[1], refused("HTTP 422", http_status=422))
    commit(archive, DecideDelivery(ids[2], 1, 1, Submission.DROPPED))
    assert statistics.collect(archive)["outbox"] == {
        "queued": 0, "sent": 1, "refused": 1, "dropped": 1,
        "converters": {"ict": {"sent": 1, "refused": 1, "dropped": 1}},
    }  # fmt: skip
    assert "1 reports were refused" in statistics.health(archive)["alarms"]["outbox ict"]


def test_an_alarm_says_where_archive_toml_has_no_more_words_for_it(
    archive: Archive, root: Path, clock: Clock
) -> None:
    success(archive, b"1")
    archive.close()
    toml = (root / "archive.toml").read_text().partition("[converters.ict.submit]")[0]
    (root / "archive.toml").write_text(toml)
    with Archive(root, clock=clock) as again:
        assert "has no [converters.ict.submit]" in statistics.health(again)["alarms"]["outbox ict"]


def test_a_rebuilt_catalog_has_the_same_outbox(archive: Archive, root: Path, clock: Clock) -> None:
    ids = [success(archive, b"%d" % number, b"{}", b"[]") for number in range(4)]
    record(archive, ids[0], later("busy"))
    record(archive, ids[0], SENT)
    record(archive, ids[0], refused("no"), ordinal=2)
    commit(archive, DecideDelivery(ids[1], 1, 2, Submission.DROPPED))
    archive.close()
    before = catalog_rows(root)
    assert len(before["outbox"]) == 8
    assert len(before["deliveries"]) == 3
    rebuilding.rebuild(root, clock=clock)
    assert catalog_rows(root) == before


def test_a_journal_without_submissions_is_read_as_ever(archive: Archive) -> None:
    success(archive, b"1", converter="nowhere")
    assert verify(archive, Scope()).findings == []


def test_a_queued_report_whose_content_is_lost_is_found(
    archive: Archive, root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    expected_errors.append("the segment content/2026/02/13/ict.reports.zst ends at")
    first, second = success(archive, b"1"), success(archive, b"2")
    assert verify(archive, Scope()).findings == []
    (location,) = [each.location for each in archive.reader.contents(archive.reader.get(second).n)]
    assert location is not None
    archive.close()
    os.truncate(root / "content" / location.segment, location.offset)
    with Archive(root, clock=clock) as again:
        found = [each for each in verify(again, Scope()).findings if each.check == "report-lost"]
        assert [each.what.split(":")[0] for each in found] == [second]
        record(again, first, SENT)
        commit(again, DecideDelivery(second, 1, 1, Submission.DROPPED))
        assert [each for each in verify(again, Scope()).findings if each.check == "report-lost"] == []


# -- the command ---------------------------------------------------------------------------------------


def listed(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in archivefs("outbox", "--archive", root, "--json").out.splitlines()]


def test_the_command_lists_what_is_not_sent_and_decides(archive: Archive, root: Path) -> None:
    ids = [success(archive, b"%d" % number) for number in range(4)]
    record(archive, ids[0], SENT)
    record(archive, ids[1], refused("HTTP 422: who is that?", http_status=422))
    record(archive, ids[2], later("busy"))
    archive.close()
    rows = listed(root)
    assert [(row["id"], row["state"]) for row in rows] == [
        (ids[2], "queued"), (ids[3], "queued"), (ids[1], "refused")
    ]  # fmt: skip
    assert rows[0]["error"] == "busy"
    assert rows[0]["due_at"] == "2026-02-13T12:01:00.000Z"
    assert rows[2]["http_status"] == 422
    text = archivefs("outbox", "--archive", root).out
    assert "HTTP 422: who is that?" in text
    archivefs("outbox", "--archive", root, "--retry", ids[1])
    assert [row["id"] for row in listed(root)] == ids[1:]
    archivefs("outbox", "--archive", root, "--drop", rows[0]["report_id"], "--drop", ids[3][:19])
    assert [(row["id"], row["state"]) for row in listed(root)] == [
        (ids[1], "queued"), (ids[2], "dropped"), (ids[3], "dropped")
    ]  # fmt: skip
    archivefs("outbox", "--archive", root, "--drop", "ict")
    archivefs("outbox", "--archive", root, "--retry", ids[3])
    assert [(row["id"], row["state"]) for row in listed(root)] == [
        (ids[3], "queued"), (ids[1], "dropped"), (ids[2], "dropped")
    ]  # fmt: skip
    decided = [json.loads(line) for line in journal_lines(root) if b'"delivery_decided"' in line]
    assert [each["actor"]["program"] for each in decided] == [
        f"archivefs outbox --{word}" for word in ("retry", "drop", "drop", "drop", "retry")
    ]


def test_the_command_says_what_it_does_not_know(archive: Archive, root: Path) -> None:
    id_ = success(archive, b"1")
    nothing = success(archive, b"2", converter="nowhere")
    record(archive, id_, SENT)
    held = archivefs("outbox", "--archive", root, "--retry", id_)
    assert held.code == 13
    assert "is in use by process" in held.err
    archive.close()
    assert (
        archivefs("outbox", "--archive", root).out == "nothing waits in the outbox, and nothing was refused\n"
    )
    for wrong, words in (
        (id_, "were sent already"),
        (nothing, "were never queued"),
        ("xyz", "no report, entry or"),
    ):
        ran = archivefs("outbox", "--archive", root, "--retry", wrong)
        assert ran.code == 14
        assert words in ran.err


def test_a_command_that_sends_nothing_does_not_load_the_http_client(archive: Archive, root: Path) -> None:
    success(archive, b"1")
    archive.close()
    script = (
        "import sys; from archivefs.cli.main import cli\n"
        f"cli(['outbox', '--archive', {str(root)!r}], standalone_mode=False)\n"
        "assert not {'httpx', 'tomlkit', 'anyio'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], env=child_environment(), check=True, capture_output=True)
