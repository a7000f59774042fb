"""Checks of the journal and of the catalog against it: the chain, the checkpoint, and every row."""

import contextlib
import os
import tempfile
from pathlib import Path

from archivefs.catalog.catalog import Catalog
from archivefs.catalog.compare import Difference, Snapshot
from archivefs.errors import CatalogError, JournalDamagedError
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
            with contextlib.closing(Snapshot(catalog)) as live:
                damage = live.damage()
                if damage:
                    return 0, [_broken(damage)]
                with contextlib.closing(Catalog(Path(folder) / "catalog.sqlite")) as fresh:
                    count = _apply(journal, fresh, live.applied_seq())
                    return count, [_differs(each) for each in live.differences(fresh)]
        except JournalDamagedError as error:
            return 0, [
                Finding(
                    Severity.CRITICAL, "journal-chain", "journal", str(error),
                    "restore the journal from a backup, or archivefs rebuild --from-segments",
                )
            ]  # fmt: skip
        except CatalogError as error:
            return 0, [_broken(str(error))]


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
