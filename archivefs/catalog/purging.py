"""Purges and holds in the catalog: how their events change the rows, and the questions asked of them."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apsw

from archivefs.catalog import outbox
from archivefs.events import (
    Event,
    HoldAdded,
    HoldCovered,
    HoldReleased,
    Planned,
    PurgeBegun,
    Purged,
    PurgeEnded,
    Retained,
)
from archivefs.states import STATUSES, Status

_PURGED = STATUSES.index(Status.PURGED)


class PlanRow(NamedTuple):
    """One row of ``plans``, in the order of the table's columns."""

    plan: int
    scope: str
    entries: int
    bytes: int
    sha256: str
    erase: int
    made_ms: int
    uid: int
    program: str
    begun_ms: int
    by_uid: int
    ended_ms: int
    purged: int
    kept: int
    freed: int

    @property
    def state(self) -> str:
        """``planned``, ``begun`` or ``done``."""
        return "done" if self.ended_ms else "begun" if self.begun_ms else "planned"


class HoldRow(NamedTuple):
    """One row of ``holds``, in the order of the table's columns."""

    hold_id: int
    name: str
    query: str
    reason: str
    future: int
    last_n: int
    added_seq: int
    added_ms: int
    uid: int
    entries: int
    released_ms: int
    released: str
    released_by: int


class PurgedRow(NamedTuple):
    """One row of ``purged``, in the order of the table's columns."""

    n: int
    plan: int
    status: int
    why: str
    purged_ms: int


class Hole(NamedTuple):
    """A stretch of a segment that holds nothing any more."""

    offset: int
    length: int


def merged(holes: Sequence[Hole]) -> list[Hole]:
    """Holes in the order of offset, those that touch each other as one."""
    found: list[Hole] = []
    for hole in sorted(holes):
        if found and found[-1].offset + found[-1].length >= hole.offset:
            end = max(found[-1].offset + found[-1].length, hole.offset + hole.length)
            found[-1] = Hole(found[-1].offset, end - found[-1].offset)
        else:
            found.append(hole)
    return found


# -- writing, inside the transaction of Catalog.apply ------------------------------------------------------


def apply(db: apsw.Connection, event: Event) -> None:
    """What changes no entry."""
    uid, program = (event.actor.uid, event.actor.program) if event.actor else (-1, "")
    match event:
        case Planned():
            db.execute(
                "INSERT INTO plans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, -1, 0, 0, 0, 0)",
                (event.plan, event.scope, event.entries, event.bytes, event.sha256, event.erase, event.at_ms,
                 uid, program),
            )  # fmt: skip
        case PurgeBegun():
            db.execute(
                "UPDATE plans SET begun_ms = ?, by_uid = ? WHERE plan = ?", (event.at_ms, uid, event.plan)
            )
        case PurgeEnded():
            db.execute(
                "UPDATE plans SET ended_ms = ?, kept = ?, freed = ? WHERE plan = ?",
                (event.at_ms, event.kept, event.bytes, event.plan),
            )
        case HoldAdded():
            db.execute(
                "INSERT INTO holds VALUES (NULL, ?, ?, ?, ?,"
                " coalesce((SELECT n FROM entries WHERE id = ?), 0), ?, ?, ?, 0, 0, '', -1)",
                (event.hold, event.query, event.reason, event.future, event.last, event.seq, event.at_ms,
                 uid),
            )  # fmt: skip
        case HoldCovered():
            hold_id = db.execute("SELECT hold_id FROM holds WHERE name = ?", (event.hold,)).get
            db.execute(
                "INSERT OR IGNORE INTO held SELECT n, ? FROM entries"
                " WHERE id IN (SELECT value FROM json_each(?)) AND status != ?",
                (hold_id, json.dumps(event.ids), _PURGED),
            )
            db.execute("UPDATE holds SET entries = entries + ? WHERE hold_id = ?", (db.changes(), hold_id))
        case HoldReleased():
            db.execute(
                "UPDATE holds SET released_ms = ?, released = ?, released_by = ? WHERE name = ?",
                (event.at_ms, event.reason, uid, event.hold),
            )
        case Retained():
            db.execute(
                "INSERT INTO retained VALUES (?1, ?2)"
                " ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
                (event.converter, event.until),
            )


def purged(db: apsw.Connection, event: Purged) -> Iterator[tuple[int, str, int, int, int, int, int, int]]:
    """Let entries go; of each that was there number, id, converter, day, status before, size, length of its
    record, and whether it had a report.
    """
    at_ms, count = event.at_ms, 0
    for each in event.entries:
        row = db.execute(
            "SELECT n, id, converter_id, day, status, size, length, reports > 0, segment_id, offset,"
            " attempts, members FROM entries WHERE id = ?",
            (each.id,),
        ).get
        if row is None or row[4] == _PURGED:
            continue
        n, *_, status, _, length, _, segment_id, offset, attempts, members = row
        db.execute(
            "INSERT OR IGNORE INTO purged VALUES (?, ?, ?, ?, ?)", (n, event.plan, status, each.why, at_ms)
        )
        db.execute(
            "INSERT OR IGNORE INTO holes VALUES (?, ?, ?, ?)", (segment_id, offset, length, event.plan)
        )
        if attempts:
            _let_go(db, n, event.plan)
        if members:
            db.execute("DELETE FROM members WHERE n = ?", (n,))
        db.execute(
            "UPDATE entries SET status = ?, reason = ?, due_ms = 0, changed_seq = ?, segment_id = 0,"
            " offset = 0, header = 0, stored = 0, length = 0 WHERE n = ?",
            (_PURGED, each.why, event.seq, n),
        )
        count += 1
        yield row[:8]
    db.execute("UPDATE plans SET purged = purged + ? WHERE plan = ?", (count, event.plan))


def _let_go(db: apsw.Connection, n: int, plan: int) -> None:
    """What the attempts of an entry stored goes with it."""
    db.execute(
        "INSERT OR IGNORE INTO holes SELECT segment_id, offset, length, ? FROM contents"
        " WHERE n = ? AND segment_id > 0",
        (plan, n),
    )
    db.execute(
        "UPDATE contents SET segment_id = 0, offset = 0, header = 0, stored = 0, length = 0 WHERE n = ?", (n,)
    )
    outbox.given_up(db, n)


def gone(db: apsw.Connection, segment: str) -> None:
    """A segment without content has no holes either."""
    db.execute(
        "DELETE FROM holes WHERE segment_id = (SELECT segment_id FROM segments WHERE name = ?)", (segment,)
    )


# -- reading -------------------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What decides whether an entry may be purged, and what that gives back."""

    n: int
    id: str
    converter_id: int
    day: int
    status: int
    captured_ms: int
    length: int
    reports: int
    """Reports of its last attempt."""
    unsent: int
    """Reports that wait for delivery, or were refused."""
    sent: int
    """Reports that their receiver has."""


_FACTS = (
    "SELECT e.n, e.id, e.converter_id, e.day, e.status, e.captured_ms,"
    " e.length + coalesce((SELECT sum(length) FROM contents c WHERE c.n = e.n), 0),"
    " (SELECT count(*) FROM contents c WHERE c.n = e.n AND c.attempt = e.last AND c.ordinal > 0),"
    " (SELECT count(*) FROM outbox o WHERE o.n = e.n AND o.state = 'queued'),"
    " (SELECT count(*) FROM outbox o WHERE o.n = e.n AND o.attempt = e.last AND o.state = 'sent')"
    " FROM (SELECT *, (SELECT max(attempt) FROM attempts a WHERE a.n = entries.n AND promoted) AS last"
    " FROM entries) e"
)


class PurgeReader:
    """Questions about purges, holds and what they decide on."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def plan(self, plan: int) -> PlanRow | None:
        """A plan by its number."""
        rows = self._db.execute("SELECT * FROM plans WHERE plan = ?", (plan,))
        return next((PlanRow(*row) for row in rows), None)

    def plans(self) -> list[PlanRow]:
        """All plans and purges, oldest first."""
        return [PlanRow(*row) for row in self._db.execute("SELECT * FROM plans ORDER BY plan")]

    def unfinished(self) -> list[int]:
        """The numbers of purges that began and did not end."""
        sql = "SELECT plan FROM plans WHERE begun_ms > 0 AND ended_ms = 0 ORDER BY plan"
        return [row[0] for row in self._db.execute(sql)]

    def purged(self, n: int) -> PurgedRow | None:
        """When and why the content of an entry went."""
        rows = self._db.execute("SELECT * FROM purged WHERE n = ?", (n,))
        return next((PurgedRow(*row) for row in rows), None)

    def facts(self, n: int) -> Facts | None:
        """Of one entry."""
        rows = self._db.execute(f"{_FACTS} WHERE e.n = ?", (n,))
        return next((Facts(*row) for row in rows), None)

    def unchanged(self, ids: Sequence[str], since: int) -> set[str]:
        """Which of these entries no journal line behind ``since`` changed; none where a rule came since."""
        if self._db.execute("SELECT value > ? FROM meta WHERE key = 'rules_seq'", (since,)).get:
            return set()
        rows = self._db.execute(
            "SELECT id FROM entries WHERE id IN (SELECT value FROM json_each(?)) AND changed_seq <= ?",
            (json.dumps(ids), since),
        )
        return {row[0] for row in rows}

    def oldest(self, converter_id: int, before_ms: int) -> Iterator[Facts]:
        """Entries of a converter that were captured before that time and still hold bytes, oldest first."""
        days = self._db.execute(
            "SELECT DISTINCT day FROM totals WHERE converter_id = ? ORDER BY day", (converter_id,)
        )
        for (day,) in list(days):
            rows = self._db.execute(
                f"{_FACTS} WHERE e.converter_id = ? AND e.day = ? AND e.status != ? AND e.captured_ms < ?"
                " ORDER BY e.n",
                (converter_id, day, _PURGED, before_ms),
            )
            found = [Facts(*row) for row in rows]
            if not found and day * 86_400_000 - 86_400_000 > before_ms:
                return
            yield from found

    def places(self, n: int) -> list[tuple[str, Hole]]:
        """The segments and stretches that the records of an entry take."""
        rows = self._db.execute(
            "SELECT s.name, e.offset, e.length FROM entries e JOIN segments s USING (segment_id)"
            " WHERE e.n = ?1 UNION ALL SELECT s.name, c.offset, c.length FROM contents c"
            " JOIN segments s USING (segment_id) WHERE c.n = ?1",
            (n,),
        )
        return [(name, Hole(offset, length)) for name, offset, length in rows]

    def bytes_of(self, converter_id: int) -> int:
        """What a converter's sources, logs and reports take, without the journal."""
        sources = self._db.execute(
            "SELECT total(length) FROM totals WHERE converter_id = ?", (converter_id,)
        ).get
        others = self._db.execute(
            "SELECT total(c.length) FROM entries e JOIN contents c USING (n)"
            " WHERE e.converter_id = ? AND c.segment_id > 0",
            (converter_id,),
        ).get
        return int(sources + others)

    def by_day(self) -> list[tuple[str, int, int]]:
        """Converter, day, and the bytes that the records of its sources take."""
        rows = self._db.execute(
            "SELECT name, day, sum(length) FROM totals JOIN converters USING (converter_id) GROUP BY 1, 2"
        )
        return list(rows)

    def segment_holes(self, segment: str) -> list[Hole]:
        """The holes of a segment, merged."""
        rows = self._db.execute(
            "SELECT h.offset, h.length FROM holes h JOIN segments s USING (segment_id) WHERE s.name = ?"
            " ORDER BY h.offset",
            (segment,),
        )
        return merged([Hole(*row) for row in rows])

    def segments_of(self, plan: int) -> list[str]:
        """The segments in which a purge made holes and that are still there."""
        rows = self._db.execute(
            "SELECT DISTINCT s.name FROM holes h JOIN segments s USING (segment_id)"
            " WHERE h.plan = ? AND gone = 0",
            (plan,),
        )
        return sorted(row[0] for row in rows)

    def holds(self) -> list[HoldRow]:
        """All holds, oldest first."""
        return [HoldRow(*row) for row in self._db.execute("SELECT * FROM holds ORDER BY hold_id")]

    def holding(self, n: int) -> list[str]:
        """The names of the holds that were added when the entry was there, and cover it."""
        rows = self._db.execute(
            "SELECT name FROM held JOIN holds USING (hold_id) WHERE n = ? AND released_ms = 0"
            " ORDER BY hold_id",
            (n,),
        )
        return [row[0] for row in rows]

    def retained(self) -> dict[str, str]:
        """Until which day nothing of a converter is purged."""
        return dict(self._db.execute("SELECT converter, until FROM retained"))
