"""Reports of two runs compared, entry by entry and field by field, and how that is told."""

import contextlib
import hashlib
import html
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archivefs.archive import Archive
from archivefs.catalog.rows import Attempt, Entry
from archivefs.convert.task import Done
from archivefs.errors import ArchiveError
from archivefs.states import Outcome
from archivefs.store.durable import make_dirs, replacing

JSON, HTML = "comparison.json", "comparison.html"
EXAMPLES = 3
MOST_FIELDS = 2000
"""Paths that are counted one by one; what comes on top is counted as one."""
SHOWN = 200
"""Rows of each table of the page."""
KINDS = ("newly_failing", "newly_passing", "changed", "identical", "still_failing", "incomparable")
FURTHER = "(further fields)"
DEPTH = 200
"""How deep reports are nested whose fields are compared one by one; what is deeper is one value."""
UNREADABLE = (ArchiveError, OSError, ValueError, RecursionError)
"""What comes of a report that is damaged, or nested too deeply to be looked through."""
_VERDICTS = frozenset({"result", "status", "outcome", "passed", "verdict", "pass", "ok"})
"""Names of fields that say whether a unit passed."""


class Side(NamedTuple):
    """What an attempt came to: its outcome, '' for none, and its reports."""

    outcome: str
    error: str
    hashes: list[str]
    read: Callable[[], list[bytes]]
    """Gives its reports, without those that are not archived. Raises ``ContentDamagedError``, ``OSError``."""

    @classmethod
    def before(cls, archive: Archive, entry: Entry, job: int) -> "Side":
        """What an entry was before the job."""
        attempts = archive.reader.attempts(entry.n)
        return cls._last(archive, [each for each in attempts if each.promoted and each.job != job])

    @classmethod
    def recorded(cls, archive: Archive, entry: Entry, job: int) -> "Side":
        """What the job made of it, as the archive has it."""
        return cls._last(archive, [each for each in archive.reader.attempts(entry.n) if each.job == job])

    @classmethod
    def made(cls, done: Done) -> "Side":
        """What came of a conversion."""
        hashes = [hashlib.sha256(each).hexdigest() for each in done.reports]
        return cls(str(done.answer.outcome), done.answer.error, hashes, lambda: done.reports)

    @classmethod
    def _last(cls, archive: Archive, attempts: Sequence[Attempt]) -> "Side":
        last = next((each for each in reversed(attempts) if each.outcome), None)
        if last is None:
            return cls("", "", [], list)
        contents = archive.reader.contents(last.n)
        pieces = [each for each in contents if each.attempt == last.attempt and each.ordinal]

        def read() -> list[bytes]:
            there = [(each.location, each.size) for each in pieces if each.location is not None]
            return [archive.content.read(location, size) for location, size in there]

        return cls(last.outcome, last.error, [each.sha256 for each in pieces], read)


@dataclass
class Comparison:
    """Counts of entries by kind, and of fields by path; ``fields``: path to count, examples."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    changed: dict[str, dict[str, Any]] = field(default_factory=dict)
    flips: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> "Comparison":
        """As it was written last, or an empty one."""
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            found = msgspec.json.decode((folder / JSON).read_bytes(), type=cls)
            found.counts = dict.fromkeys(KINDS, 0) | found.counts
            return found
        return cls()

    def save(self, folder: Path) -> None:
        """Write comparison.json and comparison.html, durably."""
        make_dirs(folder)
        with replacing(folder / JSON) as out:
            out.write(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        with replacing(folder / HTML) as out:
            out.write(page(self).encode("utf-8", "replace"))

    def add(self, id_: str, before: Side, now: Side) -> str:
        """Count an entry: what it was, and what a replay gave. Why its reports are incomparable, else ''."""
        passed, passes = before.outcome == Outcome.SUCCESS, now.outcome == Outcome.SUCCESS
        differences: Differences = {}
        why = ""
        if passed != passes:
            kind = "newly_passing" if passes else "newly_failing"
        elif not passes:
            kind = "still_failing"
        elif before.hashes == now.hashes:
            kind = "identical"
        else:
            kind = "changed"
            try:
                differences = fields(before, now)
            except UNREADABLE as error:
                kind, why = "incomparable", f"its reports cannot be compared: {error}"
        self.counts[kind] += 1
        if passed != passes and len(self.flips) < SHOWN:
            was, said = before.outcome or "never converted", now.error[:500]
            self.flips.append({"id": id_, "kind": kind, "before": was, "now": now.outcome, "error": said})
        self._add_fields(id_, differences)
        return why

    def _add_fields(self, id_: str, differences: "Differences") -> None:
        counted = set[str]()
        for path, (old, new) in differences.items():
            if path not in self.changed and len(self.changed) >= MOST_FIELDS:
                path = FURTHER
            if path in counted:
                continue
            counted.add(path)
            row = self.changed.setdefault(path, {"count": 0, "flips": 0, "examples": []})
            row["count"] += 1
            row["flips"] += is_verdict(path)
            if len(row["examples"]) < EXAMPLES:
                row["examples"].append({"id": id_, "old": old, "new": new})

    def forget(self, ids: Set[str]) -> None:
        """Let go what was in the reports of these entries; they are counted as before."""
        for row in self.changed.values():
            row["examples"] = [each for each in row["examples"] if each["id"] not in ids]
        for flip in self.flips:
            if flip["id"] in ids:
                flip["error"] = ""

    @property
    def total(self) -> int:
        """How many entries were compared."""
        return sum(self.counts.values())

    def ordered(self) -> list[tuple[str, dict[str, Any]]]:
        """The fields: those that say whether a unit passed first, then the most frequent."""
        return sorted(self.changed.items(), key=lambda each: (-each[1]["flips"], -each[1]["count"], each[0]))

    def summary(self) -> dict[str, Any]:
        """The counts, and the fields that changed most."""
        return {**self.counts, "fields": {path: row["count"] for path, row in self.ordered()[:20]}}


Differences = dict[str, tuple[str, str]]
"""The paths at which reports differ, each with its first two values, in short."""


def fields(before: Side, now: Side) -> Differences:
    """Where the reports differ; nothing where not all of them are kept. Raises one of ``UNREADABLE``."""
    old, new = before.read(), now.read()
    found: dict[str, tuple[Any, Any]] = {}
    if (len(old), len(new)) == (len(before.hashes), len(now.hashes)):
        for number in range(max(len(old), len(new))):
            prefix = "$" if number == 0 else f"report-{number + 1}$"
            pair = [_decoded(side[number]) if number < len(side) else _MISSING for side in (old, new)]
            _differences(prefix, pair[0], pair[1], found, DEPTH)
    return {path: (_short(pair[0]), _short(pair[1])) for path, pair in found.items()}


def forget(jobs: Path, ids: Set[str]) -> None:
    """Let go what all comparisons that are kept below ``jobs`` say of the contents of these entries."""
    for file in sorted(jobs.glob(f"*/{JSON}")):
        data = file.read_bytes()
        if any(id_.encode() in data for id_ in ids):
            comparison = Comparison.load(file.parent)
            comparison.forget(ids)
            comparison.save(file.parent)


class _Missing:
    """What is on one side only."""


_MISSING = _Missing()


def _decoded(report: bytes) -> Any:  # noqa: ANN401  any JSON
    try:
        return msgspec.json.decode(report)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return report.decode("utf-8", "replace")


def _differences(path: str, old: Any, new: Any, found: dict[str, tuple[Any, Any]], depth: int) -> None:  # noqa: ANN401
    """Elements of lists share the path of all: tables of measurements have hundreds of them."""
    if depth and isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            _differences(f"{path}.{key}", old.get(key, _MISSING), new.get(key, _MISSING), found, depth - 1)
    elif depth and isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            pair = [side[index] if index < len(side) else _MISSING for side in (old, new)]
            _differences(f"{path}[]", pair[0], pair[1], found, depth - 1)
    elif type(old) is not type(new) or old != new:
        found.setdefault(path, (old, new))


def is_verdict(path: str) -> bool:
    """Whether a field says that a unit passed or failed."""
    return path.rpartition(".")[2].rstrip("[]").lower() in _VERDICTS


def _short(value: object) -> str:
    if value is _MISSING:
        return "(missing)"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else text[:200] + "..."


def page(comparison: Comparison) -> str:
    """A page that a browser shows without any other file."""
    cells = "".join(
        f'<div class="{kind}"><b>{comparison.counts[kind]}</b>{kind.replace("_", " ")}</div>'
        for kind in KINDS
    )
    flips = "".join(
        _row(each["kind"].replace("_", " "), each["id"], each["before"], each["now"], each["error"])
        for each in comparison.flips
    )
    ordered = comparison.ordered()
    fields = "".join(
        _row(path, str(row["count"]), *_example(row["examples"])) for path, row in ordered[:SHOWN]
    )
    more = f"<p>and {len(ordered) - SHOWN} fields more, in {JSON}</p>" if len(ordered) > SHOWN else ""
    return _PAGE.format(
        cells=cells, more=more,
        flips=_table(("", "entry", "before", "now", "error"), flips) if flips else "<p>none</p>",
        fields=_table(("field", "entries", "such as", "before", "now"), fields) if fields else "<p>none</p>",
    )  # fmt: skip


def _example(examples: Sequence[dict[str, str]]) -> tuple[str, str, str]:
    return (examples[0]["id"], examples[0]["old"], examples[0]["new"]) if examples else ("", "", "")


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(each)}</td>" for each in cells) + "</tr>\n"


def _table(heads: Sequence[str], rows: str) -> str:
    head = "".join(f"<th>{each}</th>" for each in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1c2330; background: #fff; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
.counts {{ display: flex; flex-wrap: wrap; gap: .75rem; }}
.counts div {{ border: 1px solid #d5dae3; border-radius: .5rem; padding: .6rem 1rem; min-width: 8rem; }}
.counts b {{ display: block; font-size: 1.6rem; }}
.newly_failing b, .incomparable b {{ color: #b3261e; }}
.newly_passing b {{ color: #1b7f3b; }} .changed b {{ color: #9a6700; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; }}
th, td {{ text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #e3e7ee; vertical-align: top;
  overflow-wrap: anywhere; }}
td {{ font-family: ui-monospace, monospace; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #e4e8ef; background: #14181f; }} .counts div, th, td {{ border-color: #343c49; }} }}
</style></head><body>
<h1>What the replay changed</h1>
<div class="counts">{cells}</div>
<h2>Results that flipped</h2>
{flips}
<h2>Fields that changed</h2>
{fields}{more}
</body></html>
"""
