"""The outbox in the catalog: how its events change the rows, and the questions asked of them."""

from typing import NamedTuple

import apsw

from archivefs.config import SubmitConfig
from archivefs.errors import UnknownEntryError
from archivefs.events import AttemptFinished, DeliveryAttempted, DeliveryDecided, Replayed
from archivefs.states import Submission

_KEY = "n = (SELECT n FROM entries WHERE id = ?) AND attempt = ? AND ordinal = ?"


class Item(NamedTuple):
    """A report in the outbox: its row, the id of its entry and the name of its converter."""

    n: int
    id: str
    attempt: int
    ordinal: int
    converter: str
    state: Submission
    report_id: str
    queued_ms: int
    due_ms: int
    failures: int


class Delivery(NamedTuple):
    """One row of ``deliveries``."""

    attempt: int
    ordinal: int
    number: int
    state: Submission
    started_ms: int
    duration_ms: int
    http_status: int
    answer_id: str
    error: str


_ITEM = (
    "SELECT o.n, e.id, o.attempt, o.ordinal, c.name, o.state, report_id, queued_ms, o.due_ms, failures"
    " FROM outbox o JOIN entries e USING (n) JOIN converters c ON c.converter_id = o.converter_id"
)
_DELIVERY = (
    "SELECT attempt, ordinal, number, state, started_ms, duration_ms, http_status, answer_id, error"
    " FROM deliveries"
)


# -- writing, inside the transaction of Catalog.apply ------------------------------------------------------


def queue(db: apsw.Connection, event: AttemptFinished | Replayed) -> None:
    """The reports of an attempt are to be delivered."""
    if not event.report_ids:
        return
    n, converter_id = db.execute("SELECT n, converter_id FROM entries WHERE id = ?", (event.id,)).get
    for ordinal, report_id in enumerate(event.report_ids, 1):
        db.execute(
            "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
            (n, event.attempt, ordinal, converter_id, Submission.QUEUED, report_id, event.seq, event.at_ms),
        )
    _count(db, converter_id, Submission.QUEUED, len(event.report_ids))


def attempted(db: apsw.Connection, event: DeliveryAttempted) -> None:
    """A delivery ended."""
    key = (event.id, event.attempt, event.ordinal)
    failed = event.state is Submission.QUEUED
    if not _become(db, key, event.state, event.due_ms, "failures + 1" if failed else "failures"):
        return
    db.execute(
        "INSERT INTO deliveries SELECT n, ?2, ?3, 1 + (SELECT count(*) FROM deliveries d WHERE d.n = e.n AND"
        " d.attempt = ?2 AND d.ordinal = ?3), ?4, ?5, ?6, ?7, ?8, ?9 FROM entries e WHERE id = ?1",
        (*key, event.state, event.started_ms, event.duration_ms, event.http_status, event.answer_id,
         event.error),
    )  # fmt: skip
    db.execute("UPDATE entries SET changed_seq = ? WHERE id = ?", (event.seq, event.id))


def decided(db: apsw.Connection, event: DeliveryDecided) -> None:
    """A person queued a report again, or dropped it."""
    _become(db, (event.id, event.attempt, event.ordinal), event.state, 0, "0")
    db.execute("UPDATE entries SET changed_seq = ? WHERE id = ?", (event.seq, event.id))


def given_up(db: apsw.Connection, n: int) -> None:
    """Nothing is left of an entry that could be delivered."""
    rows = db.execute(
        "SELECT converter_id, state, count(*) FROM outbox WHERE n = ? AND state NOT IN (?, ?) GROUP BY state",
        (n, Submission.SENT, Submission.DROPPED),
    )
    for converter_id, state, reports in list(rows):
        _count(db, converter_id, Submission(state), -reports)
        _count(db, converter_id, Submission.DROPPED, reports)
        db.execute(
            "UPDATE outbox SET state = ?, due_ms = 0 WHERE n = ? AND state = ?",
            (Submission.DROPPED, n, state),
        )


def _become(
    db: apsw.Connection, key: tuple[str, int, int], state: Submission, due_ms: int, failures: str
) -> bool:
    row = db.execute(f"SELECT converter_id, state FROM outbox WHERE {_KEY}", key).get
    if row is None:
        return False
    converter_id, before = row
    db.execute(
        f"UPDATE outbox SET state = ?, due_ms = ?, failures = {failures} WHERE {_KEY}", (state, due_ms, *key)
    )
    _count(db, converter_id, Submission(before), -1)
    _count(db, converter_id, state, 1)
    return True


def _count(db: apsw.Connection, converter_id: int, state: Submission, reports: int) -> None:
    db.execute(
        "INSERT INTO outbox_totals VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET reports = reports + excluded.reports",
        (converter_id, state, reports),
    )
    if reports < 0:
        db.execute(
            "DELETE FROM outbox_totals WHERE converter_id = ? AND state = ? AND reports = 0",
            (converter_id, state),
        )


# -- reading; "state != 'sent'" is said for SQLite, which then uses the index of those -----------------------


class OutboxReader:
    """Questions about the outbox, over the connection of a ``Reader``."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def item(self, id_: str, attempt: int, ordinal: int) -> Item | None:
        """The report of that place, None where it was never queued."""
        sql = f"{_ITEM} WHERE e.id = ? AND o.attempt = ? AND o.ordinal = ?"
        return next((_item(row) for row in self._db.execute(sql, (id_, attempt, ordinal))), None)

    def head(self, converter: str) -> Item | None:
        """The first of a converter's queue."""
        return next(iter(self.first(converter, 1)), None)

    def first(self, converter: str, limit: int) -> list[Item]:
        """The first reports of a converter's queue, in the order of sending."""
        rows = self._db.execute(
            f"{_ITEM} WHERE o.converter_id = (SELECT converter_id FROM converters WHERE name = ?)"
            " AND o.state != 'sent' AND o.state = 'queued' ORDER BY queued_seq, ordinal LIMIT ?",
            (converter, limit),
        )
        return [_item(row) for row in rows]

    def unsent(self, state: Submission) -> list[Item]:
        """All reports of a state other than sent, by converter and in the order of sending."""
        rows = self._db.execute(
            f"{_ITEM} WHERE o.state != 'sent' AND o.state = ? ORDER BY c.name, queued_seq, ordinal", (state,)
        )
        return [_item(row) for row in rows]

    def of_entry(self, n: int) -> list[Item]:
        """All that an entry has in the outbox, by attempt and ordinal."""
        rows = self._db.execute(f"{_ITEM} WHERE o.n = ? ORDER BY o.attempt, o.ordinal", (n,))
        return [_item(row) for row in rows]

    def is_queued(self, n: int) -> bool:
        """Whether a report of an entry waits for delivery."""
        sql = "SELECT EXISTS (SELECT 1 FROM outbox WHERE n = ? AND state = 'queued')"
        return bool(self._db.execute(sql, (n,)).get)

    def deliveries(self, n: int) -> list[Delivery]:
        """All deliveries of an entry's reports, by attempt, ordinal and number."""
        rows = self._db.execute(f"{_DELIVERY} WHERE n = ? ORDER BY attempt, ordinal, number", (n,))
        return [_delivery(row) for row in rows]

    def last_delivery(self, item: Item) -> Delivery | None:
        """The last time that it was tried."""
        rows = self._db.execute(
            f"{_DELIVERY} WHERE n = ? AND attempt = ? AND ordinal = ? ORDER BY number DESC LIMIT 1",
            (item.n, item.attempt, item.ordinal),
        )
        return next((_delivery(row) for row in rows), None)

    def count(self, converter: str, state: Submission) -> int:
        """How many of a converter's reports have that state."""
        sql = (
            "SELECT reports FROM outbox_totals JOIN converters USING (converter_id)"
            " WHERE name = ? AND state = ?"
        )
        return int(self._db.execute(sql, (converter, state)).get or 0)

    def is_full(self, converter: str, submit: SubmitConfig | None, coming: int = 0) -> bool:
        """Whether so many of its reports wait, or are ``coming``, that nothing more is to be converted."""
        return (
            submit is not None and self.count(converter, Submission.QUEUED) + coming >= submit.max_queue_size
        )

    def totals(self) -> dict[str, dict[Submission, int]]:
        """How many reports of each converter have which state."""
        found: dict[str, dict[Submission, int]] = {}
        for name, state, reports in self._db.execute(
            "SELECT name, state, reports FROM outbox_totals JOIN converters USING (converter_id)"
            " ORDER BY name"
        ):
            found.setdefault(name, {})[Submission(state)] = reports
        return found

    def lost(self) -> list[Item]:
        """Queued reports whose content the disk does not have."""
        rows = self._db.execute(
            f"{_ITEM} LEFT JOIN contents s ON s.n = o.n AND s.attempt = o.attempt AND s.ordinal = o.ordinal"
            " WHERE o.state != 'sent' AND o.state = 'queued' AND coalesce(s.segment_id, 0) = 0"
            " ORDER BY queued_seq, o.ordinal"
        )
        return [_item(row) for row in rows]


def _item(row: tuple[object, ...]) -> Item:
    item = Item(*row)  # type: ignore[arg-type]
    return item._replace(state=Submission(item.state))


def _delivery(row: tuple[object, ...]) -> Delivery:
    delivery = Delivery(*row)  # type: ignore[arg-type]
    return delivery._replace(state=Submission(delivery.state))


def require(item: Item | None, id_: str) -> Item:
    """The item, which must be there. Raises ``UnknownEntryError``."""
    if item is None:
        raise UnknownEntryError(f'the outbox has no report of "{id_}"')
    return item
