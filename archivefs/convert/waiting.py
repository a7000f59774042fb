"""Which due entry comes next: the highest priority, and among equals the converters in turn.

A flood of one converter delays another by turns, not by its length. A turn lasts a moment, not one
conversion: another converter may need another worker process, whose start takes as long as many conversions.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.routing import UNROUTED

AHEAD = 200
"""Due entries read at once of each converter; a look at the catalog takes about 1 ms for each 200."""
LOOK_SECONDS = 0.2
"""How old the answer may be while there is a backlog; with none, every look is fresh."""
TURN_SECONDS = 1.0
"""How long a place stays with a converter while others wait that have as few; a worker starts in 0.2 s."""
Clock = Callable[[], float]


class Place:
    """One of the conversions that may run at once: whose turn it is there (0: nobody's), and until when.

    ``running`` counts what was begun there and has not ended.
    """

    def __init__(self) -> None:
        self.converter_id = 0
        self.until = 0.0
        self.running = 0


class Waiting:
    """The due entries of all converters that ``archive.toml`` says how to run.

    ``may_start`` is asked of each entry when it is read and again when it is handed out.
    """

    def __init__(
        self, archive: Archive, may_start: Callable[[Entry], bool], clock: Clock = time.monotonic
    ) -> None:
        self._archive = archive
        self._may_start = may_start
        self._clock = clock
        self._due: dict[int, deque[Entry]] = {}
        self._looked = -math.inf
        self._served: dict[int, int] = {}
        self._count = 0

    def take(self, place: Place, running: Collection[int], ahead_bytes: int = 0) -> Entry | None:
        """The entry to convert next in a place, None where nothing is due.

        In a place that is not free it is one of the same converter, of at most ``ahead_bytes``, or
        None where its turn is over.
        ``running`` are the numbers of the converters of the other places that are not free.
        """
        priorities = dict(self._runnable())
        is_old = self._clock() - self._looked > LOOK_SECONDS
        if is_old or not any(self._due.values()):
            self._look(priorities)
        while candidates := [number for number, entries in self._due.items() if entries]:
            converter_id = self._chosen(candidates, place, running, priorities)
            is_small = self._due[converter_id][0].size <= ahead_bytes
            if place.running and (converter_id != place.converter_id or not is_small):
                return None
            entry = self._due[converter_id].popleft()
            if self._may_start(entry):
                self._begin(place, converter_id)
                return entry
        return None

    def seconds_to_next(self) -> float:
        """Until something more becomes due, or may have while an old answer counted; infinite for never."""
        now = self._archive.now_ms()
        times = (self._archive.reader.next_due_ms(number, now) for number, _ in self._runnable())
        earliest = min((due for due in times if due is not None), default=None)
        until_due = math.inf if earliest is None else (earliest - now) / 1000 + 0.001
        backlog = any(self._due.values())
        until_look = max(self._looked + LOOK_SECONDS - self._clock(), 0.0) + 0.001 if backlog else math.inf
        return min(until_due, until_look)

    def _runnable(self) -> Iterator[tuple[int, int]]:
        """Number and priority of each converter that has entries and can be run; ``unrouted`` always."""
        for name in dict.fromkeys((*self._archive.config.converters, UNROUTED)):
            config = self._archive.converter_config(name)
            is_wanted = config.run or name == UNROUTED
            number = self._archive.reader.converter_id(name) if is_wanted else None
            if number is not None:
                yield number, config.priority

    def _look(self, converters: Collection[int]) -> None:
        """Ask the catalog, for each converter by itself: none is out of sight behind another's flood."""
        self._looked = self._clock()
        now = self._archive.now_ms()
        self._due = {
            number: deque(islice(filter(self._may_start, self._archive.reader.due(number, now)), AHEAD))
            for number in converters
        }

    def _chosen(
        self, candidates: list[int], place: Place, running: Collection[int], priorities: Mapping[int, int]
    ) -> int:
        """Whose turn it is in this place: one of those that run least, the one that waited longest."""
        highest = min(priorities[number] for number in candidates)
        places = Counter(running)
        fewest = min(places[number] for number in candidates if priorities[number] == highest)
        equals = [each for each in candidates if (priorities[each], places[each]) == (highest, fewest)]
        if place.converter_id in equals and self._clock() < place.until:
            return place.converter_id
        return min(equals, key=lambda number: self._served.get(number, 0))

    def _begin(self, place: Place, converter_id: int) -> None:
        self._count += 1
        self._served[converter_id] = self._count
        if place.converter_id != converter_id or self._clock() >= place.until:
            place.converter_id = converter_id
            place.until = self._clock() + TURN_SECONDS
