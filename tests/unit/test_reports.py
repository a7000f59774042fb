"""The ids of reports, and what the answers of receivers mean."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archivefs import reports
from archivefs.config import SubmitConfig
from archivefs.states import Submission
from archivefs.submit.delivery import ERROR_LENGTH, SecretError, delay_seconds, later, secret
from archivefs.submit.directory import file_name
from archivefs.submit.http import id_in, meaning, seconds_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["id", "a", "b", ""]) | st.text(max_size=4), VALUES, max_size=5)


@pytest.mark.parametrize(
    ("report", "id_"),
    [
        ({"id": "SN 1"}, "SN 1"),
        ({"id": 17}, "17"),
        ({"id": ""}, ""),
        ({"id": None}, ""),
        ({"id": True}, ""),
        ({"id": {"id": 1}}, ""),
        ({"id": "x" * 200}, "x" * 200),
        ({"id": "x" * 201}, ""),
        ({"id": "a\nb"}, ""),
        ({"a": {"id": 1}}, ""),
        ([{"id": 1}], ""),
        ({}, ""),
    ],
)
def test_the_id_of_a_report_is_its_member_of_that_name(report: object, id_: str) -> None:
    assert reports.id_of(json.dumps(report).encode()) == id_


@given(OBJECTS, st.text(min_size=1, max_size=10), st.sampled_from([None, 2]))
def test_a_report_is_sent_with_an_id_and_says_the_same_else(
    report: dict[str, Any], made: str, indent: int | None
) -> None:
    given = json.dumps(report, indent=indent).encode()
    sent = json.loads(reports.with_id(given, made))
    own = reports.id_of(given)
    assert sent == (report if own else report | {"id": made})
    if "id" not in report:
        assert list(sent) == ["id", *report]


@given(st.binary(max_size=30))
def test_what_is_no_report_is_sent_as_it_is(content: bytes) -> None:
    sent = reports.with_id(content, "made")
    assert sent == content or json.loads(sent)["id"] == "made"


def test_ids_are_those_that_the_page_says() -> None:
    sha256 = "ca83e98b01477b08e4f2631911ed2f4ae167afe01a2997eea658eb40c9f9d3bc"
    namespace = uuid.UUID("b0a7c1de-6f0e-5d0c-9a53-0d8b6a1c7f42")
    assert reports.make_id(sha256, "ict-csv", 1) == str(uuid.uuid5(namespace, f"{sha256}/ict-csv/1"))
    page = (Path(__file__).parents[2] / "docs" / "submission.md").read_text()
    assert reports.make_id(sha256, "ict-csv", 1) in page
    assert len({reports.make_id(sha256, name, n) for name in ("a", "b") for n in (1, 2)}) == 4


@pytest.mark.parametrize("status", range(200, 600))
def test_every_status_sends_refuses_or_keeps(status: int) -> None:
    state = meaning(status, "", b"").state
    if status < 300:
        assert state is Submission.SENT
    elif status < 400 or status >= 500 or status in (401, 403, 407, 408, 425, 429):
        assert state is Submission.QUEUED
    else:
        assert state is Submission.REFUSED


def test_retry_after_is_seconds_or_a_date() -> None:
    assert seconds_of("120") == 120
    assert seconds_of(" 0 ") == 0
    soon = datetime.now(UTC) + timedelta(seconds=90)
    assert 88 <= seconds_of(format_datetime(soon, usegmt=True)) <= 90
    assert seconds_of(format_datetime(soon - timedelta(days=2), usegmt=True)) == 0
    for nonsense in ("", "soon", "-5", "1e9", "٣", "Mon, 99 Xxx 2026", "\0"):
        assert seconds_of(nonsense) == 0
    assert meaning(503, "9" * 50, b"").retry_after == 86_400
    assert meaning(404, "5", b"").retry_after == 0


@given(st.text(max_size=60))
def test_no_text_of_retry_after_is_an_error(text: str) -> None:
    assert seconds_of(text) >= 0


@pytest.mark.parametrize(
    ("body", "id_"),
    [
        (b'{"id": "17"}', "17"),
        (b'{"ID": 17}', "17"),
        (b'{"status": "ok", "reportId": "a-b"}', "a-b"),
        (b'{"report_id": "c"}', "c"),
        (b'[{"uuid": "d"}]', "d"),
        (b'"e"', "e"),
        (b"5", "5"),
        (b'{"id": null}', ""),
        (b'{"id": true}', ""),
        (b'[{"id": 1}, {"id": 2}]', ""),
        (b"OK", ""),
        (b"", ""),
        (b"\xff", ""),
    ],
)
def test_the_id_in_an_answer(body: bytes, id_: str) -> None:
    assert id_in(body) == id_


@given(st.binary(max_size=40))
def test_no_answer_is_an_error(body: bytes) -> None:
    assert isinstance(id_in(body), str)
    assert meaning(500, "", body).error.startswith("HTTP 500")


def test_waits_double_up_to_a_limit_and_are_partly_left_to_chance() -> None:
    config = SubmitConfig(kind="http", retry_delay_seconds=2, max_retry_delay_seconds=60)
    for failures, longest in ((1, 2), (2, 4), (3, 8), (6, 60), (10**6, 60)):
        delays = [delay_seconds(config, failures) for _ in range(200)]
        assert all(longest / 2 <= each <= longest for each in delays)
        assert len(set(delays)) > 100
    assert delay_seconds(config, 1, 500.0) == 500
    patient = SubmitConfig(kind="http", retry_delay_seconds=100, max_retry_delay_seconds=60)
    assert 50 <= delay_seconds(patient, 5) <= 100


@given(st.text(min_size=1, max_size=200))
def test_the_name_of_a_file_is_one_whatever_the_id(report_id: str) -> None:
    name = file_name(report_id)
    assert "/" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 255
    assert name.isascii()


def test_different_ids_have_different_names() -> None:
    ids = ["a", "A", "a/b", "a%2Fb", "a b", ".a", "%2Ea", "..", "é" * 100, "é" * 101, "x" * 200]
    assert len({file_name(each) for each in ids}) == len(ids)


def test_secrets_come_from_files_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("abc\n")
    monkeypatch.setenv("TOKEN", "def")
    assert secret("file:token", tmp_path) == "abc"
    assert secret(f"file:{tmp_path}/token", Path("/")) == "abc"
    assert secret("env:TOKEN", tmp_path) == "def"
    assert secret("plain", tmp_path) == "plain"
    (tmp_path / "lines").write_text("a\nX-Injected: b")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "accents").write_text("é")
    for wrong, words in (
        ("file:none", "No such file"), ("file:lines", "one line"), ("file:empty", "empty"),
        ("file:accents", "ASCII"), ("env:NOT_SET", "not set"), ("file:.", "directory"),
    ):  # fmt: skip
        with pytest.raises(SecretError, match=words):
            secret(wrong, tmp_path)


@given(st.text(max_size=ERROR_LENGTH * 2))
def test_an_error_is_one_short_line(text: str) -> None:
    error = later(text).error
    assert len(error) <= ERROR_LENGTH
    assert error.isprintable()
