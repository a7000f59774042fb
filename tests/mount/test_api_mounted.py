"""Both faces for programs on an archive that is mounted: the mount does what they ask for."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from mount_parts import Make, Mounted, config, converter

import archivefs
from archivefs import blocking
from archivefs.errors import ConfigError, JobError, QueryError
from archivefs.events import Configured
from archivefs.store.journal import Journal

CODE = """
def convert(path, arguments):
    with open(path) as file:
        return {"length": len(file.read())}
"""
TOML = config(converter("ict", "function:ict:convert", settle_seconds=0))


@pytest.fixture
def past(mounted: Make, tmp_path: Path) -> Mounted:
    code = tmp_path / "code"
    code.mkdir()
    (code / "ict.py").write_text(CODE)
    archive = mounted(TOML, converters=code)
    for number in range(3):
        archive.drop("ict", f"u{number}.csv", b"unit %d" % number)
    archive.wait_for("their end", lambda: [each.status for each in archive.entries()] == ["success"] * 3, 60)
    return archive


def test_a_replay_and_a_policy_go_through_the_mount(past: Mounted) -> None:
    archive = blocking.Archive(past.root)
    told: list[tuple[int, int, str | None]] = []
    result = archive.reprocess("converter=ict", progress=lambda *each: told.append(each), compare=True)
    assert (result["job"], result["successful"], result["comparison"]["identical"]) == (1, 3, 3)
    newest = next(archive.entries())
    assert told[-1] == (3, 3, newest["id"])
    assert [each["cause"] for each in archive.entry(newest["id"])["attempts"]] == ["capture", "replay"]
    assert archive.reproduce("converter=ict limit=2")["reproduced"] == 2
    archive.set_policy("ict", days=90)
    assert archive.policy("ict").days == 90
    assert archive.statistics()["by_status"] == {"success": 3}


def test_what_the_mount_refuses_is_the_same_error(past: Mounted) -> None:
    with pytest.raises(QueryError, match='unknown key "stauts"'):
        blocking.Archive(past.root).reprocess("stauts=failed")


def test_what_progress_raises_comes_out_and_the_job_goes_on(past: Mounted) -> None:
    def progress(*_: object) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        blocking.Archive(past.root).reprocess("converter=ict", progress=progress)
    file = past.point / "jobs/1/progress"
    past.wait_for("the job's end", lambda: "reprocess done" in file.read_text(), 60)


def test_a_policy_is_set_whole_or_not_at_all_by_the_mount(past: Mounted) -> None:
    archive = blocking.Archive(past.root)
    archive.set_policy("ict", days=90, max_size="10 GB", keep_statuses=["failed"])
    archive.set_policy("ict", days=30, max_size=None)
    with pytest.raises(ConfigError, match="days"):
        archive.set_policy("ict", keep_statuses=[], days=-1)
    policy = archive.policy("ict")
    assert (policy.days, policy.max_size, policy.keep_statuses) == (30, None, ["failed"])
    assert sum(isinstance(event, Configured) for event in Journal(past.root / "journal").read()) == 2


# -- on trio -------------------------------------------------------------------------------------------------


def is_at_rest() -> bool:
    return trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0


async def test_a_replay_and_a_policy_go_through_the_mount_on_trio(past: Mounted) -> None:
    archive = archivefs.Archive(past.root)
    told = list[tuple[int, int, str | None]]()

    async def progress(*now: int | str | None) -> None:
        await trio.lowlevel.checkpoint()
        told.append(now)  # type: ignore[arg-type]

    result = await archive.reprocess("converter=ict", progress=progress, compare=True)
    assert (result["job"], result["successful"], result["comparison"]["identical"]) == (1, 3, 3)
    entries = [entry async for entry in archive.entries()]
    assert told[-1] == (3, 3, entries[0]["id"])
    assert [each["name"] for each in entries] == ["u2.csv", "u1.csv", "u0.csv"]
    assert (await archive.reproduce("converter=ict limit=2", priority=0))["reproduced"] == 2
    assert facts(past, 2)["priority"] == 0
    await archive.set_policy("ict", days=90)
    assert (await archive.policy("ict")).days == 90
    with pytest.raises(QueryError, match='unknown key "stauts"'):
        await archivefs.reprocess(past.root, "stauts=failed")
    assert is_at_rest()


async def test_who_waits_is_cancelled_at_once_and_the_job_goes_on(past: Mounted) -> None:
    seen = trio.Event()
    archive = archivefs.Archive(past.root)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: archive.reprocess("converter=ict", rate=1, progress=lambda *_: seen.set()))
        await seen.wait()
        nursery.cancel_scope.cancel()
    assert is_at_rest()
    assert facts(past, 1)["state"] == "running"
    past.wait_for("the job's end", lambda: facts(past, 1)["state"] == "done", 60)
    assert facts(past, 1)["done"] == 3


async def test_a_job_that_another_pauses_is_an_error_of_who_waits(past: Mounted) -> None:
    def pause(*_: object) -> None:
        if facts(past, 1)["state"] == "running":
            (past.point / "jobs/1/control").write_text("pause\n")

    with pytest.raises(JobError, match="job 1 is paused"):
        await archivefs.reprocess(past.root, "converter=ict", rate=0.01, progress=pause)


def facts(archive: Mounted, job: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((archive.point / f"jobs/{job}/job.json").read_bytes())
    return found
