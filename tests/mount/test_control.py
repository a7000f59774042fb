"""control/: commands with echo and cat, with the commands of the shell, and from Python on one descriptor."""

import errno
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from mount_parts import Make, Mounted, an_archive, archivefs, config, converter, names_in, run
from test_tree_security import ALICE, AS_ROOT, NO, OTHERS, ask, open_folder

from archivefs.archive import Archive
from archivefs.control import LINE_BYTES
from archivefs.events import Configured, Retried
from archivefs.states import Status
from archivefs.store.journal import Journal

ICT = config(
    converter("ict", "python:good:Good", settle_seconds=0), converter("fails", "function:good:fails")
)
FILES = [
    "config", "erase", "hold", "last-error", "outbox", "protocol", "quarantine", "reload", "repack",
    "reprocess", "reproduce", "retention", "retry", "verify",
]  # fmt: skip


@pytest.fixture
def failed(mounted: Make) -> Mounted:
    """A mount with two entries that failed."""
    archive = mounted(ICT)
    for number in range(2):
        archive.drop("fails", f"{number}.csv", b"%d" % number)
        archive.wait_for_status(f"{number}.csv", "failed")
    return archive


def attempts(archive: Mounted) -> list[int]:
    return [row.attempts for row in archive.entries()]


def shell(archive: Mounted, script: str) -> tuple[int, str]:
    """A script that runs in control/: its exit code and all that it prints."""
    done = subprocess.run(
        ["bash", "-c", script], cwd=archive.point / "control", capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def told(archive: Mounted, name: str, line: bytes) -> dict[str, Any]:
    """The reply on the descriptor that the command was written to."""
    fd = os.open(archive.point / "control" / name, os.O_RDWR)
    try:
        assert os.write(fd, line) == len(line)
        reply: dict[str, Any] = json.loads(os.read(fd, 1 << 20))
        assert os.read(fd, 10) == b""
        return reply
    finally:
        os.close(fd)


def refused(archive: Mounted, name: str, line: bytes) -> tuple[int, dict[str, Any]]:
    """The errno of a command, and what last-error says then."""
    fd = os.open(archive.point / "control" / name, os.O_RDWR)
    try:
        with pytest.raises(OSError, match="Errno") as caught:
            os.write(fd, line)
        said = os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)
    assert (archive.point / "control/last-error").read_bytes() == said
    return caught.value.errno or 0, json.loads(said)


# -- files ---------------------------------------------------------------------------------------------------


def test_each_file_tells_its_usage_and_how_things_stand_with_its_true_size(failed: Mounted) -> None:
    control = failed.point / "control"
    assert names_in(control) == FILES
    for name in FILES:
        text = (control / name).read_bytes()
        assert (control / name).stat().st_size == len(text)
        assert text.startswith(b"usage: echo ") or name in ("last-error", "protocol")
    assert "now: 2 failed, 0 rejected, 0 skipped, 0 suspended\n" in (control / "retry").read_text()
    protocol = json.loads((control / "protocol").read_bytes())
    assert protocol["version"] == 1
    assert sorted(protocol["commands"]) == sorted(set(FILES) - {"last-error", "protocol"})
    copied = run("cp", "-r", control, failed.point.parent / "copied", code=0)
    assert copied == ""


@pytest.mark.parametrize("script", [
    "echo status=failed > retry", "echo status=failed >> retry", "printf 'status=failed' | tee retry",
    "exec 3<>retry; echo status=failed >&3; cat <&3 | grep -q '\"ok\":true'",
])  # fmt: skip
def test_a_shell_retries_what_failed(failed: Mounted, script: str) -> None:
    code, _ = shell(failed, script)
    assert code == 0
    failed.wait_for("second attempts", lambda: attempts(failed) == [2, 2])
    retried = [event for event in Journal(failed.root / "journal").read() if isinstance(event, Retried)]
    assert {event.actor.uid for event in retried} == {os.geteuid()}


def test_python_writes_and_reads_on_one_descriptor(failed: Mounted) -> None:
    reply = told(failed, "retry", b"status=failed name=0.csv\n")
    assert [each["name"] for each in reply["entries"]] == ["0.csv"]
    with (failed.point / "control/retry").open("r+") as file:
        file.write("name=1.csv\n")
        file.flush()
        assert json.loads(file.read())["ok"]


def test_what_is_no_command_is_refused_and_told_to_its_user(failed: Mounted) -> None:
    code, said = shell(failed, "echo stauts=failed > retry")
    assert (code, "Invalid argument" in said) == (1, True)
    last = json.loads((failed.point / "control/last-error").read_bytes())
    assert (last["ok"], last["command"], last["exit_code"]) == (False, "retry", 19)
    assert "stauts" in last["error"]
    for name, line in (
        ("retry", b"\n"), ("retry", b"status=failed\nstatus=failed\n"), ("retry", b"name='x\n"),
        ("retry", b"name=\xff\n"), ("retry", b"x" * 70_000), ("outbox", b"send all\n"),
        ("config", b"set a\n"),
    ):  # fmt: skip
        number, said_to_me = refused(failed, name, line)
        assert (number, said_to_me["exit_code"]) == (errno.EINVAL, 45), line[:40]
    assert refused(failed, "quarantine", b"drop nothing\n")[0] == errno.ENOENT
    assert attempts(failed) == [1, 1]


def test_nobody_writes_where_there_is_nothing_to_say(failed: Mounted) -> None:
    for name in ("last-error", "protocol"):
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(failed.point / "control" / name, os.O_RDWR)
    for call in (
        lambda: (failed.point / "control/new").touch(), lambda: (failed.point / "control/retry").unlink(),
        lambda: (failed.point / "control/retry").chmod(0o666),
    ):  # fmt: skip
        with pytest.raises(OSError, match="Read-only file system"):
            call()


def test_who_gives_commands_too_fast_is_asked_to_wait(failed: Mounted) -> None:
    numbers = set()
    for _ in range(40):
        fd = os.open(failed.point / "control/reload", os.O_WRONLY)
        try:
            os.write(fd, b"\n")
        except OSError as error:
            numbers.add(error.errno)
        finally:
            os.close(fd)
    assert numbers == {errno.EAGAIN}
    done = archivefs("retry", "name=0.csv", "--archive", failed.root)  # it waits for its turn
    assert done.stdout.endswith("  0.csv\n")


@AS_ROOT
def test_other_users_may_neither_command_nor_read_replies() -> None:
    with open_folder() as folder, an_archive(folder, ICT, options=OTHERS) as archive:
        control = archive.point / "control"
        asked = (
            ["read", control / "retry"],
            ["overwrite", control / "reload"],
            ["read", control / "protocol"],
        )
        *denied, allowed = ask(ALICE, *asked)
        assert set(denied) <= NO
        assert allowed == "ok"


def test_a_mount_for_reading_takes_no_commands(mounted: Make) -> None:
    archive = mounted(ICT, options=["-o", "ro"])
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(archive.point / "control/retry", os.O_WRONLY)


# -- the commands of the shell, while it is mounted ----------------------------------------------------------


def test_retry_works_on_a_mount(failed: Mounted) -> None:
    done = archivefs("retry", "status=failed", "--archive", failed.root)
    assert (len(done.stdout.splitlines()), "2 entries will be converted again now" in done.stderr) == (
        2,
        True,
    )
    failed.wait_for("second attempts", lambda: attempts(failed) == [2, 2])
    failed.wait_for_status("1.csv", "failed")
    done = archivefs("retry", "--json", "name=1.csv", "--archive", failed.root)
    assert json.loads(done.stdout) == {"id": failed.only("1.csv").id, "retried": True}
    assert archivefs("retry", "status=no", "--archive", failed.root, code=19).stderr.startswith(
        "archivefs: status=no"
    )


def test_settings_change_on_a_mount_and_count_at_once(failed: Mounted) -> None:
    toml = failed.root / "archive.toml"
    toml.write_text("# kept\n" + toml.read_text())
    done = archivefs("config", "set", "converters.fails.run", "python:good:Good", "--archive", failed.root)
    assert "converters.fails.run" in done.stdout
    assert toml.read_text().startswith("# kept\n")
    archivefs("retry", "status=failed", "--archive", failed.root)
    for number in range(2):
        failed.wait_for_status(f"{number}.csv", "success")
    changes = [event for event in Journal(failed.root / "journal").read() if isinstance(event, Configured)]
    assert [[each.key for each in event.changes] for event in changes] == [["converters.fails.run"]]
    assert archivefs("config", "set", "reserve", "much", "--archive", failed.root, code=10).stderr.startswith(
        "archivefs: "
    )
    archivefs("config", "unset", "converters.fails.run", "--archive", failed.root)


def test_a_day_is_set_through_the_control_file_as_it_is_written(failed: Mounted) -> None:
    key = "converters.fails.retention.retain_until"
    code, said = shell(failed, f"echo set {key} 2030-01-01 > config")
    assert (code, said) == (0, "")
    assert archivefs("config", "show", key, "--archive", failed.root).stdout == '"2030-01-01"\n'


def test_a_wrong_file_is_named_by_reload_and_changes_nothing(failed: Mounted) -> None:
    failed.expected_log = ["archive.toml was not read again"]
    toml = failed.root / "archive.toml"
    before = toml.read_text()
    toml.write_text(before + "reserv = 5\n")
    number, said = refused(failed, "reload", b"\n")
    assert (number, said["exit_code"], "reserv" in said["error"]) == (errno.EINVAL, 10, True)
    toml.write_text(before.replace("reserve = 0", "reserve = 7"))
    assert told(failed, "reload", b"\n") == {"ok": True, "changed": ["reserve"]}


def test_while_the_file_is_wrong_entries_are_held_and_planned_by_what_is_in_force(failed: Mounted) -> None:
    file = failed.root / "archive.toml"
    right = file.read_text()
    file.write_text(f"{right}[retention]\ndays = 1\nthis is no TOML")
    reply = told(failed, "hold", b"add hold=case reason=why converter=fails")
    assert (reply["entries"], reply["ok"]) == (2, True)
    reply = told(failed, "retention", b"plan converter=fails")
    assert (reply["plan"], reply["kept"]) == (None, {'held by "case"': 2})
    file.write_text(right)


def test_quarantine_is_decided_on_a_mount(mounted: Make) -> None:
    archive, held = mounted(ICT), list[int]()
    for name in ("a.csv", "b.csv"):
        fd = os.open(archive.inbox / "ict" / name, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"half")
        held.append(fd)
    archive.kill()
    for fd in held:
        with pytest.raises(OSError, match=r"Transport endpoint|Software caused"):
            os.close(fd)
    archive.mount()
    ids = {name: archive.only(name).id for name in ("a.csv", "b.csv")}
    assert {archive.only(name).status for name in ids} == {Status.QUARANTINED}
    assert "2 quarantined" in (archive.point / "control/quarantine").read_text()
    archivefs("quarantine", "adopt", ids["a.csv"], "--archive", archive.root)
    assert told(archive, "quarantine", f"drop {ids['b.csv']}\n".encode())["things"] == [
        {"id": ids["b.csv"], "status": "rejected"}
    ]
    archive.wait_for_status("a.csv", "success")


def test_a_kill_amid_commands_leaves_an_archive_that_is_sound(failed: Mounted) -> None:
    script = "while :; do echo status=failed > retry; done"
    command = ["bash", "-c", script]
    with subprocess.Popen(command, cwd=failed.point / "control", stderr=subprocess.DEVNULL) as commands:
        failed.wait_for("some commands", lambda: min(attempts(failed)) >= 3)
        failed.kill()
        commands.kill()
    failed.mount()
    failed.wait_for("an end of all", lambda: {row.status for row in failed.entries()} == {Status.FAILED})


# -- lines that arrive in pieces -----------------------------------------------------------------------------


def holds(archive: Mounted) -> list[tuple[str, int]]:
    """The names of holds, and how many entries each covers."""
    with Archive.open_as_it_is(archive.root) as reading:
        return [(row.name, row.entries) for row in reading.reader.purges.holds()]


def a_hold(name: str, length: int) -> str:
    """A command of so many bytes that holds one entry; what stands in front of the query would hold all."""
    head, tail = f"add hold={name} reason=", " converter=fails name=1.csv"
    return head + "r" * (length - len(head) - len(tail)) + tail


WRITERS = {
    "bash": ["bash", 'echo "$TEXT" > "$FILE"'],
    "bash, appending": ["bash", 'echo "$TEXT" >> "$FILE"'],
    "bash, two commands": ["bash", '{ printf %s "$TEXT"; echo; } > "$FILE"'],
    "dash": ["dash", 'echo "$TEXT" > "$FILE"'],
    "cp": ["bash", 'cp "$LINE" "$FILE"'],
    "cat": ["bash", 'cat "$LINE" > "$FILE"'],
    "tee": ["bash", 'tee "$FILE" < "$LINE" > /dev/null'],
    "dd": ["bash", 'dd if="$LINE" of="$FILE" bs=512 status=none'],
    "dd, odd": ["bash", 'dd if="$LINE" of="$FILE" bs=1000 status=none'],
    "rsync": ["bash", 'rsync --inplace "$LINE" "$FILE"'],
    "python": [sys.executable, 'import os; print(os.environ["TEXT"], file=open(os.environ["FILE"], "w"))'],
    "python, unbuffered": [
        sys.executable,
        'import os, sys; d = os.environb[b"TEXT"]; f = open(os.environ["FILE"], "wb", 0)\n'
        'for piece in (d[:3000], d[3000:], b"\\n"): f.write(piece)',
    ],
}


def written(archive: Mounted, writer: str, command: str) -> subprocess.CompletedProcess[str]:
    """A program writes a command, ended by a newline, into control/hold."""
    line = archive.point.parent / "line"
    line.write_text(f"{command}\n")
    given = {"TEXT": command, "LINE": str(line), "FILE": str(archive.point / "control/hold")}
    program, script = WRITERS[writer]
    return subprocess.run(
        [program, "-c", script], capture_output=True, text=True, check=False, env={**os.environ, **given}
    )


@pytest.mark.parametrize("length", [100, 4095, 4096, 4097, 8192, 20_000, 60_000])
def test_a_line_is_one_command_however_a_program_writes_it(failed: Mounted, length: int) -> None:
    assert (failed.point / "control/hold").stat().st_blksize == LINE_BYTES
    assert (failed.point / "stats.json").stat().st_blksize == 4096
    for number, writer in enumerate(WRITERS):
        done = written(failed, writer, a_hold(f"h{number}", length))
        assert (done.returncode, done.stderr) == (0, ""), writer
        assert holds(failed)[number:] == [(f"h{number}", 1)], writer


@pytest.mark.parametrize("writer", WRITERS)
def test_a_line_that_is_too_long_is_refused_whole(failed: Mounted, writer: str) -> None:
    done = written(failed, writer, a_hold("h", LINE_BYTES + 30_000))
    assert (done.returncode != 0, done.stderr != "") == (True, True)
    assert holds(failed) == []
    last = json.loads((failed.point / "control/last-error").read_bytes())
    assert last["ok"] is False


def test_what_follows_a_refused_beginning_is_no_command(failed: Mounted) -> None:
    """As it comes from a program that goes on writing after an error."""
    for first, rest in (
        (b"name='x\n", b"' status=failed\n"), (b"x" * 70_000, b"\n"), (b"x" * 70_000, b"name=1.csv\n"),
        (b"name=0.csv\nname=1.csv\n", b"name=1.csv\n"),
    ):  # fmt: skip
        fd = os.open(failed.point / "control/retry", os.O_RDWR)
        try:
            for piece in (first, rest, rest):
                with pytest.raises(OSError, match="Invalid argument"):
                    os.write(fd, piece)
            assert json.loads(os.pread(fd, 1 << 20, 0))["exit_code"] == 45
            assert attempts(failed) == [1, 1]
            assert os.write(fd, b"id=20200101T000000000-000000\n") > 0, "the reply was read: a new command"
        finally:
            os.close(fd)


def test_a_short_command_without_a_newline_is_carried_out_when_the_file_is_closed_or_read(
    failed: Mounted,
) -> None:
    fd = os.open(failed.point / "control/hold", os.O_WRONLY)
    os.write(fd, b"add hold=a reason=x name=1.csv")
    assert holds(failed) == []
    os.close(fd)
    assert holds(failed) == [("a", 1)]
    fd = os.open(failed.point / "control/hold", os.O_RDWR)
    os.write(fd, b"add hold=b reason=x name=1.csv")
    assert json.loads(os.read(fd, 1000))["hold"] == "b"
    os.write(fd, b"add hold=a reason=x name=1.csv")
    assert json.loads(os.read(fd, 1000))["ok"] is False
    os.write(fd, b"add hold=a")
    with pytest.raises(OSError, match="Invalid argument"):
        os.close(fd)
    assert holds(failed) == [("a", 1), ("b", 1)]
    assert json.loads((failed.point / "control/last-error").read_bytes())["command"] == "hold"


@pytest.mark.parametrize("pieces", [[b"r" * 4096], [b" reason=x", b" name=1.csv"]])
def test_what_may_be_half_a_line_is_not_carried_out_when_its_writer_ends(
    failed: Mounted, pieces: list[bytes]
) -> None:
    """As one that is killed leaves it: here the beginning alone would hold every entry."""
    fd = os.open(failed.point / "control/hold", os.O_RDWR)
    os.write(fd, b"add hold=a reason=")
    for piece in pieces:
        os.write(fd, piece)
    with pytest.raises(OSError, match="Invalid argument"):
        os.close(fd)
    assert holds(failed) == []
    said = json.loads((failed.point / "control/last-error").read_bytes())
    assert "ends with a newline" in said["error"]
