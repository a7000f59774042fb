"""Commands about entries, reports, quarantine and configuration."""

from collections.abc import Mapping

import msgspec

from archivefs import config as configuration
from archivefs import configuring, names, quarantine, settings
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.control.steps import Command, Reply, Steps, wanted
from archivefs.errors import ControlError
from archivefs.operations import Adopt, Drop, Retry
from archivefs.parts import Actor
from archivefs.query import parse
from archivefs.retention import retaining
from archivefs.states import Status, Submission
from archivefs.statuses import RETRIABLE
from archivefs.steps import made
from archivefs.submit import decisions
from archivefs.submit.operations import DecideDelivery
from archivefs.transaction import GROUP


def _retry(archive: Archive, words: list[str], actor: Actor) -> Steps:
    if not words:
        raise ControlError("retry: which entries? such as status=failed converter=ict-csv")
    rows = list(archive.reader.search(parse(words, archive.zone), newest_first=False))
    said = list[Reply]()
    for start in range(0, len(rows), GROUP):
        group = rows[start : start + GROUP]
        reasons = made((yield [Retry(row.id, actor) for row in group]))
        for row, reason in zip(group, reasons, strict=True):
            said.append(retried(row, reason))
    return {"entries": said}


def retried(row: Entry, reason: str) -> Reply:
    """What is said of an entry; ``reason``: why it is left alone, '' where it is not."""
    facts = {"id": row.id, "name": names.text(row.name), "retried": not reason}
    return facts | ({"reason": reason} if reason else {})


def _counts(archive: Archive, statuses: frozenset[Status]) -> str:
    counts = dict.fromkeys(sorted(statuses), 0)
    for total in archive.reader.totals():
        if total.status in counts:
            counts[total.status] += total.entries
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _outbox(archive: Archive, words: list[str], actor: Actor) -> Steps:
    what, ids = wanted("outbox", COMMANDS["outbox"], words, "retry", "drop")
    state = Submission.QUEUED if what == "retry" else Submission.DROPPED
    items = [item for id_ in ids for item in decisions.named(archive, id_, state)]
    operations = [DecideDelivery(item.id, item.attempt, item.ordinal, state, actor) for item in items]
    made((yield [*operations]))
    return {"reports": [{"id": each.id, "report_id": each.report_id, "state": str(state)} for each in items]}


def _unsent(archive: Archive) -> str:
    totals = archive.reader.outbox.totals().values()
    return ", ".join(
        f"{sum(each.get(state, 0) for each in totals)} {state}"
        for state in (Submission.QUEUED, Submission.REFUSED, Submission.DROPPED)
    )


def _quarantine(archive: Archive, words: list[str], actor: Actor) -> Steps:
    what, things = wanted("quarantine", COMMANDS["quarantine"], words, "adopt", "drop")
    said = list[Reply]()
    for thing in things:
        if what == "drop" and quarantine.is_kept(archive.root, thing):
            made((yield [quarantine.dropping(archive.root, thing, actor)]))
            quarantine.remove(archive.root, thing)
            said.append({"removed": thing})
            continue
        id_ = archive.reader.get(thing).id
        operation = Adopt(id_, actor) if what == "adopt" else Drop(id_, actor)
        (status,) = made((yield [operation]))
        said.append({"id": id_, "status": str(status) if what == "adopt" else str(Status.REJECTED)})
    return {"things": said}


def _quarantined(archive: Archive) -> str:
    files = len(quarantine.kept(archive.root))
    return f"{_counts(archive, frozenset({Status.QUARANTINED}))}, {files} files kept aside"


def _config(archive: Archive, words: list[str], actor: Actor) -> Steps:
    what, given = wanted("config", COMMANDS["config"], words, "set", "unset")
    pairs, gone = _settings(given) if what == "set" else ([], given)
    data = configuration.read(archive.root)
    for key, value in pairs:
        data = settings.with_value(data, *settings.assignment(key, value))
    for key in gone:
        data = settings.without(data, key)
    retained = retaining.changes(archive, data)
    operation, changes = configuring.begin(archive, data, actor)
    if changes:
        made((yield [operation, *retained]))
        settings.install(archive.root)
    return {"changes": msgspec.to_builtins(changes)}


def _settings(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Keys with values, and keys behind the word ``unset``, which stands where a key would."""
    at = next((at for at in range(0, len(words), 2) if words[at] == "unset"), len(words))
    pairs, gone = words[:at], words[at + 1 :]
    if len(pairs) % 2 or (at < len(words) and not gone):
        raise ControlError(f"config: these are commands: {'; '.join(COMMANDS['config'].usage)}")
    return list(zip(pairs[::2], pairs[1::2], strict=True)), gone


def _file(archive: Archive) -> str:
    return f"{archive.root / configuration.FILE}, sha256 {settings.sha256(configuration.read(archive.root))}"


COMMANDS: Mapping[str, Command] = {
    "retry": Command(
        ("KEY=VALUE...",), "Convert again what failed, or was rejected, skipped or suspended.", _retry,
        lambda archive: _counts(archive, RETRIABLE),
    ),
    "outbox": Command(
        ("retry ID...", "drop ID..."), "Deliver reports again, or never. ID: entry, report or converter.",
        _outbox, _unsent,
    ),
    "quarantine": Command(
        ("adopt ID...", "drop ID|FILE..."), "Convert what was set aside, or reject it.",
        _quarantine, _quarantined,
    ),
    "config": Command(
        ("set KEY VALUE [KEY VALUE]... [unset KEY...]", "unset KEY..."),
        "Change archive.toml, all or nothing, and go by it.", _config, _file,
    ),
}  # fmt: skip
"""By the name of the file in ``control/``."""
