"""A plan carried out: the journal says what goes, then it goes. Whatever stops it, it is gone on with.

The order: the purge begins (one event); entries leave the tree (an event for some hundreds of them); their
bytes are cleared and the segments synced, or removed where nothing else is in them; the purge ends (one
event). What was begun is found by ``unfinished``, and doing any of it again changes nothing.
"""

import logging
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from archivefs.archive import Archive
from archivefs.catalog.purging import PlanRow
from archivefs.errors import RetentionError
from archivefs.operations import RemoveSegments
from archivefs.parts import Actor
from archivefs.retention import plans
from archivefs.retention.operations import BeginPurge, EndPurge, Purge
from archivefs.states import Status
from archivefs.steps import Stepwise, made
from archivefs.store import holes

log = logging.getLogger(__name__)

BATCH = 100
"""Entries of one commit: about 4 ms in which nothing else is committed (tools/bench, "work")."""


class Result(NamedTuple):
    """What a purge did: entries, bytes that the disk got back, and entries that were kept and why."""

    plan: int
    purged: int
    freed: int
    kept: list[tuple[str, str]]


Progress = Callable[[int, int], None]
"""Called with the entries that are done, and all of them."""


def carry_out(
    archive: Archive, plan: int, actor: Actor | None, progress: Progress = lambda done, total: None
) -> Stepwise[Result]:
    """Purge what a plan lists: all of it, or nothing where something in it is protected now.

    What comes to be protected when the purge has begun is kept, and told; so is what is left of one whose
    list is lost, which is an alarm. Raises ``RetentionError``, ``OSError``; where that happens after the
    beginning, it goes on with the next call.
    """
    row = plans.get(archive, plan)
    if row.ended_ms:
        plans.discard(archive.root, plan)
        return Result(plan, row.purged, row.freed, [])
    try:
        entries = list(plans.listed(archive.root, row))
    except RetentionError as error:
        if not row.begun_ms:
            raise
        return (yield from _end_without_list(archive, row, error))
    checked = 0
    if not row.begun_ms:
        checked = archive.reader.changed_seq()
        plans.check(archive, row, entries)
        made((yield [BeginPurge(plan, actor)]))
    left = [each for each in entries if not (row.begun_ms and _is_purged(archive, each.id))]
    if superseded := archive.reader.superseded_segments():  # of a repack that was stopped: bytes twice
        made((yield [RemoveSegments(superseded)]))
    done, kept = len(entries) - len(left), list[tuple[str, str]]()
    queue = iter(left)
    while batch := [(plans.purging(each), plans.rule_of(row, each)) for each in islice(queue, BATCH)]:
        (found,) = made((yield [Purge(plan, batch, checked)]))
        kept += found
        done += len(batch)
        progress(done, len(entries))
    # What was given back before the stop is not measured.
    freed = yield from _end(archive, row, len(kept), at_least=row.bytes if row.begun_ms else 0)
    return Result(plan, plans.get(archive, plan).purged, freed, kept)


def _end_without_list(archive: Archive, row: PlanRow, error: RetentionError) -> Stepwise[Result]:
    """Nobody can say any more what was to go: with what is purged already, a purge that began ends."""
    left = row.entries - row.purged
    what = f"{error}; that purge had begun and ends with {row.purged} entries purged, {left} are kept"
    log.error("plan %d: %s", row.plan, what)
    archive.alarms[f"plan {row.plan}"] = what
    freed = yield from _end(archive, row, left)
    return Result(row.plan, row.purged, freed, [("", what)] if left else [])


def _end(archive: Archive, row: PlanRow, kept: int, at_least: int = 0) -> Stepwise[int]:
    """Let the bytes go of what is purged, and end; how many the disk got back."""
    freed, segments = 0, archive.reader.purges.segments_of(row.plan)
    for segment in segments:
        freed += yield from _clear(archive, segment)
    freed = max(freed, at_least)
    made((yield [EndPurge(row.plan, freed, kept, segments)]))
    plans.discard(archive.root, row.plan)
    return freed


def _is_purged(archive: Archive, id_: str) -> bool:
    entry = archive.reader.by_id(id_)
    return entry is None or entry.status is Status.PURGED


def _clear(archive: Archive, segment: str) -> Stepwise[int]:
    """Let the bytes of a segment go; how many the disk got back."""
    path, found = archive.root / "content" / segment, archive.reader.purges.segment_holes(segment)
    before = holes.allocated([path])
    if plans.is_removable(archive, segment, found):
        (gone,) = made((yield [RemoveSegments([segment])]))
        if gone:
            return before
    holes.punch(path, found)
    return before - holes.allocated([path])
