"""audit and manifest beside a mount: who did what, as the kernel says; and proof while it goes on."""

import json
import os
from pathlib import Path

from mount_parts import Make, archivefs, config, converter, run

FILES = "[converters.files]\nsettle_seconds = 0\nlinger_seconds = 0\n"


def events(*words: object) -> list[dict[str, object]]:
    """The events that ``audit`` shows."""
    return [json.loads(line) for line in archivefs("audit", "--json", *words).stdout.splitlines()]


def test_who_saved_and_who_decided_is_shown_with_the_entry(mounted: Make) -> None:
    archive = mounted(config(FILES, converter("bad", "function:bad:raises")))
    archive.drop("bad", "a", b"1")
    archive.drop("files", "b", b"2")
    row = archive.wait_for(
        "the end", lambda: next((e for e in archive.live("a") if e.status == "failed"), None)
    )
    archivefs("retry", "--archive", archive.root, f"id={row.id}")
    archive.wait_for(
        "its second end", lambda: archive.only("a").attempts == 2 and archive.only("a").status == "failed"
    )
    found = events("--archive", archive.root, "name=a")
    assert [each["kind"] for each in found] == [
        "captured", "attempt_started", "attempt_finished", "retried", "attempt_started", "attempt_finished",
    ]  # fmt: skip
    asked = found[3]["actor"]
    assert isinstance(asked, dict)
    assert asked["uid"] == os.geteuid()
    text = archivefs("audit", "--archive", archive.root, "name=a").stdout.splitlines()
    assert f"by uid {os.geteuid()}" in text[0]
    assert "name=b" not in "\n".join(text)
    kinds = [each["kind"] for each in events("--archive", archive.root)]
    assert kinds[0] == "created"
    assert not {"captured", "attempt_started"} & set(kinds)


def test_the_journal_of_a_mount_is_proven_and_a_checkpoint_stays_true(mounted: Make, tmp_path: Path) -> None:
    archive = mounted(config(FILES))
    kept = tmp_path / "kept"
    for number in range(5):
        archive.drop("files", f"{number}", b"%d" % number)
        with kept.open("a") as out:
            out.write(archivefs("audit", "checkpoint", "--archive", archive.root).stdout)
        done = archivefs("audit", "verify", "--json", "--archive", archive.root, "--checkpoint", kept)
        assert json.loads(done.stdout)["findings"] == []
    assert len({json.loads(line)["seq"] for line in kept.read_text().splitlines()}) == 5


def test_a_day_is_restored_and_checked_beside_the_mount(mounted: Make, tmp_path: Path) -> None:
    archive = mounted(config(FILES))
    for name in ("a b", "c\\d", "e\nf"):
        archive.drop("files", name, name.encode())
    dest = tmp_path / "dest"
    dest.mkdir()
    (tmp_path / "sums").write_text(archivefs("manifest", "--archive", archive.root, "converter=files").stdout)
    archivefs("restore", "--archive", archive.root, "converter=files", dest)
    assert run("sha256sum", "-c", "--strict", tmp_path / "sums", cwd=dest).count(": OK") == 3
