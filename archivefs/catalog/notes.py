"""Events that change no entry: what each of them does to the rows."""

from collections.abc import Callable, Mapping
from typing import Any

import apsw

from archivefs.catalog import jobs, purging
from archivefs.events import (
    AnyEvent,
    CodeKept,
    Configured,
    Created,
    DictionaryTrained,
    HoldAdded,
    HoldCovered,
    HoldReleased,
    JobChanged,
    JobCreated,
    Planned,
    PurgeBegun,
    PurgeEnded,
    Retained,
    Verified,
)


def set_meta(db: apsw.Connection, key: str, value: object) -> None:
    """A row of ``meta``."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _created(db: apsw.Connection, event: Created) -> None:
    set_meta(db, "timezone", event.timezone)
    set_meta(db, "format", event.format)


def _configured(db: apsw.Connection, event: Configured) -> None:
    set_meta(db, "config_before", event.before)
    set_meta(db, "config_after", event.after)


def _verified(db: apsw.Connection, event: Verified) -> None:
    set_meta(db, "verified_at", event.at)
    set_meta(db, "verified_part", event.part)


def _dictionary_trained(db: apsw.Connection, event: DictionaryTrained) -> None:
    db.execute(
        "INSERT INTO dictionaries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (event.number, event.name, event.converter, event.content, event.samples, event.size, event.sha256,
         event.day, event.seq),
    )  # fmt: skip


def _code_kept(db: apsw.Connection, event: CodeKept) -> None:
    db.execute(
        "INSERT OR IGNORE INTO code VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (event.converter, event.sha256, event.size, event.files, event.run, event.distribution, event.version,
         event.seq),
    )  # fmt: skip


_NOTES: Mapping[type, Callable[[apsw.Connection, Any], None]] = {
    Created: _created,
    Configured: _configured,
    Verified: _verified,
    DictionaryTrained: _dictionary_trained,
    CodeKept: _code_kept,
    JobCreated: jobs.apply,
    JobChanged: jobs.apply,
    **dict.fromkeys(
        (Planned, PurgeBegun, PurgeEnded, HoldAdded, HoldCovered, HoldReleased, Retained), purging.apply
    ),
}


def apply(db: apsw.Connection, event: AnyEvent) -> None:
    """Inside the transaction of Catalog.apply; nothing for events that have no rows of their own."""
    note = _NOTES.get(type(event))
    if note is not None:
        note(db, event)
    if isinstance(event, Configured | HoldAdded | Retained):
        set_meta(db, "rules_seq", event.seq)
