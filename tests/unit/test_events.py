"""Events as lines of JSON: what is written comes back, and what does not fit is refused."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archivefs import events
from archivefs.events import (
    Adopted,
    AttemptFinished,
    AttemptStarted,
    Captured,
    CodeKept,
    Configured,
    Created,
    DeliveryAttempted,
    DeliveryDecided,
    DictionaryTrained,
    Dropped,
    HoldAdded,
    HoldCovered,
    HoldReleased,
    JobChanged,
    JobCreated,
    Planned,
    PurgeBegun,
    Purged,
    PurgeEnded,
    Rebuilt,
    Repacked,
    Repaired,
    Replayed,
    Retained,
    Retried,
    Routed,
    SegmentsRemoved,
    TailCut,
    TailDropped,
    Touched,
    Verified,
    Voided,
)
from archivefs.parts import Actor, Content, Location, Member, Move, Purging, Setting
from archivefs.states import FINAL, STATUSES, WAITING, JobState, Outcome, Status, Submission

PLACE = Location(segment="2026/02/13/ict.sources.zst", offset=10, header=20, stored=30, length=70)
ID = "20260213T120000000-a1b2c3"
EXAMPLES = [
    Created(archive="uuid", timezone="UTC", format=1, program="archivefs 1", seq=1, at="now", prev="0" * 64),
    Captured(
        id=ID, converter="ict", day="2026-02-13", name="a\ufffd.csv", name_hex="61ff2e637376", folder="x y",
        size=5, sha256="a1b2c3" + "0" * 58, mtime_ns=-1, mode=0o644, uid=1000, gid=1000, captured_ms=1,
        status=Status.PENDING, due_ms=2, supersedes=[ID], xattrs={"user.a": "AA=="},
        location=PLACE, actor=Actor(uid=1000, program="cp"),
    ),
    Touched(id=ID, mtime_ns=2**62, mode=0o600, uid=0, gid=0),
    AttemptStarted(id=ID, attempt=1, cause="capture"),
    AttemptFinished(
        id=ID, attempt=1, outcome=Outcome.SUSPENDED, status=Status.FAILED, started_ms=5, duration_ms=7,
        arguments={"a": [1, 2.5, None, {"b": "ø"}]}, error="two\nlines", warnings=["w"],
        log=Content(name="log.txt", size=3, sha256="f" * 64, location=PLACE),
        reports=[Content(name="report.json", size=3, sha256="f" * 64)], report_ids=["SN 1"],
    ),
    Replayed(
        id=ID, attempt=2, job=7, outcome=Outcome.SUCCESS, promoted=True, code="e" * 64, started_ms=5,
        duration_ms=7, version="1.1", arguments={"delimiter": ";"}, warnings=["w"],
        log=Content(name="log.txt", size=3, sha256="f" * 64, location=PLACE),
        reports=[Content(name="report.json", size=3, sha256="f" * 64)], report_ids=["SN 1"],
    ),
    DeliveryAttempted(
        id=ID, attempt=1, ordinal=1, state=Submission.QUEUED, started_ms=5, duration_ms=7, http_status=503,
        answer_id="17", error="HTTP 503", due_ms=8,
    ),
    DeliveryDecided(id=ID, attempt=1, ordinal=1, state=Submission.DROPPED, actor=Actor(uid=0)),
    Configured(
        changes=[Setting(key="reserve", old=5, new="x"), Setting(key="converters.a", old={"run": "x"})],
        after="f" * 64, before="e" * 64, backup="archive.toml.version-0-ffffffff",
    ),
    TailCut(file="journal/2026/02/13.jsonl", offset=5, bytes=6, kept_as="x.tail", reason="torn"),
    TailDropped(kept_as="x.tail", bytes=6, actor=Actor(uid=0)),
    Voided(id=ID, attempt=1, ordinal=2, reason="content/x ends at 5"),
    Adopted(id=ID, status=Status.PENDING, due_ms=5),
    Dropped(id=ID, reason="dropped from quarantine"),
    Captured(
        id=ID, converter="rack", day="2026-02-13", name="SN1", size=10240, sha256="ab", mtime_ns=1,
        mode=0o755, uid=0, gid=0, captured_ms=1, status=Status.PENDING, location=PLACE,
        members=[Member("a\ufffd", "61e9", 0o100644, 5, 7, 512), Member("b", "", 0o40755, 0, 8, 0)],
    ),
    Routed(
        id=ID, converter="ict", status=Status.PENDING, reason="r", due_ms=5, confidence=0.5,
        asked={"ict": "confidence 0.50: perhaps"},
    ),
    Retried(id=ID, due_ms=5, actor=Actor(uid=0, program="archivefs retry")),
    DictionaryTrained(
        converter="ict", content="sources", name="ict-1", number=32768, samples=500, size=114688,
        sha256="f" * 64, day="2026-02-13",
    ),
    CodeKept(
        converter="ict", sha256="f" * 64, size=9, files=2, run="python:a:B", distribution="a", version="1"
    ),
    Repacked(segment=PLACE.segment, moves=[Move(ID, 0, 0, 1, 2, 3, 6), Move(ID, 1, 2, 6, 2, 3, 6)]),
    SegmentsRemoved(segments=["2026/02/13/ict.sources.zst"]),
    Planned(plan=1, scope="converter=ict", entries=2, bytes=4096, sha256="f" * 64, erase=True),
    PurgeBegun(plan=1, actor=Actor(uid=0, program="archivefs retention apply")),
    Purged(plan=1, entries=[Purging(ID, "days = 90 of ict, over on 2026-05-14"), Purging(ID, "erased: ø")]),
    PurgeEnded(plan=1, entries=2, bytes=4096, kept=1),
    HoldAdded(hold="complaint 4711", query="'name=* x'", reason="a\nb", last=ID, future=True),
    HoldCovered(hold="complaint 4711", ids=[ID]),
    HoldReleased(hold="complaint 4711", reason="settled", actor=Actor(uid=5)),
    Retained(converter="ict", until="2027-12-31"),
    JobCreated(job=1, work="repack", request={"query": ["converter=ict"]}, actor=Actor(uid=5)),
    JobChanged(job=1, state=JobState.FAILED, total=9, done=5, failed=1, skipped=2, error="no space"),
    Verified(scope="all", records=5, bytes=6, findings={"critical": 1}),
    Repaired(what=["checkpoint"], backup="repair-1"),
    Rebuilt(records=5, backup="journal-1"),
]  # fmt: skip


def test_every_kind_of_event_has_an_example_here() -> None:
    kinds = set(events.AnyEvent.__args__)
    assert {type(event) for event in EXAMPLES} == kinds


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_equal_from_its_line(event: events.AnyEvent) -> None:
    line = events.encode(event)
    assert b"\n" not in line
    assert events.decode(line) == event


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_stays_on_one_line(error: str, name: str) -> None:
    event = AttemptFinished(
        id=ID, attempt=1, outcome=Outcome.FAILED, status=Status.FAILED, started_ms=0, duration_ms=0,
        error=error, reports=[Content(name=name, size=0, sha256="")],
    )  # fmt: skip
    line = events.encode(event)
    assert b"\n" not in line
    assert events.decode(line) == event


def test_a_line_is_json_with_its_kind_and_without_defaults() -> None:
    line = events.encode(AttemptStarted(id=ID, attempt=1, cause="retry", seq=7))
    assert json.loads(line) == {"kind": "attempt_started", "seq": 7, "id": ID, "attempt": 1, "cause": "retry"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"kind":"unheard_of"}',
        b'{"kind":"touched","id":5,"mtime_ns":1,"mode":1,"uid":0,"gid":0}',
        b'{"kind":"touched","id":"x"}',
        b'{"kind":"attempt_started","id":"x","attempt":1,"cause":"x"} x',
        b'{"kind":"attempt_started","id":"\xff","attempt":1,"cause":"x"}',
    ],
)
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        events.decode(line)


def test_a_field_that_a_later_version_added_is_passed_over() -> None:
    line = b'{"kind":"attempt_started","id":"x","attempt":1,"cause":"retry","weather":"rain"}'
    assert events.decode(line) == AttemptStarted(id="x", attempt=1, cause="retry")


def test_a_move_is_an_array_in_its_documented_order() -> None:
    event = Repacked(segment=PLACE.segment, moves=[Move(ID, 1, 2, 6, 2, 3, 7)])
    assert json.loads(events.encode(event))["moves"] == [[ID, 1, 2, 6, 2, 3, 7]]


def test_the_order_of_statuses_never_changes() -> None:
    assert " ".join(STATUSES) == (
        "pending converting success failed suspended skipped rejected archived superseded quarantined purged"
    )


def test_each_status_either_waits_is_converting_or_is_final() -> None:
    assert WAITING | FINAL | {Status.CONVERTING} == set(Status)
    assert not WAITING & FINAL
