"""Random traffic of real programs on one inbox file: what is captured is what a plain file would hold."""

import mmap
import os
import random
import sqlite3
from pathlib import Path

import pytest
from fault_parts import require_tools, say
from ledger import Ledger
from makers import Make
from mount_parts import config, converter, run

SETTLED = config(converter("files", settle_seconds=0, linger_seconds=60))
MOST = 300_000


def exercise(path: Path, seed: int, steps: int) -> bytes:
    """Write, append, truncate, map and sync at random, comparing each read. Returns the last content."""
    chance, model = random.Random(seed), bytearray()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for step in range(steps):
            at = chance.randrange(min(len(model) + 5000, MOST))
            data = chance.randbytes(chance.choice((1, 100, 4096, 20_000, 70_000)))
            where = f"seed {seed}, step {step}"
            match chance.randrange(9):
                case 0 | 1 | 2:
                    os.pwrite(fd, data, at)
                    _put(model, at, data)
                case 3:
                    size = chance.randrange(MOST)
                    os.ftruncate(fd, size)
                    model[:] = model[:size].ljust(size, b"\0")
                case 4:
                    assert os.pread(fd, len(data), at) == model[at : at + len(data)], where
                case 5 if model:
                    with mmap.mmap(fd, len(model)) as memory:
                        at %= len(model)
                        piece = data[: len(model) - at]
                        memory[at : at + len(piece)] = piece
                        _put(model, at, piece)
                case 6:
                    end = os.open(path, os.O_WRONLY | os.O_APPEND)
                    os.write(end, data[:9000])
                    os.close(end)
                    _put(model, len(model), data[:9000])
                case 7:
                    os.close(fd)
                    fd = os.open(path, os.O_RDWR)
                case 8:
                    chance.choice((os.fsync, os.fdatasync))(fd)
            assert os.fstat(fd).st_size == len(model), where
    finally:
        os.close(fd)
    assert path.read_bytes() == model
    return bytes(model)


def _put(model: bytearray, at: int, data: bytes) -> None:
    if at > len(model):
        model.extend(bytes(at - len(model)))
    model[at : at + len(data)] = data


def traffic(station: Make, seeds: range, steps: int) -> None:
    archive, ledger = station(SETTLED).mount(), Ledger()
    for seed in seeds:
        name = f"unit-{seed}.bin"
        content = exercise(archive.inbox / "files" / name, seed, steps)
        entry = archive.entries(name)[-1]
        assert archive.content(entry) == content, f"seed {seed}"
        for row in archive.entries(name):
            ledger.trying("files", name, archive.content(row))
        ledger.promise("files", name, content)
    archive.umount()
    archive.examine(ledger)
    assert archive.unexpected() == []
    say("random operations", rounds=len(seeds) * steps, acknowledged=len(seeds), lost=0, mount_deaths=0)


def test_random_operations_on_a_file_leave_what_they_leave_elsewhere(station: Make) -> None:
    traffic(station, range(6), 150)


@pytest.mark.long
def test_many_random_operations_on_files_leave_what_they_leave_elsewhere(station: Make) -> None:
    traffic(station, range(1000, 1150), 400)


def test_fio_reads_back_what_it_wrote(station: Make) -> None:
    require_tools("fio")
    archive = station(SETTLED).mount()
    said = run(
        "fio", "--name=verify", f"--directory={archive.inbox / 'files'}", "--rw=randwrite", "--bs=4k-64k",
        "--size=12m", "--numjobs=2", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
        "--ioengine=psync", "--randrepeat=1", "--output-format=json", "--minimal", cwd=archive.point.parent,
    )  # fmt: skip
    assert "verify failed" not in said
    contents = [archive.content(archive.entries(f"verify.{number}.0")[-1]) for number in range(2)]
    target = archive.point.parent / "again"
    target.mkdir()
    for number, content in enumerate(contents):
        (target / f"verify.{number}.0").write_bytes(content)
    run(
        "fio", "--name=verify", f"--directory={target}", "--rw=randwrite", "--bs=4k-64k", "--size=12m",
        "--numjobs=2", "--verify=crc32c", "--verify_only", "--verify_fatal=1", "--ioengine=psync",
        "--randrepeat=1", cwd=archive.point.parent,
    )  # fmt: skip
    archive.umount()
    assert archive.unexpected() == []


def test_a_database_that_is_written_in_the_inbox_is_captured_whole(station: Make, tmp_path: Path) -> None:
    archive = station(SETTLED).mount()
    path = archive.inbox / "files/results.db"
    for turn in range(8):
        db = sqlite3.connect(path)
        db.execute("PRAGMA journal_mode = delete")
        db.execute("CREATE TABLE IF NOT EXISTS results (unit INTEGER PRIMARY KEY, value BLOB)")
        with db:
            db.executemany(
                "INSERT INTO results VALUES (?, ?)",
                [(turn * 200 + number, os.urandom(300)) for number in range(200)],
            )
        with db:
            db.execute("DELETE FROM results WHERE unit % 7 = 3")
        db.close()
    copy = tmp_path / "copy.db"
    copy.write_bytes(archive.content(archive.entries("results.db")[-1]))
    shown = sqlite3.connect(path)
    captured = sqlite3.connect(copy)
    assert captured.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    query = "SELECT count(*), sum(unit), group_concat(hex(value)) FROM results"
    assert captured.execute(query).fetchall() == shown.execute(query).fetchall()
    shown.close()
    captured.close()
    archive.umount()
    assert archive.unexpected() == []
