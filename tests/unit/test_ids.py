"""Archive ids: unique, ascending and telling the capture time, whatever the clock does."""

import subprocess
import sys
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from archivefs.transaction import IdClock, id_milliseconds

NOON_MS = int(datetime(2026, 2, 13, 12, tzinfo=UTC).timestamp()) * 1000
HOUR_MS = 3_600_000
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
TIMES_MS = st.integers(0, 250_000_000_000_000)
LEAPS_MS = st.sampled_from([0, 0, 0, 1, 7, 1000, -1, -HOUR_MS, HOUR_MS, 365 * 24 * HOUR_MS])


def test_an_id_is_the_utc_time_and_six_digits_of_the_hash() -> None:
    assert IdClock("").next("a1b2c3" + "0" * 58, NOON_MS + 7) == ("20260213T120000007-a1b2c3", NOON_MS + 7)


@given(TIMES_MS, SHA256)
def test_the_milliseconds_come_back_from_an_id(when_ms: int, sha256: str) -> None:
    id_, captured_ms = IdClock("").next(sha256, when_ms)
    assert captured_ms == when_ms
    assert id_milliseconds(id_) == when_ms


IMPORTED = """
import sys
from archivefs.transaction import id_milliseconds
before = set(sys.modules)
id_milliseconds("20260213T120000007-a1b2c3")
sys.exit(", ".join(set(sys.modules) - before) or 0)
"""


def test_to_read_an_id_no_module_is_imported_for_which_there_may_be_no_descriptor() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@given(TIMES_MS, st.lists(st.tuples(LEAPS_MS, SHA256), min_size=2, max_size=50))
def test_ids_ascend_with_a_clock_that_stands_and_jumps(start_ms: int, steps: list[tuple[int, str]]) -> None:
    clock, now_ms, ids = IdClock(""), start_ms, []
    for leap_ms, sha256 in steps:
        now_ms = max(0, now_ms + leap_ms)
        id_, captured_ms = clock.next(sha256, now_ms)
        assert captured_ms >= now_ms
        assert id_milliseconds(id_) == captured_ms
        assert id_.endswith("-" + sha256[:6])
        ids.append(id_)
    assert ids == sorted(set(ids))


def test_a_clock_that_stands_still_costs_one_millisecond_only_for_a_lower_hash() -> None:
    clock = IdClock("")
    times = [clock.next(digit * 64, NOON_MS)[1] - NOON_MS for digit in "1ff20"]
    assert times == [0, 0, 1, 2, 3]


@given(SHA256, SHA256, st.sampled_from([0, -HOUR_MS, HOUR_MS]))
def test_ids_go_on_behind_the_last_of_the_archive(first: str, second: str, leap_ms: int) -> None:
    last, _ = IdClock("").next(first, NOON_MS)
    assert IdClock(last).next(second, NOON_MS + leap_ms)[0] > last
