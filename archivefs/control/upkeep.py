"""Commands about what is kept and what goes, and the long work of looking after an archive."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from archivefs import names
from archivefs.archive import Archive
from archivefs.control.steps import (
    Command,
    Reply,
    Steps,
    misunderstood,
    number_of,
    options,
)
from archivefs.errors import ControlError, RetentionError
from archivefs.jobs import replaying
from archivefs.jobs.job import (
    PRIORITIES,
    PURGE,
    REPACK,
    REPLAY_PRIORITY,
    REPLAYS,
    REPROCESS,
    REPRODUCE,
    VERIFY,
    CreateJob,
)  # fmt: skip
from archivefs.parts import Actor
from archivefs.query import NO_LIMIT, parse
from archivefs.retention import choosing, plans
from archivefs.retention.choosing import Choice
from archivefs.retention.operations import AddHold, ReleaseHold
from archivefs.steps import Stepwise, made

SHOWN = 1000
"""Entries of a plan that a reply lists."""
SLOWEST = 0.001
"""Least ``rate`` of a replay, in entries a second: one each quarter of an hour."""
REPLAY_SECONDS = 0.003
"""What a replay takes beside the conversion itself (tools/bench, "replay")."""


def job(work: str, request: dict[str, Any], actor: Actor) -> Stepwise[int]:
    """Queue long work; its number."""
    (number,) = made((yield [CreateJob(work, request, actor)]))
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
    if not choice.chosen:
        return {
            "plan": None,
            "scope": choice.scope,
            "entries": 0,
            "bytes": 0,
            "early": 0,
            "kept": choice.kept,
        }
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
    planned = yield from _planned(archive, choice, actor)
    if planned["plan"] is None:
        return planned
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
        made((yield [ReleaseHold(given["hold"], given["reason"], actor)]))
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
    if parsed.limit != NO_LIMIT:
        raise ControlError("hold: limit= chooses no entries that could be told later; leave it out")
    last = archive.reader.last_id()  # before the search: what is captured meanwhile is a later entry
    ids = [row.id for row in archive.reader.search(parsed, newest_first=False)]
    if not ids and not future:
        raise ControlError("hold: no entry is selected, and future=yes is not said: it would hold nothing")
    name = given.get("hold") or _free_name(archive)
    if name != names.safe(name) or not name.strip():
        raise ControlError(f"hold: the name {names.safe(name)!r} cannot be written in a line")
    made((yield [AddHold(name, shlex.join(query), given["reason"], ids, last, future, actor)]))
    held = {row.name: row.entries for row in archive.reader.purges.holds()}
    return {"hold": name, "entries": held.get(name, len(ids)), "future": future}


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


def _reprocess(archive: Archive, words: list[str], actor: Actor) -> Steps:
    request, dry_run = replay_request(archive, words)
    if dry_run:
        return planned_replay(archive, request)
    return {"job": (yield from job(REPROCESS, request, actor)), **planned_replay(archive, request)}


def _reproduce(archive: Archive, words: list[str], actor: Actor) -> Steps:
    given, query = options(words, "priority")
    if not query:
        raise ControlError("reproduce: which entries? such as converter=ict-csv limit=100")
    parse(query, archive.zone)
    request = {"query": query, "priority": _priority(given)}
    return {"job": (yield from job(REPRODUCE, request, actor))}


_YES_NO = ("submit", "promote", "compare", "dry_run")
_CHOICES = {"arguments": ("current", "original"), "on_error": ("skip", "abort"),
            **dict.fromkeys(_YES_NO, ("yes", "no"))}  # fmt: skip


def _settings(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The arguments that set.NAME=VALUE gives, and the words that remain."""
    settings, others = dict[str, Any](), list[str]()
    for word in words:
        if not word.startswith("set."):
            others.append(word)
            continue
        name, separator, value = word.removeprefix("set.").partition("=")
        if not name or not separator:
            raise ControlError(
                f'"{names.safe(word)}": an argument is written set.NAME=VALUE, such as set.limit=5.5'
            )
        settings[name] = _value(value)
    return settings, others


def replay_request(archive: Archive, words: list[str]) -> tuple[dict[str, Any], bool]:
    """What a replay is asked for in the words of a command, checked; and whether only to tell it."""
    given, others = options(words, *_CHOICES, "code", "rate", "priority")
    settings, query = _settings(others)
    if not query:
        raise ControlError("reprocess: which entries? such as converter=ict-csv status=failed")
    parse(query, archive.zone)
    for key, allowed in _CHOICES.items():
        if given.get(key, allowed[0]) not in allowed:
            raise ControlError(f'{key}: is "{names.safe(given[key])}", allowed are: {", ".join(allowed)}')
    code = given.get("code", "current")
    if code not in ("current", "original"):
        folder = Path(code.removeprefix("path:"))
        if not code.startswith("path:") or not folder.is_absolute() or not folder.is_dir():
            allowed_code = "current, original, path:FOLDER with the whole path of a folder"
            raise ControlError(f'code: is "{names.safe(code)}", allowed are: {allowed_code}')
    try:
        rate = float(given.get("rate", "0"))
    except ValueError:
        rate = -1.0
    if rate and not SLOWEST <= rate < 1e9:
        what = f"must be a number of entries a second, {SLOWEST:g} or more, or 0: as fast as it goes"
        raise ControlError(f'rate: is "{names.safe(given["rate"])}", {what}')
    is_yes = {key: given.get(key, "yes" if key == "promote" else "no") == "yes" for key in _YES_NO}
    request = {
        "query": query, "code": code, "arguments": given.get("arguments", "current"), "settings": settings,
        "submit": is_yes["submit"], "promote": is_yes["promote"], "compare": is_yes["compare"],
        "on_error": given.get("on_error", "skip"), "rate": rate, "priority": _priority(given),
    }  # fmt: skip
    return request, is_yes["dry_run"]


def _priority(given: Mapping[str, str]) -> int:
    """How urgent a replay is to be."""
    text = given.get("priority", str(REPLAY_PRIORITY))
    if text not in map(str, PRIORITIES):
        first, last = PRIORITIES[0], PRIORITIES[-1]
        raise ControlError(f'priority: is "{names.safe(text)}", must be {first} (most urgent) to {last}')
    return int(text)


def _value(text: str) -> Any:  # noqa: ANN401  whatever the argument is
    """A number, a truth value, a list or table as JSON says it; else the text itself."""
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text
    except RecursionError:
        raise ControlError(f"set.: {text[:40]}... is nested too deeply") from None


def planned_replay(archive: Archive, request: dict[str, Any]) -> Reply:
    """How many entries a replay would convert, of which converters, and how long that takes about."""
    counts, skipped, seconds = dict[str, int](), dict[str, int](), 0.0
    for entry in archive.reader.search(parse(request["query"], archive.zone), newest_first=False):
        name = archive.reader.converter_name(entry.converter_id)
        why = replaying.why_not(archive, entry, request["code"])
        if why:
            skipped[why] = skipped.get(why, 0) + 1
        else:
            counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        mean = archive.reader.jobs.mean_ms(archive.reader.converter_id(name) or 0) / 1000
        seconds += count * (mean / archive.config.workers + REPLAY_SECONDS)
    rate = request["rate"]
    total = sum(counts.values())
    seconds = max(seconds, total / rate) if rate else seconds
    return {"entries": total, "converters": counts, "skipped": skipped, "seconds": round(seconds, 1)}


def _replays(archive: Archive) -> str:
    running = [row for row in archive.reader.jobs.open() if row.work in REPLAYS]
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
    "reprocess": Command(
        ("KEY=VALUE... [code=current|original|path:FOLDER] [arguments=current|original] [set.NAME=VALUE]"
         " [submit=yes] [promote=no] [compare=yes] [on_error=abort] [rate=N] [priority=0..9] [dry_run=yes]",),
        "Convert entries again; nothing is overwritten, and nothing sent unless submit=yes.", _reprocess,
        _replays,
    ),
    "reproduce": Command(
        ("KEY=VALUE... [priority=0..9]",),
        "See whether the code and the arguments of then give the same reports.", _reproduce, _replays,
    ),
    "repack": Command(("[KEY=VALUE...]",), "Make finished days smaller.", _repack, _nothing),
}  # fmt: skip
"""By the name of the file in ``control/``."""
