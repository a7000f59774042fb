"""Questions about segments: which there are, and which records must stand in them."""

import re

import apsw

from archivefs.catalog.catalog import VOID_REASON, day_number, status_number
from archivefs.catalog.rows import Record
from archivefs.states import Status

_PART = re.compile(r"(\.\d+)?\.zst$")


class SegmentReader:
    """The part of ``Reader`` that is about segments."""

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db

    def records(self, segment: str, since_ms: int = 0) -> list[Record]:
        """The records of a segment in the order of offset, of entries captured at or after ``since_ms``."""
        number = self.db.execute("SELECT segment_id FROM segments WHERE name = ?", (segment,)).get
        place = self.place_of(segment)
        # All records of a segment are of one converter and day, for which there is an index; but those that
        # were routed to another since, for which there is another.
        here = "converter_id = ?4 AND day = ?5 AND" if place else ""
        rows = self.db.execute(
            "SELECT id, offset, length, size, sha256, 0, 0 FROM entries"
            f" WHERE {here} segment_id = ?1 AND confidence < 0 AND captured_ms >= ?2 AND reason != ?3"
            " UNION ALL SELECT id, offset, length, size, sha256, 0, 0 FROM entries"
            " WHERE segment_id = ?1 AND confidence >= 0 AND captured_ms >= ?2 AND reason != ?3"
            " UNION ALL SELECT id, c.offset, c.length, c.size, c.sha256, c.attempt, c.ordinal"
            " FROM entries JOIN contents c USING (n)"
            f" WHERE {here} c.segment_id = ?1 AND captured_ms >= ?2 ORDER BY 2",
            (number, since_ms, VOID_REASON, *(place or ())),
        )
        return [Record(*row) for row in rows]

    def is_needed(self, segment: str) -> bool:
        """Whether a content belongs there; also one that is lost and not dropped: it may be put back."""
        number = self.db.execute("SELECT segment_id FROM segments WHERE name = ?", (segment,)).get
        place = self.place_of(segment)
        here = "converter_id = ?4 AND day = ?5 AND" if place else ""
        found = self.db.execute(
            f"SELECT EXISTS (SELECT 1 FROM entries WHERE {here} segment_id = ?1 AND confidence < 0"
            " AND NOT (status = ?2 AND reason = ?3))"
            " OR EXISTS (SELECT 1 FROM entries WHERE segment_id = ?1 AND confidence >= 0"
            " AND NOT (status = ?2 AND reason = ?3))"
            f" OR EXISTS (SELECT 1 FROM entries JOIN contents c USING (n) WHERE {here} c.segment_id = ?1)",
            (number, status_number(Status.REJECTED), VOID_REASON, *(place or ())),
        ).get
        return bool(found)

    def superseded_segments(self) -> list[str]:
        """Segments that stand beside others of their base, such as a repack makes, and are not needed."""
        bases: dict[str, list[str]] = {}
        for name in self.segment_ends():
            bases.setdefault(_PART.sub("", name), []).append(name)
        several = (names for names in bases.values() if len(names) > 1)
        return [name for names in several for name in names if not self.is_needed(name)]

    def place_of(self, segment: str) -> tuple[int, int] | None:
        """``(converter_id, day)`` of a segment by its name, None where the name does not say."""
        day, _, file = segment.rpartition("/")
        found = re.fullmatch(r"(.+)\.(?:sources|reports)(?:\.\d+)?\.zst", file)
        sql = "SELECT converter_id FROM converters WHERE name = ?"
        converter_id = self.db.execute(sql, (found[1],)).get if found else None
        if converter_id is None or not re.fullmatch(r"\d{4}/\d\d/\d\d", day):
            return None
        return converter_id, day_number(day.replace("/", "-"))

    def contents_beyond(self, segment: str, end: int) -> list[tuple[str, int, int]]:
        """``(id, attempt, ordinal)`` of the records that end behind ``end``; attempt 0 is the source.

        Reads all rows: for a segment that turned out to be too short.
        """
        number = self.db.execute("SELECT segment_id FROM segments WHERE name = ?", (segment,)).get
        rows = self.db.execute(
            "SELECT id, 0, 0 FROM entries"
            " WHERE segment_id = ?1 AND offset + length > ?2 AND reason != ?3"
            " UNION ALL SELECT id, attempt, ordinal FROM contents c JOIN entries USING (n)"
            " WHERE c.segment_id = ?1 AND c.offset + c.length > ?2",
            (number, end, VOID_REASON),
        )
        return list(rows)

    def segment_ends(self) -> dict[str, int]:
        """Where each segment ends according to the journal, by its name; without those that are gone."""
        return dict(self.db.execute("SELECT name, end_bytes FROM segments WHERE gone = 0"))

    def gone_segments(self) -> set[str]:
        """The segments whose files are removed, or were about to be."""
        return {row[0] for row in self.db.execute("SELECT name FROM segments WHERE gone = 1")}

    def packed_segments(self) -> set[str]:
        """The segments that hold nothing but what a repack wrote."""
        rows = self.db.execute("SELECT name FROM segments WHERE gone = 0 AND packed = end_bytes")
        return {row[0] for row in rows}
