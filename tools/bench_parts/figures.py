"""What is measured, as values of several systems in several rounds; ratios are taken within a round."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

OURS = "archivefs"
FLOOR = "floor"
T = TypeVar("T")


class Spread(NamedTuple):
    """The median of some values, the least and the greatest."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


class Budget(NamedTuple):
    """What must be reached: a value, or a ratio to another system in the same round."""

    text: str
    at_least: float | None = None
    at_most: float | None = None
    of: str = ""

    def met(self, value: float) -> bool:
        """Whether a median is within it."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


def at_least(ratio: float, of: str = FLOOR) -> Budget:
    """Not slower than so many times another system."""
    return Budget(f">= {ratio:g} x {of}", at_least=ratio, of=of)


def at_most(value: float, text: str) -> Budget:
    """Not more than a value."""
    return Budget(f"<= {text}", at_most=value)


@dataclass
class Figure:
    """One line of the table: the values of each system, by its name, one for each round.

    ``unit`` is one of ``report.UNITS``; ``of`` is the system that the ratio refers to, '' for none.
    """

    group: str
    name: str
    unit: str
    values: dict[str, list[float]]
    budget: Budget | None = None
    of: str = FLOOR

    def spread(self, system: str) -> Spread | None:
        """The values of one system, None where it was not measured."""
        values = self.values.get(system)
        return spread(values) if values else None

    @property
    def other(self) -> str:
        """The system that archivefs is compared with."""
        return self.budget.of if self.budget is not None and self.budget.of else self.of

    @property
    def ratio(self) -> Spread | None:
        """archivefs to that system, round by round."""
        ours, theirs = self.values.get(OURS), self.values.get(self.other)
        if not ours or not theirs or not all(theirs):
            return None
        return spread([one / other for one, other in zip(ours, theirs, strict=False)])

    @property
    def is_met(self) -> bool | None:
        """Whether the budget is, None without one or where it could not be measured."""
        found = self.ratio if self.budget is not None and self.budget.of else self.spread(OURS)
        return None if self.budget is None or found is None else self.budget.met(found.median)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        facts: dict[str, Any] = {"group": self.group, "name": self.name, "unit": self.unit}
        facts["systems"] = {
            name: {**spread(values)._asdict(), "values": values}
            for name, values in self.values.items() if values
        }  # fmt: skip
        facts["ratio"] = None if self.ratio is None else {"of": self.other, **self.ratio._asdict()}
        facts["budget"] = None if self.budget is None else {"text": self.budget.text, "met": self.is_met}
        return facts


@dataclass
class Table:
    """Values as they come in: by what was measured, then by system."""

    values: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, system: str, measured: Mapping[str, float]) -> None:
        """One round of one system."""
        for name, value in measured.items():
            self.values[name][system].append(value)

    def of(self, name: str) -> dict[str, list[float]]:
        """What one figure needs."""
        return {system: list(values) for system, values in self.values[name].items()}


def alternate(
    systems: Sequence[T],
    rounds: int,
    measure: Callable[[T], Mapping[str, float]],
    name: Callable[[T], str],
    seldom: Iterable[str] = (),
) -> Table:
    """Measure each system in turn, again and again; ``seldom`` ones in the first three rounds only."""
    table, rare = Table(), set(seldom)
    for number in range(rounds):
        for system in in_turn(systems, number):
            if number < 3 or name(system) not in rare:
                table.add(name(system), measure(system))
    return table


def in_turn(systems: Sequence[T], number: int) -> Iterator[T]:
    """Forwards in even rounds, backwards in odd ones: what wears off or builds up meets both ends alike."""
    yield from systems if number % 2 == 0 else reversed(systems)
