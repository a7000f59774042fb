"""archive.toml changed by commands: durable, noted, whole after any stop; older versions; newer ones."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from archive_parts import (
    Clock,
    catalog_rows,
    journal_lines,
    make,
    run_child,
)
from test_verify_parts import archivefs

from archivefs import config, configuring, control, rebuilding, settings
from archivefs.archive import Archive
from archivefs.errors import ConfigError, ControlError
from archivefs.parts import Actor
from archivefs.telling import tell

TOML = """\
schema_version = 1            # of this file
timezone = "UTC"
reserve = 0
[converters.ict]              # in-circuit test
run = "command:true"
"""
ME = Actor(uid=1000, program="test")


@pytest.fixture(autouse=True)
def _made(root: Path, clock: Clock) -> None:
    make(root, clock, TOML).close()


def toml(root: Path) -> str:
    return (root / "archive.toml").read_text()


def events(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal_lines(root) if b'"configured"' in line]


def left(root: Path) -> list[str]:
    return sorted(each.name for each in root.glob("archive.toml*"))


def test_set_keeps_comments_and_is_noted_with_old_and_new_value(root: Path) -> None:
    ran = archivefs("config", "set", "converters.ict.priority", "2", "--archive", root)
    assert (ran.code, ran.out) == (0, "converters.ict.priority: 5 -> 2\n")
    assert toml(root) == TOML + "priority = 2\n"
    (event,) = events(root)
    assert event["changes"] == [{"key": "converters.ict.priority", "old": 5, "new": 2}]
    assert event["actor"] == {"uid": os.getuid(), "program": "archivefs config set"}
    assert event["before"] == settings.sha256(TOML.encode())
    assert event["after"] == settings.sha256(toml(root).encode())
    assert left(root) == ["archive.toml"]
    assert (root / "archive.toml").stat().st_mode & 0o777 == 0o600
    assert "configured: changes=converters.ict.priority 5 -> 2" in archivefs("log", "--archive", root).out


@pytest.mark.parametrize("value", ["2030-01-01", '"2030-01-01"', "'2030-01-01'"])
def test_a_day_is_set_as_it_is_written(root: Path, value: str) -> None:
    key = "converters.ict.retention.retain_until"
    assert archivefs("--archive", root, "config", "set", key, value).err == ""
    assert archivefs("--archive", root, "config", "show", key).out == '"2030-01-01"\n'
    assert events(root)[-1]["changes"][0]["new"] == {"retain_until": "2030-01-01"}
    changes = tell(root, "config", ["set", key, "2031-02-03"], "test")["changes"]
    assert changes == [{"key": key, "old": "2030-01-01", "new": "2031-02-03"}]
    assert tell(root, "config", ["set", key, "2031-02-03"], "test")["changes"] == []
    for wrong in ("2030-02-30", "2030-01-01T10:00:00", "1.5"):
        with pytest.raises(ConfigError, match="retain_until"):
            tell(root, "config", ["set", key, wrong], "test")


def test_unset_and_show(root: Path) -> None:
    archivefs("config", "set", "reserve", "1 GB", "--archive", root)
    assert archivefs("config", "show", "reserve", "--archive", root).out == "1000000000\n"
    ran = archivefs("config", "unset", "reserve", "--json", "--archive", root)
    assert json.loads(ran.out) == {"changes": [{"key": "reserve", "old": 10**9, "new": 256 << 20}]}
    shown = archivefs("config", "show", "--archive", root).out
    assert config.parse(shown.encode(), "x") == config.load(root)
    assert (
        json.loads(archivefs("config", "show", "converters.ict.run", "--json", "--archive", root).out)
        == "command:true"
    )
    assert archivefs("config", "show", "nothing", "--archive", root).code == 10


def test_several_keys_are_set_and_unset_as_one_change(root: Path) -> None:
    tell(root, "config", ["set", "reserve", "1 GB", "converters.ict.priority", "2"], "test")
    words = ["set", "converters.ict.priority", "3", "unset", "reserve"]
    changes = tell(root, "config", words, "test")["changes"]
    assert [(each["key"], each["new"]) for each in changes] == [
        ("reserve", 256 << 20),
        ("converters.ict.priority", 3),
    ]
    assert len(events(root)) == 2
    before = toml(root)
    for wrong in (["set", "reserve", "1", "unset"], ["set", "reserve"], ["set", "unset", "reserve", "x"]):
        with pytest.raises((ControlError, ConfigError)):
            tell(root, "config", wrong, "test")
    assert (toml(root), len(events(root))) == (before, 2)
    tell(root, "config", ["unset", "converters.ict.priority", "converters.ict.run"], "test")
    assert "priority" not in toml(root)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("timezone", "Europe/Oslo", "must stay 'UTC'"),
        ("schema_version", "2", "newer archivefs"),
        ("priority", "2", "unknown key"),
        ("converters.ict.priority", "11", "<= 10"),
        ("converters.a b.run", "x", "is no key"),
        ('converters."a b".run', "command:x", "is not allowed"),
        ("converters.ict.submit.kind", "http", "url: must be given"),
    ],
)
def test_what_is_not_allowed_changes_nothing(root: Path, key: str, value: str, words: str) -> None:
    ran = archivefs("config", "set", key, value, "--archive", root)
    assert ran.code == 10
    assert words in ran.err
    assert toml(root) == TOML
    assert events(root) == []
    assert left(root) == ["archive.toml"]


def test_what_is_so_already_is_not_noted(root: Path) -> None:
    assert "nothing was changed" in archivefs("config", "set", "reserve", "0", "--archive", root).out
    assert events(root) == []


def test_an_archive_in_use_is_not_changed(root: Path, clock: Clock) -> None:
    with Archive(root, clock=clock):
        ran = archivefs("config", "set", "reserve", "1", "--archive", root)
    assert ran.code == 13
    assert "is in use by process" in ran.err
    assert toml(root) == TOML


def test_check_tells_what_is_wrong_and_what_a_file_would_change(root: Path, tmp_path: Path) -> None:
    ran = archivefs("config", "check", "--archive", root)
    assert (ran.code, ran.out) == (0, f"{root}/archive.toml is sound; converters: ict\n")
    new = tmp_path / "new.toml"
    new.write_text(TOML.replace("command:true", "command:false"))
    ran = archivefs("config", "check", new, "--archive", root)
    assert (
        ran.out == f'{new} is sound; converters: ict\nconverters.ict.run: "command:true" -> "command:false"\n'
    )
    new.write_text(TOML.replace("UTC", "Europe/Oslo"))
    assert "must stay 'UTC'" in archivefs("config", "check", new, "--archive", root).err
    new.write_text(TOML + "prority = 1")
    ran = archivefs("config", "check", new, "--archive", root)
    assert (ran.code, 'did you mean "priority"?' in ran.err) == (10, True)
    assert toml(root) == TOML


# -- stops ---------------------------------------------------------------------------------------------

KILLED_AT = """
import os, signal, sys
from pathlib import Path
from archivefs import control, settings
from archivefs.archive import Archive
from archivefs.parts import Actor
root, step, count = Path(sys.argv[1]), sys.argv[2], 0
PARTS = ("settings.py", "configuring.py", "control.py", "durable.py")

def trace(frame, event, arg):
    global count
    if event == "line" and frame.f_code.co_filename.endswith(PARTS):
        count += 1
        if count == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

archive = Archive(root)
steps = control.COMMANDS["config"].run(archive, ["set", "converters.ict.priority", "2"], Actor(uid=0))
sys.settrace(trace)
control.carry_out(steps, lambda operations: archive.commit(operations)[0])
sys.settrace(None)
print(count)
"""


def test_a_kill_at_any_line_leaves_the_old_file_or_the_new_one_and_its_event(
    root: Path, clock: Clock, tmp_path: Path
) -> None:
    done = run_child(KILLED_AT, root, 10**9)
    assert done.returncode == 0, done.stderr
    lines = int(done.stdout)
    assert lines > 40
    outcomes = set()
    for step in range(1, lines + 1, 3):
        copy = tmp_path / f"copy {step}"
        make(copy, Clock(), TOML).close()
        killed = run_child(KILLED_AT, copy, step)
        assert killed.returncode == -signal.SIGKILL
        Archive(copy).close()
        new = toml(copy) == TOML + "priority = 2\n"
        assert new or toml(copy) == TOML
        assert len(events(copy)) == new
        assert left(copy) == ["archive.toml"]
        with Archive(copy) as archive:
            assert archive.converter_config("ict").priority == (2 if new else 5)
        outcomes.add(new)
    assert outcomes == {False, True}


def test_what_a_person_wrote_after_a_stop_stays(root: Path, clock: Clock) -> None:
    with Archive(root, clock=clock) as archive:
        words = ["set", "converters.ict.priority", "2"]
        steps = control.COMMANDS["config"].run(archive, words, ME)
        control.carry_out(steps, lambda operations: archive.commit(operations)[0])
    # As after a stop before the rename, and a person who edited the file then.
    (root / "archive.toml").replace(root / "archive.toml.new")
    (root / "archive.toml").write_text(TOML + "priority = 7\n")
    with Archive(root, clock=clock) as archive:
        assert archive.converter_config("ict").priority == 7
    assert left(root) == ["archive.toml"]


# -- versions ------------------------------------------------------------------------------------------


def test_an_older_file_is_migrated_with_a_backup_and_an_event(root: Path, clock: Clock) -> None:
    old = TOML.replace("schema_version = 1 ", "schema_version = 0 ")
    (root / "archive.toml").write_text(old)
    with Archive(root, clock=clock) as archive:
        assert archive.config == config.parse(TOML.encode(), "x")
    assert toml(root) == TOML
    (event,) = events(root)
    assert event["changes"] == [{"key": "schema_version", "old": 0, "new": 1}]
    assert (root / event["backup"]).read_text() == old
    assert left(root) == ["archive.toml", event["backup"]]
    Archive(root, clock=clock).close()
    assert len(events(root)) == 1
    before = catalog_rows(root)
    rebuilding.rebuild(root, clock=clock)
    assert catalog_rows(root) == before


def test_a_newer_file_is_refused_with_a_clear_sentence(root: Path) -> None:
    (root / "archive.toml").write_text(TOML.replace("= 1 ", "= 2 "))
    ran = archivefs("status", "--archive", root)
    assert ran.code == 10
    assert ran.err.endswith("schema_version: is 2, allowed is 1; it was written for a newer archivefs\n")


def test_reading_again_takes_what_is_sound_and_nothing_else(root: Path, clock: Clock) -> None:
    with Archive(root, clock=clock) as archive:
        before = archive.config
        for wrong in (TOML.replace("UTC", "Europe/Oslo"), TOML + "a = 1", "", "schema_version = 2"):
            (root / "archive.toml").write_text(wrong)
            with pytest.raises(ConfigError):
                configuring.read_again(archive)
            assert archive.config is before
        (root / "archive.toml").write_text(TOML + "compression_level = 9\n")
        event = configuring.read_again(archive)
        assert [(each.key, each.old, each.new) for each in event.changes] == [
            ("converters.ict.compression_level", 3, 9)
        ]
        assert archive.packing.config.converters["ict"].compression_level == 9
