"""Mends what can be mended without guessing, after saying what and keeping what was there before.

Content is never deleted: the catalog is made again from the journal, the checkpoint is written, what an
interrupted write left is moved into quarantine.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from archivefs import rebuilding
from archivefs.archive import Archive
from archivefs.events import Repaired
from archivefs.operations import Note
from archivefs.rebuilding import CATALOG
from archivefs.store import lock
from archivefs.store.durable import fresh_dir, replacing
from archivefs.store.journal import CHECKPOINT
from archivefs.verify.findings import Finding

_DOES = {
    "catalog": f"make {CATALOG} again from the journal",
    "checkpoint": f"write journal/{CHECKPOINT}",
    "orphan": "move the file into quarantine",
}


def plan(findings: Iterable[Finding]) -> list[str]:
    """What ``repair`` would do about the findings, in words; nothing for what only a person can mend."""
    steps: dict[str, None] = {}
    for finding in _mendable(findings):
        about = f" ({finding.where})" if finding.repair == "orphan" else ""
        steps[_DOES[finding.repair] + about] = None
    return list(steps)


def _mendable(findings: Iterable[Finding]) -> list[Finding]:
    """What can be mended; of a damaged journal nothing else may be made, and its count not be forgotten."""
    every = list(findings)
    damaged = any(finding.check in ("journal-cut", "journal-chain") for finding in every)
    kept = {"orphan"} if damaged else set(_DOES)
    return [finding for finding in every if finding.repair in kept]


def repair(root: Path, findings: Sequence[Finding]) -> Path:
    """Do what ``plan`` says; the archive must not be open. Returns the folder with the former state.

    The plan and a copy of everything that is touched are on the disk before the first change. Raises
    ``LockedError``, ``JournalDamagedError``, ``OSError``.
    """
    findings = _mendable(findings)
    kinds = {finding.repair for finding in findings}
    lock.Lock(root).release()  # refuse now what would be refused half way
    backup = fresh_dir(root / "quarantine", time.strftime("repair-%Y%m%dT%H%M%S", time.gmtime()))
    with replacing(backup / "plan.json") as out:
        out.write(msgspec.json.format(msgspec.json.encode([finding._asdict() for finding in findings])))
    for name in (CATALOG, f"{CATALOG}-wal", f"journal/{CHECKPOINT}"):
        if (root / name).exists():
            shutil.copy2(root / name, backup / Path(name).name)
    for finding in findings:
        if finding.repair == "orphan":
            (root / finding.where).replace(backup / finding.where.replace("/", "_"))
    if "catalog" in kinds or "checkpoint" in kinds:
        rebuilding.rebuild(root)
    with Archive(root) as archive:
        archive.commit([Note(Repaired(what=plan(findings), backup=backup.name))])
    return backup
