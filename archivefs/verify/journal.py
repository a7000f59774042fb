"""Checks of the journal and of the catalog against it: the chain, the checkpoint, and every row."""

import os
import tempfile
from pathlib import Path

import apsw

from archivefs.catalog.catalog import Catalog
from archivefs.catalog.compare import Difference, compare
from archivefs.errors import JournalDamagedError
from archivefs.events import AnyEvent
from archivefs.store.journal import Journal
from archivefs.store.recovery import SCRATCH
from archivefs.verify.findings import Finding, Severity

APPLY_BATCH = 2000


def check_chain(journal: Journal) -> list[Finding]:
    """The count and hash that were noted outside the chain."""
    try:
        journal.check_checkpoint()
    except JournalDamagedError as error:
        return [
            Finding(
                Severity.CRITICAL, "journal-cut", "journal/checkpoint.json", str(error),
                "restore the journal from a backup, or archivefs rebuild --from-segments",
            )
        ]  # fmt: skip
    if journal.head.seq and not journal.has_checkpoint():
        return [
            Finding(
                Severity.WARNING, "checkpoint-missing", "journal/checkpoint.json",
                "the count of the journal is not noted outside it, so a cut-off tail would not be seen",
                "archivefs verify --repair writes it", "checkpoint",
            )
        ]  # fmt: skip
    return []


def check_rows(journal: Journal, catalog: Path, scratch: Path) -> tuple[int, list[Finding]]:
    """Read every line, make a second catalog from them, and compare it with the one in use row by row.

    The one in use may go on growing: it is compared as of one moment. Returns the number of events.
    """
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=scratch) as folder:
        try:
            live = apsw.Connection(str(catalog), flags=apsw.SQLITE_OPEN_READONLY)
        except apsw.Error as error:
            return 0, [_broken(str(error))]
        live.set_busy_timeout(10_000)
        try:
            live.execute("BEGIN")
            upto = int(live.execute("SELECT value FROM meta WHERE key = 'applied_seq'").get)
            damage = [row[0] for row in live.execute("PRAGMA quick_check(10)") if row[0] != "ok"]
            if damage:
                return 0, [_broken("; ".join(damage))]
            fresh = Catalog(Path(folder) / "catalog.sqlite")
            try:
                count = _apply(journal, fresh, upto)
                return count, [_differs(each) for each in compare(live, fresh.db)]
            finally:
                fresh.close()
        except JournalDamagedError as error:
            return 0, [
                Finding(
                    Severity.CRITICAL, "journal-chain", "journal", str(error),
                    "restore the journal from a backup, or archivefs rebuild --from-segments",
                )
            ]  # fmt: skip
        except apsw.Error as error:
            return 0, [_broken(str(error))]
        finally:
            live.close()


def _apply(journal: Journal, fresh: Catalog, upto: int) -> int:
    batch: list[AnyEvent] = []
    count = 0
    for event in journal.read():
        if event.seq > upto:
            continue
        if len(batch) == APPLY_BATCH:
            fresh.apply_all(batch, event.prev)
            count += len(batch)
            batch = []
        batch.append(event)
    fresh.apply_all(batch, "")
    return count + len(batch)


def _broken(what: str) -> Finding:
    return Finding(
        Severity.ERROR, "catalog-damaged", "catalog.sqlite", what,
        "archivefs verify --repair makes it again from the journal", "catalog",
    )  # fmt: skip


def _differs(difference: Difference) -> Finding:
    return Finding(
        Severity.ERROR, "catalog-differs", f"catalog.sqlite, table {difference.table}", difference.text,
        "archivefs verify --repair makes it again from the journal", "catalog",
    )  # fmt: skip
