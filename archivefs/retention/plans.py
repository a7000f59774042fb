"""Plans: what a purge would take, as a file that lists every entry; what is applied is exactly that file."""

import contextlib
import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from archivefs.archive import Archive
from archivefs.catalog.purging import Hole, PlanRow, merged
from archivefs.errors import RetentionError
from archivefs.events import Planned
from archivefs.parts import Actor, Purging
from archivefs.retention.choosing import Choice, Chosen
from archivefs.retention.gate import Gate, Rule
from archivefs.retention.operations import MakePlan
from archivefs.steps import Stepwise, made
from archivefs.store import holes
from archivefs.store.durable import FILE_MODE, make_dirs, sync_dir, write_all

FOLDER = "plans"
STOPPED_SECONDS = 86_400.0
"""Nobody takes so long between writing a list and naming it in the journal."""
SHOWN = 10
"""Entries that an error names one by one."""


class Listed(msgspec.Struct, frozen=True):
    """A line of a plan's file."""

    id: str
    why: str
    bytes: int


def path_of(root: Path, plan: int) -> Path:
    """The file that lists the entries of a plan."""
    return root / FOLDER / f"{plan}.jsonl"


def make(archive: Archive, choice: Choice, actor: Actor | None) -> Stepwise[int]:
    """Write what was chosen as a plan; its number. Raises ``OSError``.

    The name of the file takes the number, so that two who plan at the same time never share one; the event
    comes when the file is durable. A stop between them leaves a file that no event names.
    """
    lines = [msgspec.json.encode(Listed(each.id, each.why, each.length)) + b"\n" for each in choice.chosen]
    data, gain, number = b"".join(lines), _gain(archive, choice.chosen), 0
    make_dirs(archive.root / FOLDER)
    _sweep(archive)
    while True:
        number = max(number, *(row.plan for row in archive.reader.purges.plans()), 0) + 1
        path = path_of(archive.root, number)
        try:
            _write(path, data)
        except FileExistsError:
            continue
        event = Planned(
            plan=number, scope=choice.scope, entries=len(lines), bytes=gain,
            sha256=hashlib.sha256(data).hexdigest(), erase=choice.erase, actor=actor,
        )  # fmt: skip
        (taken,) = made((yield [MakePlan(event)]))
        if taken is not None:
            return number
        path.unlink()


def _write(path: Path, data: bytes) -> None:
    """Make a file, durably. Raises ``FileExistsError``, or ``OSError`` and leaves none."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_dir(path.parent)
    except OSError:
        path.unlink()
        raise


def _sweep(archive: Archive) -> None:
    """Remove lists that no event named within a day: who wrote them was stopped."""
    known = {row.plan for row in archive.reader.purges.plans()}
    for path in (archive.root / FOLDER).glob("*.jsonl"):
        number = int(path.stem) if path.stem.isdecimal() else 0
        if 0 < number < max(known, default=0) and number not in known:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STOPPED_SECONDS:
                    path.unlink()


def _gain(archive: Archive, chosen: Sequence[Chosen]) -> int:
    """Bytes that the disk gets back."""
    new: dict[str, list[Hole]] = defaultdict(list)
    for each in chosen:
        for segment, hole in archive.reader.purges.places(each.n):
            new[segment].append(hole)
    wanted = {}
    for segment, found in new.items():
        before = archive.reader.purges.segment_holes(segment)
        then = merged([*before, *found])
        wanted[segment] = (before, then, is_removable(archive, segment, then))
    return holes.gain(archive.root / "content", wanted)


def is_removable(archive: Archive, segment: str, then: Sequence[Hole]) -> bool:
    """Whether a segment with these holes has nothing else in it, and is of a day that is over."""
    place = archive.reader.place_of(segment)
    end = archive.reader.segment_ends().get(segment, 0)
    is_over = place is not None and place[1] < archive.today()
    return is_over and len(then) == 1 and then[0] == (0, end)


def listed(root: Path, row: PlanRow) -> Iterator[Listed]:
    """The entries of a plan, in its order. Raises ``RetentionError`` where its file is another."""
    try:
        data = path_of(root, row.plan).read_bytes()
    except FileNotFoundError:
        raise RetentionError(f"plan {row.plan} lists nothing any more: make a new one") from None
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise RetentionError(f"{path_of(root, row.plan)} is not what was planned: make a new plan")
    return (msgspec.json.decode(line, type=Listed) for line in data.splitlines())


def get(archive: Archive, plan: int) -> PlanRow:
    """A plan. Raises ``RetentionError`` naming those there are."""
    row = archive.reader.purges.plan(plan)
    if row is None:
        known = [str(each.plan) for each in archive.reader.purges.plans() if each.state == "planned"]
        raise RetentionError(f"no plan {plan}; these can be applied: {', '.join(known) or 'none'}")
    return row


def rule_of(row: PlanRow, each: Listed) -> Rule:
    """What an entry of a plan was chosen by."""
    if row.erase:
        return Rule.ERASE
    return Rule.SIZE if each.why.startswith(("max_", "min_")) else Rule.AGE


def check(archive: Archive, row: PlanRow, entries: Sequence[Listed]) -> None:
    """Raise ``RetentionError`` where a plan has something that is protected, or gone, by now."""
    gate = Gate(archive.reader, archive.config, archive.now_ms())
    found = []
    for each in entries:
        entry = archive.reader.by_id(each.id)
        facts = None if entry is None else archive.reader.purges.facts(entry.n)
        why = ["it is not there"] if facts is None else gate.protections(facts, rule_of(row, each))
        if why:
            found.append(f"{each.id}: {why[0]}")
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise RetentionError(
            f"plan {row.plan} is not applied, nothing was purged: {len(found)} of its {len(entries)} entries"
            f" are protected now ({'; '.join(found[:SHOWN])}{more}); make a new plan"
        )


def purging(each: Listed) -> Purging:
    """What the journal says of an entry of a plan."""
    return Purging(each.id, each.why)


def discard(root: Path, plan: int) -> None:
    """Remove the list of a plan that is done."""
    with contextlib.suppress(FileNotFoundError):
        path_of(root, plan).unlink()
