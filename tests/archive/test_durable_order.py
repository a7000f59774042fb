"""What the kernel is asked for, in which order: nothing is acknowledged or journaled before it is durable.

``strace`` tells the calls of a real process; the promise of docs/durability.md is read off them.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from archive_parts import Clock, captured, child_command, child_environment, make
from bulk_parts import plant

from archivefs.rebuilding import CATALOG

CALLS = "write,pwrite64,fsync,fdatasync,openat,rename,renameat,renameat2,unlink,ftruncate,mkdir,mkdirat"
CAPTURES = """
import os, sys
from pathlib import Path
from archive_parts import capture, commit, converted, some_bytes
from archivefs.archive import Archive

with Archive(Path(sys.argv[1])) as archive:
    for number in range(5):
        content = some_bytes(number, 3_000_000 if number == 3 else 100)
        group = [capture(content, converter=name) for name in ("ict", "files")]
        ids = [receipt.id for receipt in commit(archive, *group)]
        os.write(1, b"acknowledged\\n")
        converted(archive, ids[0])
        os.write(1, b"acknowledged\\n")
    os.write(1, b"closing\\n")
"""
OPENING = """
import os, sys
from pathlib import Path
from archivefs.archive import Archive

with Archive(Path(sys.argv[1])) as archive:
    os.write(1, b"opened\\n")
"""


IMPORT = """
import os, sys
from pathlib import Path
from bulk_parts import bring
from archivefs.archive import Archive

with Archive(Path(sys.argv[1])) as archive:
    assert bring(archive, Path(TOP)).files == 2500
    os.write(1, b"done\\n")
"""


class Call(NamedTuple):
    """One system call: its name and the file it was about, relative to the archive ('stdout' for that)."""

    name: str
    file: str


def traced(root: Path, script: str, tmp_path: Path) -> list[Call]:
    """The calls of a child that concern the archive, in order."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "strace.log"
    command = [
        "strace",
        "-f",
        "-y",
        "-s",
        "16",
        "-e",
        f"trace={CALLS}",
        "-o",
        str(log),
        *child_command(script, [root]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    return list(parsed(log.read_text(), root.resolve()))


def parsed(log: str, root: Path) -> Iterator[Call]:
    for line in log.splitlines():
        match = re.match(r"\d+ +(\w+)\((?:AT_FDCWD(?:<[^>]*>)?, )?(?:(\d+)<([^>]*)>|\"([^\"]*)\")", line)
        if match is None or " = -1 " in line:
            continue
        name, fd, by_fd, by_name = match.groups()
        if fd == "1":
            yield Call("acknowledge", "stdout")
        path = by_fd or by_name or ""
        if path.startswith(str(root)):
            yield Call(name, str(Path(path).relative_to(root)))


def unsynced_at(calls: list[Call], event: Call, folder: str) -> list[set[str]]:
    """For each time of ``event``: the files under ``folder`` that were written and not yet synced."""
    dirty: set[str] = set()
    found = []
    for call in calls:
        if call.name in ("fsync", "fdatasync"):
            dirty.discard(call.file)
        elif call == event:
            found.append(set(dirty))
        elif call.name in ("write", "pwrite64") and call.file.startswith(folder):
            dirty.add(call.file)
    return found


@pytest.fixture
def calls(root: Path, tmp_path: Path) -> list[Call]:
    make(root, Clock()).close()
    return traced(root, CAPTURES, tmp_path)


def journal_file(calls: list[Call]) -> str:
    (name,) = {call.file for call in calls if call.name == "write" and call.file.endswith(".jsonl")}
    return name


def test_content_is_durable_before_its_event_is_written(calls: list[Call]) -> None:
    journal = journal_file(calls)
    dirty = unsynced_at(calls, Call("write", journal), "content/")
    assert len(dirty) >= 15
    assert all(not files for files in dirty)


def test_events_are_durable_before_anything_is_acknowledged(calls: list[Call]) -> None:
    dirty = unsynced_at(calls, Call("acknowledge", "stdout"), "journal/")
    assert len(dirty) == 11
    assert all(not files for files in dirty)


def test_the_catalog_follows_the_journal_and_costs_no_sync_of_its_own(calls: list[Call]) -> None:
    last_journal_sync = -1
    for index, call in enumerate(calls):
        if call == Call("fdatasync", journal_file(calls)):
            last_journal_sync = index
        if call.file == f"{CATALOG}-wal" and call.name == "pwrite64":
            assert last_journal_sync >= 0
    until_closing = calls[: max(n for n, call in enumerate(calls) if call.name == "acknowledge")]
    synced = [call.file for call in until_closing if call.name in ("fsync", "fdatasync")]
    assert len([file for file in synced if file.startswith(CATALOG)]) <= 1, "SQLite syncs a new log once"


def test_a_group_costs_one_sync_for_each_file_and_no_more(calls: list[Call]) -> None:
    writes = sum(call.name == "acknowledge" for call in calls)
    syncs = [call.file for call in calls if call.name == "fdatasync"]
    assert syncs.count(journal_file(calls)) == 5 * 3
    assert len([file for file in syncs if file.startswith("content/")]) == 5 * 3
    assert writes == 11


def test_an_import_syncs_content_and_journal_once_for_a_thousand_files(root: Path, tmp_path: Path) -> None:
    make(root, Clock()).close()
    top = plant(tmp_path / "Done", {b"%d" % number: b"%d" % number for number in range(2500)})
    script = IMPORT.replace("TOP", repr(str(top)))
    calls = traced(root, script, tmp_path)
    syncs = [call.file for call in calls if call.name == "fdatasync"]
    assert syncs.count(journal_file(calls)) == 3
    assert len([file for file in syncs if file.startswith("content/")]) == 3
    dirty = unsynced_at(calls, Call("write", journal_file(calls)), "content/")
    assert len(dirty) == 3
    assert all(not files for files in dirty)
    assert not unsynced_at(calls, Call("acknowledge", "stdout"), "journal/")[-1]


def test_the_folder_of_a_new_file_is_synced_before_anything_is_acknowledged(calls: list[Call]) -> None:
    first = next(n for n, call in enumerate(calls) if call.name == "acknowledge")
    new = {call.file for call in calls[:first] if call.name == "write" and call.file.startswith("content/")}
    assert len(new) == 2
    for file in new:
        created = next(n for n, call in enumerate(calls) if call == Call("openat", file))
        folder = str(Path(file).parent)
        assert Call("fsync", folder) in calls[created:first]


def test_a_recovered_record_is_durable_before_its_event_is_written(root: Path, tmp_path: Path) -> None:
    """The page cache may still be all there is of a record whose writer was killed before its sync."""
    with make(root, Clock()) as archive:
        captured(archive, b"1", converter="ict")
    journal = next((root / "journal").glob("*/*/*.jsonl"))
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    for file in (root / "journal" / "checkpoint.json", root / CATALOG):
        file.unlink()
    calls = traced(root, OPENING, tmp_path)
    (segment,) = (str(file.relative_to(root)) for file in (root / "content").rglob("*.zst"))
    written = next(n for n, call in enumerate(calls) if call.name == "write" and call.file.endswith(".jsonl"))
    assert {Call("fsync", segment), Call("fdatasync", segment)} & set(calls[:written])


def test_lines_that_a_killed_writer_left_are_durable_before_the_catalog_has_them(
    root: Path, tmp_path: Path
) -> None:
    """Otherwise a power cut could leave a catalog that knows more than the journal, and will not open."""
    with make(root, Clock()) as archive:
        captured(archive, b"1", converter="ict")
    (root / CATALOG).unlink()
    calls = traced(root, OPENING, tmp_path)
    (journal,) = (str(file.relative_to(root)) for file in (root / "journal").rglob("*.jsonl"))
    opened = next(n for n, call in enumerate(calls) if call.name == "acknowledge")
    assert {Call("fsync", journal), Call("fdatasync", journal)} & set(calls[:opened])


def test_what_is_cut_off_is_durable_aside_before_it_is_cut(root: Path, tmp_path: Path) -> None:
    with make(root, Clock()) as archive:
        captured(archive, b"1", converter="ict")
    (segment,) = (root / "content").rglob("*.zst")
    with segment.open("ab") as out:
        out.write(b"torn")
    calls = traced(root, OPENING, tmp_path)
    name = str(segment.relative_to(root))
    cut = next(n for n, call in enumerate(calls) if call == Call("ftruncate", name))
    kept = [call for call in calls[:cut] if call.file.startswith("quarantine")]
    assert [call.name for call in kept if call.name in ("write", "fsync", "rename")][:3] == [
        "write",
        "fsync",
        "rename",
    ]
    assert Call("fsync", "quarantine") in kept
    assert Call("fsync", name) in calls[cut:]


def test_the_quarantine_folder_itself_is_durable_before_anything_is_cut(root: Path, tmp_path: Path) -> None:
    with make(root, Clock()) as archive:
        captured(archive, b"1", converter="ict")
    (segment,) = (root / "content").rglob("*.zst")
    with segment.open("ab") as out:
        out.write(b"torn")
    calls = traced(root, OPENING, tmp_path)
    made = next(
        n for n, call in enumerate(calls) if call.name.startswith("mkdir") and call.file == "quarantine"
    )
    cut = next(n for n, call in enumerate(calls) if call.name == "ftruncate" and call.file.endswith(".zst"))
    assert Call("fsync", ".") in calls[made:cut]
