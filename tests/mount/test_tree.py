"""What the tree shows: every path of each view, true attributes, statuses that move at once, long lists."""

import json
import os
import random
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mount_parts import UTC, Make, Mounted, an_archive, config, converter, names_in, run, sha256

from archivefs import query
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.operations import Capture

CSV = converter("csv", "python:good:Gate", patterns=["*.csv"], arguments={"limit": 3})
FILES = converter("files")
NOISE = random.Random(7).randbytes((3 << 20) + 12345)
MANY = 3000


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """An archive in which one source of each kind is done: good, bad, skipped, archived, large."""
    with an_archive(tmp_path_factory.mktemp("tree"), config(CSV, FILES)) as archive:
        archive.drop("csv", "good.csv", b"serial,1\n" * 1000)
        archive.drop("csv", "bad.csv", b"serial,2\n")
        archive.drop("csv", "notes.txt", b"not for this converter")
        archive.drop("files", "large.bin", NOISE)
        archive.wait_for_status("good.csv", "success")
        archive.wait_for_status("bad.csv", "failed")
        archive.wait_for_status("notes.txt", "skipped")
        archive.wait_for("the inbox being empty", lambda: not any((archive.inbox / "csv").iterdir()))
        yield archive


def all_places(station: Mounted, name: str, status: str) -> list[Path]:
    """The paths of a source in every view."""
    row = station.only(name)
    *directories, flat = [Path(os.fsdecode(place)) for place in station.places(row, status)]
    return [*(directory / name for directory in directories), station.entry_dir(row) / name, flat]


# -- paths and attributes ------------------------------------------------------------------------------


def test_the_root_has_what_the_design_says(station: Mounted) -> None:
    names = {"README.txt", "by-converter", "by-date", "by-status", "by-id", "sources", "inbox", "control"}
    assert names | {"stats.json", "health.json", "metrics"} <= set(names_in(station.point))
    readme = (station.point / "README.txt").read_text()
    assert all(word in readme for word in ("inbox/csv/", "inbox/files/", "*.csv", str(station.root)))


def test_find_sees_each_entry_in_each_view_and_nothing_else(station: Mounted) -> None:
    views = [station.point / view for view in ("by-converter", "by-date", "by-status", "by-id", "sources")]
    found = run("find", *views, "-type", "f").splitlines()
    expected = []
    for name, status in (("good.csv", "success"), ("bad.csv", "failed")):
        kept = ["report.json", "report-2.json"] if status == "success" else []
        here = [name, "entry.json", *kept, *(["error.txt"] if status == "failed" else [])]
        here += [f"attempts/1/{each}" for each in ("attempt.json", "log.txt", *kept)]
        for place in all_places(station, name, status)[:-1]:
            expected += [place.parent / each for each in here]
    for name, status in (("notes.txt", "skipped"), ("large.bin", "archived")):
        for place in all_places(station, name, status)[:-1]:
            expected += [place, place.parent / "entry.json"]
    for name, status in (("good.csv", "success"), ("bad.csv", "failed"), ("notes.txt", "skipped"),
                         ("large.bin", "archived")):  # fmt: skip
        expected.append(all_places(station, name, status)[-1])
    assert sorted(found) == sorted(map(str, expected))


def test_an_entry_is_named_after_its_capture_its_content_and_its_name(station: Mounted) -> None:
    row = station.only("good.csv")
    day = station.point / "by-date" / row.day_text.replace("-", "/") / "csv" / "success"
    (name,) = names_in(day)
    assert re.fullmatch(rf"\d{{6}}_{row.sha256[:6]}_good\.csv", name)
    assert station.facts(row)["captured_at"][11:19].replace(":", "") == name[:6]
    assert re.fullmatch(rf"\d{{8}}T\d{{9}}-{row.sha256[:6]}", row.id)


def test_levels_list_only_what_has_entries(station: Mounted) -> None:
    day = station.only("good.csv").day_text
    assert names_in(station.point / "by-status") == ["archived", "failed", "skipped", "success"]
    assert names_in(station.point / "by-status" / "archived") == ["files"]
    assert names_in(station.point / "by-converter" / "files" / day) == ["archived"]
    assert names_in(station.point / "by-date") == [day[:4]]
    for missing in ("by-status/pending", "by-status/success/files", "by-date/1999", "by-converter/nope",
                    "by-converter/csv/1999-01-01", "by-id/20200101T000000000-abcdef", "sources/x", "nope",
                    "by-converter/csv/not a date", "by-date/2026/13"):  # fmt: skip
        assert not (station.point / missing).exists()


def test_every_view_shows_the_same_bytes_size_time_and_inode(station: Mounted) -> None:
    for name, status, content in (
        ("good.csv", "success", b"serial,1\n" * 1000),
        ("large.bin", "archived", NOISE),
    ):
        row, places = station.only(name), all_places(station, name, status)
        facts = [place.stat() for place in places]
        assert len(facts) == 5
        assert {each.st_ino for each in facts} == {facts[0].st_ino}
        assert {each.st_size for each in facts} == {len(content)}
        assert {each.st_mtime_ns for each in facts} == {row.mtime_ns}
        assert {each.st_blocks for each in facts} == {-(-row.length // 512)}
        assert {each.st_mode for each in facts} == {stat.S_IFREG | 0o444}
        assert all(place.read_bytes() == content for place in places)


def test_inode_numbers_tell_things_apart_and_survive_a_remount(station: Mounted) -> None:
    def numbers() -> dict[str, int]:
        listed = run("find", station.point, "-not", "-path", "*/inbox*", "-printf", r"%i %p\n").splitlines()
        return {path: int(number) for number, _, path in (line.partition(" ") for line in listed)}

    before = numbers()
    directories = [number for path, number in before.items() if Path(path).is_dir()]
    assert len(set(directories)) == len(directories)
    sources = {
        number for path, number in before.items() if path.endswith("good.csv") and Path(path).is_file()
    }
    assert len(sources) == 1
    listed = {entry.path: entry.inode() for entry in os.scandir(station.point)}
    assert all(before[path] == number for path, number in listed.items() if not path.endswith("inbox"))
    station.remount()
    assert numbers() == before


def test_du_and_df_tell_the_truth(station: Mounted) -> None:
    rows = station.live()
    (said,) = run("du", "-s", "-B512", station.point / "sources").splitlines()
    assert int(said.split()[0]) == sum(-(-row.length // 512) for row in rows)
    (said,) = run("du", "-sb", "--apparent-size", station.point / "sources" / "files").splitlines()
    assert int(said.split()[0]) == len(NOISE)
    here, disk = os.statvfs(station.point), os.statvfs(station.root)
    assert (here.f_blocks * here.f_frsize, here.f_namemax) == (disk.f_blocks * disk.f_frsize, 255)
    assert abs(here.f_bavail * here.f_frsize - disk.f_bavail * disk.f_frsize) < 1 << 30
    assert "fuse.archivefs" in run("df", "-T", station.point)


def test_tools_read_it_as_any_other_folder(station: Mounted, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_bytes(b"serial,1\n" * 1000)
    (tmp_path / "large.bin").write_bytes(NOISE)
    for name, status in (("good.csv", "success"), ("large.bin", "archived")):
        for place in all_places(station, name, status):
            run("cmp", place, tmp_path / name)
        assert run("md5sum", place).split()[0] == run("md5sum", tmp_path / name).split()[0]
    run("diff", all_places(station, "good.csv", "success")[0], tmp_path / "good.csv")
    run("cp", "-rp", station.entry_dir(station.only("good.csv")), tmp_path / "out")
    run("diff", "-r", station.entry_dir(station.only("good.csv")), tmp_path / "out")
    run("tar", "-C", station.point, "-cf", tmp_path / "all.tar", "sources", "by-id")
    assert "large.bin" in run("tar", "-tf", tmp_path / "all.tar")
    listing = run("ls", "-la", "--time-style=+%s", station.entry_dir(station.only("good.csv")))
    assert run("stat", "-c", "%s %a", station.point / "stats.json").split()[1] == "444"
    assert re.search(rf" 9000 {station.only('good.csv').mtime_ns // 10**9} good\.csv", listing)


@pytest.mark.skipif(shutil.which("getfattr") is None, reason="getfattr is not installed")
def test_extended_attributes_say_what_an_entry_is(station: Mounted) -> None:
    row = station.only("good.csv")
    source = all_places(station, "good.csv", "success")[0]
    for place in (
        source,
        source.parent,
        station.entry_dir(row),
        all_places(station, "good.csv", "success")[-1],
    ):
        said = run("getfattr", "-d", "--absolute-names", place)
        assert f'user.archivefs.id="{row.id}"' in said
        assert f'user.archivefs.sha256="{row.sha256}"' in said
        assert 'user.archivefs.converter="csv"' in said
        assert 'user.archivefs.status="success"' in said
        assert 'user.archivefs.captured_at="20' in said
    assert os.listxattr(station.point / "by-date") == []
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(source, "user.archivefs.nonsense")


# -- what is in an entry -------------------------------------------------------------------------------


def test_entry_json_speaks_the_words_of_queries(station: Mounted) -> None:
    row = station.only("good.csv")
    facts = station.facts(row)
    shown = {"id": row.id, "converter": "csv", "status": "success", "date": row.day_text, "name": "good.csv",
             "size": 9000, "sha256": sha256(b"serial,1\n" * 1000)}  # fmt: skip
    assert shown.items() <= facts.items()
    assert {"id", "converter", "status", "date", "name", "sha256"} <= query.KEYS.keys()
    (attempt,) = facts["attempts"]
    assert (attempt["version"], attempt["outcome"], attempt["warnings"]) == ("1.2", "success", ["odd"])
    assert attempt["arguments"] == {"limit": 3}
    assert attempt == station.attempt(row)
    segment = (station.root / facts["segment"]).read_bytes()
    assert len(segment) >= facts["offset"] + facts["length"]


def test_reports_and_errors_stand_beside_the_source(station: Mounted) -> None:
    good, bad = station.only("good.csv"), station.only("bad.csv")
    assert station.report(good) == {"attempt": 1, "size": 9000}
    assert station.report(good, "report-2.json") == {"second": True}
    assert station.report(good, "attempts/1/report.json") == station.report(good)
    assert not (station.entry_dir(good) / "error.txt").exists()
    assert station.error(bad) == "line 7: no value\n"
    assert not (station.entry_dir(bad) / "report.json").exists()
    log = (station.entry_dir(bad) / "attempts" / "1" / "log.txt").read_text()
    assert log == "attempt 1 of bad.csv\n"
    assert station.facts(station.only("notes.txt"))["reason"].endswith("*.csv")


def test_stats_json_counts_what_is_there_and_has_its_true_size(station: Mounted) -> None:
    file = station.point / "stats.json"
    facts = json.loads(file.read_bytes())
    assert facts["by_status"] == {"archived": 1, "failed": 1, "skipped": 1, "success": 1}
    assert facts["converters"]["csv"]["entries"] == 3
    assert facts["source_bytes"] == sum(row.size for row in station.entries())
    assert file.stat().st_size == len(file.read_bytes())


# -- reading -------------------------------------------------------------------------------------------


def test_reading_at_any_offset_gives_the_bytes_of_that_place(station: Mounted) -> None:
    rng = random.Random(3)
    fd = os.open(all_places(station, "large.bin", "archived")[0], os.O_RDONLY)
    try:
        for _ in range(300):
            offset, size = rng.randrange(len(NOISE) + 5000), rng.choice((1, 100, 4096, 70_000, 1 << 20))
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, size, offset) == NOISE[offset : offset + size]
        for edge in (1 << 20, 2 << 20, 3 << 20, len(NOISE)):
            assert os.pread(fd, 10, edge - 5) == NOISE[edge - 5 : edge + 5]
    finally:
        os.close(fd)


def test_many_readers_at_once_all_get_the_right_bytes(station: Mounted) -> None:
    large, good = all_places(station, "large.bin", "archived"), all_places(station, "good.csv", "success")
    expected = [sha256(NOISE)] * 40 + [sha256(b"serial,1\n" * 1000)] * 40
    run("sh", "-c", "echo 1 > /proc/sys/vm/drop_caches", code=None)
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda path: sha256(path.read_bytes()), [*large * 8, *good * 8])
        assert list(found) == expected


def test_a_source_can_be_mapped_and_executed_tools_can_seek_in_it(station: Mounted) -> None:
    place = all_places(station, "large.bin", "archived")[1]
    tail = subprocess.run(["tail", "-c", "1000", place], stdout=subprocess.PIPE, check=True).stdout
    assert tail == NOISE[-1000:]
    assert run("grep", "-c", "serial", all_places(station, "good.csv", "success")[1]).strip() == "1000"


def test_a_damaged_block_is_an_error_for_its_own_files_only(mounted: Make) -> None:
    station = mounted(config(FILES), expected_log=["content/"])
    for name in ("first", "second", "third"):
        station.drop("files", name, random.Random(name).randbytes(5000))
    station.umount()
    row = station.only("second")
    station.damaged.add(row.id)
    (segment,) = (station.root / "content").rglob("files.sources.zst")
    data = bytearray(segment.read_bytes())
    data[row.offset + row.header + 2500] ^= 1
    segment.write_bytes(data)
    station.mount()
    assert (station.entry_dir(row) / "second").stat().st_size == 5000
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            station.content(row)
    for name in ("first", "third"):
        assert station.content(station.only(name)) == random.Random(name).randbytes(5000)
    station.drop("files", "fourth", b"goes on")
    assert station.content(station.only("fourth")) == b"goes on"
    assert re.search(r"ERROR .*content/.*/files\.sources\.zst at \d+, frame 0", station.log())


# -- moving statuses -----------------------------------------------------------------------------------


def test_a_new_status_shows_at_once_however_warm_the_caches_are(mounted: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    toml = config(
        converter("csv", "python:good:Gate", arguments={"gate": str(gate)}, settle_seconds=0.5, sandbox="off")
    )
    station = mounted(toml)
    station.drop("csv", "unit.csv")
    seen: dict[str, list[Path]] = {}
    row = station.only("unit.csv")
    for status, next_status in (("pending", "converting"), ("converting", "success")):
        station.wait_for_status("unit.csv", status)
        seen[status] = [Path(os.fsdecode(place)) for place in station.places(row, status)]
        look_everywhere(station, seen[status])
        if status == "converting":
            gate.touch()
        station.wait_for_status("unit.csv", next_status)
        old = seen[status]
        station.wait_for("the old paths vanishing", lambda old=old: not any(map(Path.exists, old)), 1)
        for place in old:
            assert place.name not in names_in(place.parent)
            assert status not in [each.name for each in (station.point / "by-status").iterdir()]
    new = [Path(os.fsdecode(place)) for place in station.places(row, "success")]
    assert all(map(Path.exists, new))
    assert all(place.name in names_in(place.parent) for place in new)
    assert station.facts(row)["status"] == "success"
    assert station.report(row)["attempt"] == 1
    assert os.getxattr(new[-1], "user.archivefs.status") == b"success"


def look_everywhere(station: Mounted, places: list[Path]) -> None:
    """Fill the kernel's caches with everything about an entry, and with what is not there yet."""
    run("find", station.point, "-size", "+0")
    for place in places:
        assert place.stat()
        assert place.name in names_in(place.parent)
        if place.is_dir():
            for name in ("report.json", "error.txt", "attempts/2"):
                assert not (place / name).exists()
            assert json.loads((place / "entry.json").read_bytes())["status"] in str(place)


def test_what_an_attempt_adds_or_takes_away_shows_at_once(mounted: Make) -> None:
    station = mounted(config(CSV))
    station.drop("csv", "late.csv")
    row = station.wait_for_status("late.csv", "suspended")
    here = station.entry_dir(row)
    assert station.error(row) == "not finished yet\n"
    assert names_in(here) == ["attempts", "entry.json", "error.txt", "late.csv"]
    size = (here / "entry.json").stat().st_size
    station.wait_for_status("late.csv", "success")
    station.wait_for("error.txt vanishing", lambda: not (here / "error.txt").exists(), 1)
    assert names_in(here) == ["attempts", "entry.json", "late.csv", "report-2.json", "report.json"]
    assert names_in(here / "attempts") == ["1", "2"]
    assert station.report(row)["attempt"] == 2
    assert (here / "entry.json").stat().st_size != size
    assert [each["outcome"] for each in station.facts(row)["attempts"]] == ["suspended", "success"]
    assert [station.attempt(row, number)["cause"] for number in (1, 2)] == ["capture", "retry"]


def test_a_listing_shows_nothing_twice_while_statuses_come(station: Mounted) -> None:
    row = station.only("notes.txt")
    with os.scandir(station.point / "by-converter" / "csv" / row.day_text) as entries:
        first = next(entries).name
        station.drop("csv", "bad2.csv", b"another")
        station.wait_for_status("bad2.csv", "failed")
        station.drop("csv", "pending.csv", b"another")
        rest = [entry.name for entry in entries]
    assert len({first, *rest}) == len([first, *rest])
    station.wait_for_status("pending.csv", "success")


# -- long listings -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """An archive of many entries in one directory."""
    folder = tmp_path_factory.mktemp("crowd")
    with an_archive(folder, config(CSV, FILES), mount=False) as archive:
        with Archive(archive.root) as library:
            for start in range(0, MANY, 500):
                group = [Capture("files", f"unit {n:05}.csv".encode(), b"%d" % n, mtime_ns=n)
                         for n in range(start, start + 500)]  # fmt: skip
                library.commit(group)
        yield archive.mount()


def directories(crowd: Mounted) -> list[Path]:
    """All directories that hold all entries."""
    row = crowd.entries()[0]
    return [
        crowd.point / "by-id",
        *(Path(os.fsdecode(place)).parent for place in crowd.places(row, "archived")),
    ]


def expected_names(crowd: Mounted, rows: list[Entry]) -> list[set[bytes]]:
    """The names that ``directories`` must show for these entries."""
    labels = {row.label(UTC) for row in rows}
    return [{row.id.encode() for row in rows}, labels, labels, labels, {row.flat_name for row in rows}]


def test_a_long_listing_is_complete_whatever_program_asks(crowd: Mounted) -> None:
    rows = crowd.entries()
    for directory, names in zip(directories(crowd), expected_names(crowd, rows), strict=True):
        expected = sorted(map(os.fsdecode, names))
        assert names_in(directory) == expected
        assert sorted({*run("ls", "-f", directory).splitlines()} - {".", ".."}) == expected
        found = run("find", directory, "-mindepth", "1", "-maxdepth", "1", "-printf", r"%f\n")
        assert sorted(found.splitlines()) == expected


def test_a_long_listing_can_be_rewound_and_started_in_the_middle(crowd: Mounted) -> None:
    script = """
use strict; opendir(my $d, $ARGV[0]) or die; my (@all, @at);
while (defined(my $name = readdir($d))) { push @all, $name; push @at, telldir($d); }
for my $n (0, 1, 17, 499, 500, 501, 1500, $#all - 1) {
    seekdir($d, $at[$n]); my @rest; while (defined(my $name = readdir($d))) { push @rest, $name; }
    die "after $n: " . scalar(@rest) unless join("/", @rest) eq join("/", @all[$n + 1 .. $#all]);
}
rewinddir($d); my @again = readdir($d);
die "again" unless join("/", @again) eq join("/", @all);
print scalar(@all);
"""
    for directory in directories(crowd):
        assert int(run("perl", "-e", script, directory)) >= MANY


def test_entries_added_while_a_listing_is_read_disturb_it_not(crowd: Mounted) -> None:
    before = crowd.entries()
    stop = threading.Event()

    def add() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            crowd.drop("files", f"added {number}.csv", b"added %d" % number)

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add)
        try:
            for directory, names in zip(directories(crowd), expected_names(crowd, before), strict=True):
                with os.scandir(os.fsencode(directory)) as entries:
                    found = [entry.name for entry in entries if entry.stat().st_ino]
                listed = run("ls", "-f", directory).splitlines()
                walked = run(
                    "find", directory, "-mindepth", "1", "-maxdepth", "1", "-printf", r"%f\n"
                ).splitlines()
                for each in (found, [*map(os.fsencode, listed)], [*map(os.fsencode, walked)]):
                    assert len(set(each)) == len(each)
                    assert names <= set(each)
        finally:
            stop.set()
        adding.result()
    assert len(crowd.entries()) > len(before)
    now = crowd.live()
    for directory, names in zip(directories(crowd), expected_names(crowd, now), strict=True):
        assert names <= {os.fsencode(name) for name in names_in(directory)}
