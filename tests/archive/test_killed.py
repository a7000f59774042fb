"""Writers that are killed in the middle of their work: what they had acknowledged is there, and right."""

import random
import signal
import subprocess
from pathlib import Path
from typing import IO

import pytest
from archive_parts import (
    Clock,
    catalog_rows,
    child_command,
    child_environment,
    entry,
    every_entry,
    everything_is_readable,
    make,
    nothing_is_left_over,
)

from archivefs.archive import Archive
from archivefs.rebuilding import CATALOG, rebuild
from archivefs.states import Status

WRITER = """
import random, sys
from pathlib import Path
from archive_parts import capture, finish
from archivefs.archive import Archive
from archivefs.operations import BeginAttempt, Report

chance = random.Random(int(sys.argv[2]))
with Archive(Path(sys.argv[1])) as archive:
    print("ready", flush=True)
    waiting = []
    while True:
        group = []
        for _ in range(chance.randrange(1, 6)):
            content = chance.randbytes(chance.choice([0, 10, 5000, 70_000, 1_500_000]))
            converter = chance.choice(["ict", "log", "files"])
            group.append(capture(content, b"%d.csv" % chance.randrange(5), converter))
        receipts, _ = archive.commit(group)
        for receipt in receipts:
            print(receipt.id, receipt.sha256, flush=True)
            if receipt.status == "pending":
                waiting.append(receipt.id)
        if len(waiting) > 3:
            begun = [waiting.pop(), waiting.pop()]
            archive.commit([BeginAttempt(each, "capture") for each in begun])
            report = Report("report.json", chance.randbytes(3000))
            archive.commit([finish(begun[0], reports=[report])])
            print("done", begun[0], flush=True)
"""


def lines_until_killed(child: subprocess.Popen[str], out: IO[str], count: int) -> list[str]:
    """The first ``count`` lines; then the child is killed, and what it had said besides."""
    said = []
    for line in out:
        said.append(line)
        if len(said) == count:
            child.send_signal(signal.SIGKILL)
    child.wait()
    return [line for line in said if line.endswith("\n")]


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_writer_loses_nothing_that_it_acknowledged(root: Path, seed: int) -> None:
    make(root, Clock()).close()
    chance, acknowledged, done = random.Random(seed), {}, set()
    for round_ in range(2):
        command = child_command(WRITER, [root, seed * 2 + round_])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment()) as child:
            assert child.stdout is not None
            said = lines_until_killed(child, child.stdout, chance.randrange(1, 60))
        assert child.returncode == -signal.SIGKILL
        assert said[0] == "ready\n"
        for line in said[1:]:
            first, second = line.split()
            if first == "done":
                done.add(second)
            else:
                acknowledged[first] = second
    with Archive(root) as archive:
        assert {id_: entry(archive, id_).sha256 for id_ in acknowledged} == acknowledged
        assert all(entry(archive, id_).status is Status.SUCCESS for id_ in done)
        assert archive.reader.with_status(Status.CONVERTING) == []
        assert len(every_entry(archive)) <= len(acknowledged) + 2 * 6
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    rows = catalog_rows(root)
    rebuild(root)
    assert catalog_rows(root) == rows


def test_a_catalog_deleted_after_a_kill_comes_back_with_its_log_beside_it(root: Path) -> None:
    make(root, Clock()).close()
    with subprocess.Popen(
        child_command(WRITER, [root, 1]), stdout=subprocess.PIPE, text=True, env=child_environment()
    ) as child:
        assert child.stdout is not None
        said = lines_until_killed(child, child.stdout, 20)
    assert (root / f"{CATALOG}-wal").exists()
    (root / CATALOG).unlink()
    with Archive(root) as archive:
        ids = [row.id for row in every_entry(archive)]
        assert {line.split()[0] for line in said[1:] if not line.startswith("done")} <= set(ids)
        everything_is_readable(archive)
