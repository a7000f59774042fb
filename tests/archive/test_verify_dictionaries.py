"""verify and dictionaries: what is missing, damaged or unknown is named once; only a backup mends it."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from archive_parts import Clock, captured, make, measured, trained
from test_verify_parts import (
    content_of,
    everything_is_as_before,
    files_below,
    flip,
    rows_but_meta,
    sample,
    sql,
    verify,
)

FILE = "dictionaries/ict-1.zdict"


class Break(NamedTuple):
    """Damages the sample's only dictionary, which the 33 logs and reports of ``ict`` need."""

    damage: Callable[[Path], object]
    check: str
    severity: str = "critical"
    code: int = 52


def flip_middle(file: Path) -> None:
    flip(file, file.stat().st_size // 2)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def renumber(file: Path) -> None:
    flip(file, 4)


def unreadable(file: Path) -> None:
    """As a bad sector: reading a folder as a file fails with an errno."""
    file.unlink()
    file.mkdir()


BREAKS: Mapping[str, Break] = {
    "missing": Break(Path.unlink, "dictionary-missing"),
    "the whole folder is missing": Break(lambda file: shutil.rmtree(file.parent), "dictionary-missing"),
    "one bit is another": Break(flip_middle, "dictionary-damaged"),
    "one byte is missing": Break(truncate, "dictionary-damaged"),
    "empty": Break(lambda file: file.write_bytes(b""), "dictionary-damaged"),
    "another number": Break(renumber, "dictionary-damaged"),
    "unreadable": Break(unreadable, "dictionary-damaged"),
}
named = pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS.keys())


@named
def test_a_lost_dictionary_is_one_finding_that_counts_what_needs_it(broken: Break, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    broken.damage(root / FILE)
    ran = verify(root)
    (finding,) = ran.findings
    assert (finding["check"], finding["severity"], finding["where"]) == (broken.check, "critical", FILE)
    assert finding["what"].endswith("; 33 of the records that were read need it")
    assert ran.code == broken.code


@named
def test_a_lost_dictionary_that_is_put_back_makes_all_well_again(broken: Break, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before, rows, kept = content_of(root), rows_but_meta(root), files_below(root / "dictionaries")
    broken.damage(root / FILE)
    found = verify(root)
    ran = verify(root, "--repair")
    assert (ran.code, ran.findings, ran.err) == (found.code, found.findings, ""), "a repair does nothing"
    assert content_of(root) == before
    shutil.rmtree(root / "dictionaries", ignore_errors=True)
    (root / "dictionaries").mkdir()
    (root / FILE).write_bytes(kept["ict-1.zdict"])
    assert verify(root).findings == []
    everything_is_as_before(root, before, rows)


def test_a_record_that_is_damaged_itself_is_told_beside_a_lost_dictionary(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    (root / FILE).unlink()
    flip(root / "content/2026/02/13/ict.reports.zst", 20)
    ran = verify(root)
    assert {finding["check"] for finding in ran.findings} == {"dictionary-missing", "record-damaged"}
    assert len(ran.findings) == 2


def test_a_frame_that_names_a_dictionary_by_damage_is_a_damaged_record(root: Path, clock: Clock) -> None:
    """Its segment needs none."""
    with make(root, clock) as archive:
        captured(archive, measured(1))
        place = archive.reader.location(archive.reader.all_after(0, 1)[0])
    flip_to = root / "content" / place.segment
    data = bytearray(flip_to.read_bytes())
    data[place.header + 4] |= 1  # the frame header descriptor now has a dictionary id of one byte
    flip_to.write_bytes(data)
    (finding,) = verify(root).findings
    assert finding["check"] == "record-damaged"


def test_a_dictionary_that_the_journal_does_not_know_is_a_notice(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    shutil.copy(root / FILE, root / "dictionaries/ict-2.zdict")
    for options in ((), ("--repair",), ()):
        ran = verify(root, *options)
        (finding,) = ran.findings
        assert (finding["check"], finding["severity"]) == ("dictionary-unknown", "notice")
        assert (finding["where"], ran.code) == ("dictionaries/ict-2.zdict", 0)
    (root / "dictionaries/ict-2.zdict").unlink()
    assert verify(root).findings == []


def test_one_that_may_just_have_been_made_is_no_finding_while_somebody_writes(
    root: Path, clock: Clock
) -> None:
    with make(root, clock) as archive:
        row = trained(archive, "files", "sources")
        file = root / f"dictionaries/{row.name}.zdict"
        shutil.copy(file, file.with_name("files-2.zdict"))
        assert verify(root).findings == []
    assert verify(root).checks == {"dictionary-unknown"}


def test_a_dictionary_that_was_being_written_is_an_orphan(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    (root / "dictionaries/ict-2.zdict.tmp").write_bytes(b"half")
    assert verify(root).checks == {"orphan-file"}
    assert verify(root, "--repair").checks == {"quarantine"}
    assert [file.name for file in (root / "dictionaries").iterdir()] == ["ict-1.zdict"]


def test_a_catalog_that_lost_a_dictionary_is_mended_from_the_journal(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before, rows = content_of(root), rows_but_meta(root)
    sql(root, "DELETE FROM dictionaries")
    assert verify(root).checks == {"catalog-differs", "dictionary-unknown"}
    assert verify(root, "--repair").checks == {"quarantine"}
    everything_is_as_before(root, before, rows)
