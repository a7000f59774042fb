"""A disk with no room for the work of conversions: they wait, and are done when there is room again."""

from fault_parts import CONVERT
from makers import Make, MakeDisk
from mount_parts import config, converter


def test_a_source_that_cannot_be_laid_out_is_tried_again(station: Make, disk: MakeDisk) -> None:
    small = disk("tmpfs", options="size=256k")
    table = converter("csv", "function:counting:convert", max_retries=50, retry_delay_seconds=0.2)
    archive = station(config(table), {"counting.py": CONVERT})
    (archive.root / "staging").mkdir(exist_ok=True)
    (archive.root / "staging" / "work").symlink_to(small.path)
    archive.mount()
    archive.drop("csv", "unit.csv", bytes(1 << 20))
    row = archive.wait_for_status("unit.csv", "suspended")
    assert "No space left on device" in archive.error(row)
    small.resize("size=16m")
    row = archive.wait_for_status("unit.csv", "success", 20)
    assert archive.report(row) == {"size": 1 << 20}
    outcomes = [each["outcome"] for each in archive.facts(row)["attempts"]]
    assert outcomes[-1:] == ["success"]
    assert set(outcomes[:-1]) == {"transient"}
