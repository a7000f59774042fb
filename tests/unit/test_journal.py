"""The journal: one chain over day files, whose every alteration is noticed and whose torn end is known."""

import hashlib
import itertools
import json
import os
from pathlib import Path

import pytest
from journal_parts import Clock, append, day_file, event, five_lines, seqs

from archivefs.errors import JournalDamagedError
from archivefs.events import Touched
from archivefs.store.chain import ZERO, Head
from archivefs.store.journal import Journal, Torn

# -- the chain ---------------------------------------------------------------------------------------------


def test_events_are_numbered_dated_and_chained(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    stamped = journal.append([event(1), event(2)])
    clock.ns += 1_234_000
    stamped += journal.append([event(3)])
    lines = day_file(tmp_path).read_bytes().splitlines()
    assert [line.seq for line in stamped] == [1, 2, 3]
    assert [line.at for line in stamped] == ["2026-02-13T12:00:00.000000Z"] * 2 + [
        "2026-02-13T12:00:00.001234Z"
    ]
    assert [line.prev for line in stamped] == [ZERO] + [
        hashlib.sha256(each).hexdigest() for each in lines[:2]
    ]
    assert [json.loads(line)["prev"] for line in lines] == [line.prev for line in stamped]
    assert journal.head == Head(3, hashlib.sha256(lines[-1]).hexdigest())
    assert list(journal.read()) == stamped


def test_an_empty_journal_has_no_events(journal: Journal, tmp_path: Path) -> None:
    assert journal.head == Head(0, ZERO)
    assert list(journal.read()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_chain_goes_on_when_the_journal_is_opened_again(tmp_path: Path, clock: Clock) -> None:
    for _ in range(3):
        journal = Journal(tmp_path, clock)
        append(journal, 2)
        journal.close()
    assert seqs(tmp_path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("size", [65_530, 65_536, 70_000, 600_000])
def test_the_last_line_is_found_however_long_it_is(tmp_path: Path, clock: Clock, size: int) -> None:
    journal = Journal(tmp_path, clock)
    journal.append([Touched(id="x" * size, mtime_ns=0, mode=0, uid=0, gid=0)] * 2)
    journal.close()
    assert Journal(tmp_path, clock).head == journal.head


# -- torn ends ---------------------------------------------------------------------------------------------


def test_a_last_line_torn_at_any_byte_is_set_apart(tmp_path: Path, clock: Clock) -> None:
    file, lines = five_lines(tmp_path, clock)
    start = sum(len(line) for line in lines[:-1])
    for end in range(start + len(lines[-1]) - 1, start - 1, -1):
        os.truncate(file, end)
        torn = Journal(tmp_path, clock)
        assert torn.head == Head(4, hashlib.sha256(lines[3][:-1]).hexdigest())
        assert torn.torn == (Torn(file, start, lines[-1][: end - start]) if end > start else None)
        assert [event.seq for event in torn.read()] == [1, 2, 3, 4]


@pytest.mark.parametrize("kept", [0, 1, 60])
def test_the_chain_goes_on_where_a_torn_end_was_cut(tmp_path: Path, clock: Clock, kept: int) -> None:
    file, lines = five_lines(tmp_path, clock)
    os.truncate(file, sum(len(line) for line in lines[:-1]) + kept)
    journal = Journal(tmp_path, clock)
    journal.cut_torn()
    assert journal.torn is None
    append(journal, 1)
    journal.close()
    assert file.read_bytes() == b"".join(lines)


def test_a_first_line_that_is_torn_leaves_an_empty_journal(tmp_path: Path, clock: Clock) -> None:
    file, lines = five_lines(tmp_path, clock)
    os.truncate(file, len(lines[0]) - 1)
    journal = Journal(tmp_path, clock)
    assert journal.head == Head(0, ZERO)
    assert journal.torn == Torn(file, 0, lines[0][:-1])
    journal.cut_torn()
    append(journal, 1)
    journal.close()
    assert file.read_bytes() == lines[0]


def test_a_torn_first_line_of_a_new_day_leaves_the_day_before(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path, clock)
    append(journal, 2)
    clock.turn(days=1)
    append(journal, 1)
    journal.close()
    os.truncate(day_file(tmp_path, 14), 50)
    again = Journal(tmp_path, clock)
    assert again.head.seq == 2
    assert again.torn is not None
    again.cut_torn()
    append(again, 1)
    again.close()
    assert seqs(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("number", [3, 4, 5])
def test_a_gap_of_zeros_behind_the_checkpoint_is_the_end_of_the_journal(
    tmp_path: Path, clock: Clock, number: int
) -> None:
    """A power cut can keep a later page of an unsynced group and lose an earlier one."""
    journal = Journal(tmp_path, clock)
    append(journal, 2)
    journal.write_checkpoint()
    journal.append([event(3), event(4), event(5)])
    journal.close()
    file = day_file(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[number - 1] = b"\0" * (len(lines[number - 1]) - 1) + b"\n"
    file.write_bytes(b"".join(lines))
    again = Journal(tmp_path, clock)
    again.check_checkpoint()
    assert again.head.seq == number - 1
    assert again.torn == Torn(file, len(b"".join(lines[: number - 1])), b"".join(lines[number - 1 :]))
    again.cut_torn()
    append(again, 1)
    again.close()
    assert seqs(tmp_path) == list(range(1, number + 1))


def test_a_gap_of_zeros_before_the_checkpoint_is_damage(tmp_path: Path, clock: Clock) -> None:
    file, lines = five_lines(tmp_path, clock)
    Journal(tmp_path, clock).write_checkpoint()
    file.write_bytes(b"".join([*lines[:2], b"\0" * (len(lines[2]) - 1) + b"\n", *lines[3:]]))
    assert damage(tmp_path).startswith(f"{file}:3: ")


# -- damage ------------------------------------------------------------------------------------------------


def damage(directory: Path) -> str:
    with pytest.raises(JournalDamagedError) as caught:
        seqs(directory)
    return str(caught.value)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_any_altered_byte_of_a_line_is_noticed_at_it_or_the_next(
    tmp_path: Path, clock: Clock, number: int
) -> None:
    file, lines = five_lines(tmp_path, clock)
    start = sum(len(line) for line in lines[: number - 1])
    data = file.read_bytes()
    for at in range(start, start + len(lines[number - 1]) - 1):
        altered = b"9" if data[at : at + 1] != b"9" else b"8"
        file.write_bytes(data[:at] + altered + data[at + 1 :])
        text = damage(tmp_path)
        assert text.startswith((f"{file}:{number}: ", f"{file}:{number + 1}: ")), (at, text)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_removed_line_is_noticed_where_it_was(tmp_path: Path, clock: Clock, number: int) -> None:
    file, lines = five_lines(tmp_path, clock)
    file.write_bytes(b"".join(lines[: number - 1] + lines[number:]))
    assert damage(tmp_path).startswith(f"{file}:{number}: ")


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations([1, 2, 3, 4], 2)))
def test_swapped_lines_are_noticed_at_the_first(tmp_path: Path, clock: Clock, one: int, other: int) -> None:
    file, lines = five_lines(tmp_path, clock)
    lines[one - 1], lines[other - 1] = lines[other - 1], lines[one - 1]
    file.write_bytes(b"".join(lines))
    assert damage(tmp_path).startswith(f"{file}:{one}: ")


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_doubled_line_is_noticed(tmp_path: Path, clock: Clock, number: int) -> None:
    file, lines = five_lines(tmp_path, clock)
    file.write_bytes(b"".join(lines[:number] + lines[number - 1 :]))
    assert damage(tmp_path).startswith(f"{file}:{number + 1}: line {number} does not follow line {number}: ")


def test_a_missing_day_in_the_middle_is_noticed(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path, clock)
    for _ in range(3):
        append(journal, 2)
        clock.turn(days=1)
    journal.close()
    day_file(tmp_path, 14).unlink()
    assert damage(tmp_path).startswith(f"{day_file(tmp_path, 15)}:1: line 5 does not follow line 2: ")


def test_a_missing_first_day_is_noticed(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path, clock)
    append(journal, 2)
    clock.turn(days=1)
    append(journal, 2)
    journal.close()
    day_file(tmp_path).unlink()
    assert damage(tmp_path).startswith(f"{day_file(tmp_path, 14)}:1: ")


def test_a_line_that_is_no_event_is_named(tmp_path: Path, clock: Clock) -> None:
    file, lines = five_lines(tmp_path, clock)
    file.write_bytes(b"".join([*lines[:2], b"garbage\n", *lines[2:]]))
    assert damage(tmp_path).startswith(f"{file}:3: not a readable event: ")


def test_a_last_line_that_is_no_event_is_named_at_once(tmp_path: Path, clock: Clock) -> None:
    file, lines = five_lines(tmp_path, clock)
    file.write_bytes(b"".join([*lines, b"garbage\n"]))
    with pytest.raises(JournalDamagedError, match="last line: not a readable event"):
        Journal(tmp_path, clock)


# -- the checkpoint ----------------------------------------------------------------------------------------


def test_the_checkpoint_sees_a_tail_that_was_cut_off(tmp_path: Path, clock: Clock) -> None:
    file, lines = five_lines(tmp_path, clock)
    Journal(tmp_path, clock).write_checkpoint()
    Journal(tmp_path, clock).check_checkpoint()
    file.write_bytes(b"".join(lines[:3]))
    with pytest.raises(
        JournalDamagedError, match=r"ends at line 3, but the checkpoint of 2026-02-13T12:00:00\.0"
    ):
        Journal(tmp_path, clock).check_checkpoint()


def test_the_checkpoint_sees_that_every_day_was_removed(tmp_path: Path, clock: Clock) -> None:
    file, _ = five_lines(tmp_path, clock)
    Journal(tmp_path, clock).write_checkpoint()
    file.unlink()
    with pytest.raises(JournalDamagedError, match="its tail was cut off"):
        Journal(tmp_path, clock).check_checkpoint()


def test_the_checkpoint_sees_a_last_line_that_was_altered(tmp_path: Path, clock: Clock) -> None:
    file, lines = five_lines(tmp_path, clock)
    Journal(tmp_path, clock).write_checkpoint()
    file.write_bytes(b"".join(lines).replace(b'"id":"entry 5"', b'"id":"entry 6"'))
    with pytest.raises(JournalDamagedError):
        Journal(tmp_path, clock).check_checkpoint()


@pytest.mark.parametrize("note", [None, b"", b"{", b"[]", b"5", b"{}", b'{"seq":"many"}', b'{"seq":null}'])
def test_a_checkpoint_that_is_missing_or_torn_stops_nothing(
    tmp_path: Path, clock: Clock, note: bytes | None
) -> None:
    five_lines(tmp_path, clock)
    if note is not None:
        (tmp_path / "checkpoint.json").write_bytes(note)
    Journal(tmp_path, clock).check_checkpoint()


def test_a_journal_that_grew_since_the_checkpoint_is_fine(tmp_path: Path, clock: Clock) -> None:
    five_lines(tmp_path, clock)
    journal = Journal(tmp_path, clock)
    journal.write_checkpoint()
    append(journal, 1)
    journal.close()
    Journal(tmp_path, clock).check_checkpoint()


# -- taking back -------------------------------------------------------------------------------------------


def test_an_append_that_is_taken_back_leaves_nothing(journal: Journal, tmp_path: Path) -> None:
    append(journal, 2)
    head, data = journal.head, day_file(tmp_path).read_bytes()
    journal.append([event(3), event(4)])
    journal.undo()
    assert (journal.head, day_file(tmp_path).read_bytes()) == (head, data)
    append(journal, 1)
    assert seqs(tmp_path) == [1, 2, 3]


def test_the_first_append_of_a_day_can_be_taken_back(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    append(journal, 2)
    clock.turn(days=1)
    journal.append([event(3)])
    journal.undo()
    assert Journal(tmp_path, clock).head.seq == 2
    clock.turn(days=-1)
    append(journal, 1)
    assert seqs(tmp_path) == [1, 2, 3]
    journal.seal_finished_days()
    assert seqs(tmp_path) == [1, 2, 3]


def test_taking_back_twice_takes_back_once(journal: Journal, tmp_path: Path) -> None:
    append(journal, 2)
    journal.append([event(3)])
    journal.undo()
    journal.undo()
    assert seqs(tmp_path) == [1, 2]


def test_an_append_that_could_not_open_its_file_is_taken_back(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path, clock)
    append(journal, 2)
    clock.turn(days=30)
    (tmp_path / "2026" / "03").write_text("in the way")
    with pytest.raises(OSError, match="03"):
        journal.append([event(3)])
    journal.undo()
    (tmp_path / "2026" / "03").unlink()
    append(journal, 1)
    journal.close()
    assert seqs(tmp_path) == [1, 2, 3]
