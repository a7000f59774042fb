"""Folders that are one source: when they are complete, and how they are archived, shown and restored."""

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from mount_parts import Make, Mounted, archivefs, config, converter, names_in, poll

from archivefs.catalog.rows import Entry

FILES = {
    "unit.csv": b"measured",
    "raw/scope 1.bin": b"\0\1" * 700_000,
    "raw/deep/notes.txt": b"",
    "DONE": b"",
}
"""What stations save: in sub-folders, large and empty."""
WRITER = "import sys; file = open(sys.argv[1], 'wb', 0); file.write(b'half'); print('written'); input();"
"""A program that has a file open until it reads a line."""
LIST = "function:good:list_folder"


def folders(name: str = "unit", run: str = LIST, **keys: object) -> str:
    """A converter of folders, complete with the file DONE unless it is said otherwise."""
    keys = keys if any(key.startswith("ready_") for key in keys) else {"ready_marker": "DONE", **keys}
    return converter(name, run, kind="folder", **keys)


def save(folder: Path, files: Mapping[str, bytes] = FILES) -> None:
    """Save files into a folder, one after the other."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tree(folder: Path) -> dict[str, bytes]:
    """All files in a folder and its sub-folders."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def whole(station: Mounted, name: str, status: str = "success") -> Entry:
    """The entry of the folder of that name, once it has that status."""
    row = station.wait_for_status(name, status)
    assert row.members > 0
    return row


def test_a_folder_with_its_marker_is_one_entry_with_all_its_files(mounted: Make) -> None:
    station = mounted(config(folders()))
    save(station.inbox / "unit" / "SN 1")
    row = whole(station, "SN 1")
    assert row.members == len(FILES) + 2
    for place in station.places(row, "success")[:-1]:
        assert tree(Path(os.fsdecode(place)) / "SN 1") == FILES
    assert tree(Path(os.fsdecode(station.places(row, "success")[-1]))) == FILES
    shown = station.entry_dir(row) / "SN 1" / "raw"
    assert stat.S_ISDIR(shown.stat().st_mode)
    assert (shown / "scope 1.bin").stat().st_size == 1_400_000
    with (shown / "scope 1.bin").open("rb") as file:
        file.seek(1_399_999)
        assert file.read(10) == b"\1"
    assert os.getxattr(shown.parent, "user.archivefs.id") == row.id.encode()
    others = [each.status for each in station.entries() if not each.members]
    assert others == ["superseded"] * len(FILES)
    poll("an empty inbox", lambda: names_in(station.inbox / "unit") == [])
    poll("an empty folder of what leaves", lambda: names_in(station.root / "staging" / "leaving") == [])


def test_the_converter_gets_a_folder_with_the_names_and_times_it_had(mounted: Make) -> None:
    station = mounted(config(folders(post_action="keep")))
    folder = station.inbox / "unit" / "SN1"
    save(folder, {"unit.csv": b"measured", "raw/a.bin": b"12345"})
    os.utime(folder / "unit.csv", ns=(1, 1_600_000_000_123_456_789))
    (folder / "DONE").touch()
    report = station.report(whole(station, "SN1"))
    assert report["name"] == "SN1"
    assert report["files"] == {"DONE": 0, "raw/a.bin": 5, "unit.csv": 8}
    assert report["mtimes_ns"]["unit.csv"] == 1_600_000_000_123_456_789
    assert tree(folder).keys() == {"DONE", "raw/a.bin", "unit.csv"}


def test_a_class_gets_its_files_as_a_source(mounted: Make) -> None:
    station = mounted(config(folders(run="python:good:Folder")))
    save(station.inbox / "unit" / "SN1", {"b": b"22", "a/c": b"1", "DONE": b""})
    assert station.report(whole(station, "SN1")) == {"files": ["DONE", "c", "b"], "size": 3}


@pytest.mark.parametrize(
    ("keys", "first", "last"),
    [
        ({"ready_count": 2}, {"a.csv": b"1"}, {"b.csv": b"2"}),
        ({"ready_files": ["*.csv", "log.txt"]}, {"a.csv": b"1", "b.csv": b"2"}, {"log.txt": b"3"}),
        ({"ready_marker": "*.ok"}, {"a.csv": b"1"}, {"a.ok": b""}),
        ({"ready_marker": "end", "ready_count": 9}, {"a.csv": b"1"}, {"end": b""}),
    ],
)
def test_it_is_complete_when_what_is_expected_is_there_and_not_before(
    mounted: Make, keys: dict[str, object], first: dict[str, bytes], last: dict[str, bytes]
) -> None:
    station = mounted(config(folders(**keys)))
    folder = station.inbox / "unit" / "SN1"
    save(folder, first)
    with pytest.raises(AssertionError, match="no folder entry"):
        poll("folder entry", lambda: any(each.members for each in station.entries()), 0.7)
    assert {each.status for each in station.entries()} == {"archived"}
    save(folder, last)
    row = whole(station, "SN1")
    assert tree(station.entry_dir(row) / "SN1") == first | last


def test_it_is_complete_when_it_was_quiet(mounted: Make) -> None:
    station = mounted(config(folders(ready_quiet_seconds=2)))
    folder = station.inbox / "unit" / "SN1"
    for number in range(5):
        save(folder, {f"{number}.csv": b"x"})
        assert not any(each.members for each in station.entries())
    assert station.report(whole(station, "SN1"))["files"].keys() == {f"{number}.csv" for number in range(5)}
    assert len([each for each in station.entries() if each.members]) == 1


def test_a_file_that_is_open_for_writing_keeps_it_from_being_complete(mounted: Make) -> None:
    station = mounted(config(folders()))
    folder = station.inbox / "unit" / "SN1"
    save(folder, {"a.csv": b"1"})
    script = WRITER + "file.write(b'!')"
    writer = subprocess.Popen(
        ["python3", "-uc", script, folder / "b.csv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        save(folder, {"DONE": b""})
        with pytest.raises(AssertionError, match="no folder entry"):
            poll("folder entry", lambda: any(each.members for each in station.entries()), 0.6)
    finally:
        writer.communicate(b"\n")
    row = whole(station, "SN1")
    assert tree(station.entry_dir(row) / "SN1") == {"a.csv": b"1", "b.csv": b"half!", "DONE": b""}


def test_a_folder_can_be_renamed_into_place(mounted: Make) -> None:
    station = mounted(config(folders(ready_quiet_seconds=0.3)))
    save(station.inbox / "unit" / ".SN1.tmp")
    assert station.entries() == []
    (station.inbox / "unit" / ".SN1.tmp").rename(station.inbox / "unit" / "SN1")
    row = whole(station, "SN1")
    assert tree(station.entry_dir(row) / "SN1") == FILES


def test_the_same_folder_saved_again_is_another_entry(mounted: Make) -> None:
    station = mounted(config(folders()))
    for text in (b"first", b"second"):
        save(station.inbox / "unit" / "SN1", {"a.csv": text, "DONE": b""})
        poll("an empty inbox", lambda: names_in(station.inbox / "unit") == [])
    rows = [row for row in station.entries("SN1") if row.members]
    assert [row.status for row in rows] == ["success"] * 2
    assert [(station.entry_dir(row) / "SN1" / "a.csv").read_bytes() for row in rows] == [b"first", b"second"]


def test_junk_is_no_part_and_a_file_that_lies_in_no_folder_is_skipped(mounted: Make) -> None:
    station = mounted(config(folders()))
    (station.inbox / "unit" / "stray.csv").write_bytes(b"1")
    row = station.wait_for_status("stray.csv", "skipped")
    assert station.facts(row)["reason"] == "its converter takes folders, and it lies in none"
    save(station.inbox / "unit" / "SN1", {"a.csv": b"1", "b.tmp": b"2", "DONE": b""})
    assert station.report(whole(station, "SN1"))["files"].keys() == {"a.csv", "DONE"}


def test_it_is_restored_as_a_folder_and_by_hand_with_tar(mounted: Make, tmp_path: Path) -> None:
    station = mounted(config(folders()))
    name = os.fsdecode(b"caf\xe9 \xc3\xb8")
    files = FILES | {name: b"odd"}
    save(station.inbox / "unit" / "SN1", files)
    row = whole(station, "SN1")
    archivefs("restore", "--archive", station.root, row.id, tmp_path)
    assert tree(tmp_path / "SN1") == files
    shown = station.entry_dir(row) / "SN1" / "unit.csv"
    assert (tmp_path / "SN1" / "unit.csv").stat().st_mtime_ns == shown.stat().st_mtime_ns
    archivefs("restore", "--archive", station.root, row.id, tmp_path, code=18)
    place = station.facts(row)
    with (station.root / place["segment"]).open("rb") as file:
        file.seek(place["offset"])
        record = file.read(place["length"])
    content = subprocess.run(["zstd", "-dc"], input=record, capture_output=True, check=True).stdout
    (tmp_path / "by-hand").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "by-hand"], input=content, check=True)
    assert tree(tmp_path / "by-hand") == files


# -- stops ---------------------------------------------------------------------------------------------


def test_a_folder_that_was_not_complete_goes_on_after_a_kill(mounted: Make) -> None:
    station = mounted(config(folders()))
    folder = station.inbox / "unit" / "SN1"
    save(folder, {"a.csv": b"1", "raw/b.csv": b"2"})
    station.kill()
    station.mount()
    save(folder, {"DONE": b""})
    row = whole(station, "SN1")
    assert tree(station.entry_dir(row) / "SN1") == {"a.csv": b"1", "raw/b.csv": b"2", "DONE": b""}
    assert {each.status for each in station.entries() if not each.members} == {"superseded"}


def test_a_folder_that_is_archived_is_not_archived_again_after_a_kill(mounted: Make) -> None:
    station = mounted(config(folders(linger_seconds=3600)))
    save(station.inbox / "unit" / "SN1")
    whole(station, "SN1")
    for end in (station.kill, station.umount):
        end()
        station.mount()
        station.wait_for("a mount that has looked at it", lambda: names_in(station.inbox / "unit") == ["SN1"])
    with pytest.raises(AssertionError, match="no second entry"):
        poll("second entry", lambda: len([row for row in station.entries() if row.members]) > 1, 0.6)


def test_kills_at_any_moment_lose_no_folder_and_double_none(mounted: Make) -> None:
    station = mounted(config(folders(run="function:bad:is_slow"), workers=2))
    for number in range(8):
        save(station.inbox / "unit" / f"SN{number}", {"a.csv": b"%d" % number, "DONE": b""})
        if number in (2, 5):
            station.kill()
            station.mount()
    for number in range(8):
        whole(station, f"SN{number}")
    poll("an empty inbox", lambda: names_in(station.inbox / "unit") == [])
    assert sorted(row.name for row in station.entries() if row.members) == [b"SN%d" % n for n in range(8)]


def test_a_folder_with_a_file_that_was_being_written_is_quarantined(mounted: Make) -> None:
    station = mounted(config(folders()))
    folder = station.inbox / "unit" / "SN1"
    save(folder, {"a.csv": b"1"})
    writer = subprocess.Popen(
        ["python3", "-uc", WRITER, folder / "b.csv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"written\n"
    station.kill()
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    station.mount()
    save(folder, {"DONE": b""})
    row = whole(station, "SN1", "quarantined")
    assert station.facts(row)["reason"] == "a file in it was being written when archivefs stopped"
    assert tree(station.entry_dir(row) / "SN1") == {"a.csv": b"1", "b.csv": b"half", "DONE": b""}
    station.umount()
    archivefs("quarantine", "adopt", "--archive", station.root, row.id)
    station.mount()
    assert station.report(whole(station, "SN1"))["files"] == {"DONE": 0, "a.csv": 1, "b.csv": 4}


def test_without_its_journal_and_after_a_repack_it_is_the_same(mounted: Make, tmp_path: Path) -> None:
    station = mounted(config(folders()))
    save(station.inbox / "unit" / "SN1")
    row = whole(station, "SN1")
    station.umount()
    archivefs("repack", "--archive", station.root, "--all")
    copy = tmp_path / "copy"
    shutil.copytree(station.root, copy)
    archivefs("rebuild", "--archive", copy, "--from-segments")
    for number, root in enumerate((station.root, copy)):
        (tmp_path / str(number)).mkdir()
        archivefs("restore", "--archive", root, row.id, tmp_path / str(number))
        assert tree(tmp_path / str(number) / "SN1") == FILES
    said = json.loads(archivefs("show", "--json", "--archive", copy, row.id).stdout)
    assert (said["members"], said["status"]) == (len(FILES) + 2, "success")
