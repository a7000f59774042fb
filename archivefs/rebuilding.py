"""The catalog from the journal: opened, brought up to the journal's end, or made again from its start."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from archivefs import config as configuration
from archivefs.catalog.catalog import Catalog
from archivefs.errors import CatalogError, JournalDamagedError, OtherSchemaError
from archivefs.events import AnyEvent
from archivefs.store import lock
from archivefs.store.durable import sync_dir
from archivefs.store.store import Store

log = logging.getLogger(__name__)

CATALOG = "catalog.sqlite"
CHECKED_BYTES = 16 << 20
"""A catalog up to this size is looked through at each open (20 ms); a larger one by ``archivefs verify``."""
APPLY_BATCH = 2000
"""Journal lines applied in one transaction when the catalog is behind."""


def open_catalog(path: Path) -> Catalog:
    """For writing; made anew where it is damaged or of another version. Raises ``CatalogError``."""
    try:
        catalog = Catalog(path)
        if path.stat().st_size <= CHECKED_BYTES:
            catalog.check()
        return catalog
    except (apsw.CorruptError, apsw.NotADBError) as error:
        kept = path.with_name(f"{CATALOG}.damaged")
        log.error("the catalog is damaged (%s); kept as %s, made again from the journal", error, kept.name)
        remove_catalog(path, keep_as=kept)
        return Catalog(path)
    except OtherSchemaError as error:
        log.warning("%s: making it now", error)
        remove_catalog(path)
        return Catalog(path)
    except apsw.Error as error:
        raise CatalogError(f"{path} cannot be opened: {error}") from None


def apply_journal(store: Store, catalog: Catalog) -> int:
    """Apply all lines behind the catalog's last; returns how many. Raises ``JournalDamagedError``."""
    count = 0
    batch: list[AnyEvent] = []
    for event in store.journal.read(catalog.applied[0]):
        if len(batch) == APPLY_BATCH:
            catalog.apply_all(batch, event.prev)
            count += len(batch)
            batch = []
        batch.append(event)
    if batch:
        catalog.apply_all(batch, store.journal.head.sha256)
    return count + len(batch)


def remove_catalog(path: Path, *, keep_as: Path | None = None) -> None:
    """Remove catalog.sqlite and the files SQLite keeps beside it, or set it aside."""
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if not file.exists():
            continue
        if keep_as is None:
            file.unlink()
        else:
            file.replace(keep_as.with_name(keep_as.name + suffix))


def rebuild(root: Path, *, clock: Callable[[], int] = time.time_ns) -> int:
    """Make the catalog again from the journal; returns the number of events.

    The old catalog stays until the new one is complete. Raises ``LockedError`` while the archive is mounted,
    ``JournalDamagedError`` where the journal is not whole.
    """
    configuration.load(root)
    held = lock.Lock(root)
    try:
        store = Store(root, clock)
        store.journal.sync_found()
        if store.journal.head.seq == 0:
            raise JournalDamagedError(f"{root} has no journal; archivefs rebuild --from-segments makes one")
        fresh = root / f"{CATALOG}.new"
        remove_catalog(fresh)
        catalog = Catalog(fresh, in_one_go=True)
        count = apply_journal(store, catalog)
        catalog.close()
        remove_catalog(root / CATALOG)
        fresh.replace(root / CATALOG)
        sync_dir(root)
        store.close()
    finally:
        held.release()
    return count
