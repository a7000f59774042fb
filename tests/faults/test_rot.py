"""Bits that flip on the disk: what is touched fails by name, everything else is served, the mount lives."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from fault_parts import Station, say
from ledger import Ledger
from makers import Make
from mount_parts import archivefs, catalog_rows
from test_refused_calls import begun

from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.rebuilding import CATALOG
from archivefs.verify.findings import Finding, Severity
from archivefs.verify.verify import Scope, verify

LARGE = os.urandom(2_500_000)
COUNT = 6


def filled(station: Station) -> tuple[Station, Ledger, dict[str, bytes]]:
    """Several small entries, one of three frames between them; unmounted, no cache left."""
    archive, ledger = begun(station)
    contents = {"kept.csv": b"kept"}
    for number in range(COUNT):
        contents[f"unit-{number}.csv"] = b"measured %d\n" % number * 100
    contents["frames.bin"] = LARGE
    contents["last.csv"] = b"last"
    for name, content in list(contents.items())[1:]:
        archive.write(name, content)
        ledger.promise("files", name, content)
    archive.umount()
    return archive, ledger, contents


def flip(path: Path, offset: int, bit: int = 3) -> None:
    """Turn one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def place(station: Station, name: str) -> tuple[Path, Entry]:
    """The segment that holds an entry."""
    with Archive(station.root) as archive:
        (entry,) = [row for row in archive.reader.all_after(0, 1000) if row.name == name.encode()]
        return station.root / "content" / archive.reader.location(entry).segment, entry


def findings(station: Station) -> list[Finding]:
    """What verify says above a notice."""
    with Archive.open_for_reading(station.root) as archive:
        return [each for each in verify(archive, Scope()).findings if each.severity > Severity.NOTICE]


def read_all(station: Station, contents: dict[str, bytes]) -> dict[str, int]:
    """Read every source through the mount; the errnos of those that fail. Wrong bytes are never given."""
    failed: dict[str, int] = {}
    for name, content in contents.items():
        try:
            assert station.content(station.entries(name)[-1]) == content, (
                f"{name}: other bytes without an error"
            )
        except OSError as error:
            failed[name] = error.errno or -1
    assert station.is_alive()
    return failed


WHERE: dict[str, Callable[[Entry], int]] = {
    "the record's magic": lambda entry: entry.offset,
    "the record's header": lambda entry: entry.offset + 20,
    "the first content frame": lambda entry: entry.offset + entry.header + min(30, entry.stored - 2),
    "the frame's checksum": lambda entry: entry.offset + entry.header + entry.stored - 1,
    "the frame table": lambda entry: entry.offset + entry.length - 5,
}


@pytest.mark.parametrize("name", ["unit-2.csv", "frames.bin"])
@pytest.mark.parametrize("where", WHERE)
def test_a_flipped_bit_in_a_segment_touches_one_entry_only(station: Make, where: str, name: str) -> None:
    archive, _, contents = filled(station())
    segment, entry = place(archive, name)
    flip(segment, WHERE[where](entry))
    archive.mount()
    failed = read_all(archive, contents)
    assert failed in ({}, {name: errno.EIO}), "more than the touched entry fails"
    if "content" in where or "checksum" in where:
        assert failed == {name: errno.EIO}
        assert str(segment.relative_to(archive.root)) in archive.log()
    archive.write("after.csv", b"after")
    found = findings(archive)
    assert {each.check for each in found} == {"record-damaged"}
    assert all(entry.id in each.what for each in found)
    archive.umount()
    assert {each.check for each in findings(archive)} == {"record-damaged"}


def test_a_large_file_with_a_damaged_frame_is_read_up_to_it_and_behind_it(station: Make) -> None:
    archive, _, _ = filled(station())
    segment, entry = place(archive, "frames.bin")
    flip(segment, entry.offset + entry.header + entry.stored // 2)
    archive.mount()
    path = archive.entry_dir(entry) / "frames.bin"
    with path.open("rb", buffering=0) as file:
        assert file.read(1 << 20) == LARGE[: 1 << 20]
        file.seek(2 << 20)
        assert file.read() == LARGE[2 << 20 :]
        file.seek(1 << 20)
        with pytest.raises(OSError, match="Input/output"):
            file.read(4096)
    assert archive.is_alive()


def test_a_flipped_bit_in_an_old_journal_line_is_named_and_everything_is_served(station: Make) -> None:
    archive, _, contents = filled(station())
    (journal,) = archive.root.glob("journal/*/*/*.jsonl")
    first = journal.read_bytes().index(b"unit-0.csv")
    flip(journal, first)
    archive.mount()
    assert read_all(archive, contents) == {}
    archive.write("after.csv", b"after")
    archive.umount()
    assert {each.check for each in findings(archive)} == {"journal-chain"}
    said = archivefs("rebuild", "--archive", archive.root, code=17).stderr
    assert f"{journal}:{1 + journal.read_bytes()[:first].count(10)} was altered" in said
    archive.mount()
    assert read_all(archive, contents) == {}


def test_a_damaged_old_journal_line_does_not_keep_the_archive_shut_after_a_crash(station: Make) -> None:
    """The catalog has that line already; what it needs stands behind it."""
    archive, _, contents = filled(station())
    (journal,) = archive.root.glob("journal/*/*/*.jsonl")
    flip(journal, journal.read_bytes().index(b"unit-0.csv"))
    archive.mount()
    archive.write("after.csv", b"after")
    archive.kill()
    archive.mount()
    assert read_all(archive, contents | {"after.csv": b"after"}) == {}


def test_flipped_bits_anywhere_in_the_catalog_end_no_mount_and_lose_nothing(station: Make) -> None:
    """Each page once: the archive opens, or says what to do, and a rebuild brings everything back."""
    archive, ledger, contents = filled(station())
    good = (archive.root / CATALOG).read_bytes()
    rows = catalog_rows(archive.root)
    chance = random.Random(5)
    served = 0
    for page in range(len(good) // 4096):
        (archive.root / CATALOG).write_bytes(good)
        flip(archive.root / CATALOG, page * 4096 + chance.randrange(4096), chance.randrange(8))
        done = archivefs("mount", "--log-file", archive.log_file, archive.root, archive.point, code=None)
        if done.returncode == 0:
            archive.pid = int((archive.root / "lock").read_text().split('"pid":')[1].split(",")[0])
            archive.connection = os.minor(archive.point.stat().st_dev)
            for name in contents:
                try:
                    archive.entries(name)
                    archive.content(archive.entries(name)[-1])
                except (OSError, apsw.Error, IndexError):
                    continue
                served += 1
            assert archive.is_alive(), f"page {page}: {archive.log()[-1500:]}"
            archive.umount()
        else:
            assert "rebuild" in done.stderr, f"page {page}: {done.stderr}"
        for left in archive.root.glob(f"{CATALOG}.damaged*"):
            left.unlink()
    archivefs("rebuild", "--archive", archive.root)
    assert {key: len(value) for key, value in catalog_rows(archive.root).items()} == {
        key: len(value) for key, value in rows.items()
    }
    archive.examine(ledger)
    say("flipped catalog pages", rounds=len(good) // 4096, reads_served=served, lost=0, mount_deaths=0)
