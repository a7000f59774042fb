"""What the doctor reads off an archive that nobody has mounted: its outbox, verification, alarms, strays."""

import json
from pathlib import Path

from archive_parts import TOML, Clock, captured, commit, converted, finish, make
from test_verify_parts import archivefs

from archivefs.archive import Archive
from archivefs.doctor.asking import ask
from archivefs.doctor.examine import examine
from archivefs.doctor.findings import Line, State
from archivefs.events import Verified
from archivefs.operations import BeginAttempt, Note, Report
from archivefs.submit.delivery import refused
from archivefs.submit.operations import RecordDelivery

LONG_AGO_MS = 1_600_000_000_000
"""Before every clock on which these tests run."""
SUBMITTED = """
[converters.sent]
run = "command:true"
sandbox = "off"
[converters.sent.submit]
kind = "http"
url = "http://127.0.0.1:9/"
max_queue_size = 1
"""


def lines(root: Path, check: str) -> list[Line]:
    """What the doctor says of one thing."""
    return [line for line in examine(root) if line.check == check]


def test_a_report_that_was_refused_is_told_with_the_command(root: Path) -> None:
    with make(root, Clock(LONG_AGO_MS), TOML + SUBMITTED) as archive:
        id_ = captured(archive, b"1", b"a", "sent").id
        (number,) = commit(archive, BeginAttempt(id_, "capture"))
        commit(archive, finish(id_, number, converter="sent", reports=[Report("report.json", b"{}")]))
        (line,) = lines(root, "outbox")
        assert (line.state, line.seen) == (State.OK, "1 queued")
        item = archive.reader.outbox.head("sent")
        assert item is not None
        (alarm,) = lines(root, "alarms")
        assert alarm.state is State.WARNING
        assert alarm.seen.startswith("outbox sent: 1 reports wait, so many")
        assert alarm.remedy.endswith("outbox --retry sent")
        commit(archive, RecordDelivery(id_, 1, 1, refused("no"), LONG_AGO_MS, 5))
    (line,) = lines(root, "outbox")
    assert (line.state, line.seen) == (State.WARNING, "1 refused: 1 need a decision")
    assert f"archivefs --archive {root} outbox" in line.remedy


def test_a_verification_that_is_late_is_told(root: Path) -> None:
    toml = TOML.replace("reserve = 0", 'reserve = 0\nverify_every = "2 days"')
    with make(root, Clock(LONG_AGO_MS), toml) as archive:
        (line,) = lines(root, "verification")
        assert line.state is State.OK
        commit(archive, Note(Verified(scope="part 1 of 2", part=1, records=1, bytes=1)))
    (line,) = lines(root, "verification")
    assert line.state is State.WARNING
    assert line.seen.startswith(
        "last scheduled part at 2020-09-13T12:26:40.000000Z, more than 2 intervals ago"
    )


def test_a_sound_archive_of_the_past_has_no_line_but_ok(root: Path) -> None:
    toml = TOML.replace('run = "command:true"', 'run = "command:true"\nsandbox = "off"')
    with make(root, Clock(LONG_AGO_MS), toml) as archive:
        converted(archive, captured(archive, b"1", b"a.csv", "ict").id)
    said = [line for line in examine(root) if line.state is not State.OK and line.check != "fuse"]
    assert said == []


def test_the_lock_remembers_where_it_was_mounted_last_over_any_number_of_openings(root: Path) -> None:
    with make(root, Clock(LONG_AGO_MS)) as archive:
        archive.note_mountpoint("/somewhere/else")
        archive.note_mountpoint("")
    assert json.loads((root / "lock").read_bytes()) == {"last_mountpoint": "/somewhere/else"}
    for _ in range(2):
        with Archive(root) as archive:
            assert json.loads((root / "lock").read_bytes())["last_mountpoint"] == "/somewhere/else"
            archive.note_mountpoint("")
    (line,) = lines(root, "inbox")
    assert line.seen == "nothing was saved into /somewhere/else"


def test_all_lines_stand_in_the_json_and_the_text(root: Path) -> None:
    make(root, Clock(LONG_AGO_MS)).close()
    said = json.loads(archivefs("doctor", "--json", "--archive", root).out)
    text = archivefs("doctor", "--archive", root).out
    assert len(said["checks"]) > 10
    for line in said["checks"]:
        if line["check"] != "clock":  # it goes on
            assert line["seen"] in text
            assert line["remedy"] in text


# -- asking ------------------------------------------------------------------------------------------------


def test_an_answer_is_what_was_said_and_how_it_ended() -> None:
    assert ask("sh", "-c", "echo out; echo error >&2; exit 3") == (3, b"out\n", "error")


def test_who_does_not_answer_in_time_or_too_much_is_left() -> None:
    assert ask("sh", "-c", "echo begun; exec sleep 60", seconds=0.5) == (None, b"begun\n", "")
    said = ask("yes", seconds=20, limit_bytes=1000)
    assert said.code is None
    assert said.out.startswith(b"y\ny\n")
