"""Replay: the past converted again on a mount, with the code of then and of now, and stopped in its midst."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mount_parts import (
    Make,
    Mounted,
    archivefs,
    command,
    converter,
    environment,
    names_in,
    poll,
)
from receiver_parts import Received, Reply, ReportServer, report_server
from replay_parts import COUNT, FIRST, SECOND, TOML, attempts, counts, ended, fix, past_of, replay
from test_control import refused, told

from archivefs.catalog.reader import Reader
from archivefs.events import Replayed
from archivefs.states import Status
from archivefs.store.journal import Journal

past = pytest.fixture(past_of)


def test_a_converter_is_fixed_compared_and_what_failed_is_replayed(past: Mounted) -> None:
    before = past.report(past.only("u00.csv"))
    fix(past)
    facts, result = replay(past, "converter=ict", "compare=yes", "promote=no")
    assert (facts["state"], result["successful"], result["failed"]) == ("done", COUNT, 0)
    compared = result["comparison"]
    assert (compared["newly_passing"], compared["newly_failing"]) == (10, 0)
    assert compared["identical"] + compared["changed"] == 50
    assert compared["changed"] == compared["fields"]["$.result"] > 0
    folder = past.point / "jobs/1"
    assert (folder / "comparison.html").read_text().startswith("<!DOCTYPE html>")
    whole = json.loads((folder / "comparison.json").read_bytes())
    assert whole["changed"]["$.result"]["examples"][0]["old"] == '"Passed"'
    assert {flip["kind"] for flip in whole["flips"]} == {"newly_passing"}
    assert counts(past) == {"success": 50, "failed": 10}
    assert past.report(past.only("u00.csv")) == before
    assert names_in(past.entry_dir(past.only("u00.csv")) / "attempts") == ["1", "2"]
    failed = past.entry_dir(past.only("u05.csv"))
    assert "error.txt" in names_in(failed)

    _, result = replay(past, "status=failed", "converter=ict")
    assert (result["total"], result["successful"]) == (10, 10)
    assert counts(past) == {"success": COUNT}
    entry = past.only("u05.csv")
    assert "error.txt" not in names_in(past.entry_dir(entry))
    assert past.report(entry)["limit"] == 5
    told_of = past.attempt(entry, 3)
    assert (told_of["cause"], told_of["job"], told_of["promoted"], told_of["version"]) == (
        "replay",
        2,
        True,
        "2.0",
    )
    assert [each.outcome for each in attempts(past, "u05.csv")] == ["failed", "success", "success"]
    events = [event for event in Journal(past.root / "journal").read() if isinstance(event, Replayed)]
    assert len(events) == COUNT + 10


def test_the_code_and_the_arguments_of_then_give_the_report_of_then(past: Mounted) -> None:
    fix(past)
    archivefs("config", "set", "converters.ict.arguments.limit", "9", "--archive", past.root)
    done = archivefs("reproduce", "converter=ict", "status=success", "--archive", past.root)
    assert done.stdout == "50 of 50 reproduced, 0 came out otherwise, 0 skipped\n"
    assert {len(attempts(past, f"u{n:02}.csv")) for n in range(COUNT)} == {1}
    _, result = replay(past, "name=u00.csv", "code=original", "arguments=original", "compare=yes")
    assert result["comparison"]["identical"] == 1
    _, result = replay(past, "name=u00.csv", "code=original", "set.limit=7", "promote=no")
    third = attempts(past, "u00.csv")[2]
    assert (third.version, json.loads(third.arguments), third.promoted) == ("1.0", {"limit": 7}, 0)
    _, result = replay(past, "name=u00.csv")
    assert past.report(past.only("u00.csv"))["limit"] == 9


def test_a_converter_that_is_not_deterministic_is_named_as_such(past: Mounted) -> None:
    fix(past, FIRST.replace("import json", "import random").replace('"Passed"', "str(random.random())"))
    replay(past, "name=u00.csv,u01.csv")
    done = archivefs("reproduce", "name=u00.csv,u01.csv,u02.csv", "--archive", past.root, code=28)
    assert done.stdout.splitlines() == [
        "1 of 3 reproduced, 2 came out otherwise, 0 skipped",
        "  $.result: 2, not deterministic: two runs differ, too",
    ]


def test_a_replay_goes_on_after_a_kill_and_does_nothing_twice(past: Mounted) -> None:
    past.killed = True
    fix(past, SECOND.replace("text = source", "__import__('time').sleep(0.03); text = source"))
    told(past, "reprocess", b"converter=ict\n")

    def some() -> bool:
        return any(isinstance(event, Replayed) for event in Journal(past.root / "journal").read())

    past.wait_for("some replays", some, 30)
    past.kill()
    past.mount()
    facts = ended(past, 1)
    assert (facts["state"], facts["done"], facts["failed"]) == ("done", COUNT, 0)
    assert {len(attempts(past, f"u{n:02}.csv")) for n in range(COUNT)} == {2}


def test_a_comparison_has_what_was_committed_before_a_kill_and_not_written_to_it(past: Mounted) -> None:
    past.killed = True
    fix(past)
    told(past, "reprocess", b"converter=ict compare=yes rate=10\n")
    file = past.root / "jobs/1/comparison.json"
    past.wait_for("the empty comparison", file.exists, 30)
    early = file.read_bytes()
    past.wait_for("a group", lambda: file.read_bytes() != early, 30)
    past.kill()
    file.write_bytes(early)  # as by a kill between the commit and the file
    past.mount()
    ended(past, 1)
    told_of = json.loads((past.point / "jobs/1/comparison.json").read_bytes())
    assert (told_of["counts"]["newly_passing"], sum(told_of["counts"].values())) == (10, COUNT)
    assert told_of["changed"]["$.result"]["count"] == told_of["counts"]["changed"] > 0
    assert len(told_of["flips"]) == 10


def test_an_erased_entry_leaves_nothing_of_its_reports_in_comparisons(past: Mounted) -> None:
    fix(past, FIRST.replace('"length": len(text)', '"text": text'))
    replay(past, "name=u00.csv,u01.csv", "compare=yes", "promote=no")
    replay(past, "name=u00.csv", "compare=yes", "promote=no")
    entry = past.only("u00.csv")
    files = [past.point / f"jobs/{job}/comparison.{kind}" for job in (1, 2) for kind in ("json", "html")]
    assert all("unit 0" in file.read_text() for file in files)
    archivefs("erase", entry.id, "--reason", "request", "--yes", "--archive", past.root)
    assert [file for file in files if "unit 0" in file.read_text() or entry.id in file.read_text()] == []
    kept = json.loads(files[0].read_bytes())
    assert (kept["counts"]["changed"], kept["changed"]["$.text"]["count"]) == (2, 2)
    assert [each["new"] for each in kept["changed"]["$.text"]["examples"]] == ['"unit 1"']


def test_what_a_killed_command_laid_out_for_its_replay_goes_with_the_next_opening(past: Mounted) -> None:
    fix(past, SECOND.replace("text = source", "__import__('time').sleep(600); text = source"))
    past.umount()
    words = command("reprocess", "converter=ict", "--archive", past.root)
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        folder = past.root / "staging/replay"
        poll("its workers", lambda: list(folder.glob("worker-*/*")), 30)
    finally:
        process.kill()
        process.wait()
    assert folder.exists()
    past.killed = True
    archivefs("jobs", "pause", "1", "--archive", past.root)
    assert not folder.exists()


def damage_report(archive: Mounted, name: str) -> str:
    """Clear the bytes of the last report of an entry where they lie; the entry's id."""
    entry = archive.only(name)
    archive.damaged.add(entry.id)
    reader = Reader.open(archive.root / "catalog.sqlite")
    try:
        place = [each.location for each in reader.contents(entry.n) if each.ordinal][-1]
    finally:
        reader.close()
    assert place is not None
    with (archive.root / "content" / place.segment).open("r+b") as file:
        file.seek(place.offset + place.header)
        file.write(bytes(max(place.stored, 8)))
    return entry.id


def test_a_report_that_is_damaged_costs_its_entry_the_comparison_and_no_more(past: Mounted) -> None:
    fix(past, FIRST.replace("import json", "import random").replace('"Passed"', "str(random.random())"))
    replay(past, "name=u00.csv,u01.csv")
    id_ = damage_report(past, "u00.csv")

    def told_of(number: int) -> dict[str, dict[str, Any]]:
        lines = (past.point / f"jobs/{number}/errors.jsonl").read_bytes().splitlines()
        return {each["id"]: each for each in map(json.loads, lines)}

    done = archivefs("reproduce", "name=u00.csv,u01.csv,u02.csv", "--archive", past.root, code=28)
    assert done.stdout.splitlines()[0] == "1 of 3 reproduced, 2 came out otherwise, 0 skipped"
    assert (len(told_of(2)), told_of(2)[id_]["compared"]) == (2, False)
    fix(past, SECOND.replace('"length"', '"size"'))
    facts, result = replay(past, "converter=ict", "compare=yes", "promote=no")
    assert (facts["state"], result["failed"], result["comparison"]["incomparable"]) == ("done", 0, 1)
    assert result["comparison"]["changed"] == 49
    assert told_of(3).keys() == {id_}
    assert told_of(3)[id_]["compared"] is False


def test_each_error_of_a_replay_is_told_once_after_a_kill(mounted: Make, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "ict.py").write_text(FIRST)
    archive = mounted(TOML + converter("kept"), converters=code)
    archive.killed = True
    archive.drop("kept", "first.csv")
    for number in range(20):
        archive.drop("ict", f"{number}.csv", b"bad %d" % number)
    archive.wait_for("an end of all", lambda: counts(archive) == {"archived": 1, "failed": 20}, 60)
    told(archive, "reprocess", b"name=* rate=5\n")
    errors = archive.root / "jobs/1/errors.jsonl"
    archive.wait_for("two groups", lambda: errors.exists() and errors.read_bytes().count(b"\n") > 5, 30)
    archive.kill()
    lines = errors.read_bytes().splitlines(keepends=True)
    errors.write_bytes(b"".join(lines[:2]))  # as by a kill between a commit and the file
    archive.mount()
    ended(archive, 1)
    told_of = [json.loads(line) for line in errors.read_bytes().splitlines()]
    assert sorted(each["id"] for each in told_of) == sorted(each.id for each in archive.entries())
    assert sum(each.get("outcome") == "failed" for each in told_of) == 20
    assert all("cannot read bad" in each["error"] for each in told_of if "outcome" in each)


def test_a_replay_is_paused_resumed_and_cancelled(past: Mounted) -> None:
    told(past, "reprocess", b"converter=ict rate=40\n")
    control = past.point / "jobs/1/control"

    def facts() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((past.point / "jobs/1/job.json").read_bytes())
        return found

    def state() -> str:
        return str(facts()["state"])

    past.wait_for("its first conversions", lambda: facts()["done"] > 0, 30)
    control.write_text("pause\n")
    past.wait_for("the pause", lambda: state() == "paused")
    assert 0 < facts()["done"] + facts()["failed"] < COUNT
    control.write_text("resume\n")
    assert ended(past, 1)["state"] == "done"
    assert {len(attempts(past, f"u{n:02}.csv")) for n in range(COUNT)} == {2}
    told(past, "reprocess", b"converter=ict rate=5\n")
    (past.point / "jobs/2/control").write_text("cancel\n")
    assert ended(past, 2)["state"] == "cancelled"


def test_the_most_urgent_job_that_waits_is_the_next_one(past: Mounted) -> None:
    told(past, "reprocess", b"name=u0* rate=0.01\n")
    past.wait_for("a job that runs", lambda: "running" in (past.point / "jobs/1/progress").read_text())
    asked = {
        told(past, file, line)["job"]: priority
        for file, line, priority in [
            ("reprocess", b"name=u00.csv\n", 8),
            ("reprocess", b"name=u01.csv priority=9\n", 9),
            ("reproduce", b"name=u02.csv priority=6\n", 6),
            ("reproduce", b"name=u02.csv\n", 8),
            ("reprocess", b"name=u03.csv priority=0\n", 0),
            ("verify", b"\n", 5),
        ]
    }
    past.remount()  # which goes on with what ran
    (past.point / "jobs/1/control").write_text("cancel\n")
    found = [ended(past, number) for number in asked]
    assert {each["job"]: each["priority"] for each in found} == asked
    assert [each["state"] for each in found] == ["done"] * len(asked)
    turn = sorted(found, key=lambda each: int(each["started_ms"]))
    assert [each["job"] for each in turn] == [6, 7, 4, 2, 5, 3]


def test_a_replay_that_is_stopped_breaks_off_what_it_converts(past: Mounted) -> None:
    fix(past, SECOND.replace("text = source", "__import__('time').sleep(600); text = source"))
    told(past, "reprocess", b"converter=ict\n")
    past.wait_for("its workers", lambda: list((past.root / "staging/replay").glob("worker-*")), 30)
    control = past.point / "jobs/1/control"
    control.write_text("pause\n")
    past.wait_for("the pause", lambda: "paused" in (past.point / "jobs/1/progress").read_text(), 30)
    fix(past)
    control.write_text("resume\n")
    assert (ended(past, 1)["state"], ended(past, 1)["done"]) == ("done", COUNT)
    assert {len(attempts(past, f"u{n:02}.csv")) for n in range(COUNT)} == {2}


@pytest.mark.parametrize(("word", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_word_that_was_accepted_outlives_a_kill(past: Mounted, word: str, state: str) -> None:
    past.killed = True
    told(past, "reprocess", b"name=u0* rate=0.001\n")
    past.wait_for("its first conversion", lambda: len(attempts(past, "u00.csv")) == 2, 30)
    (past.point / "jobs/1/control").write_text(word)
    past.kill()
    past.mount()
    told(past, "verify", b"\n")
    assert ended(past, 2)["state"] == "done"
    assert json.loads((past.point / "jobs/1/job.json").read_bytes())["state"] == state


def ids(server: ReportServer) -> list[str]:
    """Under which ids reports came."""
    return [each.headers["Idempotency-Key"] for each in server.received]


def test_promoted_reports_replace_those_that_the_server_has(mounted: Make, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "ict.py").write_text(FIRST)

    def decide(number: int, received: Received) -> Reply:
        return Reply(500) if 6 <= number < 9 else Reply(200)

    with report_server(decide) as server:
        submit = (
            '[converters.ict.submit]\nkind = "http"\n'
            f'url = "{server.url}"\nretry_delay_seconds = 0.1\nmax_retry_delay_seconds = 0.2\n'
        )
        archive = mounted(TOML + submit, converters=code, expected_log=("not delivered", "HTTP"))
        for number in range(4):
            archive.drop("ict", f"{number}.csv", b"unit %d" % number)
        archive.wait_for("four reports", lambda: len(set(ids(server))) == 4, 30)
        fix(archive)
        replay(archive, "converter=ict")
        said = archivefs("reprocess", "--submit", "converter=ict", "--archive", archive.root, code=45).stderr
        assert "say --yes" in said
        archivefs("reprocess", "--submit", "--yes", "converter=ict", "--archive", archive.root)
        archive.wait_for("an empty outbox", lambda: len(ids(server)) >= 8 + 3, 30)
        archive.wait_for(
            "the last delivery", lambda: "0 queued" in (archive.point / "control/outbox").read_text(), 30
        )
        assert len(set(ids(server))) == 4


def test_what_cannot_be_replayed_is_skipped_and_told(past: Mounted) -> None:
    entry = past.only("u00.csv")
    archivefs("erase", entry.id, "--reason", "request", "--yes", "--archive", past.root)
    done = archivefs("reprocess", f"id={entry.id}", "--archive", past.root)
    assert done.stdout.startswith("job 2: 0 of 0 converted")
    archivefs("config", "unset", "converters.ict.run", "--archive", past.root)
    done = archivefs("reprocess", "name=u01.csv", "--archive", past.root, code=28)
    error = json.loads((past.point / "jobs/3/errors.jsonl").read_bytes())
    assert "does not say how to convert" in error["error"]
    plan = archivefs("reprocess", "--dry-run", "--json", "name=u01.csv", "--archive", past.root)
    assert json.loads(plan.stdout)["entries"] == 0
    assert (
        "0 entries would be"
        in archivefs("reprocess", "--dry-run", "name=u01.csv", "--archive", past.root).stdout
    )


@pytest.mark.parametrize("line", [
    b"\n", b"compare=yes\n", b"name=* submit=perhaps\n", b"name=* code=old\n", b"name=* code=path:relative\n",
    b"name=* priority=10\n", b"name=* priority=high\n", b"name=* rate=-1\n", b"name=* rate=1e-310\n",
    b"name=* rate=nan\n", b"name=* rate=fast\n", b"nome=*\n", b"name=* on_error=stop\n", b"name=* name=\n",
])  # fmt: skip
def test_what_is_no_replay_is_refused(past: Mounted, line: bytes) -> None:
    number, said = refused(past, "reprocess", line)
    assert (number, said["ok"]) != (0, True)
    assert names_in(past.point / "jobs") == []


def test_a_replay_without_a_mount(past: Mounted) -> None:
    past.umount()
    fix(past)
    done = archivefs("reprocess", "--compare", "converter=ict", "--archive", past.root)
    assert f"job 1: {COUNT} of {COUNT} converted" in done.stdout
    assert "10 newly passing" in done.stdout
    past.mount()
    assert {entry.status for entry in past.entries()} == {Status.SUCCESS}
