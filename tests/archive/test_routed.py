"""Entries that get their converter after their capture: where they stand then; nothing else moves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_parts import (
    DAY,
    Clock,
    capture,
    captured,
    catalog_rows,
    commit,
    converted,
    due,
    entry,
    every_entry,
    everything_is_readable,
    make,
    nothing_is_left_over,
    source,
)
from test_verify_parts import archivefs, events_of, verify

from archivefs.archive import Archive
from archivefs.events import Captured, Routed
from archivefs.operations import Adopt, BeginAttempt, Retry, Route
from archivefs.rebuilding import rebuild
from archivefs.routing import ROUTING_REASON, UNROUTED
from archivefs.states import Status
from archivefs.statuses import NO_CONVERTER_REASON

TOML = """\
schema_version = 1
reserve = 0
[converters.ict]
run = "python:a:B"
[converters.log]
run = "command:true"
patterns = ["*.log"]
"""


@pytest.fixture
def archive(root: Path, clock: Clock) -> Iterator[Archive]:
    with make(root, clock, TOML) as archive:
        yield archive


def dropped(archive: Archive, content: bytes, name: bytes = b"unit.csv") -> str:
    """The id of a file that was saved at the top of the inbox."""
    return captured(archive, content, name, UNROUTED).id


def converter(archive: Archive, id_: str) -> str:
    return archive.reader.converter_name(entry(archive, id_).converter_id)


def test_a_source_waits_for_its_converter_from_the_moment_it_is_archived(
    archive: Archive, clock: Clock
) -> None:
    id_ = dropped(archive, b"1")
    row = entry(archive, id_)
    assert (row.status, row.reason, row.due_ms) == (Status.PENDING, ROUTING_REASON, clock.ms + 2000)
    assert source(archive, id_) == b"1"


def test_with_its_converter_it_is_due_at_once_and_its_bytes_stay_where_they_are(
    archive: Archive, clock: Clock
) -> None:
    id_ = dropped(archive, b"1")
    place = archive.reader.location(entry(archive, id_))
    clock.turn(2)
    assert commit(archive, Route(id_, "ict", 0.75, {"ict": "confidence 0.75: it looks so"})) == [True]
    row = entry(archive, id_)
    assert (converter(archive, id_), row.status, row.reason) == ("ict", Status.PENDING, "")
    assert (row.due_ms, row.confidence) == (clock.ms, 0.75)
    assert archive.reader.location(row) == place
    assert place.segment == "2026/02/13/unrouted.sources.zst"
    assert due(archive, clock.ms) == [id_]
    totals = {(each.converter, each.status): each.entries for each in archive.reader.totals()}
    assert totals == {("ict", Status.PENDING): 1}


def test_what_fits_no_converter_is_kept_and_can_be_asked_about_again(archive: Archive, clock: Clock) -> None:
    id_ = dropped(archive, b"1")
    commit(archive, Route(id_, "", 0.0, {"ict": "confidence 0.10: no"}))
    row = entry(archive, id_)
    assert (converter(archive, id_), row.status, row.reason) == (
        UNROUTED,
        Status.ARCHIVED,
        NO_CONVERTER_REASON,
    )
    assert commit(archive, Retry(id_)) == [""]
    assert entry(archive, id_).status is Status.PENDING
    assert commit(archive, Route(id_, "ict", 0.9, {})) == [True]
    assert converter(archive, id_) == "ict"


def test_nobody_to_ask_is_the_end_at_once(root: Path, clock: Clock) -> None:
    with make(root, clock, "schema_version = 1\nreserve = 0\n[converters.files]\n") as archive:
        row = entry(archive, dropped(archive, b"1"))
        assert (row.status, row.due_ms) == (Status.ARCHIVED, 0)


def test_one_source_is_routed_once(archive: Archive) -> None:
    id_ = dropped(archive, b"1")
    again = [Route(id_, "ict", 0.75, {}), Route(id_, "log", 0.9, {}), Route(id_, "", 0.0, {})]
    assert commit(archive, *again) == [True, False, False]
    assert commit(archive, Route(id_, "log", 0.9, {})) == [False]
    assert converter(archive, id_) == "ict"


def test_a_later_version_takes_its_place_before_anybody_is_asked(archive: Archive) -> None:
    first = dropped(archive, b"1")
    commit(archive, capture(b"2", converter=UNROUTED, supersedes=[first]))
    assert commit(archive, Route(first, "ict", 0.9, {})) == [False]
    assert entry(archive, first).status is Status.SUPERSEDED


def test_names_stay_apart_where_entries_come_and_go(archive: Archive) -> None:
    ids = [dropped(archive, content) for content in (b"1", b"2", b"2")]
    captured(archive, b"2", converter="ict")
    commit(archive, Route(ids[0], "ict", 0.9, {}))
    ids.append(dropped(archive, b"2"))
    for id_ in ids[1:]:
        commit(archive, Route(id_, "ict", 0.9, {}))
    rows = every_entry(archive)
    assert len({row.flat_name for row in rows}) == len(rows) == 5
    labels = [row.label(archive.zone) for row in rows]
    assert len(set(labels)) == 5
    for row in rows:
        found = archive.reader.by_label(row.label(archive.zone), row.day, archive.zone, row.converter_id)
        assert found == row


def test_quarantined_sources_are_asked_about_when_they_are_adopted(archive: Archive) -> None:
    (receipt,) = commit(archive, capture(b"half", converter=UNROUTED, quarantine="a stop"))
    assert commit(archive, Adopt(receipt.id)) == [Status.PENDING]
    assert entry(archive, receipt.id).reason == ROUTING_REASON
    assert commit(archive, Route(receipt.id, "ict", 0.9, {})) == [True]


def history(root: Path, clock: Clock) -> dict[str, str]:
    """An archive with routed sources, converted and not, and others beside them."""
    with make(root, clock, TOML) as archive:
        made = {name: dropped(archive, name.encode()) for name in ("done", "waits", "stays", "asked")}
        commit(archive, Route(made["done"], "ict", 0.9, {}), Route(made["waits"], "log", 0.5, {"log": "x"}))
        commit(archive, Route(made["stays"], "", 0.0, {"ict": "no"}))
        converted(archive, made["done"])
        commit(archive, BeginAttempt(made["waits"], "capture"))
        captured(archive, b"beside it", converter="ict")
    return made


def test_a_rebuilt_catalog_is_equal_and_verify_finds_nothing(root: Path, clock: Clock) -> None:
    history(root, clock)
    Archive(root, clock=clock).close()  # the conversion that ran waits again
    before = catalog_rows(root)
    rebuild(root)
    assert catalog_rows(root) == before
    assert verify(root).findings == []
    asked = [event.asked for event in events_of(root) if isinstance(event, Routed)]
    assert asked == [{}, {"log": "x"}, {"ict": "no"}]
    with Archive(root, clock=clock) as archive:
        everything_is_readable(archive)
        nothing_is_left_over(archive)


def test_a_repack_takes_routed_sources_along(root: Path, clock: Clock) -> None:
    made = history(root, clock)
    clock.turn(DAY)
    with Archive(root, clock=clock) as archive:
        captured(archive, b"tomorrow")
    assert archivefs("repack", "--archive", root, "--all").code == 0
    with Archive(root, clock=clock) as archive:
        for name, id_ in made.items():
            assert source(archive, id_) == name.encode()
            assert archive.reader.location(entry(archive, id_)).segment.endswith("/unrouted.sources.2.zst")
        assert not (root / "content/2026/02/13/unrouted.sources.zst").exists()
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    assert verify(root).findings == []


def test_without_a_journal_reports_tell_the_converter(root: Path, clock: Clock) -> None:
    made = history(root, clock)
    assert archivefs("rebuild", "--archive", root, "--from-segments").code == 0
    with Archive(root, clock=clock) as archive:
        assert converter(archive, made["done"]) == "ict"
        assert entry(archive, made["done"]).status is Status.SUCCESS
        assert converter(archive, made["stays"]) == UNROUTED
        assert {event.converter for event in events_of(root) if isinstance(event, Captured)} == {
            UNROUTED,
            "ict",
        }
        everything_is_readable(archive)
    assert verify(root).checks == {"quarantine"}  # the former journal
