"""The converter of a source that was saved at the top of the inbox: the one that is most sure of it."""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from archivefs.archive import Archive
from archivefs.catalog.catalog import RETRY_REASON
from archivefs.catalog.rows import Entry
from archivefs.convert.process import Answer, WorkerError
from archivefs.operations import Route
from archivefs.routing import ROUTING_REASON, UNROUTED, candidates
from archivefs.states import Outcome

log = logging.getLogger(__name__)

ASK_SECONDS = 30.0
"""How long a converter may look at a source before it is taken to be none for it."""
UNASKED = 0.5
"""How sure a converter counts as whose pattern fits and that cannot be asked."""
Ask = Callable[[Entry, str], Awaitable[tuple[Answer, list[bytes]]]]
"""Has a converter look at the source of an entry; its answer and reports. Raises as ``Pool.convert``."""


class CannotAskError(Exception):
    """A converter in question cannot run at the moment."""


class _Said(NamedTuple):
    """How sure a converter is (below 0: not at all), and what it said, for a person."""

    confidence: float
    text: str


def needs_routing(archive: Archive, entry: Entry) -> bool:
    """Whether a waiting entry waits for its converter, not for a conversion."""
    name = archive.reader.converter_name(entry.converter_id)
    return name == UNROUTED and entry.reason in (ROUTING_REASON, RETRY_REASON)


async def choose(archive: Archive, entry: Entry, ask: Ask) -> Route:
    """Ask the converters in question, one after the other; the operation that says what came of it.

    A converter that fails when it is asked is none for the source. Raises ``CannotAskError``, ``OSError`` and
    ``ArchiveError`` where the source cannot be read or laid out.
    """
    names = candidates(archive.config, entry.name)
    tables = archive.config.converters
    if len(names) == 1 and tables[names[0]].patterns:
        return Route(entry.id, names[0], 1.0, {})
    said = {}
    for name in names:
        if tables[name].run.startswith("python:"):
            said[name] = await _ask(ask, entry, name, has_pattern=bool(tables[name].patterns))
        else:
            said[name] = _Said(UNASKED, "its pattern fits")
    texts = {name: each.text for name, each in said.items()}
    fitting = [name for name in names if said[name].confidence >= tables[name].reject_threshold]
    if not fitting:
        return Route(entry.id, "", 0.0, texts)
    best = max(fitting, key=lambda name: (said[name].confidence, -tables[name].priority))
    return Route(entry.id, best, said[best].confidence, texts)


async def _ask(ask: Ask, entry: Entry, name: str, *, has_pattern: bool) -> _Said:
    try:
        with trio.move_on_after(ASK_SECONDS):
            answer, reports = await ask(entry, name)
            if answer.outcome is Outcome.SKIPPED:
                return _Said(UNASKED if has_pattern else -1, answer.error)
            if answer.outcome is not Outcome.SUCCESS:
                return _Said(-1, answer.error)
            told = json.loads(reports[0])
            confidence = float(told["confidence"]) if told["can_convert"] else -1.0
            return _Said(min(confidence, 1.0), f"confidence {told['confidence']:.2f}: {told['message']}")
        return _Said(-1, f"it did not say within {ASK_SECONDS:g} seconds")
    except (WorkerError, ValueError) as error:
        return _Said(-1, str(error))
