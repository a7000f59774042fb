"""The journal over days: each has its file, and those that are over are sealed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_parts import Clock, append, day_file, seqs

from archivefs.errors import JournalDamagedError
from archivefs.events import AnyEvent, Touched
from archivefs.store.journal import Journal


def sealed_days(directory: Path, clock: Clock) -> Journal:
    """Two events on each of 13, 14, 15 and 16 February; the first three days are sealed."""
    journal = Journal(directory, clock)
    for _ in range(4):
        append(journal, 2)
        clock.turn(days=1)
    clock.turn(days=-1)
    journal.seal_finished_days()
    journal.close()
    return journal


def names(directory: Path) -> list[str]:
    return sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())


def test_each_utc_day_has_its_file(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    append(journal, 1)
    clock.turn(days=11.9999 / 24)
    append(journal, 1)
    clock.turn(days=0.0001)
    append(journal, 1)
    clock.turn(days=321)
    append(journal, 1)
    assert names(tmp_path) == ["2026/02/13.jsonl", "2026/02/14.jsonl", "2027/01/01.jsonl"]
    assert seqs(tmp_path) == [1, 2, 3, 4]


def test_a_clock_that_jumps_back_does_not_reopen_an_earlier_day(tmp_path: Path, clock: Clock) -> None:
    for days in (0, 1, -400, 1):
        clock.turn(days=days)
        journal = Journal(tmp_path, clock)
        append(journal, 1)
        clock.turn(days=-2)
        append(journal, 1)
        clock.turn(days=2)
        journal.close()
    assert names(tmp_path) == ["2026/02/13.jsonl", "2026/02/14.jsonl"]
    assert seqs(tmp_path) == list(range(1, 9))


def test_sealed_days_are_what_they_were(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path, clock)
    append(journal, 300)
    clock.turn(days=1)
    append(journal, 1)
    plain = day_file(tmp_path).read_bytes()
    assert journal.seal_finished_days() == [day_file(tmp_path).with_suffix(".jsonl.zst")]
    journal.close()
    assert names(tmp_path) == ["2026/02/13.jsonl.zst", "2026/02/14.jsonl"]
    sealed = tmp_path / "2026/02/13.jsonl.zst"
    assert sealed.stat().st_size < len(plain) / 2
    assert subprocess.run(["zstd", "-dcq", sealed], capture_output=True, check=True).stdout == plain
    assert seqs(tmp_path) == list(range(1, 302))


def test_the_newest_day_is_never_sealed(tmp_path: Path, clock: Clock) -> None:
    sealed_days(tmp_path, clock)
    clock.turn(days=5)
    journal = Journal(tmp_path, clock)
    assert journal.seal_finished_days() == []
    append(journal, 1)
    assert [file.name for file in journal.seal_finished_days()] == ["16.jsonl.zst"]
    append(journal, 1)
    journal.close()
    assert seqs(tmp_path) == list(range(1, 11))


@pytest.mark.parametrize("after", range(10))
def test_reading_begins_behind_any_event(tmp_path: Path, clock: Clock, after: int) -> None:
    journal = sealed_days(tmp_path, clock)
    append(journal, 1)
    journal.close()
    assert seqs(tmp_path, after) == list(range(after + 1, 10))
    assert [event.mtime_ns for event in touched(tmp_path, after)] == list(range(after + 1, 10))


def touched(directory: Path, after: int) -> list[Touched]:
    events: Iterator[AnyEvent] = Journal(directory).read(after)
    return [event for event in events if isinstance(event, Touched)]


def test_a_crash_before_the_plain_day_was_removed_leaves_both_and_harms_nothing(
    tmp_path: Path, clock: Clock
) -> None:
    journal = Journal(tmp_path, clock)
    append(journal, 3)
    plain = day_file(tmp_path).read_bytes()
    clock.turn(days=1)
    append(journal, 1)
    journal.seal_finished_days()
    journal.close()
    day_file(tmp_path).write_bytes(plain)
    again = Journal(tmp_path, clock)
    assert seqs(tmp_path) == [1, 2, 3, 4]
    again.seal_finished_days()
    assert names(tmp_path) == ["2026/02/13.jsonl.zst", "2026/02/14.jsonl"]
    assert seqs(tmp_path) == [1, 2, 3, 4]


def test_a_crash_while_a_day_was_compressed_leaves_the_plain_one(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path, clock)
    append(journal, 3)
    clock.turn(days=1)
    append(journal, 1)
    journal.close()
    (tmp_path / "2026/02/13.jsonl.zst.tmp").write_bytes(b"\x28\xb5\x2f\xfd torn")
    again = Journal(tmp_path, clock)
    assert again.head.seq == 4
    assert seqs(tmp_path) == [1, 2, 3, 4]
    again.seal_finished_days()
    assert names(tmp_path) == ["2026/02/13.jsonl.zst", "2026/02/14.jsonl"]
    assert seqs(tmp_path) == [1, 2, 3, 4]


def test_a_damaged_sealed_day_is_named(tmp_path: Path, clock: Clock) -> None:
    journal = sealed_days(tmp_path, clock)
    sealed = day_file(tmp_path, 14).with_suffix(".jsonl.zst")
    data = sealed.read_bytes()
    for at in range(len(data)):
        sealed.write_bytes(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])
        with pytest.raises(JournalDamagedError, match=r"1[45]\.jsonl"):
            list(journal.read())
    sealed.write_bytes(data[: len(data) // 2])
    with pytest.raises(JournalDamagedError, match=r"1[45]\.jsonl"):
        list(journal.read())
