"""The file metrics of a mount: as large as stat says, made anew, and the same as the command prints."""

import json
import os
import shutil
import subprocess

import pytest
from mount_parts import Make, Mounted, archivefs, config, converter
from prometheus_client.parser import text_string_to_metric_families

FILES = "[converters.files]\nsettle_seconds = 0\nlinger_seconds = 0\n"


def sample(archive: Mounted, name: str, **labels: str) -> float:
    """A sample of the mount's metrics, 0 where it is not told."""
    text = (archive.point / "metrics").read_text()
    found = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return sum(each.value for each in found if each.name == f"archivefs_{name}" and each.labels == labels)


def test_the_file_counts_what_happens_under_the_mount(mounted: Make) -> None:
    archive = mounted(config(FILES, converter("good", "function:good:count")))
    assert sample(archive, "captures_total", converter="good") == 0
    archive.drop("good", "a", b"1")
    archive.wait_for_status("a", "success")
    archive.wait_for(
        "a conversion", lambda: sample(archive, "conversions_total", converter="good", outcome="success")
    )
    assert sample(archive, "captures_total", converter="good") == 1
    assert sample(archive, "writable") == 1
    assert sample(archive, "process_open_fds") > 5
    archive.remount()
    assert sample(archive, "captures_total", converter="good") == 1


def test_its_size_is_what_can_be_read(mounted: Make) -> None:
    archive = mounted(config(FILES))
    file = archive.point / "metrics"
    fd = os.open(file, os.O_RDONLY)
    try:
        assert len(os.read(fd, 1 << 20)) == os.fstat(fd).st_size > 1000
    finally:
        os.close(fd)
    assert file.stat().st_mode & 0o777 == 0o444
    with pytest.raises(OSError, match="Read-only file system"):
        file.write_text("1")


def test_the_command_prints_the_same_without_what_only_the_mount_knows(mounted: Make) -> None:
    archive = mounted(config(FILES))
    archive.drop("files", "a")
    printed = archivefs("metrics", "--archive", archive.root).stdout
    assert 'archivefs_captures_total{converter="files"} 1.0' in printed
    names = {line.split()[2] for line in printed.splitlines() if line.startswith("# TYPE")}
    shown = (archive.point / "metrics").read_text()
    theirs = {line.split()[2] for line in shown.splitlines() if line.startswith("# TYPE")}
    only_there = {name for name in theirs - names if not name.startswith("archivefs_process_")}
    assert names < theirs
    assert only_there == {
        "archivefs_writable",
        "archivefs_frame_cache_bytes",
        "archivefs_frame_cache_limit_bytes",
    }
    archive.umount()
    assert archivefs("metrics", "--archive", archive.root).stdout.count("# TYPE") == len(names)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is of the package prometheus")
def test_promtool_has_nothing_to_say(mounted: Make) -> None:
    archive = mounted(config(FILES, converter("good", "function:good:count")))
    archive.drop("good", "a", b"1")
    archive.wait_for_status("a", "success")
    content = (archive.point / "metrics").read_bytes()
    done = subprocess.run(["promtool", "check", "metrics"], input=content, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_probe_of_health_and_the_metric_agree(mounted: Make) -> None:
    archive = mounted(config(FILES, reserve="900 TB"))
    archive.wait_for("the metric", lambda: sample(archive, "alarm", about="space"))
    assert json.loads((archive.point / "health.json").read_bytes())["ok"] is False
    assert sample(archive, "healthy") == 0
