"""A verification as a job, in parts: what is in no part is looked at once, and counted once."""

import json
from pathlib import Path

import apsw
from archive_parts import DAY, Clock, capture, commit, make, some_bytes
from job_parts import queued
from retention_parts import work

from archivefs.archive import CATALOG, Archive


def test_what_is_in_no_part_is_counted_and_told_once(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        for number in range(3):
            commit(archive, capture(some_bytes(number, 3000), b"%d.csv" % number))
            clock.turn(DAY)
        (root / "quarantine").mkdir(exist_ok=True)
        (root / "quarantine/something").write_bytes(b"x")
        segments = sorted((root / "content").rglob("*.zst"))
    for segment in segments[1:]:
        with segment.open("r+b") as file:
            file.seek(segment.stat().st_size // 2)
            file.write(b"\xff" * 50)
    db = apsw.Connection(str(root / CATALOG))
    db.execute("UPDATE entries SET reason = 'altered' WHERE n = 1")
    db.close()
    with Archive(root, clock=clock) as archive:
        job = queued(archive)
        job.remember({"parts": 3})
        result = work(archive, job.number)
        assert (result["records"], result["bytes"]) == (3, 9000)
        assert result["findings"] == {"critical": 2, "error": 1, "notice": 1}
        checks = [
            json.loads(line)["check"] for line in (job.folder / "errors.jsonl").read_text().splitlines()
        ]
        assert sorted(checks) == ["catalog-differs", "record-damaged", "record-damaged"]


def test_after_a_kill_each_finding_is_told_once(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        commit(archive, capture(b"a", b"a.csv"))
        (segment,) = (root / "content").rglob("*.zst")
        job = queued(archive)
        job.error(check="record-damaged", where="what was told and not remembered")
        segment.unlink()
        work(archive, job.number)
        (line,) = (job.folder / "errors.jsonl").read_text().splitlines()
        assert json.loads(line)["check"] == "segment-missing"
