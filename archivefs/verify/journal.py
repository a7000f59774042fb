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


RESCUE = "restore the journal from a backup, or archivefs rebuild --from-segments"


def check(root: Path, catalog: Path) -> tuple[int, list[Finding]]:
    """All checks of the journal; the number of its events, and what was found. May run while it grows."""
    try:
        chain = open_settled(root / "journal")
    except JournalDamagedError as error:
        return 0, [Finding(Severity.CRITICAL, "journal-cut", "journal", str(error), RESCUE)]
    count, found = check_rows(chain, catalog, root / "staging")
    if not chain.has_checkpoint():
        found.append(checkpoint_missing())
    return count, found


def checkpoint_missing() -> Finding:
    """The finding for a journal beside which nothing says how long it is."""
    return Finding(
        Severity.WARNING, "checkpoint-missing", "journal/checkpoint.json",
        "the count of the journal is not noted outside it, so a cut-off tail would not be seen",
        "archivefs verify --repair writes it", "checkpoint",
    )  # fmt: skip


def open_settled(directory: Path) -> Journal:
    """The journal, whose end fits the count noted outside; looked at twice where somebody notes a new one."""
    try:
        chain = Journal(directory)
        chain.check_checkpoint()
    except JournalDamagedError:
        chain = Journal(directory)
        chain.check_checkpoint()
    return chain


def check_rows(journal: Journal, catalog: Path, scratch: Path) -> tuple[int, list[Finding]]:
    """Read every line, make a second catalog from them, and compare it with the one in use row by row.

    The one in use may go on growing: it is compared as of one moment. Returns the number of events.
    """
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=scratch) as folder:
        try:
            with contextlib.closing(Snapshot(catalog)) as live:
                damage = live.damage()
                if damage:
                    return _read_all(journal, [broken(damage)])
                fresh = Catalog(Path(folder) / "catalog.sqlite", in_one_go=True)
                with contextlib.closing(fresh.db):  # as a file nobody needs it
                    upto = live.applied_seq()
                    count = _apply(journal, fresh, upto)
                    if count < upto:
                        what = f"the journal ends at line {count}, the catalog knows line {upto}"
                        return count, [Finding(Severity.CRITICAL, "journal-cut", "journal", what, RESCUE)]
                    if upto == journal.head.seq and live.applied_sha256() != journal.head.sha256:
                        return count, [_differs(Difference("meta", "it was made from another journal"))]
                    return count, [_differs(each) for each in live.differences(fresh)]
        except JournalDamagedError as error:
            return 0, [Finding(Severity.CRITICAL, "journal-chain", "journal", str(error), RESCUE)]
        except CatalogError as error:
            return _read_all(journal, [broken(str(error))])


def _read_all(journal: Journal, findings: list[Finding]) -> tuple[int, list[Finding]]:
    """The chain alone, where there is no catalog to compare with."""
    count = 0
    try:
        for event in journal.read():
            count = event.seq
    except JournalDamagedError as error:
        findings.append(Finding(Severity.CRITICAL, "journal-chain", "journal", str(error), RESCUE))
    return count, findings


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


def broken(what: str) -> Finding:
    """The finding for a catalog that SQLite cannot read."""
    return Finding(
        Severity.ERROR, "catalog-damaged", "catalog.sqlite", what,
        "archivefs verify --repair makes it again from the journal", "catalog",
    )  # fmt: skip


def _differs(difference: Difference) -> Finding:
    return Finding(
        Severity.ERROR, "catalog-differs", f"catalog.sqlite, table {difference.table}", difference.text,
        "archivefs verify --repair makes it again from the journal", "catalog",
    )  # fmt: skip
