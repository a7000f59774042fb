"""Reports compared: what is counted, and what cannot be compared."""

import json
from typing import Any

import pytest

from archivefs.errors import ContentDamagedError
from archivefs.jobs.comparison import FURTHER, MOST_FIELDS, Comparison, Side


def side(*reports: Any) -> Side:  # noqa: ANN401  any JSON
    """Reports of a success; their text stands for their hash."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in reports]
    return Side("success", "", texts, lambda: [text.encode() for text in texts])


def nested(depth: int, value: int) -> str:
    return '{"a":' * depth + str(value) + "}" * depth


def damaged() -> list[bytes]:
    raise ContentDamagedError("the record is damaged")


def test_further_fields_are_counted_once_for_an_entry() -> None:
    comparison = Comparison()
    new = {f"k{number}": number for number in range(MOST_FIELDS + 3000)}
    for id_ in ("first", "second"):
        assert comparison.add(id_, side({}), side(new)) == ""
    assert comparison.changed[FURTHER]["count"] == 2
    assert [each["id"] for each in comparison.changed[FURTHER]["examples"]] == ["first", "second"]
    assert {row["count"] for row in comparison.changed.values()} == {2}


@pytest.mark.parametrize("depth", [200, 985, 5000, 100_000])
def test_reports_that_are_nested_deeply_are_counted(depth: int) -> None:
    comparison = Comparison()
    why = comparison.add("deep", side({"a": 1}), side(nested(depth, 1)))
    why += comparison.add("both", side(nested(depth, 2)), side(nested(depth, 1)))
    assert comparison.total == comparison.counts["changed"] + comparison.counts["incomparable"] == 2
    assert bool(why) == (comparison.counts["incomparable"] > 0)
    assert why == "" if depth == 200 else True
    json.dumps(comparison.summary())


def test_a_report_that_cannot_be_read_makes_its_entry_incomparable() -> None:
    comparison = Comparison()
    broken = side("x")._replace(read=damaged)
    assert comparison.add("same", broken, side("x")) == ""
    assert comparison.add("other", broken, side({"result": 1})) == (
        "its reports cannot be compared: the record is damaged"
    )
    assert (comparison.counts["identical"], comparison.counts["incomparable"], comparison.changed) == (
        1,
        1,
        {},
    )
