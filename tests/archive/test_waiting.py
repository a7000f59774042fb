"""Which due entry comes next: priorities, turns, and that nobody starves behind a flood."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archive_parts import Clock, capture, captured, commit, make

from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.convert.waiting import AHEAD, LOOK_SECONDS, TURN_SECONDS, Place, Waiting

TABLE = '[converters.{}]\nrun = "command:true"\nsettle_seconds = 0\npriority = {}\n'
TOML = "schema_version = 1\nreserve = 0\n" + "".join(
    TABLE.format(name, priority)
    for name, priority in (("a", 5), ("b", 5), ("c", 5), ("urgent", 1), ("late", 8))
)


class Ticks:
    """A clock in seconds that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def archive(root: Path, clock: Clock) -> Iterator[Archive]:
    with make(root, clock, TOML) as archive:
        yield archive


def flood(archive: Archive, converter: str, count: int) -> None:
    """So many entries that are due now."""
    commit(archive, *[capture(b"%d" % number, converter=converter) for number in range(count)])


def taker(archive: Archive, ticks: Ticks, places: int = 1) -> Callable[[int, list[str]], str]:
    """Takes the next entry in a place while these converters run, and tells whose it is ('' for none)."""
    started: set[int] = set()
    waiting = Waiting(archive, lambda entry: entry.n not in started, ticks)
    all_places = [Place() for _ in range(places)]

    def take(place: int, running: list[str]) -> str:
        numbers = [archive.reader.converter_id(name) or 0 for name in running]
        entry = waiting.take(all_places[place], numbers)
        if entry is None:
            return ""
        assert entry.n not in started
        started.add(entry.n)
        return archive.reader.converter_name(entry.converter_id)

    return take


def test_one_entry_behind_a_flood_of_another_converter_comes_with_its_first_turn(
    archive: Archive, ticks: Ticks
) -> None:
    flood(archive, "a", 5000)
    flood(archive, "b", 1)
    take = taker(archive, ticks, places=2)
    assert [take(0, []), take(1, ["a"])] == ["a", "b"]


def test_one_place_is_shared_by_turns_of_a_moment(archive: Archive, ticks: Ticks) -> None:
    flood(archive, "a", 5000)
    flood(archive, "b", 1)
    flood(archive, "c", 3)
    take = taker(archive, ticks)
    order = []
    for _ in range(12):
        order.append(take(0, []))
        ticks.now += TURN_SECONDS / 2
    assert "".join(order) == "aabaccaacaaa" or "".join(order) == "aabccaacaaaa", order


def test_a_flood_is_converted_whole_though_it_is_read_in_parts(archive: Archive, ticks: Ticks) -> None:
    flood(archive, "a", 2 * AHEAD + 7)
    take = taker(archive, ticks)
    assert [take(0, []) for _ in range(2 * AHEAD + 8)] == ["a"] * (2 * AHEAD + 7) + [""]


def test_priority_one_is_the_highest_and_needs_no_turn(archive: Archive, ticks: Ticks) -> None:
    flood(archive, "late", 3)
    flood(archive, "a", 3)
    take = taker(archive, ticks)
    assert take(0, []) == "a"
    flood(archive, "urgent", 2)
    ticks.now += LOOK_SECONDS * 2
    assert [take(0, []) for _ in range(8)] == ["urgent"] * 2 + ["a"] * 2 + ["late"] * 3 + [""]


def test_who_runs_least_gets_the_free_place(archive: Archive, ticks: Ticks) -> None:
    flood(archive, "a", 10)
    take = taker(archive, ticks, places=3)
    assert [take(0, []), take(1, ["a"]), take(2, ["a", "a"])] == ["a", "a", "a"]
    flood(archive, "b", 10)
    ticks.now += LOOK_SECONDS * 2
    assert [take(0, ["a", "a"]), take(1, ["b", "a"]), take(2, ["b", "a"])] == ["b", "a", "a"]


def test_however_many_are_held_back_the_next_one_is_found(archive: Archive, ticks: Ticks) -> None:
    flood(archive, "a", 3 * AHEAD)

    def may_start(entry: Entry) -> bool:
        return entry.n > 3 * AHEAD - 2

    waiting = Waiting(archive, may_start, ticks)
    first, second = waiting.take(Place(), []), waiting.take(Place(), [])
    assert first is not None
    assert (first.n, second and second.n) == (3 * AHEAD - 1, 3 * AHEAD)


def test_what_was_read_as_due_and_is_held_since_is_not_handed_out(archive: Archive, ticks: Ticks) -> None:
    flood(archive, "a", 2)
    held: set[int] = set()
    waiting = Waiting(archive, lambda entry: entry.n not in held, ticks)
    assert waiting.take(Place(), []) is not None
    held.add(2)
    assert waiting.take(Place(), []) is None


def test_what_becomes_due_beside_a_backlog_that_must_wait_is_seen_soon(
    root: Path, clock: Clock, ticks: Ticks
) -> None:
    """The answer of a moment ago is good enough as long as somebody asks again."""
    tables = '[converters.slow]\nrun = "command:true"\nsettle_seconds = 0\n'
    tables += '[converters.late]\nrun = "command:true"\nsettle_seconds = 5\n'
    with make(root, clock, "schema_version = 1\nreserve = 0\n" + tables) as archive:
        for number in range(3):
            captured(archive, b"%d" % number, converter="slow")
        captured(archive, b"late", converter="late")
        waiting, busy = Waiting(archive, lambda _: True, ticks), Place()
        first = waiting.take(busy, [])
        assert first is not None
        busy.running = 1
        assert waiting.take(busy, [], ahead_bytes=0) is None, "too large to be begun ahead"
        clock.turn(5)
        assert waiting.seconds_to_next() <= LOOK_SECONDS + 0.01


def test_it_sleeps_until_the_earliest_of_all_converters(root: Path, clock: Clock, ticks: Ticks) -> None:
    tables = '[converters.slow]\nrun = "command:true"\nsettle_seconds = 60\n'
    tables += '[converters.quick]\nrun = "command:true"\nsettle_seconds = 20\n[converters.files]\n'
    with make(root, clock, "schema_version = 1\nreserve = 0\n" + tables) as archive:
        waiting = Waiting(archive, lambda _: True, ticks)
        assert waiting.seconds_to_next() == float("inf")
        for converter in ("slow", "files", "quick"):
            captured(archive, b"1", converter=converter)
        assert waiting.seconds_to_next() == pytest.approx(20.001)
        assert waiting.take(Place(), []) is None
        clock.turn(20)
        entry = waiting.take(Place(), [])
        assert entry is not None
        assert archive.reader.converter_name(entry.converter_id) == "quick"
        assert waiting.seconds_to_next() == pytest.approx(40.001)
