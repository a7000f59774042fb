"""Verification of an archive that is large enough for helper processes: they find the same, and may die."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from archive_parts import TOML, child_environment
from bulk_parts import bring, plant_many
from test_import_stopped import children, is_running, wait_until
from test_verify_parts import flip

from archivefs import helper
from archivefs.archive import Archive
from archivefs.verify import readers
from archivefs.verify.readers import WORTH
from archivefs.verify.verify import Scope, verify_folder

COUNT = WORTH + 500


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of so many sources that helpers read them."""
    top, root = tmp_path_factory.mktemp("top"), tmp_path_factory.mktemp("large") / "archive"
    plant_many(top, COUNT)
    Archive.create(root, TOML)
    with Archive(root) as archive:
        assert bring(archive, top).files == COUNT
    return root


@pytest.fixture
def copy(large: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return Path(shutil.copytree(large, tmp_path / "copy"))


def begun(root: Path) -> subprocess.Popen[str]:
    words = ["-m", "archivefs.cli.main", "--archive", str(root), "verify", "--json"]
    return subprocess.Popen(
        [sys.executable, *words], env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_helpers_find_what_is_damaged_in_content_journal_and_catalog(copy: Path) -> None:
    report = verify_folder(copy, Scope())
    assert (report.findings, report.records, report.events) == ([], COUNT, COUNT + 1)
    with Archive(copy) as archive:
        damaged = archive.reader.all_after(COUNT // 2, 1)[0]
        place = archive.reader.location(damaged)
    flip(copy / "content" / place.segment, place.offset + place.header // 2)
    (day,) = (copy / "journal").glob("*/*/*.jsonl")
    flip(day, day.stat().st_size // 2)
    found = verify_folder(copy, Scope())
    assert {each.check for each in found.findings} == {"record-damaged", "journal-chain"}
    assert any(damaged.id in each.what for each in found.findings)


def test_a_segment_is_cut_into_chunks_without_losing_sight_of_what_overlaps(copy: Path) -> None:
    with Archive(copy) as archive:
        ends = archive.reader.segment_ends()
    segment = max(ends, key=lambda name: ends[name])
    with (copy / "content" / segment).open("ab") as file:
        file.write(b"\0" * 100)
    report = verify_folder(copy, Scope())
    assert [each.check for each in report.findings] == ["segment-tail"]


def test_helpers_of_a_verification_that_die_are_not_missed(large: Path) -> None:
    killed = 0
    with begun(large) as process:
        while process.poll() is None:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
                killed += 1
            time.sleep(0.005)
        out, errors = process.communicate()
    assert (process.returncode, "Traceback" in errors, killed > 0) == (0, False, True), errors
    assert json.loads(out)["records"] == COUNT


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_verification_that_is_ended_leaves_no_helper(large: Path, how: signal.Signals) -> None:
    with begun(large) as process:
        wait_until(lambda: children(process.pid), process=process)
        helpers = children(process.pid)
        process.send_signal(how)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert helpers
    wait_until(lambda: not any(map(is_running, helpers)))


def helpers() -> set[int]:
    """The helpers of this process that run by now."""
    found = set()
    for pid in children(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"verify.readers" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def stop(helper_pid: int) -> None:
    os.kill(helper_pid, signal.SIGSTOP)


def test_a_helper_that_does_not_answer_is_killed_and_not_missed(
    large: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(readers, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(readers, "LEAST_EVENTS", 1_000_000)
    monkeypatch.setattr(readers, "LEAST_BYTES", 1_000_000_000)
    before, ended, stopped = helpers(), threading.Event(), set[int]()

    def stop_all() -> None:
        while not ended.wait(0.005):
            for pid in helpers() - before - stopped:
                stop(pid)
                stopped.add(pid)

    stopping = threading.Thread(target=stop_all)
    stopping.start()
    try:
        report = verify_folder(large, Scope())
    finally:
        ended.set()
        stopping.join()
    assert (report.findings, report.records, report.events) == ([], COUNT, COUNT + 1)
    assert stopped
    assert not any(map(is_running, stopped))
    assert "no answer within" in caplog.text


def test_an_idle_helper_that_is_stopped_does_not_hold_up_the_end(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "END_SECONDS", 0.5)
    before = helpers()
    with helper.Helpers("archivefs.verify.readers", large) as asked:
        assert asked.ask(None) == (COUNT + 1, [])
        (pid,) = helpers() - before
        stop(pid)
    assert not is_running(pid)
