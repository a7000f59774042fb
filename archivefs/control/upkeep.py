"""Commands about what is kept and what goes, and the long work of looking after an archive."""

import shlex
import time
from collections.abc import Generator, Mapping
from typing import Any

from archivefs import names
from archivefs.archive import Archive
from archivefs.control.steps import (
    Command,
    Reply,
    Steps,
    all_or_error,
    misunderstood,
    number_of,
    options,
)
from archivefs.errors import ControlError, RetentionError
from archivefs.jobs.job import CreateJob
from archivefs.parts import Actor
from archivefs.query import parse
from archivefs.retention import choosing, plans
from archivefs.retention.choosing import Choice
from archivefs.retention.operations import AddHold, ReleaseHold
from archivefs.transaction import Operation

PURGE, VERIFY, REPACK = "purge", "verify", "repack"
"""Kinds of work (``jobs/works``)."""
SHOWN = 1000
"""Entries of a plan that a reply lists."""


def job(work: str, request: dict[str, Any], actor: Actor) -> Generator[list[Operation[Any]], list[Any], int]:
    """Queue long work; its number."""
    (number,) = all_or_error((yield [CreateJob(work, request, actor)]))
    return int(number)


# -- retention -----------------------------------------------------------------------------------------------


def _retention(archive: Archive, words: list[str], actor: Actor) -> Steps:
    verb, rest = (words[0], words[1:]) if words else ("", [])
    match verb:
        case "plan":
            text = shlex.join(rest)
            if rest:
                choice = choosing.by_query(archive, parse(rest, archive.zone), text)
            else:
                choice = choosing.by_policies(archive)
            return (yield from _planned(archive, choice, actor))
        case "apply":
            given, others = options(rest, "plan")
            if others:
                raise misunderstood("retention", COMMANDS["retention"], words)
            return (yield from _apply(archive, number_of(given, "plan"), actor))
        case "show":
            given, others = options(rest, "plan")
            if others:
                raise misunderstood("retention", COMMANDS["retention"], words)
            return _shown(archive, number_of(given, "plan"))
        case "enforce":
            given, others = options(rest, "converter")
            if others:
                raise misunderstood("retention", COMMANDS["retention"], words)
            return (yield from _enforce(archive, given.get("converter", ""), actor))
        case "explain":
            given, others = options(rest, "id")
            if others or not given:
                raise misunderstood("retention", COMMANDS["retention"], words)
            return choosing.explain(archive, given["id"])
        case _:
            raise misunderstood("retention", COMMANDS["retention"], words)


def _planned(archive: Archive, choice: Choice, actor: Actor | None) -> Steps:
    number = yield from plans.make(archive, choice, actor)
    row = archive.reader.purges.plan(number)
    assert row is not None
    early = sum(each.is_early for each in choice.chosen)
    return {"plan": number, "scope": choice.scope, "entries": row.entries, "bytes": row.bytes,
            "early": early, "kept": choice.kept}  # fmt: skip


def _apply(archive: Archive, plan: int, actor: Actor) -> Steps:
    row = plans.get(archive, plan)
    if row.ended_ms:
        raise RetentionError(f"plan {plan} was applied already")
    if not row.begun_ms:
        plans.check(archive, row, list(plans.listed(archive.root, row)))
    number = yield from job(PURGE, {"plan": plan}, actor)
    return {"plan": plan, "job": number, "entries": row.entries, "bytes": row.bytes}


def _shown(archive: Archive, plan: int) -> Reply:
    row = plans.get(archive, plan)
    said: Reply = {"plan": plan, "state": row.state, "scope": row.scope, "entries": row.entries,
                   "bytes": row.bytes}  # fmt: skip
    if row.state != "done":
        lines = list(plans.listed(archive.root, row))
        said["list"] = [{"id": each.id, "why": each.why, "bytes": each.bytes} for each in lines[:SHOWN]]
    return said


def _enforce(archive: Archive, converter: str, actor: Actor) -> Steps:
    if converter:
        archive.config.converter(converter)
    choice = choosing.by_policies(archive, converter)
    if not choice.chosen:
        return {"plan": None, "entries": 0, "bytes": 0, "kept": choice.kept}
    planned = yield from _planned(archive, choice, actor)
    return planned | (yield from _apply(archive, planned["plan"], actor))


def _purge_state(archive: Archive) -> str:
    rows = archive.reader.purges.plans()
    waiting = [str(row.plan) for row in rows if row.state == "planned"]
    done = [row for row in rows if row.state == "done"]
    last = f"; the last purge took {done[-1].purged} entries" if done else ""
    return f"plans that can be applied: {', '.join(waiting[-10:]) or 'none'}{last}"


def _erase(archive: Archive, words: list[str], actor: Actor) -> Steps:
    given, others = options(words, "id", "reason")
    if others or not given.get("id") or not given.get("reason"):
        raise misunderstood("erase", COMMANDS["erase"], words)
    choice = choosing.to_erase(archive, given["id"], given["reason"])
    if not choice.chosen:
        raise RetentionError(f"{given['id']} is not erased: {'; '.join(choice.kept)}")
    planned = yield from _planned(archive, choice, actor)
    return planned | (yield from _apply(archive, planned["plan"], actor))


# -- holds ---------------------------------------------------------------------------------------------------


def _hold(archive: Archive, words: list[str], actor: Actor) -> Steps:
    verb, rest = (words[0], words[1:]) if words else ("", [])
    if verb == "release":
        given, others = options(rest, "hold", "reason")
        if others or not given.get("hold") or not given.get("reason"):
            raise misunderstood("hold", COMMANDS["hold"], words)
        all_or_error((yield [ReleaseHold(given["hold"], given["reason"], actor)]))
        return {"hold": given["hold"], "state": "released"}
    if verb != "add":
        raise misunderstood("hold", COMMANDS["hold"], words)
    given, query = options(rest, "hold", "reason", "future")
    if not given.get("reason") or given.get("future", "no") not in ("yes", "no"):
        raise misunderstood("hold", COMMANDS["hold"], words)
    if not query:
        raise ControlError("hold: of which entries? such as converter=ict-csv from=2026-02-01")
    future = given.get("future") == "yes"
    parsed = parse(query, archive.zone)
    ids = [row.id for row in archive.reader.search(parsed, newest_first=False)]
    if not ids and not future:
        raise ControlError("hold: no entry is selected, and future=yes is not said: it would hold nothing")
    name = given.get("hold") or _free_name(archive)
    if name != names.safe(name) or not name.strip():
        raise ControlError(f"hold: the name {names.safe(name)!r} cannot be written in a line")
    hold = AddHold(name, shlex.join(query), given["reason"], ids, archive.reader.last_id(), future, actor)
    all_or_error((yield [hold]))
    return {"hold": name, "entries": len(ids), "future": future}


def _free_name(archive: Archive) -> str:
    taken = {row.name for row in archive.reader.purges.holds()}
    number = len(taken) + 1
    while f"hold-{number}" in taken:
        number += 1
    return f"hold-{number}"


def _holding(archive: Archive) -> str:
    rows = [row for row in archive.reader.purges.holds() if not row.released_ms]
    lines = [f"{row.name}: {row.entries} entries of {row.query}{' and later ones' if row.future else ''},"
             f" since {time.strftime('%Y-%m-%d', time.gmtime(row.added_ms / 1000))}: {names.safe(row.reason)}"
             for row in rows]  # fmt: skip
    return "\n     ".join(lines) or "nothing is held"


# -- long work -----------------------------------------------------------------------------------------------


def _verify(archive: Archive, words: list[str], actor: Actor) -> Steps:
    given, others = options(words, "sample")
    if others:
        raise misunderstood("verify", COMMANDS["verify"], words)
    text = given.get("sample", "100").removesuffix("%")
    try:
        sample = float(text)
    except ValueError:
        sample = -1.0
    if not 0 < sample <= 100:
        raise ControlError(f'verify: sample: is "{names.safe(text)}", must be a percentage above 0 up to 100')
    return {"job": (yield from job(VERIFY, {"sample": sample}, actor))}


def _verified(archive: Archive) -> str:
    when = archive.reader.last_verified()
    return f"last verified by schedule: {when or 'never'}"


def _repack(archive: Archive, words: list[str], actor: Actor) -> Steps:
    parse(words, archive.zone)
    return {"job": (yield from job(REPACK, {"query": words}, actor))}


def _nothing(archive: Archive) -> str:
    running = [row for row in archive.reader.jobs.open() if row.work == REPACK]
    return ", ".join(f"job {row.job} is {row.state}" for row in running) or "no job"


COMMANDS: Mapping[str, Command] = {
    "retention": Command(
        ("plan [KEY=VALUE...]", "show plan=N", "apply plan=N", "enforce [converter=NAME]", "explain id=ID"),
        "Say what would be purged, and purge it.", _retention, _purge_state,
    ),
    "hold": Command(
        ("add [hold=NAME] reason=TEXT [future=yes] KEY=VALUE...", "release hold=NAME reason=TEXT"),
        "Protect entries from every purge.", _hold, _holding,
    ),
    "erase": Command(
        ("id=ID reason=TEXT",), "Remove the bytes of one entry, whatever retention says.", _erase,
        _purge_state,
    ),
    "verify": Command(
        ("[sample=N%]",), "Read everything, and prove that it is unaltered.", _verify, _verified,
    ),
    "repack": Command(("[KEY=VALUE...]",), "Make finished days smaller.", _repack, _nothing),
}  # fmt: skip
"""By the name of the file in ``control/``."""
