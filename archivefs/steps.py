"""Work that yields what it wants committed and goes on with what that made, whoever commits."""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from archivefs.transaction import Operation

R = TypeVar("R")
Commit = Callable[[list[Operation[Any]]], list[Any]]
"""Commits operations together; gives what each made, or the ``ArchiveError`` that undid it."""
Stepwise = Generator[list[Operation[Any]], list[Any], R]
"""Yields operations that are to be committed together (none: a good moment to be stopped), is sent what each
made or raised, and returns its result."""


def carry_out(steps: Stepwise[R], commit: Commit, check: Callable[[], object] = lambda: None) -> R:
    """Do the work. Raises what it raises, and what ``check`` raises between two steps."""
    try:
        operations = next(steps)
        while True:
            check()
            operations = steps.send(commit(operations) if operations else [])
    except StopIteration as end:
        result: R = end.value
        return result
    finally:
        steps.close()


def made(outcomes: list[Any]) -> list[Any]:
    """What operations made. Raises what undid the first that was undone."""
    for each in outcomes:
        if isinstance(each, Exception):
            raise each
    return outcomes
