"""How catalog.sqlite is opened."""

from pathlib import Path

import apsw

PAGE_CACHE_KIB = 16_000
"""Pages of the catalog that each connection keeps in memory."""
FILLING_CACHE_KIB = 256_000
"""For a catalog that is made at once: its indexes are written all over, and a million entries take 600 MB."""


def connect(path: Path, *, readonly: bool = False) -> apsw.Connection:
    """Open the catalog as every user of it must: WAL, foreign keys, a patient lock.

    ``synchronous=NORMAL``: a power cut may lose the last transactions but never the file's order; the journal
    has them (SQLite, "Write-Ahead Logging", section on durability).
    """
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    db = apsw.Connection(str(path), flags=flags)
    db.set_busy_timeout(10_000)
    if not readonly:
        if not path.stat().st_size:  # of another it would be written again
            db.pragma("auto_vacuum", 2)  # INCREMENTAL
        db.pragma("journal_mode", "WAL")
        db.pragma("synchronous", "NORMAL")
        db.pragma("foreign_keys", value=True)
    db.pragma("cache_size", -PAGE_CACHE_KIB)
    db.pragma("temp_store", "MEMORY")
    return db


def fill_in_one_go(db: apsw.Connection) -> None:
    """For a new catalog that is filled from start to end: no log, no syncs, much memory."""
    db.pragma("journal_mode", "OFF")
    db.pragma("synchronous", "OFF")
    db.pragma("cache_size", -FILLING_CACHE_KIB)
