"""What protects an entry from being purged: the one place that decides it."""

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import NamedTuple

from archivefs.catalog.purging import Facts, HoldRow
from archivefs.catalog.reader import Reader
from archivefs.config import Config
from archivefs.errors import QueryError
from archivefs.query import Query, parse
from archivefs.states import STATUSES, UNPURGEABLE, Status

DAY_MS = 86_400_000


class Rule(Enum):
    """Why somebody wants an entry to go; each respects less than the one before it.

    ``AGE``: it is older than its policy keeps it, or a person asks for it. ``SIZE``: a limit of size, which
    goes before the promised days. ``ERASE``: it must be erased, whatever retention says.
    """

    AGE = 1
    SIZE = 2
    ERASE = 3


class _Hold(NamedTuple):
    row: HoldRow
    query: Query | None


class Gate:
    """Asks one catalog, at one time. For one thread."""

    def __init__(self, reader: Reader, config: Config, now_ms: int) -> None:
        """Raises nothing: a hold whose query cannot be read any more covers every later entry."""
        self._reader = reader
        self._config = config
        self._now_ms = now_ms
        self._retained = reader.purges.retained()
        self._holds = [_Hold(row, self._query(row)) for row in reader.purges.holds() if not row.released_ms]

    def _query(self, row: HoldRow) -> Query | None:
        try:
            return parse(row.query, self._config.zone)
        except QueryError:
            return None

    def protections(self, facts: Facts, rule: Rule) -> list[str]:
        """What protects an entry, in words; nothing: it may go."""
        found = [*self._unfinished(facts), *self._held(facts)]
        converter = self._reader.converter_name(facts.converter_id)
        policy = self._config.policy(converter)
        until = max(policy.retain_until, self._retained.get(converter, ""))
        if until and self._today() <= until:
            found.append(f"{converter} is retained until {until}")
        if rule is Rule.ERASE:
            return found
        if STATUSES[facts.status] in policy.keep_statuses:
            found.append(f"retention of {converter} keeps what is {STATUSES[facts.status]}")
        if policy.only_submitted and not (facts.sent and facts.sent >= facts.reports):
            found.append(f"retention of {converter} keeps what its receiver does not have")
        if rule is not Rule.SIZE and self.is_promised(facts):
            day = datetime.fromtimestamp(self.expires_ms(facts) / 1000, UTC)
            found.append(
                f"retention of {converter} keeps it for {policy.days} days, until {day:%Y-%m-%d %H:%M}Z"
            )
        return found

    def expires_ms(self, facts: Facts) -> int:
        """Until when retention promises to keep it (Unix milliseconds), 0 where it promises nothing."""
        days = self._config.policy(self._reader.converter_name(facts.converter_id)).days
        return facts.captured_ms + days * DAY_MS if days else 0

    def is_promised(self, facts: Facts) -> bool:
        """Whether retention promises to keep it longer than until now."""
        return self.expires_ms(facts) > self._now_ms

    def _today(self) -> str:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self._now_ms)).date().isoformat()

    def _unfinished(self, facts: Facts) -> list[str]:
        status, found = STATUSES[facts.status], []
        if status in (Status.QUARANTINED, Status.PURGED):
            found.append(f"it is {status}")
        elif status in UNPURGEABLE:
            found.append(f"its conversion is not finished: it is {status}")
        if facts.unsent:
            found.append(f"{facts.unsent} of its reports wait for delivery")
        return found

    def _held(self, facts: Facts) -> list[str]:
        if not self._holds:
            return []
        names = self._reader.purges.holding(facts.n)
        for row, query in self._holds:
            is_later = row.future and facts.n > row.last_n
            if is_later and (query is None or self._reader.selects(query, facts.n)):
                names.append(row.name)
        return [f'held by "{name}"' for name in names]
