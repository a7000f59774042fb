"""The questions asked of the catalog, each answered from an index, in pages where there can be many rows."""

from collections.abc import Iterator, Mapping, Set
from datetime import datetime
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

import apsw

from archivefs import names
from archivefs.catalog import conditions, labels, searching
from archivefs.catalog.catalog import (
    DROP_REASON,
    VOID_REASON,
    day_text,
    require_schema,
    status_number,
)
from archivefs.catalog.connection import connect
from archivefs.catalog.jobs import JobReader
from archivefs.catalog.outbox import OutboxReader
from archivefs.catalog.purging import PurgeReader
from archivefs.catalog.rows import (
    Attempt,
    CodeRow,
    DictionaryRow,
    Entry,
    MemberRow,
    Source,
    Stored,
    Total,
)
from archivefs.catalog.segments import SegmentReader
from archivefs.errors import CatalogError, UnknownEntryError
from archivefs.parts import Location
from archivefs.query import Query
from archivefs.states import STATUSES, Status


class Reader(SegmentReader):
    """A reading connection. Sees a commit as soon as it is applied.

    Calls take well under 100 us each, except ``search`` and ``totals``, whose time grows with what they read.
    """

    def __init__(self, db: apsw.Connection) -> None:
        """Ask over this connection, which one thread at a time may use."""
        super().__init__(db)
        conditions.add_functions(db)
        self.outbox = OutboxReader(db)
        self.purges = PurgeReader(db)
        self.jobs = JobReader(db)
        self._segments: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """A connection of its own, for reading. Raises ``CatalogError``, ``OtherSchemaError``."""
        try:
            db = connect(path, readonly=True)
            require_schema(db, path)
            return cls(db)
        except apsw.Error as error:
            raise CatalogError(f"{path} cannot be read: {error}") from None

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    # -- one entry -------------------------------------------------------------------------------------

    def entry(self, n: int) -> Entry | None:
        """Entry number ``n``."""
        return self._one("n = ?", n)

    def number(self, id_: str) -> int | None:
        """The number of the entry with this archive id."""
        n: int | None = self.db.execute("SELECT n FROM entries WHERE id = ?", (id_,)).get
        return n

    def by_id(self, id_: str) -> Entry | None:
        """The entry with this archive id."""
        return self._one("id = ?", id_)

    def get(self, id_: str) -> Entry:
        """The entry with this id, or the only one whose id begins so. Raises ``UnknownEntryError``."""
        rows = self.db.execute(
            "SELECT * FROM entries WHERE id >= ? AND id < ? || 'g' ORDER BY id LIMIT 2", (id_, id_)
        )
        found = [Entry(*row) for row in rows] if len(id_) >= 8 else []
        if not found or (len(found) > 1 and found[0].id != id_):
            why = "more than one entry begins so" if found else "see archivefs ls for those there are"
            raise UnknownEntryError(f'no entry with id "{id_}": {why}')
        return found[0]

    def source(self, n: int) -> Source | None:
        """The source of entry number ``n``."""
        return self._source("n = ?", n)

    def by_flat_name(self, converter_id: int, day: int, name: bytes) -> Source | None:
        """The source that sources/ shows under this name on that day."""
        return self._source("converter_id = ? AND day = ? AND flat_name = ?", converter_id, day, name)

    def _source(self, where: str, *values: object) -> Source | None:
        columns = ", ".join(Source._fields).replace("status_number", "status")
        for row in self.db.execute(f"SELECT {columns} FROM entries WHERE {where}", values):
            return Source(*row)
        return None

    def by_label(self, label: bytes, day: int, zone: ZoneInfo, converter_id: int) -> Entry | None:
        """The entry whose directory has this name, among those of a converter's day."""
        parts = names.parse_entry_label(label)
        if parts is None:
            return None
        clock, digits = parts
        try:
            local = datetime.fromisoformat(f"{day_text(day)}T{clock[:2]}:{clock[2:4]}:{clock[4:]}")
        except ValueError:
            return None
        for fold in (0, 1):
            start = int(local.replace(tzinfo=zone, fold=fold).timestamp()) * 1000
            rows = self.db.execute(
                "SELECT * FROM entries WHERE hex = ? AND captured_ms BETWEEN ? AND ? AND converter_id = ?",
                (digits, start, start + 999, converter_id),
            )
            for row in rows:
                entry = Entry(*row)
                if entry.label(zone) == label:
                    return entry
        return None

    def newest_with_content(
        self, converter: str, name: bytes, sha256: str, folder: bytes | None = None
    ) -> Entry | None:
        """The newest entry of that name with exactly this content, of a converter ('': of any).

        One that was saved in ``folder`` comes before those of others.
        """
        return self._one(
            # +: SQLite would rather go through all entries of the converter.
            "hex = ?1 AND sha256 = ?2 AND name = ?3 AND segment_id > 0 AND (?4 = '' OR +converter_id ="
            " (SELECT converter_id FROM converters WHERE name = ?4))"
            " ORDER BY folder = ?5 DESC, n DESC LIMIT 1",
            sha256[:6], sha256, name, converter, folder,
        )  # fmt: skip

    def places_of_content(self, converter: str, sha256: str) -> set[tuple[bytes, bytes, int]]:
        """``(folder, name, mtime_ns)`` of a converter's entries that have this content and still hold it."""
        rows = self.db.execute(
            "SELECT folder, name, mtime_ns FROM entries WHERE hex = ? AND sha256 = ? AND +converter_id ="
            " (SELECT converter_id FROM converters WHERE name = ?)"
            " AND reason NOT IN (?, ?) AND segment_id > 0",
            (sha256[:6], sha256, converter, VOID_REASON, DROP_REASON),
        )
        return {(folder, name, mtime_ns) for folder, name, mtime_ns in rows}

    def newest_of_place(self, converter: str, folder: bytes, name: bytes) -> Entry | None:
        """The newest entry of a name that was saved in a folder of a converter ('': of any).

        Reads all entries of the converter.
        """
        where = (
            "converter_id = (SELECT converter_id FROM converters WHERE name = ?1)" if converter else "?1 = ''"
        )
        return self._one(
            f"{where} AND folder = ?2 AND name = ?3 ORDER BY n DESC LIMIT 1", converter, folder, name
        )

    def newest_of_names(self, converter: str, wanted: Set[bytes]) -> dict[bytes, Entry]:
        """The newest entry of each name, among those of the converter's last two days; reads all of these.

        With '' of all converters.
        """
        if not converter:
            others = [row[0] for row in self.db.execute("SELECT name FROM converters")]
            found = [self.newest_of_names(each, wanted).values() for each in others]
            every = sorted((entry for each in found for entry in each), key=lambda entry: entry.n)
            return {entry.name: entry for entry in every}
        converter_id = self.converter_id(converter)
        days = self.groups("day", {"converter_id": (converter_id, converter_id)}) if converter_id else []
        rows = self.db.execute(
            "SELECT * FROM entries WHERE converter_id = ? AND day IN (?, ?) ORDER BY n",
            (converter_id, *(days[-2:] or [0]), *([0] if len(days) < 2 else [])),
        )
        entries = (Entry(*row) for row in rows)
        return {entry.name: entry for entry in entries if entry.name in wanted}

    def _one(self, where: str, *values: object) -> Entry | None:
        for row in self.db.execute(f"SELECT * FROM entries WHERE {where}", values):
            return Entry(*row)
        return None

    # -- pages -----------------------------------------------------------------------------------------

    def flat_page(
        self, converter_id: int, day: int, status: Status, after: int, limit: int
    ) -> list[tuple[int, bytes, int, int, int, int]]:
        """``(n, flat name, size, length, mtime_ns, members)`` of the next entries of a directory, by ``n``.

        Few columns are read fast.
        """
        rows = self.db.execute(
            "SELECT n, flat_name, size, length, mtime_ns, members FROM entries"
            " WHERE converter_id = ? AND day = ? AND status = ? AND n > ? ORDER BY n LIMIT ?",
            (converter_id, day, status_number(status), after, limit),
        )
        return list(rows)

    def label_page(
        self, converter_id: int, day: int, status: Status, after: int, limit: int
    ) -> list[tuple[int, int, str, bytes, int]]:
        """``(n, captured_ms, hex, name, twin)`` of the same."""
        rows = self.db.execute(
            "SELECT n, captured_ms, hex, name, twin FROM entries"
            " WHERE converter_id = ? AND day = ? AND status = ? AND n > ? ORDER BY n LIMIT ?",
            (converter_id, day, status_number(status), after, limit),
        )
        return list(rows)

    def id_page(self, after: int, limit: int) -> list[tuple[int, str, int]]:
        """``(n, id, captured_ms)`` of the next entries that are not purged, in the order of ``n``."""
        rows = self.db.execute(
            "SELECT n, id, captured_ms FROM entries WHERE n > ? AND status != ? ORDER BY n LIMIT ?",
            (after, status_number(Status.PURGED), limit),
        )
        return list(rows)

    def all_after(self, after: int, limit: int) -> list[Entry]:
        """The next entries of the whole archive in the order of ``n``."""
        rows = self.db.execute("SELECT * FROM entries WHERE n > ? ORDER BY n LIMIT ?", (after, limit))
        return [Entry(*row) for row in rows]

    def with_status(self, status: Status) -> list[Entry]:
        """All entries of a status; for those that hold few."""
        rows = self.db.execute(
            "SELECT e.* FROM totals t JOIN entries e USING (converter_id, day, status)"
            " WHERE t.status = ? ORDER BY e.n",
            (status_number(status),),
        )
        return [Entry(*row) for row in rows]

    def due(self, converter_id: int, now_ms: int) -> Iterator[Entry]:
        """Entries of a converter whose next conversion is due, earliest first."""
        rows = self.db.execute(
            "SELECT * FROM entries WHERE converter_id = ? AND due_ms > 0 AND due_ms <= ? ORDER BY due_ms, n",
            (converter_id, now_ms),
        )
        return (Entry(*row) for row in rows)

    def due_count(self, now_ms: int) -> int:
        """How many entries are due, of all converters."""
        sql = "SELECT count(*) FROM entries WHERE due_ms > 0 AND due_ms <= ?"
        return int(self.db.execute(sql, (now_ms,)).get)

    def next_due_ms(self, converter_id: int, after_ms: int) -> int | None:
        """The time of a converter's earliest conversion that is due later than ``after_ms``."""
        due: int | None = self.db.execute(
            "SELECT min(due_ms) FROM entries WHERE converter_id = ? AND due_ms > 0 AND due_ms > ?",
            (converter_id, after_ms),
        ).get
        return due

    def search(
        self, query: Query, *, newest_first: bool = True, behind: tuple[int, int] | None = None
    ) -> Iterator[Entry]:
        """The entries that a query selects, day by day, in a day in the order of capture.

        ``behind``: day and number of an entry; only those after it.
        """
        return searching.search(self.db, query, newest_first=newest_first, behind=behind)

    def selects(self, query: Query, n: int) -> bool:
        """Whether a query selects entry number ``n``; its limit does not count."""
        return searching.selects(self.db, query, n)

    def named_page(
        self, query: Query, zone: ZoneInfo, behind: tuple[int, int] | None
    ) -> list[tuple[Entry, bytes]]:
        """The newest of them, and their names where entries of all converters and days are together."""
        found = list(self.search(query, behind=behind))
        return list(zip(found, labels.names_of(self.db, found, zone), strict=True))

    def named(self, query: Query, zone: ZoneInfo, name: bytes) -> Entry | None:
        """The one of them that has this name there."""
        n = labels.number_of(self.db, name, zone)
        return self.entry(n) if n is not None and searching.selects(self.db, query, n) else None

    # -- parts of an entry -----------------------------------------------------------------------------

    def attempts(self, n: int) -> list[Attempt]:
        """The attempts of an entry, oldest first."""
        rows = self.db.execute("SELECT * FROM attempts WHERE n = ? ORDER BY attempt", (n,))
        return [Attempt(*row) for row in rows]

    def members(self, n: int) -> list[MemberRow]:
        """What is in a source that is a folder, in the order of path."""
        rows = self.db.execute(
            "SELECT ordinal, path, mode, size, mtime_ns, offset FROM members WHERE n = ? ORDER BY ordinal",
            (n,),
        )
        return [MemberRow(*row) for row in rows]

    def contents(self, n: int) -> list[Stored]:
        """Logs and reports of an entry's attempts, in the order of attempt and ordinal."""
        rows = self.db.execute("SELECT * FROM contents WHERE n = ? ORDER BY attempt, ordinal", (n,))
        return [
            Stored(n, attempt, ordinal, name, size, sha256, self._location(*place))
            for n, attempt, ordinal, name, size, sha256, *place, _ in rows
        ]

    def location(self, entry: Entry | Source) -> Location:
        """Where the source's record lies."""
        place = self._location(entry.segment_id, entry.offset, entry.header, entry.stored, entry.length)
        if place is None:
            purged = self.purges.purged(entry.n)
            why = f"it was purged: {purged.why}" if purged is not None else "there is none"
            raise UnknownEntryError(f"entry number {entry.n} has no content: {why}")
        return place

    def _location(
        self, segment_id: int, offset: int, header: int, stored: int, length: int
    ) -> Location | None:
        if segment_id == 0:
            return None
        if segment_id not in self._segments:
            name = self.db.execute("SELECT name FROM segments WHERE segment_id = ?", (segment_id,)).get
            self._segments[segment_id] = name
        return Location(
            segment=self._segments[segment_id], offset=offset, header=header, stored=stored, length=length
        )

    # -- levels of the tree ----------------------------------------------------------------------------

    def converter_name(self, converter_id: int) -> str:
        """The name of a converter by its number. Raises ``UnknownEntryError``."""
        if converter_id not in self._names:
            self._names.update(self.db.execute("SELECT converter_id, name FROM converters"))
        if converter_id not in self._names:
            raise UnknownEntryError(f"no converter number {converter_id}")
        return self._names[converter_id]

    def converter_id(self, name: str) -> int | None:
        """The number of a converter by its name, None where it never captured anything."""
        if name not in self._numbers:
            for number, known in self.db.execute("SELECT converter_id, name FROM converters"):
                self._numbers[known] = number
        return self._numbers.get(name)

    def groups(self, column: str, fixed: Mapping[str, tuple[int, int]]) -> list[int]:
        """The different values of ``column`` in the totals within the inclusive bounds of ``fixed``."""
        where = " AND ".join(f"{key} BETWEEN ? AND ?" for key in fixed) or "1"
        values = [bound for bounds in fixed.values() for bound in bounds]
        rows = self.db.execute(f"SELECT DISTINCT {column} FROM totals WHERE {where} ORDER BY 1", values)
        return [row[0] for row in rows]

    def any_entries(self, fixed: Mapping[str, tuple[int, int]]) -> bool:
        """Whether there is an entry within these bounds of the totals' columns."""
        where = " AND ".join(f"{key} BETWEEN ? AND ?" for key in fixed) or "1"
        values = [bound for bounds in fixed.values() for bound in bounds]
        return self.db.execute(f"SELECT 1 FROM totals WHERE {where} LIMIT 1", values).get is not None

    def totals(self) -> list[Total]:
        """All sums, by converter and status."""
        rows = self.db.execute(
            "SELECT name, status, sum(entries), sum(size), sum(length) FROM totals"
            " JOIN converters USING (converter_id) GROUP BY name, status ORDER BY name, status"
        )
        return [Total(name, STATUSES[status], *sums) for name, status, *sums in rows]

    def small_contents(
        self, converter: str, content: str, limit_bytes: int, count: int, days: tuple[int, int] | None = None
    ) -> list[tuple[Location, int]]:
        """Place and size of a converter's newest sources or reports of at most ``limit_bytes``.

        ``days``: of entries of these days only, first and last.
        """
        first, last = days or (0, 2**31)
        if content == "sources":
            sql = (
                "SELECT segment_id, offset, header, stored, length, size FROM entries"
                " WHERE converter_id = ? AND day BETWEEN ? AND ? AND size BETWEEN 1 AND ? AND reason != ?"
                " ORDER BY n DESC LIMIT ?"
            )
        else:
            sql = (
                "SELECT c.segment_id, c.offset, c.header, c.stored, c.length, c.size"
                " FROM entries e JOIN contents c USING (n) WHERE converter_id = ? AND day BETWEEN ? AND ?"
                " AND c.size BETWEEN 1 AND ? AND ordinal > 0 AND reason != ? AND c.segment_id > 0"
                " ORDER BY n DESC LIMIT ?"
            )
        rows = self.db.execute(
            sql, (self.converter_id(converter), first, last, limit_bytes, VOID_REASON, count)
        )
        places = ((self._location(*place), size) for *place, size in rows)
        return [(place, size) for place, size in places if place is not None]

    def dictionaries(self) -> list[DictionaryRow]:
        """All dictionaries, oldest first."""
        return [DictionaryRow(*row) for row in self.db.execute("SELECT * FROM dictionaries ORDER BY seq")]

    def code(self, converter: str = "") -> list[CodeRow]:
        """All versions of the code of one converter or of all, oldest first."""
        sql = "SELECT * FROM code WHERE ?1 IN ('', converter) ORDER BY seq"
        return [CodeRow(*row) for row in self.db.execute(sql, (converter,))]

    def days(self, query: Query) -> list[tuple[int, int]]:
        """``(converter_id, day)`` of the entries that a query selects, each once; reads all of them."""
        where, values = conditions.compile_terms(query.terms)
        rows = self.db.execute(f"SELECT DISTINCT converter_id, day FROM entries WHERE {where}", values)
        return list(rows)

    def content_bytes(self) -> int:
        """The sum of all sources, logs and reports that are stored."""
        total: int = self.db.execute(
            "SELECT (SELECT total(size) FROM totals)"
            " + (SELECT total(size) FROM contents WHERE segment_id > 0)"
        ).get
        return int(total)

    def last_id(self) -> str:
        """The highest archive id, '' in an empty archive."""
        return self.db.execute("SELECT max(id) FROM entries").get or ""

    def last_verified(self) -> str:
        """When the last scheduled verification ended (UTC, ISO), '' before the first."""
        when = self.db.execute("SELECT value FROM meta WHERE key = 'verified_at'").get
        return str(when or "")

    def last_verified_part(self) -> int:
        """Which part that was, from 1; 0 before the first."""
        return int(self.db.execute("SELECT value FROM meta WHERE key = 'verified_part'").get or 0)

    def timezone(self) -> str:
        """The time zone that the archive was made with."""
        return str(self.db.execute("SELECT value FROM meta WHERE key = 'timezone'").get)

    def last_configured(self) -> tuple[str, str]:
        """SHA-256 of archive.toml before and after its last change that was noted, '' for none."""
        rows = dict(self.db.execute("SELECT key, value FROM meta WHERE key LIKE 'config_%'"))
        return str(rows.get("config_before", "")), str(rows.get("config_after", ""))

    def lost(self) -> list[Entry]:
        """Entries whose content the disk does not have."""
        return [entry for entry in self.with_status(Status.QUARANTINED) if entry.reason == VOID_REASON]

    def applied(self) -> tuple[int, str]:
        """Number and SHA-256 of the last journal line that is in it."""
        rows = dict(self.db.execute("SELECT key, value FROM meta WHERE key LIKE 'applied_%'"))
        return int(rows["applied_seq"]), str(rows["applied_sha256"])

    def changed_seq(self) -> int:
        """The journal line up to which this connection sees."""
        seq: int = self.db.execute("SELECT value FROM meta WHERE key = 'applied_seq'").get or 0
        return seq
