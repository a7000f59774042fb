"""tools/soak: a short run says what it measured and leaves nothing behind, however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from mount_parts import ROOT, environment, mount_line, poll

SOAK = [sys.executable, str(ROOT / "tools" / "soak.py")]


def left_running(folder: Path) -> list[str]:
    """The command lines of processes that have to do with a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in words and int(file.parent.name) != os.getpid():
            found.append(words)
    return found


def test_a_short_run_measures_everything_and_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    done = subprocess.run(
        [*SOAK, "0.15", "--out", str(out)], env=environment(), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    table = re.findall(r"^ +0:\d\d +\d +\d+ +\d+\.\d", done.stdout, re.MULTILINE)
    assert len(table) >= 3
    assert "too short to judge growth" in done.stdout
    facts = json.loads((out / "soak.json").read_bytes())
    assert [life["end"] for life in facts["lives"]] == ["umount", "kill", "umount", "kill", ""]
    assert len({life["pid"] for life in facts["lives"]}) == 5
    last = facts["samples"][-1]
    measured = ("entries", "rss", "anon", "descriptors", "threads", "journal", "catalog", "content")
    assert min(last[key] for key in measured) > 0
    timed = {name for sample in facts["samples"] for name in sample["latency"]}
    assert timed == {"close", "stat", "read", "disk"}
    assert facts["verified"]["worst"] in ("", "notice")
    assert facts["verified"]["records"] >= facts["saved"] > 0
    assert ElementTree.parse(out / "soak.svg").getroot().tag.endswith("svg")
    assert sorted(each.name for each in out.iterdir()) == ["soak.json", "soak.svg"]
    assert mount_line(out / "mount") == ""
    assert left_running(out) == []


def test_ctrl_c_ends_everything_that_it_started(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    with subprocess.Popen(
        [*SOAK, "5", "--out", str(out)], env=environment(), stdout=subprocess.PIPE, text=True
    ) as run:
        poll("entries", lambda: list((out / "archive/content").glob("*/*/*/images.sources.zst")), 30)
        run.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "stopped after" in said
    assert mount_line(out / "mount") == ""
    assert left_running(out) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = subprocess.run(
        [*SOAK, "1", "--out", str(tmp_path)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]
