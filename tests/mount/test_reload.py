"""archive.toml read again under a mount: SIGHUP, with conversions and deliveries under way."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from mount_parts import Make, Mounted, archivefs, config, converter, names_in
from receiver_parts import Reply, report_server, taken
from submission_parts import alarms, numbers, submit


def reload(archive: Mounted, toml: str) -> None:
    """Write archive.toml as editors do, and tell the daemon."""
    fresh = archive.root / "edited.toml"
    fresh.write_text(toml)
    fresh.replace(archive.root / "archive.toml")
    os.kill(archive.pid, signal.SIGHUP)


def configured(archive: Mounted) -> list[dict[str, Any]]:
    """What the journal says about changes of the configuration, the last first."""
    done = archivefs("log", "--json", "--archive", archive.root)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [event for event in events if event["kind"] == "configured"][::-1]


def test_converters_come_and_go_and_what_they_have_stays(mounted: Make) -> None:
    good = converter("good", "python:good:Good", settle_seconds=0)
    archive = mounted(config(good))
    archive.drop("good", "a.csv")
    archive.wait_for_status("a.csv", "success")
    reload(archive, config(converter("new", "function:good:count", settle_seconds=0)))
    archive.wait_for("the new folder", lambda: names_in(archive.inbox) == ["new"])
    archive.drop("new", "b.csv")
    archive.wait_for_status("b.csv", "success")
    assert "inbox/new/" in (archive.point / "README.txt").read_text()
    assert archive.content(archive.only("a.csv")) == b"measured"
    changes = configured(archive)[0]["changes"]
    assert [each["key"] for each in changes] == ["converters.good", "converters.new"]
    reload(archive, config(good))
    archive.wait_for("the old folder", lambda: names_in(archive.inbox) == ["good"])
    archive.drop("good", "c.csv")
    archive.wait_for_status("c.csv", "success")


def test_a_conversion_that_runs_ends_as_it_began_and_the_next_is_the_new_one(
    mounted: Make, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def toml(run: str, arguments: dict[str, Any]) -> str:
        table = converter("c", run, settle_seconds=0, arguments=arguments, sandbox="off")
        return config(table, workers=1)

    archive = mounted(toml("python:good:Gate", {"gate": str(gate)}))
    archive.drop("c", "one.csv", b"1")
    archive.wait_for_status("one.csv", "converting")
    archive.drop("c", "two.csv", b"2")
    reload(archive, toml("python:good:Good", {"new": True}))
    archive.wait_for("the event", lambda: configured(archive))
    assert archive.only("one.csv").status == "converting"
    gate.touch()
    one = archive.wait_for_status("one.csv", "success")
    two = archive.wait_for_status("two.csv", "success")
    assert archive.attempt(one)["arguments"] == {"gate": str(gate)}
    assert archive.report(one) == {"attempt": 1, "size": 1}
    assert archive.report(two)["arguments"] == {"new": True}


def test_what_is_wrong_or_must_stay_is_refused_and_told_until_it_is_put_right(mounted: Make) -> None:
    toml = config(converter("good", "python:good:Good", settle_seconds=0))
    archive = mounted(toml, expected_log=["archive.toml was not read again"])
    for wrong, words in (
        (toml + "prority = 1\n", 'did you mean "priority"?'),
        ("[converters\n", "not valid TOML"),
        (toml.replace('"UTC"', '"Europe/Oslo"'), "must stay 'UTC'"),
        (toml.replace("schema_version = 1", "schema_version = 2"), "newer archivefs"),
    ):
        reload(archive, wrong)
        archive.wait_for("alarm", lambda words=words: words in alarms(archive).get("configuration", ""))
        assert "what was read before stays in force" in alarms(archive)["configuration"]
        assert words in archive.log()
    archive.drop("good", "a.csv")
    archive.wait_for_status("a.csv", "success")
    reload(archive, toml)
    archive.wait_for("no alarm", lambda: alarms(archive) == {})
    assert configured(archive) == []


def test_where_reports_go_can_be_put_right_without_a_new_mount(mounted: Make) -> None:
    slow = {"retry_delay_seconds": 3600, "max_retry_delay_seconds": 3600}
    with (
        report_server(lambda number, received: Reply(503)) as wrong,
        report_server() as right,
    ):

        def toml(url: str) -> str:
            table = submit("wats", kind="http", url=url, **slow)
            return config(converter("wats", "python:good:Good", settle_seconds=0) + table)

        archive = mounted(toml(wrong.url))
        archive.drop("wats", "a.csv", b"a")
        archive.wait_for("a delivery that failed", lambda: wrong.received)
        archive.wait_for_status("a.csv", "success")
        reload(archive, toml(right.url))
        archive.wait_for("the report", lambda: numbers(archive)["sent"] == 1)
        assert len(wrong.received) == 1
        reload(archive, config(converter("wats", "python:good:Good", settle_seconds=0)))
        archive.wait_for("the event", lambda: len(configured(archive)) == 2)
        archive.drop("wats", "b.csv", b"b")
        entry = archive.wait_for_status("b.csv", "success")
        assert "submission" not in archive.attempt(entry)["reports"][0]
        right.decide = taken


def test_many_signals_at_once_are_harmless(mounted: Make) -> None:
    toml = config(converter("good", "python:good:Good", settle_seconds=0))
    archive = mounted(toml)
    for number in range(50):
        reload(archive, toml.replace("settle_seconds = 0", f"settle_seconds = 0.0{number % 5}"))
        archive.drop("good", f"{number}.csv", b"%d" % number)
    for number in range(50):
        archive.wait_for_status(f"{number}.csv", "success")
