"""The kinds of long work, each as the steps of a job."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from archivefs.archive import Archive
from archivefs.errors import ArchiveError, RetentionError
from archivefs.jobs import comparison, pausing, replaying
from archivefs.jobs import repack as repacking
from archivefs.jobs.job import (
    FOLDER,
    PURGE,
    REPACK,
    REPROCESS,
    REPRODUCE,
    VERIFY,
    Job,
    Steps,
    Work,
)  # fmt: skip
from archivefs.query import parse
from archivefs.retention import choosing, plans
from archivefs.retention import purge as purging
from archivefs.steps import Stepwise
from archivefs.verify.findings import Finding, Severity
from archivefs.verify.verify import Scope, verify

DONE = "done"
PART_BITS = 28
"""A verification has a part for each 256 MiB of content."""


def purge(archive: Archive, job: Job) -> Steps:
    """Carry out a plan; what is purged already is left out, so it goes on after a stop."""

    def progress(done: int, total: int) -> None:
        job.progress.done, job.progress.total = done, total

    plan = plans.get(archive, int(job.request["plan"]))
    if plan.erase and not plan.ended_ms:  # before it ends, for its list is gone then
        with contextlib.suppress(RetentionError):  # of a list that is lost, which the purge tells
            comparison.forget(archive.root / FOLDER, {each.id for each in plans.listed(archive.root, plan)})
    result = yield from purging.carry_out(archive, plan.plan, job.actor, progress)
    job.progress.done, job.progress.skipped = result.purged, len(result.kept)
    for id_, why in result.kept:
        job.error(id=id_, error=why)
    return {"plan": result.plan, "purged": result.purged, "freed": result.freed, "kept": len(result.kept)}


def verification(archive: Archive, job: Job) -> Steps:
    """Verify part by part; the parts that were read are remembered. What is in no part is checked once."""
    parts = max(int(archive.reader.content_bytes() >> PART_BITS), 1)
    position: dict[str, Any] = {
        "parts": parts, "part": 0, "records": 0, "bytes": 0, "findings": {}, "told": [], "errors": 0,
    } | job.position()  # fmt: skip
    job.cut_errors(position["errors"])
    parts = position["parts"]
    job.progress.total = parts
    while position["part"] < parts:
        job.progress.done = position["part"]
        scope = Scope(
            sample=job.request.get("sample", 100.0), part=position["part"], parts=parts, background=True,
            records_only=position["part"] > 0,
        )  # fmt: skip
        report = verify(archive, scope)
        _tell(job, position, report.findings)
        position |= {
            "part": position["part"] + 1, "records": position["records"] + report.records,
            "bytes": position["bytes"] + report.bytes, "errors": job.errors_size(),
        }  # fmt: skip
        job.remember(position)
        job.progress.done = position["part"]
        yield []
    return {key: position[key] for key in ("records", "bytes", "findings")}


def _tell(job: Job, position: dict[str, Any], findings: Sequence[Finding]) -> None:
    """Count what a part found, and tell what is bad; not again what an earlier one found in the folder."""
    found: dict[str, int] = position["findings"]
    before: list[list[str]] = position["told"]
    new = [each for each in findings if [each.check, each.where] not in before]
    before += [[each.check, each.where] for each in new if not each.check.startswith("record")]
    for each in new:
        word = each.severity.name.lower()
        found[word] = found.get(word, 0) + 1
        if each.severity >= Severity.WARNING:
            job.error(severity=word, check=each.check, where=each.where, error=each.what, remedy=each.remedy)


def _make_room(archive: Archive, job: Job) -> Stepwise[None]:
    """Before work that needs space: let go what retention wants to go anyway, and promises nobody."""
    choice = pausing.without_paused(archive, choosing.by_policies(archive)).without_early()
    if choice.chosen:
        plan = yield from plans.make(archive, choice, job.actor)
        yield from purging.carry_out(archive, plan, job.actor)


def repack(archive: Archive, job: Job) -> Steps:
    """Repack day by day, what retention wants to go left out; a day that is repacked is not chosen again."""
    yield from _make_room(archive, job)
    words = list(job.request.get("query", []))
    query = parse(words, archive.zone) if words else None
    done: list[dict[str, Any]] = job.position().get(DONE, [])
    groups = repacking.groups(archive, query, everything=False)
    job.progress.total = len(done) + len(groups)
    job.progress.done = len(done)
    for group in groups:
        yield []
        try:
            result = repacking.repack(archive, group, job.commit_one)
        except (ArchiveError, OSError) as error:
            job.progress.failed += 1
            job.error(group=group.base, error=str(error))
            continue
        done.append({"group": group.base, **msgspec.to_builtins(result._asdict())})
        job.progress.done += 1
        job.remember({DONE: done})
    return {"groups": done, "before": sum(each["before"] for each in done),
            "after": sum(each["after"] for each in done)}  # fmt: skip


WORKS: Mapping[str, Work] = {
    PURGE: purge, VERIFY: verification, REPACK: repack, REPROCESS: replaying.reprocess,
    REPRODUCE: replaying.reproduce,
}  # fmt: skip
"""By the word that a job has for it."""
