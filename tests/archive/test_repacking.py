"""Repacking: smaller, the same byte for byte, and whole wherever it is stopped or meets trouble."""

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from archive_parts import (
    DAY,
    NOON_MS,
    TOML,
    Clock,
    capture,
    captured,
    catalog_rows,
    child_environment,
    commit,
    converted,
    every_entry,
    everything_is_readable,
    make,
    measured,
    nothing_is_left_over,
    some_bytes,
    source,
    trained,
)

from archivefs.archive import Archive
from archivefs.errors import ContentDamagedError
from archivefs.events import Voided
from archivefs.fs.frame_cache import LEAST_BYTES, ContentHandle, FrameCache
from archivefs.jobs import dictionaries, repack
from archivefs.operations import Note
from archivefs.parts import Location
from archivefs.query import parse
from archivefs.rebuilding import rebuild
from archivefs.store import frames
from archivefs.store.dictionaries import Dictionary
from archivefs.store.segment import first_header
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope, verify_folder

MIB = 1 << 20
REPORTS = 300
CALLS = "fdatasync,fsync,rename,unlink"
"""What a repack says to the disk, apart from writing: before each of them it is killed once."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def days(root: Path, clock: Clock) -> Path:
    """Two days, the second not over: small reports, conversions, a large content, an empty one."""
    with make(root, clock) as made:
        for _ in range(2):
            made_now = [capture(measured(number), b"%d.csv" % number, "ict") for number in range(REPORTS)]
            for receipt in commit(made, *made_now)[:3]:
                converted(made, receipt.id, measured(-1))
            captured(made, some_bytes(1, 3 << 20), b"large.bin")
            captured(made, b"", b"empty.bin")
            clock.turn(DAY)
    clock.turn(-DAY)
    return root


@pytest.fixture
def archive(days: Path, clock: Clock) -> Iterator[Archive]:
    """The same, open."""
    with Archive(days, clock=clock) as opened:
        yield opened


def repacked(archive: Archive, words: str = "", *, everything: bool = False) -> list[repack.Result]:
    """Repack in this process; what came of each group."""
    query = parse(words, archive.zone) if words else None
    return [
        repack.repack(archive, group, archive.commit_one)
        for group in repack.groups(archive, query, everything=everything)
    ]


def sources(archive: Archive) -> dict[str, bytes]:
    return {row.id: source(archive, row.id) for row in every_entry(archive)}


def segments(root: Path, day: str = "2026/02/13") -> set[str]:
    return {file.name for file in (root / "content" / day).iterdir()}


def dictionary_of(segment: Path) -> str:
    header = first_header(segment)
    assert header is not None
    return header.dictionary


def is_sound(root: Path) -> None:
    """Nothing is found by a full verification, and the catalog is what the journal says."""
    found = verify_folder(root, Scope())
    assert [each for each in found.findings if each.severity > Severity.INFO] == []
    rows = catalog_rows(root)
    rebuild(root)
    assert catalog_rows(root) == rows


def test_finished_days_become_smaller_and_stay_the_same(days: Path, clock: Clock) -> None:
    with Archive(days, clock=clock) as archive:
        before, files = sources(archive), segments(days)
        today = segments(days, "2026/02/14")
        results = repacked(archive)
        assert [result.records for result in results] == [2, 6, REPORTS]
        assert all(result.after <= result.before for result in results)
        assert sources(archive) == before
        everything_is_readable(archive)
        nothing_is_left_over(archive)
        assert not segments(days) & files
        assert segments(days, "2026/02/14") == today
        assert repacked(archive) == []
    is_sound(days)


def test_a_dictionary_that_came_later_serves_the_days_before(days: Path, clock: Clock) -> None:
    with Archive(days, clock=clock) as archive:
        before = sources(archive)
        stored = [row.stored for row in every_entry(archive)[:REPORTS]]
        made = trained(archive, "ict", "sources")
        repacked(archive, "converter=ict")
        assert sum(row.stored for row in every_entry(archive)[:REPORTS]) < 0.6 * sum(stored)
        assert sources(archive) == before
        (row,) = archive.reader.dictionaries()
        assert row.name == made.name
    is_sound(days)


def test_a_dictionary_of_a_repack_serves_other_days_but_not_what_is_captured(
    days: Path, clock: Clock
) -> None:
    with Archive(days, clock=clock) as archive:
        repacked(archive, "converter=ict")
        (row,) = archive.reader.dictionaries()
        assert (row.converter, row.content, row.day) == ("ict", "sources", "2026-02-13")
        captured(archive, measured(5000), b"later.csv", "ict")
        assert dictionary_of(days / "content/2026/02/14/ict.sources.zst") == ""
        assert dictionary_of(days / "content/2026/02/13/ict.sources.2.zst") == row.name
        repacked(archive, "converter=ict", everything=True)
        assert dictionary_of(days / "content/2026/02/14/ict.sources.2.zst") == row.name
        assert archive.reader.dictionaries() == [row]
    is_sound(days)


def test_a_dictionary_is_made_for_the_level_at_which_it_is_used() -> None:
    given, others = [measured(n) for n in range(500)], [measured(n) for n in range(1000, 1100)]
    made = [dictionaries.train("files", "sources", given, None, level) for level in (3, repack.LEVEL)]
    low, high = (Dictionary("made", each.data) for each in made if each)

    def size(level: int, dictionary: Dictionary) -> int:
        return sum(frames.encode_bytes(each, level, dictionary).stored for each in others)

    assert size(3, low) < 0.9 * size(3, high)
    assert size(repack.LEVEL, high) < size(repack.LEVEL, low)


def of_another_format(number: int) -> bytes:
    """What the same stations save after an update of their program."""
    chance = random.Random(number)
    rows = (f"<test id={n * n * 7919} kind={(n * 31) % 17}>{chance.random():.3f}</test>" for n in range(60))
    return "\n".join(rows).encode()


def test_a_new_format_gets_a_dictionary_for_its_day_and_one_for_what_comes(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        old = trained(archive, "ict", "sources")
        commit(archive, *(capture(of_another_format(n), b"%d.xml" % n, "ict") for n in range(REPORTS)))
        clock.turn(DAY)
        before = sources(archive)
        repacked(archive, "converter=ict")
        first, for_captures, for_the_day = archive.reader.dictionaries()
        assert (first, for_captures.day, for_the_day.day) == (old, "", "2026-02-13")
        captured(archive, of_another_format(-1), b"later.xml", "ict")
        assert dictionary_of(root / "content/2026/02/14/ict.sources.zst") == for_captures.name
        assert dictionary_of(root / "content/2026/02/13/ict.sources.2.zst") == for_the_day.name
        assert {id_: content for id_, content in sources(archive).items() if id_ in before} == before
    is_sound(root)


def test_all_repacks_today_and_what_comes_later_begins_a_new_file(days: Path, clock: Clock) -> None:
    with Archive(days, clock=clock) as archive:
        before = sources(archive)
        assert len(repacked(archive, everything=True)) == 6
        later = captured(archive, b"later", b"later.bin")
        assert sources(archive) == before | {later.id: b"later"}
        assert {"files.sources.2.zst", "files.sources.3.zst"} <= segments(days, "2026/02/14")
        (again,) = repacked(archive, everything=True)
        assert again.records == 3
        assert sources(archive) == before | {later.id: b"later"}
    is_sound(days)


def test_a_query_chooses_converters_and_days(archive: Archive) -> None:
    chosen = repack.groups(archive, parse("converter=files", archive.zone), everything=True)
    assert [group.base.rpartition("/")[2] for group in chosen] == ["files.sources", "files.sources"]
    assert repack.groups(archive, parse("date=2026-02-14", archive.zone), everything=False) == []


async def read(handle: ContentHandle, size: int, start: int = 0) -> bytes:
    pieces, at = [], start
    while at < size:
        pieces.append(await handle.read(at, 128 << 10))
        at += len(pieces[-1])
    return b"".join(pieces)


async def test_open_files_are_read_on_while_their_segment_goes(archive: Archive) -> None:
    row = next(row for row in every_entry(archive) if row.name == b"large.bin")
    content = source(archive, row.id)

    def place() -> Location:
        return archive.reader.location(archive.reader.get(row.id))

    cache = FrameCache(archive.content, LEAST_BYTES)
    opened = [ContentHandle(cache, 1, place(), row.size, place) for _ in range(2)]
    half = row.size // 2
    first = await read(opened[0], half)
    await trio.to_thread.run_sync(partial(repacked, archive, "converter=files"))
    assert (
        first[:half] + await read(opened[0], row.size, half) == content[: len(first[:half])] + content[half:]
    )
    assert await read(opened[1], row.size) == content


async def test_frames_of_a_mebibyte_are_read_and_become_smaller_ones(
    days: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [some_bytes(seed, size) for seed, size in enumerate([MIB - 5, MIB, 3 * MIB + 7], 5)]
    with Archive(days, clock=clock) as archive:
        with monkeypatch.context() as before:
            before.setattr(frames, "FRAME_BYTES", MIB)
            ids = [receipt.id for receipt in commit(archive, *(capture(content) for content in contents))]

        def place(id_: str) -> Location:
            return archive.reader.location(archive.reader.get(id_))

        cache = FrameCache(archive.content, LEAST_BYTES)
        opened = [
            (id_, content, ContentHandle(cache, 1, place(id_), len(content), partial(place, id_)))
            for id_, content in zip(ids, contents, strict=True)
        ]
        assert {archive.content.layout(place(id_), len(all_)).frame_size for id_, all_, _ in opened} == {MIB}
        halves = [await read(handle, len(content) // 2) for _, content, handle in opened]
        await trio.to_thread.run_sync(partial(repacked, archive, everything=True))
        for half, (id_, content, handle) in zip(halves, opened, strict=True):
            assert half + await read(handle, len(content), len(half)) == content
            assert archive.content.layout(place(id_), len(content)).frame_size == frames.FRAME_BYTES
    await trio.to_thread.run_sync(is_sound, days)


def damage(archive: Archive, name: bytes) -> None:
    """Flip a bit in the middle of a content."""
    row = next(row for row in every_entry(archive) if row.name == name)
    place = archive.reader.location(row)
    with (archive.root / "content" / place.segment).open("r+b") as file:
        file.seek(place.offset + place.header + place.stored // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


def test_a_damaged_record_leaves_its_day_as_it_was(archive: Archive, root: Path) -> None:
    damage(archive, b"large.bin")
    files, lines = segments(root), archive.reader.changed_seq()
    (group,) = repack.groups(archive, parse("converter=files", archive.zone), everything=False)
    with pytest.raises(ContentDamagedError, match=r"files\.sources\.zst"):
        repack.repack(archive, group, archive.commit_one)
    assert (segments(root), archive.reader.changed_seq()) == (files, lines)
    assert [result.records for result in repacked(archive, "converter=ict")] == [6, REPORTS]


def test_a_lost_entry_keeps_its_segment(archive: Archive, root: Path) -> None:
    row = next(row for row in every_entry(archive) if row.name == b"large.bin")
    commit(archive, Note(Voided(id=row.id, attempt=0, ordinal=0, reason="for a test")))
    repacked(archive, "converter=files")
    assert "files.sources.zst" in segments(root), "who puts the content back looks for it there"


# -- the command -------------------------------------------------------------------------------------------


def command(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "archivefs.cli.main", "--archive", str(root), "repack", *words]


def run(words: list[str], before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, env=child_environment(), capture_output=True, text=True, check=False, preexec_fn=before
    )


@pytest.fixture
def small(root: Path) -> Path:
    """One day that was over long ago, of one converter, with a few records."""
    Archive.create(root, TOML, clock=Clock(NOON_MS))
    with Archive(root, clock=Clock(NOON_MS)) as made:
        for number in range(5):
            captured(made, measured(number) * 20, b"%d.csv" % number)
        captured(made, some_bytes(2, 1_500_000), b"large.bin")
    Archive(root).close()
    return root


def test_the_command_says_what_it_did_and_passes_it_over_the_next_time(small: Path) -> None:
    planned = json.loads(run(command(small, "--dry-run", "--json")).stdout)
    assert segments(small) == {"files.sources.zst"}
    done = run(command(small, "--json"))
    said = json.loads(done.stdout)
    assert (done.returncode, said["records"]) == (0, 6)
    assert said["bytes_after"] < said["bytes_before"] == planned["bytes_before"]
    assert run(command(small)).stdout == ""
    is_sound(small)


def killed(root: Path, call: str, number: int) -> bool:
    """Repack, killed before the ``number``-th of these calls; false where there are not so many."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
              "-e", f"inject={call}:signal=SIGKILL:when={number}"]  # fmt: skip
    return run([*strace, *command(root)]).returncode != 0


@pytest.mark.parametrize("call", CALLS.split(","))
def test_killed_before_any_step_everything_is_there_and_the_next_repack_ends_it(
    small: Path, tmp_path: Path, call: str
) -> None:
    with Archive(small) as archive:
        before = sources(archive)
    number = 1
    while True:
        copy = tmp_path / f"copy {number}"
        subprocess.run(["cp", "-a", small, copy], check=True)
        if not killed(copy, call, number):
            break
        with Archive(copy) as archive:
            assert sources(archive) == before
            nothing_is_left_over(archive)
        assert run(command(copy)).returncode == 0
        with Archive(copy) as archive:
            assert sources(archive) == before
            assert len(segments(copy)) == 1
            nothing_is_left_over(archive)
        is_sound(copy)
        number += 1
    assert number > 1


def test_a_disk_that_takes_no_more_leaves_the_day_as_it_was(small: Path) -> None:
    before = (small / "content/2026/02/13/files.sources.zst").read_bytes()
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (400_000, 400_000))
    refused = run(command(small), limit)
    assert refused.returncode != 0
    assert "2026/02/13/files.sources is not repacked: " in refused.stderr
    assert segments(small) == {"files.sources.zst"}
    assert (small / "content/2026/02/13/files.sources.zst").read_bytes() == before
    assert run(command(small)).returncode == 0
    is_sound(small)


def test_it_gives_way_to_everything_else(archive: Archive) -> None:
    seen = []
    for group in repack.groups(archive, parse("converter=files", archive.zone), everything=False):
        repack.repack(archive, group, archive.commit_one, lambda _: seen.append(niceness()))
    assert seen
    assert all(19 in each for each in seen), "threads that compress have the lowest priority"
    assert os.getpriority(os.PRIO_PROCESS, 0) < 19


def niceness() -> set[int]:
    """The priorities of all threads of this process."""
    tasks = Path("/proc/self/task")
    return {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks.iterdir()}
