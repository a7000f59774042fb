"""The views: each is a list of levels, and its last directories hold entries (or, flat, their sources).

A further view is one more line in ``VIEWS``. Levels come from the catalog's totals, so that the top of the
tree never looks at entries; entries come page by page.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import NamedTuple

from archivefs.catalog.catalog import day_number, day_text, status_number
from archivefs.catalog.rows import Entry, label
from archivefs.fs import inodes
from archivefs.fs.entry import EntryDir, EntryNodes, entry_attributes, source_attributes
from archivefs.fs.inodes import BY_ID_VIEW, Fixed, Place
from archivefs.fs.node import BRIEFLY, DIR_MODE, FOREVER, Attributes, Directory, Listed, Node, while_in
from archivefs.states import STATUSES, Status

PAGE = 500
"""Entries read from the catalog at once: about 100 kB, and few enough not to be felt by other requests."""


class View(NamedTuple):
    """``levels`` from the top down; ``flat``: sources under their names instead of entry directories."""

    name: str
    levels: tuple[str, ...]
    flat: bool = False


VIEWS = (
    View("by-converter", ("converter", "day", "status")),
    View("by-date", ("year", "month", "mday", "converter", "status")),
    View("by-status", ("status", "converter", "day")),
    View("sources", ("converter", "day", "status"), flat=True),
)
"""The position in this tuple is part of inode numbers: add at the end."""

_COLUMN = {"converter": "converter_id", "status": "status"}
Bounds = dict[str, tuple[int, int]]


def _day_range(levels: tuple[str, ...], day: int) -> tuple[int, int] | None:
    """The days that the levels so far leave open; ``day`` is the first of them."""
    if "day" in levels or "mday" in levels:
        return day, day
    first = date.fromisoformat(day_text(day)) if day else None
    if first is None:
        return None
    if "month" in levels:
        after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    else:
        after = date(first.year + 1, 1, 1)
    return day, day_number(after.isoformat()) - 1


def bounds(place: Place) -> Bounds:
    """What a level has fixed, as bounds of the totals' columns."""
    levels = VIEWS[place.view].levels[: place.depth]
    found: Bounds = {}
    if "converter" in levels:
        found["converter_id"] = (place.converter_id, place.converter_id)
    if "status" in levels:
        found["status"] = (place.status, place.status)
    days = _day_range(levels, place.day)
    if days is not None:
        found["day"] = days
    return found


def leaf(view: int, entry: Entry, status: Status) -> Place:
    """The directory of a view that shows an entry while it has this status."""
    return Place(view, len(VIEWS[view].levels), entry.converter_id, entry.day, status_number(status))


def path_to(view: int, converter_id: int, day: int, status: Status) -> list[Place]:
    """The levels from below the view's root down to the directory of these values."""
    places = []
    for depth in range(1, len(VIEWS[view].levels) + 1):
        levels = VIEWS[view].levels[:depth]
        first = day
        moment = date.fromisoformat(day_text(day))
        if "day" not in levels and "mday" not in levels:
            year_known, month_known = "year" in levels, "month" in levels
            start = date(moment.year, moment.month if month_known else 1, 1)
            first = day_number(start.isoformat()) if year_known else 0
        places.append(
            Place(
                view,
                depth,
                converter_id if "converter" in levels else 0,
                first,
                status_number(status) if "status" in levels else -1,
            )
        )
    return places


class Levels:
    """Names and values of levels, asked of one archive."""

    def __init__(self, nodes: EntryNodes) -> None:
        self.nodes = nodes
        self.reader = nodes.archive.reader
        self._namers: Mapping[str, Callable[[int], str]] = {
            "converter": self.reader.converter_name,
            "status": lambda number: str(STATUSES[number]),
            "day": day_text,
            "year": lambda day: day_text(day)[:4],
            "month": lambda day: day_text(day)[5:7],
            "mday": lambda day: day_text(day)[8:],
        }

    def name(self, place: Place) -> str:
        """The name of a level in its parent."""
        return self._namers[VIEWS[place.view].levels[place.depth - 1]](self.value(place))

    def value(self, place: Place) -> int:
        """What the last level fixed, as a number; levels are listed in its order."""
        key = VIEWS[place.view].levels[place.depth - 1]
        return {"converter": place.converter_id, "status": place.status}.get(key, place.day)

    def children(self, place: Place) -> list[Place]:
        """The levels below that have entries, in order."""
        key = VIEWS[place.view].levels[place.depth]
        values = self.reader.groups(_COLUMN.get(key, "day"), bounds(place))
        found: dict[Place, None] = {}
        for value in values:
            found[self._child(place, key, value)] = None
        return list(found)

    def _child(self, place: Place, key: str, value: int) -> Place:
        deeper = place._replace(depth=place.depth + 1)
        if key == "converter":
            return deeper._replace(converter_id=value)
        if key == "status":
            return deeper._replace(status=value)
        moment = date.fromisoformat(day_text(value))
        first = {"year": date(moment.year, 1, 1), "month": date(moment.year, moment.month, 1)}.get(
            key, moment
        )
        return deeper._replace(day=day_number(first.isoformat()))

    def exists(self, place: Place) -> bool:
        """Whether there is an entry under this level."""
        return self.reader.any_entries(bounds(place))


class LevelDir(Directory):
    """A directory of a view: the view itself, one of its levels, or the last one, which holds entries."""

    def __init__(self, levels: Levels, place: Place, changed_ns: int) -> None:
        self.ino = inodes.level(place)
        self._levels = levels
        self._place = place
        self._view = VIEWS[place.view]
        self._changed_ns = changed_ns
        self.decided_by = (place.converter_id, place.day) if self._is_leaf else None

    def attributes(self) -> Attributes:
        """Dated by the last change of the archive; kept briefly, its name as long as it holds."""
        when, status = self._changed_ns, self._place.status
        known = FOREVER if status < 0 else while_in(STATUSES[status])
        return Attributes(
            self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, entry_timeout=known, attr_timeout=BRIEFLY
        )

    @property
    def _is_leaf(self) -> bool:
        return self._place.depth == len(self._view.levels)

    def lookup(self, name: bytes) -> Node | None:
        """The level or entry of that name."""
        if self._is_leaf:
            return self._lookup_entry(name)
        try:
            wanted = name.decode("ascii")
        except UnicodeDecodeError:
            return None
        for place in self._levels.children(self._place):
            if self._levels.name(place) == wanted:
                return LevelDir(self._levels, place, self._changed_ns)
        return None

    def _lookup_entry(self, name: bytes) -> Node | None:
        place, reader, nodes = self._place, self._levels.reader, self._levels.nodes
        if self._view.flat:
            source = reader.by_flat_name(place.converter_id, place.day, name)
            return nodes.source(source) if source and source.status_number == place.status else None
        entry = reader.by_label(name, place.day, nodes.archive.zone, place.converter_id)
        if entry is None or entry.status_number != place.status or entry.day != place.day:
            return None
        return EntryDir(nodes, entry, place.view)

    def entries(self, after: int) -> Iterator[Listed]:
        """Levels in the order of their values, entries page by page in that of capture: those are cookies."""
        if not self._is_leaf:
            for place in self._levels.children(self._place):
                cookie = self._levels.value(place) + 1
                if cookie > after:
                    name = self._levels.name(place).encode()
                    yield cookie, name, LevelDir(self._levels, place, self._changed_ns)
            return
        yield from self._sources(after) if self._view.flat else self._entries(after)

    def _sources(self, after: int) -> Iterator[Listed]:
        place, status = self._place, STATUSES[self._place.status]
        while True:
            page = self._levels.reader.flat_page(place.converter_id, place.day, status, after, PAGE)
            for n, name, size, length, mtime_ns, members in page:
                yield n, name, source_attributes(n, size, length, mtime_ns, members, status)
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def _entries(self, after: int) -> Iterator[Listed]:
        place, status, zone = self._place, STATUSES[self._place.status], self._levels.nodes.archive.zone
        while True:
            page = self._levels.reader.label_page(place.converter_id, place.day, status, after, PAGE)
            for n, captured_ms, digits, name, twin in page:
                shown = entry_attributes(n, captured_ms, place.view, status)
                yield n, label(captured_ms, zone, digits, name, twin), shown
            if len(page) < PAGE:
                return
            after = page[-1][0]


class ByIdDir(Directory):
    """``by-id/``: every entry under its archive id."""

    ino = int(Fixed.BY_ID)

    def __init__(self, nodes: EntryNodes, changed_ns: int) -> None:
        self._nodes = nodes
        self._changed_ns = changed_ns

    def attributes(self) -> Attributes:
        """Dated by the last change of the archive."""
        when = self._changed_ns
        return Attributes(self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, attr_timeout=BRIEFLY)

    def lookup(self, name: bytes) -> Node | None:
        """The entry with exactly this id."""
        entry = self._nodes.archive.reader.by_id(name.decode("ascii", "replace"))
        if entry is None or entry.status is Status.PURGED:
            return None
        return EntryDir(self._nodes, entry, BY_ID_VIEW)

    def entries(self, after: int) -> Iterator[Listed]:
        """All entries in the order of capture."""
        while True:
            page = self._nodes.archive.reader.id_page(after, PAGE)
            for n, id_, captured_ms in page:
                yield n, id_.encode(), entry_attributes(n, captured_ms, BY_ID_VIEW, None)
            if len(page) < PAGE:
                return
            after = page[-1][0]
