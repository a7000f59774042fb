"""The query language: words become typed terms, and what is wrong with a word is said."""

import contextlib
import shlex
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archivefs import query
from archivefs.errors import QueryError
from archivefs.query import Query, Term, parse
from archivefs.states import Status

OSLO = ZoneInfo("Europe/Oslo")
ZONES = st.sampled_from(
    ["UTC", "Europe/Oslo", "America/New_York", "America/Havana", "America/Sao_Paulo", "Asia/Beirut",
     "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"]
).map(ZoneInfo)  # fmt: skip
MILLISECONDS = st.integers(
    int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1000,
    int(datetime(2040, 1, 1, tzinfo=UTC).timestamp()) * 1000,
)
KEYS = "id converter status from to date name sha256 text version report min_size max_size limit"


def one(words: str, zone: ZoneInfo | None = None) -> Term:
    (term,) = parse(words, zone or ZoneInfo("UTC")).terms
    return term


def bound(words: str, zone: ZoneInfo | None = None) -> int:
    (value,) = one(words, zone).values
    assert isinstance(value, int)
    return value


def ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def complaint(words: str) -> str:
    with pytest.raises(QueryError) as caught:
        parse(words, OSLO)
    return str(caught.value)


def test_the_keys_are_those_of_the_design() -> None:
    assert " ".join([*query.KEYS, "limit"]) == KEYS
    assert " ".join(query.MEANING) == KEYS


@pytest.mark.parametrize("nothing", ["", "   ", []])
def test_an_empty_query_selects_everything(nothing: str | list[str]) -> None:
    assert parse(nothing, OSLO) == Query((), query.NO_LIMIT)


@pytest.mark.parametrize(
    ("words", "term"),
    [
        ("id=20260213T143022123-a1b2c3", Term("id", ("20260213T143022123-a1b2c3",))),
        ("converter=ict-csv,photos", Term("converter", ("ict-csv", "photos"))),
        ("status=failed,pending", Term("status", (Status.FAILED, Status.PENDING))),
        ("date=2026-02-13,2026-02-14", Term("date", (date(2026, 2, 13), date(2026, 2, 14)))),
        ("name=*.csv,*.xml", Term("name", ("*.csv", "*.xml"))),
        ("sha256=a1b2c3", Term("sha256", ("a1b2c3",))),
        ("text=a,b", Term("text", ("a,b",))),
        ('text="time out"', Term("text", ("time out",))),
        ("text=a=b", Term("text", ("a=b",))),
        ("name='it'\"'\"'s here'", Term("name", ("it's here",))),
        ("name=two\\ words", Term("name", ("two words",))),
        ("version=1.0,2.0", Term("version", ("1.0", "2.0"))),
        ("report=yes", Term("report", ("yes",))),
        ("report=yes,no", Term("report", ("yes", "no"))),
        ('min_size="10 kB"', Term("min_size", (10_000,))),
        ("max_size=1MiB", Term("max_size", (1 << 20,))),
    ],
)
def test_a_word_becomes_a_typed_term(words: str, term: Term) -> None:
    assert one(words) == term


def test_words_that_a_shell_has_split_are_not_split_again() -> None:
    assert parse(["text=two words", "limit=5"], OSLO) == Query((Term("text", ("two words",)),), 5)


def test_all_terms_stand_in_the_order_of_the_words() -> None:
    terms = parse("status=failed text=timeout status=pending limit=3", OSLO).terms
    assert [term.key for term in terms] == ["status", "text", "status"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5))
def test_a_quoted_text_is_taken_literally(texts: list[str]) -> None:
    words = [f"text={text}" for text in texts]
    expected = tuple(Term("text", (text,)) for text in texts)
    assert parse(shlex.join(words), OSLO).terms == expected
    assert parse(words, OSLO).terms == expected


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        ("failed", ['"failed" is no condition', "key=value", KEYS, "such as status=failed"]),
        ("'no answer'", ['"no answer" is no condition', "such as text='no answer'"]),
        ("status=", ['"status=" is no condition', KEYS, "status= takes: pending, converting, success"]),
        ("size=1", ['unknown key "size"', 'did you mean "min_size" or "max_size"?']),
        ("=failed", ['unknown key ""', KEYS]),
        ("stats=failed", ['unknown key "stats"', 'did you mean "status"?', KEYS]),
        ("limt=1", ['unknown key "limt"', 'did you mean "limit"?']),
        ("zzz=1", ['unknown key "zzz": allowed are: ' + KEYS]),
        ("Status=failed", ['unknown key "Status"', 'did you mean "status"?']),
        ("status=broken", ["status=broken: must be one of pending, converting, success, failed"]),
        ("status=failed,", ["status=failed,: must be one of"]),
        ("status=Fail", ['; did you mean "failed"?']),
        ("id=5", ["id=5: must be an archive id such as 20260213T143022123-a1b2c3"]),
        ("id=20260213T143022123-A1B2C3", ["must be an archive id"]),
        ("sha256=a1b2", ["sha256=a1b2: must be 6 to 64 hexadecimal digits"]),
        ("sha256=xyzxyz", ["sha256=xyzxyz: must be 6 to 64"]),
        ("report=maybe", ["report=maybe: must be yes or no"]),
        ("date=yesterday", ["date=yesterday: must be YYYY-MM-DD"]),
        ("date=2026-02-30", ["date=2026-02-30: must be YYYY-MM-DD"]),
        ("from=soon", ["from=soon: must be YYYY-MM-DD or an ISO time such as 2026-02-13T14:30:22"]),
        ("to=2026-13-01", ["to=2026-13-01: must be YYYY-MM-DD"]),
        ("from=0000-01-01", ["from=0000-01-01: must be"]),
        ("min_size=big", ['min_size=big: must be a size such as "10 GB"']),
        ("max_size=-1", ["max_size=-1: must be a size"]),
        ("limit=0", ["limit=0: must be a whole number of at least 1"]),
        ("limit=-5", ["limit=-5: must be"]),
        ("limit=many", ["limit=many: must be"]),
        ("text='open", ["is not quoted well", "No closing quotation"]),
    ],
)
def test_a_mistake_names_the_key_the_value_and_what_is_allowed(words: str, phrases: list[str]) -> None:
    text = complaint(words)
    for phrase in phrases:
        assert phrase in text


@pytest.mark.parametrize("words", ["min_size=" + "9" * 400, "min_size=" + "9" * 30, "limit=" + "9" * 30])
def test_a_number_that_no_archive_can_reach_is_a_query_error_or_harmless(words: str) -> None:
    try:
        found = parse(words, OSLO)
    except QueryError:
        pass
    else:
        assert found.limit < 2**63
        assert all(isinstance(value, int) and value < 2**63 for term in found.terms for value in term.values)


def test_hexadecimal_digits_may_be_written_in_capitals() -> None:
    assert one("sha256=A1B2C3").values == ("a1b2c3",)


def test_a_day_begins_and_ends_in_the_zone_of_the_archive() -> None:
    assert bound("from=2026-02-13", OSLO) == ms("2026-02-12T23:00:00+00:00")
    assert bound("to=2026-02-13", OSLO) == ms("2026-02-13T22:59:59.999+00:00")


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_days_with_a_change_of_the_clocks_have_their_own_length(day: str, hours: int) -> None:
    assert bound(f"to={day}", OSLO) - bound(f"from={day}", OSLO) + 1 == hours * 3_600_000


def test_a_time_without_zone_is_meant_in_the_zone_of_the_archive() -> None:
    assert bound("from=2026-02-13T14:30:22", OSLO) == ms("2026-02-13T13:30:22+00:00")
    assert bound("from=2026-02-13T14:30:22Z", OSLO) == ms("2026-02-13T14:30:22+00:00")
    assert bound("from=2026-02-13T14:30:22-05:00", OSLO) == ms("2026-02-13T19:30:22+00:00")
    assert bound("from='2026-02-13 14:30'", OSLO) == ms("2026-02-13T13:30:00+00:00")


def test_to_includes_the_whole_second_it_names() -> None:
    assert bound("to=2026-02-13T14:30:22Z") == ms("2026-02-13T14:30:22.999+00:00")


def test_to_with_milliseconds_includes_no_more_than_that_one() -> None:
    assert bound("to=2026-02-13T14:30:22.500Z") == ms("2026-02-13T14:30:22.500+00:00")
    assert bound("to=2026-02-13T14:30:22.000Z") == ms("2026-02-13T14:30:22.000+00:00")


def test_to_can_name_the_last_day_there_is() -> None:
    assert bound("to=9999-12-31") >= ms("9999-12-31T23:59:59.999+00:00")


@given(MILLISECONDS, ZONES)
def test_a_moment_is_within_its_own_bounds_and_in_no_others(when_ms: int, zone: ZoneInfo) -> None:
    text = (datetime.fromtimestamp(when_ms // 1000, UTC) + timedelta(milliseconds=when_ms % 1000)).isoformat()
    assert bound(f"from={text}", zone) == when_ms
    if "." in text:
        assert bound(f"to={text}", zone) == when_ms


@given(MILLISECONDS, ZONES)
def test_a_day_holds_exactly_its_own_moments(when_ms: int, zone: ZoneInfo) -> None:
    today = datetime.fromtimestamp(when_ms / 1000, zone).date()
    assert bound(f"from={today}", zone) <= when_ms <= bound(f"to={today}", zone)
    assert bound(f"from={today + timedelta(days=1)}", zone) > when_ms
    assert bound(f"to={today - timedelta(days=1)}", zone) < when_ms
    assert bound(f"from={today + timedelta(days=1)}", zone) == bound(f"to={today}", zone) + 1


@given(st.text())
def test_any_text_is_a_query_or_a_query_error(words: str) -> None:
    with contextlib.suppress(QueryError):
        parse(words, OSLO)


@given(st.sampled_from(KEYS.split()), st.text(min_size=1))
def test_any_value_is_a_term_or_an_error_that_names_its_key(key: str, value: str) -> None:
    message = f"{key}="
    try:
        parse([f"{key}={value}"], OSLO)
    except QueryError as error:
        message = str(error)
    assert message.startswith(f"{key}=")
