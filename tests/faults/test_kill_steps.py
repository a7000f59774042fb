"""Killed at every single step of a commit: before each call that changes something on the disk."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from fault_parts import MODULES, TOML, Station, require_tools, sabotage, say
from ledger import Ledger
from makers import Make
from mount_parts import environment, poll

from archivefs.archive import Archive
from archivefs.states import Status
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope, verify

CHANGING = ("write", "pwrite64", "fdatasync", "fsync", "rename", "ftruncate", "openat", "mkdir", "unlink")
NOON_NS = 1_770_984_000 * 10**9
NOT_ABOVE_A_LEFTOVER = ("orphan-file",)
"""A write of a small file that was interrupted leaves its temporary; verify says so."""


class Step(NamedTuple):
    """The ``number``-th call of that name on a path of the archive."""

    call: str
    number: int


def run_steps(root: Path, notes: Path, what: str, tracing: list[str]) -> subprocess.CompletedProcess[bytes]:
    command = [
        "strace", "-f", *tracing, sys.executable, str(Path(__file__).parent / "steps.py"), str(root),
        str(notes), str(NOON_NS), what,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, env=environment(), check=False)


def calls_of(trace: str, root: Path) -> dict[str, list[str]]:
    """The paths of the archive that each call met, in order, from the output of ``strace -y``."""
    found: dict[str, list[str]] = {call: [] for call in CHANGING}
    for line in trace.splitlines():
        match = re.match(r"\d+\s+(\w+)\((.*)", line)
        if match and match[1] in found:
            paths = re.findall(rf'[<"]({re.escape(str(root))}[^">]*)[>"]', match[2])
            if paths and "O_RDONLY" not in match[2]:
                found[match[1]].append(paths[0].removesuffix(" (deleted)"))
    return found


def examine_after(root: Path, notes: Path, where: str) -> Counter[str]:
    """Open, verify, compare; returns what was found that is only a leftover."""
    ledger = Ledger()
    ledger.follow(notes)
    with Archive(root) as archive:
        report = verify(archive, Scope())
        bad = [each for each in report.findings if each.severity > Severity.NOTICE]
        assert [each for each in bad if each.check not in NOT_ABOVE_A_LEFTOVER] == [], where
        ledger.compare(archive)
        assert archive.reader.with_status(Status.CONVERTING) == [], where
    return Counter(each.check for each in bad)


@pytest.mark.parametrize(("what", "opened"), [("life", True), ("open", False)])
def test_what_is_killed_before_any_of_its_calls_keeps_what_was_promised(
    tmp_path: Path, what: str, *, opened: bool
) -> None:
    """A life of captures and a conversion; and the very first open of an archive."""
    require_tools("strace")
    template = tmp_path / "template"
    Archive.create(template, TOML, clock=lambda: NOON_NS)
    if opened:
        Archive(template, clock=lambda: NOON_NS).close()
    dry = tmp_path / "dry"
    shutil.copytree(template, dry)
    trace = tmp_path / "trace"
    tracing = ["-y", "-o", str(trace), "-e", f"trace={','.join(CHANGING)}"]
    done = run_steps(dry, tmp_path / "dry.jsonl", what, tracing)
    assert done.returncode == 0, done.stderr.decode()
    calls = calls_of(trace.read_text(), dry)

    def killed_at(step: Step) -> tuple[int, int, Counter[str]]:
        root = tmp_path / f"{step.call} {step.number}"
        notes = tmp_path / f"{step.call} {step.number}.jsonl"
        shutil.copytree(template, root)
        paths = sorted({path.replace(str(dry), str(root), 1) for path in calls[step.call]})
        rule = f"inject={step.call}:signal=SIGKILL:when={step.number}"
        tracing = ["-o", os.devnull, "-e", f"trace={step.call}", "-e", rule]
        tracing += [word for path in paths for word in ("-P", path)]
        code = run_steps(root, notes, what, tracing).returncode
        left = examine_after(root, notes, f"killed before {step.call} number {step.number}")
        promised = notes.read_text().count('"ack"') if notes.exists() else 0
        shutil.rmtree(root)
        return code, promised, left

    steps = [Step(call, number) for call in CHANGING for number in range(1, len(calls[call]) + 1)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(killed_at, steps))
    killed = sum(code in (-signal.SIGKILL, 128 + signal.SIGKILL) for code, _, _ in outcomes)
    leftovers = sum((left for _, _, left in outcomes), Counter[str]())
    say(
        f"kill at each step of a {what}", rounds=len(steps), killed=killed, lost=0,
        acknowledged=sum(promised for _, promised, _ in outcomes), leftovers=sum(leftovers.values()),
    )  # fmt: skip
    assert killed >= 0.9 * len(steps)
    assert leftovers["orphan-file"] == leftovers.total()


STEPS_OF_A_MOUNT = (
    ("write", "content"), ("fdatasync", "content"), ("write", "journal"), ("fdatasync", "journal"),
    ("pwrite64", "wal"), ("fdatasync", "wal"), ("fsync", "folder"), ("openat", "content"),
    ("unlink", "staged"), ("pwrite64", "staged"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "where"), STEPS_OF_A_MOUNT)
@pytest.mark.long
def test_a_mount_killed_at_a_step_of_a_capture_and_a_conversion_goes_on(
    station: Make, call: str, where: str
) -> None:
    archive, ledger = station(TOML, MODULES), Ledger()
    number = 0
    killed = True
    while killed:
        number += 1
        archive.mount()
        name, content = f"unit {number}.csv", f"measured {call} {where} {number}".encode()
        ledger.trying("ict", name, content)
        with sabotage(
            archive.pid, f"{call}:signal=SIGKILL:when={number}", paths=paths_of(archive, where, name)
        ):
            try:
                archive.write(name, content, "ict")
                ledger.promise("ict", name, content)
                poll(
                    "the end of the file",
                    lambda name=name: (
                        not archive.is_alive() or not (archive.root / "staging/inbox/ict" / name).exists()
                    ),
                    20,
                )
            except OSError:
                poll("the end that the program was told of", lambda: not archive.is_alive(), 5)
            killed = not archive.is_alive()
        if killed:
            archive.killed = True
            archive.bury()
            archive.examine(ledger, allowed=NOT_ABOVE_A_LEFTOVER)
    archive.umount()
    archive.examine(ledger, allowed=NOT_ABOVE_A_LEFTOVER)
    say(f"kill a mount at {call} of {where}", rounds=number, acknowledged=ledger.size, lost=0)
    assert archive.hangs == 0


def paths_of(station: Station, where: str, name: str) -> list[Path]:
    """The files or folders of the archive that a step is about."""
    today = f"{datetime.now(UTC):%Y/%m/%d}"
    content, journal = station.root / "content" / today, station.root / "journal" / f"{today}.jsonl"
    return {
        "content": [content / "ict.sources.zst", content / "ict.reports.zst"],
        "journal": [journal],
        "wal": [station.root / "catalog.sqlite-wal"],
        "folder": [content, *content.parents[:3], journal.parent, *journal.parents[1:3]],
        "staged": [station.root / "staging/inbox/ict" / name],
    }[where]
