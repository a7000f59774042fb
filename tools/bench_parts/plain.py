"""The plain design: one gzip -6 file per source and one SQLite row, as converter archives are often built.

archivefs is compared with it as a library, without FUSE on either side. As it is, nothing of it is synced
(SQLite in WAL mode syncs at checkpoints only): a power cut takes the last files. ``durable`` makes it promise
what archivefs promises: file, folder and row are on the disk when ``archive`` returns.
"""

import gzip
import hashlib
import os
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

LEVEL = 6
SCHEMA = """
CREATE TABLE IF NOT EXISTS archive_entries (
    archive_id TEXT PRIMARY KEY, converter_name TEXT NOT NULL, source_path TEXT NOT NULL,
    source_checksum TEXT, source_size_bytes INTEGER, archived_path TEXT NOT NULL,
    compressed_size_bytes INTEGER, conversion_timestamp TEXT NOT NULL, conversion_status TEXT);
CREATE INDEX IF NOT EXISTS by_time ON archive_entries (converter_name, conversion_timestamp);
CREATE INDEX IF NOT EXISTS by_status ON archive_entries (conversion_status);
"""


class PlainArchive:
    """sources/YYYY/MM/DD/TIMESTAMP_CHECKSUM.EXT.gz and metadata.db."""

    def __init__(self, root: Path, *, durable: bool = False) -> None:
        self._root = root
        self._durable = durable
        root.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(root / "metadata.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.executescript(SCHEMA)

    def archive(self, source: Path, converter: str) -> str:
        """Keep a copy of a source; returns its id."""
        content = source.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        now = time.time_ns()
        moment = datetime.fromtimestamp(now // 10**9, UTC)
        archive_id = f"{now // 10**6}_{hashlib.sha256(f'{source}{now}'.encode()).hexdigest()[:6]}"
        folder = self._root / "sources" / f"{moment:%Y/%m/%d}"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{moment:%Y%m%d_%H%M%S}_{archive_id[-6:]}{source.suffix}.gz"
        packed = gzip.compress(content, LEVEL)
        with target.open("wb") as out:
            out.write(packed)
            if self._durable:
                out.flush()
                os.fsync(out.fileno())
        if self._durable:
            fd = os.open(folder, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        self._db.execute(
            "INSERT INTO archive_entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'archived')",
            (archive_id, converter, str(source), digest, len(content), str(target), len(packed),
             moment.isoformat()),
        )  # fmt: skip
        return archive_id

    def close(self) -> None:
        """Close the database."""
        self._db.close()
