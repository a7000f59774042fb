"""Files that are saved at the top of the inbox: archived at once, then given to the converter they fit."""

import json
import os

import pytest
from mount_parts import Make, Mounted, archivefs, config, converter, names_in, poll

from archivefs.catalog.rows import Entry


def sure(name: str, **keys: object) -> str:
    """A converter that is as sure as a source says it is."""
    return converter(name, "python:good:Sure", arguments={"name": name}, **keys)


@pytest.fixture
def station(mounted: Make) -> Mounted:
    return mounted(
        config(
            sure("one"),
            sure("two", priority=2),
            converter("csv", "function:good:count", patterns=["*.csv"]),
            converter("photos", patterns=["*.png"]),
            converter("unrouted"),
        )
    )


def save(station: Mounted, name: str, content: str) -> None:
    """Save at the top of the inbox."""
    (station.inbox / name).write_text(content)


def ended(station: Mounted, name: str, status: str, kind: str) -> Entry:
    """The entry of that name, once it has that status, which must be that converter's."""
    row = station.wait_for_status(name, status)
    assert station.converter_name(row) == kind
    for place in station.places(row, status):
        assert os.path.exists(place)  # noqa: PTH110
    return row


def test_a_pattern_needs_nobody_to_be_asked(station: Mounted) -> None:
    save(station, "unit.csv", "one=1")
    assert station.converter_name(station.only("unit.csv")) == "csv"
    ended(station, "unit.csv", "success", "csv")
    save(station, "photo.png", "x")
    ended(station, "photo.png", "archived", "photos")
    poll(
        "files that have left", lambda: names_in(station.inbox) == ["csv", "one", "photos", "two", "unrouted"]
    )


def test_the_one_that_is_most_sure_gets_it(station: Mounted) -> None:
    save(station, "unit.txt", "one=0.4 two=0.9")
    assert station.converter_name(station.only("unit.txt")) == "unrouted"
    row = ended(station, "unit.txt", "success", "two")
    assert station.report(row) == {"by": "two"}
    assert station.facts(row)["confidence"] == 0.9
    said = archivefs("log", "--json", "--archive", station.root).stdout.splitlines()
    (routed,) = [event for event in map(json.loads, said) if event["kind"] == "routed"]
    assert routed["asked"] == {
        "one": "confidence 0.40: it says 0.4", "two": "confidence 0.90: it says 0.9"
    }  # fmt: skip
    poll("a folder that nothing is in", lambda: "unrouted" not in names_in(station.point / "by-converter"))


def test_of_two_that_are_as_sure_the_higher_priority_gets_it(station: Mounted) -> None:
    save(station, "unit.txt", "one=0.7 two=0.7")
    ended(station, "unit.txt", "success", "two")


def test_what_fits_nothing_is_kept_and_shown(station: Mounted) -> None:
    save(station, "unit.txt", "one=0.1")
    row = ended(station, "unit.txt", "archived", "unrouted")
    assert station.facts(row)["reason"] == "it fits no converter"
    assert station.content(row) == b"one=0.1"
    poll("a file that has left", lambda: "unit.txt" not in names_in(station.inbox))
    said = json.loads(archivefs("why", "--json", station.inbox / "unit.txt").stdout)
    assert (said["id"], said["next"]) == (
        row.id,
        f"nothing by itself; archivefs retry id={row.id} asks again",
    )


def test_the_newest_save_is_asked_about_and_the_others_are_superseded(mounted: Make) -> None:
    station = mounted(config(sure("one"), converter("unrouted", settle_seconds=2)))
    for number in range(3):
        save(station, "unit.txt", f"one=0.{number + 5}")
    row = ended(station, "unit.txt", "success", "one")
    assert station.content(row) == b"one=0.7"
    assert [each.status for each in station.entries("unit.txt")] == ["superseded"] * 2 + ["success"]


def test_a_rename_to_its_last_name_decides(station: Mounted) -> None:
    save(station, ".unit.csv.tmp", "x")
    assert station.entries() == []
    (station.inbox / ".unit.csv.tmp").rename(station.inbox / "unit.csv")
    ended(station, "unit.csv", "success", "csv")


def test_a_converter_that_raises_or_does_not_load_is_none_for_it(mounted: Make) -> None:
    tables = (converter("broken", "python:broken:Any"), converter("bad", "python:bad:Raises"), sure("one"))
    station = mounted(config(*tables))
    save(station, "unit.txt", "one=0.9")
    row = ended(station, "unit.txt", "success", "one")
    assert station.report(row) == {"by": "one"}


def test_a_stop_before_anybody_was_asked_forgets_nothing(mounted: Make) -> None:
    station = mounted(config(sure("one"), converter("unrouted", settle_seconds=5, post_action="keep")))
    save(station, "unit.txt", "one=0.9")
    save(station, "notes.txt", "x")
    station.kill()
    station.mount()
    assert sorted(row.status for row in station.entries()) == ["pending"] * 2
    ended(station, "unit.txt", "success", "one")
    ended(station, "notes.txt", "archived", "unrouted")
    station.remount()
    assert names_in(station.inbox) == ["notes.txt", "one", "unrouted"]
    assert len(station.entries()) == 2


def test_what_was_routed_and_is_still_in_the_inbox_is_known_after_a_kill(mounted: Make) -> None:
    station = mounted(config(sure("one", post_action="keep"), converter("unrouted")))
    save(station, "unit.txt", "one=0.9")
    ended(station, "unit.txt", "success", "one")
    station.kill()
    station.mount()
    assert names_in(station.inbox) == ["one", "unit.txt", "unrouted"]
    assert len(station.entries()) == 1


def test_a_converter_that_is_added_later_is_asked_when_a_person_wants_it(mounted: Make) -> None:
    station = mounted(config(converter("files")))
    save(station, "unit.txt", "one=0.9")
    row = ended(station, "unit.txt", "archived", "unrouted")
    station.umount()
    (station.root / "archive.toml").write_text(config(converter("files"), sure("one")))
    archivefs("retry", "--archive", station.root, "converter=unrouted")
    station.mount()
    assert ended(station, "unit.txt", "success", "one").id == row.id


def test_anybody_may_save_there(station: Mounted) -> None:
    assert station.inbox.stat().st_mode & 0o777 == 0o777


def test_from_the_folder_of_a_converter_it_is_another_disk(station: Mounted) -> None:
    file = station.inbox / "photos" / "photo.txt"
    file.write_text("x")
    with pytest.raises(OSError, match="cross-device"):
        file.rename(station.inbox / "photo.txt")
    (station.inbox / "top.png").write_text("x")
    with pytest.raises(OSError, match="cross-device"):
        (station.inbox / "top.png").rename(station.inbox / "photos" / "top.png")


def test_listings_that_were_kept_follow_an_entry_to_its_converter(mounted: Make) -> None:
    station = mounted(config(sure("one"), converter("unrouted", settle_seconds=4)))
    save(station, "unit.txt", "one=0.9")
    row = station.only("unit.txt")
    folder = station.point / "by-converter/unrouted" / row.day_text / "pending"
    for _ in range(2):
        assert len(names_in(folder)) == 1
    ended(station, "unit.txt", "success", "one")
    poll("a folder that nothing is in", lambda: names_in(folder) == [])
