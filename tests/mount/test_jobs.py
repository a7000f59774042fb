"""Long work on a mount: asked for with echo, watched in jobs/, steered, and gone on with after a kill."""

import errno
import json
import os
import select
from pathlib import Path
from typing import Any

import pytest
from mount_parts import Make, Mounted, an_archive, archivefs, config, converter, names_in
from test_control import refused, shell, told
from test_tree_security import ALICE, AS_ROOT, BOB, NO, ask, open_folder

from archivefs.events import PurgeBegun
from archivefs.states import Status
from archivefs.store.journal import Journal

FILES = config(converter("files"))
ENDS = ("done", "failed", "cancelled")


@pytest.fixture
def filled(mounted: Make, tmp_path: Path) -> Mounted:
    """A mount with 1500 entries."""
    archive = mounted(FILES)
    archive.umount()
    folder = tmp_path / "old"
    folder.mkdir()
    for number in range(1500):
        (folder / f"{number:04}.csv").write_bytes(b"%d;measured\n" % number * 300)
    archivefs("import", "--converter", "files", folder, "--archive", archive.root)
    archive.mount()
    return archive


def job_json(archive: Mounted, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((archive.point / "jobs" / str(number) / "job.json").read_bytes())
    return found


def ended(archive: Mounted, number: int) -> dict[str, Any]:
    archive.wait_for("the job's end", lambda: job_json(archive, number)["state"] in ENDS, 60)
    return job_json(archive, number)


def live(archive: Mounted) -> int:
    return len(names_in(archive.point / "by-id"))


def test_a_purge_is_planned_and_applied_with_echo_and_cat(filled: Mounted) -> None:
    code, said = shell(filled, "exec 3<>retention; echo 'plan name=00*' >&3; cat <&3")
    assert (code, json.loads(said)["entries"]) == (0, 100)
    gone = filled.only("0007.csv")
    entry = filled.entry_dir(gone)
    assert entry.is_dir()
    reply = told(filled, "retention", b"apply plan=1\n")
    facts = ended(filled, reply["job"])
    assert (facts["state"], facts["done"], facts["uid"], facts["work"]) == (
        "done",
        100,
        os.geteuid(),
        "purge",
    )
    folder = filled.point / "jobs" / "1"
    assert names_in(folder) == ["control", "job.json", "progress", "result.json"]
    assert (folder / "progress").read_text() == "job 1 purge done, 100 of 100 (100 %)\n"
    assert json.loads((folder / "result.json").read_bytes())["purged"] == 100
    assert live(filled) == 1400
    assert not entry.exists()
    assert not (filled.point / "by-id" / gone.id).exists()
    assert not list((filled.point / "sources").glob("*/*/*/0007.csv"))
    assert names_in(filled.point / "by-status") == ["archived"]
    assert filled.only("0007.csv").status is Status.PURGED
    said = archivefs("show", gone.id, "--archive", filled.root).stdout
    assert "purged" in said
    done = archivefs("retention", "apply", "1", "--yes", "--archive", filled.root, code=56)
    assert "was applied already" in done.stderr


def test_a_purge_goes_on_after_a_kill(filled: Mounted) -> None:
    filled.killed = True
    assert told(filled, "retention", b"plan name=*\n")["entries"] == 1500
    told(filled, "retention", b"apply plan=1\n")
    filled.wait_for("a beginning", lambda: live(filled) < 1500)
    filled.kill()
    filled.mount()
    assert ended(filled, 1)["state"] == "done"
    assert live(filled) == 0
    begun = [event for event in Journal(filled.root / "journal").read() if isinstance(event, PurgeBegun)]
    assert len(begun) == 1


def test_jobs_are_paused_resumed_and_cancelled(filled: Mounted) -> None:
    told(filled, "retention", b"plan name=0*\n")
    told(filled, "retention", b"apply plan=1\n")
    told(filled, "verify", b"\n")
    control = filled.point / "jobs" / "2" / "control"
    assert control.read_text() == "usage: echo pause|resume|cancel > jobs/2/control\n"
    code, _ = shell(filled, "echo pause > ../jobs/2/control")
    state = job_json(filled, 2)["state"]
    if code == 0 and state == "paused":  # it had not ended yet
        shell(filled, "echo resume > ../jobs/2/control")
    assert ended(filled, 2)["state"] == "done"
    fd = os.open(control, os.O_RDWR)
    try:
        with pytest.raises(OSError, match="Invalid") as caught:
            os.write(fd, b"resume\n")
        assert caught.value.errno == errno.EINVAL
        assert "job 2 is done" in json.loads(os.read(fd, 4096))["error"]
        with pytest.raises(OSError, match="Invalid"):
            os.write(fd, b"stop it\n")
    finally:
        os.close(fd)
    ended(filled, 1)
    assert archivefs("jobs", "pause", "2", "--archive", filled.root, code=55).stderr.startswith("archivefs: ")
    listed = archivefs("jobs", "--json", "--archive", filled.root).stdout.splitlines()
    assert [json.loads(line)["work"] for line in listed] == ["purge", "verify"]


def test_a_command_makes_a_job_of_the_mount_and_waits_for_it(filled: Mounted) -> None:
    done = archivefs("retention", "plan", "name=001*", "--archive", filled.root)
    assert "plan 1: 10 entries" in done.stdout
    assert archivefs("retention", "apply", "1", "--archive", filled.root, code=56).stderr.endswith(
        "say --yes\n"
    )
    done = archivefs("retention", "apply", "1", "--yes", "--archive", filled.root)
    assert done.stdout.startswith("purged 10 entries")
    assert "uid" in archivefs("retention", "history", "--archive", filled.root).stdout
    archivefs("hold", "add", "--reason", "look", "name=002*", "--archive", filled.root)
    assert "hold-1: 10 entries of" in (filled.point / "control/hold").read_text()
    number, said = refused(filled, "hold", b"release hold=hold-9 reason=x\n")
    assert (number, "these do: hold-1" in said["error"]) == (errno.EBUSY, True)
    one = filled.only("0031.csv")
    archivefs("erase", one.id, "--reason", "request", "--yes", "--archive", filled.root)
    assert filled.only("0031.csv").status is Status.PURGED
    assert archivefs("jobs", "watch", "2", "--archive", filled.root).stdout.startswith("job 2: ")


def test_an_open_file_of_a_purged_entry_fails_alone(filled: Mounted) -> None:
    gone, kept = filled.only("0100.csv"), filled.only("0200.csv")
    with (filled.entry_dir(kept) / "0200.csv").open("rb") as file:
        told(filled, "erase", f"id={gone.id} reason=x\n".encode())
        ended(filled, 1)
        assert file.read().startswith(b"200;measured")


def test_retention_is_enforced_by_itself(filled: Mounted) -> None:
    filled.umount()
    toml = filled.root / "archive.toml"
    toml.write_text(toml.read_text() + '[converters.files.retention]\nmax_size = "1 kB"\n')
    filled.mount()
    filled.wait_for("the purge", lambda: live(filled) < 20, 60)
    assert filled.is_alive()


def test_progress_can_be_polled(filled: Mounted) -> None:
    told(filled, "retention", b"plan name=0*\n")
    told(filled, "retention", b"apply plan=1\n")
    fd = os.open(filled.point / "jobs" / "1" / "progress", os.O_RDONLY)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLPRI)
        seen = list[bytes]()
        while not seen or b" done," not in seen[-1]:
            assert poll.poll(20_000), "no news"
            seen.append(os.pread(fd, 1000, 0))
        assert len(set(seen)) == len(seen)
        assert poll.poll(300) == []
    finally:
        os.close(fd)
    with (filled.point / "README.txt").open() as file:
        other = select.poll()
        other.register(file, select.POLLIN)
        assert other.poll(5000)


@AS_ROOT
def test_operators_may_command_and_others_may_not() -> None:
    options = ("-o", f"allow_other,operators={ALICE}")
    with open_folder() as folder, an_archive(folder, FILES, options=options) as archive:
        told(archive, "verify", b"\n")
        ended(archive, 1)
        for name in ("control/retry", "jobs/1/control"):
            facts = (archive.point / name).stat()
            assert (facts.st_gid, facts.st_mode & 0o777) == (ALICE, 0o660)
            assert ask(ALICE, ["read", archive.point / name]) == ["ok"]
            assert set(ask(BOB, ["read", archive.point / name])) <= NO
        archive.umount()
        wrong = ("mount", "-o", "operators=no-such-group", archive.root, archive.point)
        assert 'there is no group "no-such-group"' in archivefs(*wrong, code=30).stderr
