"""Quarantine: what is in it is listed, taken back or dropped by a person, and the journal says who did."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from archive_parts import Clock, capture, captured, commit, due, entry, make, source
from test_verify_parts import Ran, archivefs, content_of, events_of, verify

from archivefs import quarantine
from archivefs.archive import Archive
from archivefs.errors import ArchiveError
from archivefs.events import Adopted, Dropped, TailCut, TailDropped
from archivefs.operations import Adopt, Drop
from archivefs.parts import Actor
from archivefs.states import Status

WHY = "it was being written when archivefs stopped"
ME = Actor(uid=os.getuid(), program="archivefs quarantine adopt")


@pytest.fixture
def halves(root: Path, clock: Clock) -> dict[str, str]:
    """A closed archive with quarantined entries of three converters and one that is not; their ids."""
    with make(root, clock) as archive:
        names = {
            "ict": capture(b"half of ict", b"u.csv", "ict", quarantine=WHY),
            "skipped": capture(b"half of what is not for it", b"u.txt", "ict", quarantine=WHY),
            "files": capture(b"half of files", b"f.bin", "files", quarantine=WHY),
            "whole": capture(b"whole", b"w.bin", "files"),
        }
        receipts = commit(archive, *names.values())
    return {name: receipt.id for name, receipt in zip(names, receipts, strict=True)}


def a_tail(root: Path, content: bytes = b"half a record") -> str:
    """Bytes that were cut off the end of a segment; returns their name."""
    with (root / "content/2026/02/13/files.sources.zst").open("ab") as out:
        out.write(content)
    Archive(root).close()
    (cut,) = [event for event in events_of(root) if isinstance(event, TailCut)]
    return cut.kept_as


def command(root: Path, verb: str, *arguments: str) -> Ran:
    return archivefs("quarantine", verb, "--archive", root, *arguments)


def rows(root: Path) -> list[dict[str, Any]]:
    """What ``quarantine list --json`` prints."""
    ran = command(root, "list", "--json")
    assert ran.code == 0
    return [json.loads(line) for line in ran.out.splitlines()]


def last(root: Path, count: int = 1) -> Sequence[object]:
    return events_of(root)[-count:]


# -- list --------------------------------------------------------------------------------------------------


def test_an_empty_quarantine_says_so(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    assert command(root, "list").out == "nothing is quarantined\n"
    assert rows(root) == []


def test_entries_and_kept_bytes_are_listed_with_reason_and_size(root: Path, halves: dict[str, str]) -> None:
    kept = a_tail(root)
    found = rows(root)
    entries = {row["id"]: row for row in found if "id" in row}
    assert entries.keys() == {halves[name] for name in ("ict", "skipped", "files")}
    first = entries[halves["ict"]]
    assert (first["converter"], first["name"], first["status"]) == ("ict", "u.csv", "quarantined")
    assert (first["reason"], first["size"]) == (WHY, 11)
    assert [row for row in found if "kept" in row] == [{"kept": kept, "size": 13}]


def test_people_get_a_line_for_each(root: Path, halves: dict[str, str]) -> None:
    kept = a_tail(root)
    lines = command(root, "list").out.splitlines()
    assert [halves["ict"], "11", "B", "ict/u.csv:", *WHY.split()] in [line.split() for line in lines]
    assert lines[-1].split() == [f"quarantine/{kept}", "13", "B"]
    assert len(lines) == 4


def test_the_former_state_of_a_repair_is_listed_as_one_thing_with_the_size_of_all(
    root: Path, halves: dict[str, str]
) -> None:
    (root / "archive.toml.tmp").write_bytes(b"x" * 100)
    verify(root, "--repair")
    (kept,) = [row for row in rows(root) if "kept" in row]
    assert kept["kept"].startswith("repair-")
    assert kept["size"] > 100


def test_a_name_of_any_bytes_can_be_listed_and_does_not_steer_the_terminal(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        commit(archive, capture(b"x", b"\xff\x1b]2;owned\x07\n.bin", quarantine=WHY))
    (row,) = rows(root)
    assert row["name"] == "\N{REPLACEMENT CHARACTER}\x1b]2;owned\x07\n.bin"
    text = command(root, "list").out
    assert "\x1b" not in text
    assert text.count("\n") == 1


def test_it_can_be_listed_while_somebody_else_writes(
    root: Path, clock: Clock, halves: dict[str, str]
) -> None:
    with Archive(root, clock=clock):
        assert len(rows(root)) == 3


# -- adopt -------------------------------------------------------------------------------------------------


def test_an_adopted_entry_goes_on_as_if_it_had_just_been_captured(
    root: Path, clock: Clock, halves: dict[str, str]
) -> None:
    before = content_of(root)
    clock.turn(3600)
    ran = command(root, "adopt", *(halves[name] for name in ("ict", "skipped", "files")))
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"{halves['ict']}  pending", f"{halves['skipped']}  skipped", f"{halves['files']}  archived"
    ]  # fmt: skip
    with Archive(root) as archive:
        row = entry(archive, halves["ict"])
        assert (row.status, row.reason) == (Status.PENDING, "")
        assert due(archive, 10**15) == [halves["ict"]]
        assert source(archive, halves["ict"]) == b"half of ict"
    assert rows(root) == []
    assert content_of(root) == before


def test_adopting_is_journaled_with_who_did_it(root: Path, halves: dict[str, str]) -> None:
    command(root, "adopt", halves["files"])
    (event,) = last(root)
    assert isinstance(event, Adopted)
    assert (event.id, event.status, event.actor) == (halves["files"], Status.ARCHIVED, ME)


def test_an_id_can_be_shortened_to_its_beginning(root: Path, halves: dict[str, str]) -> None:
    assert command(root, "adopt", halves["files"][:-2]).out == f"{halves['files']}  archived\n"


@pytest.mark.parametrize("verb", ["adopt", "drop"])
def test_wrong_ids_are_clear_errors_that_change_nothing(
    verb: str, root: Path, halves: dict[str, str]
) -> None:
    before = events_of(root)
    unknown = command(root, verb, "20300101T000000000-abcdef")
    assert (unknown.code, unknown.out) == (14, "")
    assert 'no entry with id "20300101T000000000-abcdef"' in unknown.err
    many = command(root, verb, halves["ict"][:8])
    assert many.code == 14
    assert "more than one entry begins so" in many.err
    whole = command(root, verb, halves["whole"])
    assert whole.code == 9
    assert f"{halves['whole']} is not quarantined: its status is archived" in whole.err
    assert command(root, verb, "x").code == 14
    assert command(root, verb).code == 2
    assert events_of(root) == before


@pytest.mark.parametrize("verb", ["adopt", "drop"])
def test_the_same_entry_cannot_be_decided_twice(verb: str, root: Path, halves: dict[str, str]) -> None:
    ran = command(root, verb, halves["files"], halves["files"])
    assert ran.code == 9
    assert "is not quarantined" in ran.err
    assert len([event for event in events_of(root) if isinstance(event, Adopted | Dropped)]) == 1


@pytest.mark.parametrize("verb", ["adopt", "drop"])
def test_deciding_waits_until_nobody_else_writes(
    verb: str, root: Path, clock: Clock, halves: dict[str, str]
) -> None:
    with Archive(root, clock=clock):
        ran = command(root, verb, halves["files"])
    assert ran.code == 13
    assert len(rows(root)) == 3


@pytest.mark.parametrize(("verb", "status"), [("adopt", "archived"), ("drop", "rejected")])
def test_what_was_decided_is_json_where_that_is_asked_for(
    verb: str, status: str, root: Path, halves: dict[str, str]
) -> None:
    ran = command(root, verb, "--json", halves["files"])
    assert ran.code == 0, ran
    facts = json.loads(ran.out)
    assert (facts["id"], facts["status"]) == (halves["files"], status)
    ran = command(root, verb, "--json", halves["whole"])
    assert json.loads(ran.err)["exit_code"] == ran.code == 9


# -- drop --------------------------------------------------------------------------------------------------


def test_a_dropped_entry_is_rejected_and_keeps_its_bytes(root: Path, halves: dict[str, str]) -> None:
    before = content_of(root)
    ran = command(root, "drop", halves["ict"])
    assert (ran.code, ran.out) == (0, f"{halves['ict']}  rejected\n")
    with Archive(root) as archive:
        row = entry(archive, halves["ict"])
        assert (row.status, row.reason, row.due_ms) == (Status.REJECTED, "dropped from quarantine", 0)
        assert source(archive, halves["ict"]) == b"half of ict"
    (event,) = last(root)
    assert isinstance(event, Dropped)
    assert event.actor == Actor(uid=os.getuid(), program="archivefs quarantine drop")
    assert content_of(root) == before
    assert halves["ict"] not in {row.get("id") for row in rows(root)}


def test_kept_bytes_are_removed_and_the_journal_says_so(root: Path, halves: dict[str, str]) -> None:
    kept = a_tail(root)
    ran = command(root, "drop", kept)
    assert (ran.code, ran.out) == (0, f"removed quarantine/{kept}\n")
    assert list((root / "quarantine").iterdir()) == []
    (event,) = last(root)
    assert isinstance(event, TailDropped)
    assert (event.kept_as, event.bytes) == (kept, 13)
    assert event.actor is not None
    assert verify(root).findings == []


def test_the_former_state_of_a_repair_can_be_dropped(root: Path, halves: dict[str, str]) -> None:
    (root / "archive.toml.tmp").write_bytes(b"x" * 100)
    verify(root, "--repair")
    (kept,) = [row["kept"] for row in rows(root) if "kept" in row]
    assert command(root, "drop", kept).code == 0
    assert not (root / "quarantine" / kept).exists()
    assert verify(root).findings == []


def test_entries_and_kept_bytes_can_be_dropped_together(root: Path, halves: dict[str, str]) -> None:
    kept = a_tail(root)
    ran = command(root, "drop", halves["ict"], kept, halves["files"])
    assert ran.out.splitlines() == [
        f"{halves['ict']}  rejected", f"removed quarantine/{kept}", f"{halves['files']}  rejected"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../archive.toml", "a/b", "/etc/passwd", "no-such.tail", "../content"]
)
def test_nothing_but_what_is_listed_can_be_removed(name: str, root: Path, halves: dict[str, str]) -> None:
    a_tail(root)
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    assert command(root, "drop", name).code in (2, 14)
    assert sorted(path.relative_to(root) for path in root.rglob("*")) == before


def test_a_link_in_quarantine_is_removed_and_not_what_it_leads_to(
    root: Path, halves: dict[str, str], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    (root / "quarantine").mkdir()
    (root / "quarantine" / "link").symlink_to(outside)
    command(root, "drop", "link")
    assert (outside / "precious").read_bytes() == b"x"


# -- the library -------------------------------------------------------------------------------------------


def test_adopt_and_drop_of_a_group_see_each_other(root: Path, clock: Clock, halves: dict[str, str]) -> None:
    with Archive(root, clock=clock) as archive:
        outcomes, _ = archive.commit([Adopt(halves["files"]), Drop(halves["files"]), Drop(halves["ict"])])
        assert outcomes[0] is Status.ARCHIVED
        assert isinstance(outcomes[1], ArchiveError)
        assert outcomes[2] is None
        assert entry(archive, halves["files"]).status is Status.ARCHIVED


def test_what_is_kept_is_a_plain_list_of_names_and_sizes(root: Path, halves: dict[str, str]) -> None:
    assert quarantine.kept(root) == []
    kept = a_tail(root, b"x" * 77)
    assert quarantine.kept(root) == [quarantine.Kept(kept, 77)]
    assert quarantine.is_kept(root, kept)
    assert not quarantine.is_kept(root, "x")


def test_tails_of_the_same_place_are_kept_beside_each_other(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"whole")
    segment = root / "content/2026/02/13/files.sources.zst"
    for content in (b"first half", b"second half"):
        with segment.open("ab") as out:
            out.write(content)
        Archive(root, clock=clock).close()
    contents = {file.read_bytes() for file in (root / "quarantine").iterdir()}
    assert contents == {b"first half", b"second half"}
    assert len({row["kept"] for row in rows(root)}) == 2
