"""The face for programs on an archive that is mounted: the mount does what it asks for."""

from pathlib import Path

import pytest
from mount_parts import Make, Mounted, config, converter

from archivefs import blocking
from archivefs.errors import QueryError

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
