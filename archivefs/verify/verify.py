"""The whole verification: which checks run over what, and how much of it."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from archivefs.archive import Archive
from archivefs.catalog.compare import told
from archivefs.catalog.rows import Record
from archivefs.errors import CatalogError
from archivefs.rebuilding import CATALOG
from archivefs.store import code, lock
from archivefs.verify import contents, journal
from archivefs.verify.findings import Finding, Report, Severity
from archivefs.verify.readers import Readers

RESTORE_CODE = (
    "restore the file from a backup, or let the converter run that very code again; without it nobody "
    "can say what the attempts that name it ran"
)
PASSING = frozenset({"code-unknown", "dictionary-unknown", "orphan-file", "segment-tail", "segment-unknown"})
"""Checks that find what is there for a moment wherever somebody writes."""
Progress = Callable[[int, int], None]
"""Called with the bytes of sources and reports read so far, and all that will be read."""


@dataclass(frozen=True)
class Scope:
    """What to read: ``sample`` percent of the records, those captured since ``since_ms``
    (``since`` in words), ``part`` of parts.

    The journal, the catalog and the folder are always checked as a whole, but for ``records_only``: then
    only what lies in the folder and what records need is looked at beside them.
    ``background``: one thread at the lowest priority, no further process.
    """

    sample: float = 100.0
    since_ms: int = 0
    since: str = ""
    part: int = 0
    parts: int = 1
    background: bool = False
    records_only: bool = False

    @property
    def text(self) -> str:
        """The scope in words."""
        words = [f"sample {self.sample:g}%"] if self.sample < 100 else []
        words += [f"since {self.since}"] if self.since else []
        words += [f"part {self.part + 1} of {self.parts}"] if self.parts > 1 else []
        return ", ".join(words) or "everything"


def verify_folder(root: Path, scope: Scope, progress: Progress = lambda done, total: None) -> Report:
    """``verify`` for an archive that is perhaps too damaged to be opened; changes nothing.

    Without a catalog that can be read, the contents are not: a repair makes it first. Raises ``ConfigError``.
    """
    try:
        with told(root / CATALOG), Archive.open_as_it_is(root) as archive:
            return verify(archive, scope, progress)
    except CatalogError as error:
        report = Report(scope.text)
        report.findings += [journal.broken(str(error)), *check_folder(root, mounted=lock.is_held(root))]
        _, found = journal.check(root, root / CATALOG)
        report.findings += [finding for finding in found if finding.check != "catalog-damaged"]
        _settle(root, report, is_quiet=not lock.is_held(root))
        return report


def verify(archive: Archive, scope: Scope, progress: Progress = lambda done, total: None) -> Report:
    """Run all checks; reads only. May run while the archive is mounted.

    Blocks for as long as reading takes; ``progress`` is called from this thread. Raises ``CatalogError``.
    """
    report, start = Report(scope.text), time.monotonic()
    mounted, before = lock.is_held(archive.root), archive.reader.changed_seq()
    report.findings += check_folder(archive.root, mounted=mounted)
    if not scope.records_only:
        report.findings += contents.check_names(archive, mounted=mounted)
        report.findings += contents.check_lost(archive)
        report.findings += contents.check_outbox(archive)
        report.findings += check_code(archive, mounted=mounted)
    lacking = _check_contents(archive, scope, report, progress, mounted=mounted)
    report.findings += contents.check_dictionaries(archive, lacking, mounted=mounted)
    is_quiet = not lock.is_held(archive.root) and archive.reader.changed_seq() == before
    _settle(archive.root, report, is_quiet=is_quiet)
    report.seconds = time.monotonic() - start
    return report


def _settle(root: Path, report: Report, *, is_quiet: bool) -> None:
    """Leave out what may only have been on its way; the worst first, each once.

    ``is_quiet``: nobody has written since the checks began, as far as anybody can say.
    """
    report.findings = [
        finding
        for finding in dict.fromkeys(report.findings)
        if finding.check not in PASSING
        or (is_quiet and (finding.check != "orphan-file" or (root / finding.where).exists()))
    ]
    report.findings.sort(key=lambda finding: -finding.severity)


def _check_contents(
    archive: Archive, scope: Scope, report: Report, progress: Progress, *, mounted: bool
) -> Counter[str]:
    """Read the journal, where it is wanted, and records; returns how many of them lack which dictionary."""
    total = int(archive.reader.content_bytes() / scope.parts * scope.sample / 100)
    lacking = Counter[str]()
    with Readers(archive, background=scope.background) as readers:
        chain = None if scope.records_only else readers.journal()
        for result in readers.chunks(_chunks(archive, scope, mounted=mounted)):
            report.records += result.records
            report.bytes += result.bytes
            report.findings += result.findings
            lacking += result.lacking
            progress(report.bytes, total)
        if chain is not None:
            report.events, found = chain.result()
            report.findings += found
    return lacking


def _chunks(archive: Archive, scope: Scope, *, mounted: bool) -> Iterator[contents.Chunk]:
    whole = scope.sample >= 100 and not scope.since_ms
    ends = archive.reader.segment_ends()
    for name in sorted(ends)[scope.part :: scope.parts]:
        records = _sampled(archive.reader.records(name, scope.since_ms), scope)
        yield from contents.chunks(name, records, ends[name] if whole and not mounted else 0)
    # What a repack moved before its former segment had its turn.
    for name in sorted(archive.reader.packed_segments() - ends.keys()):
        yield from contents.chunks(name, _sampled(archive.reader.records(name, scope.since_ms), scope), 0)


def _sampled(records: list[Record], scope: Scope) -> list[Record]:
    if scope.sample >= 100:
        return records
    return [record for record in records if random.random() * 100 < scope.sample]


def check_code(archive: Archive, *, mounted: bool) -> list[Finding]:
    """Versions of converters' code that are missing, damaged, or that the journal does not know.

    While somebody writes, one that is not known may just have been kept.
    """
    found, known = list[Finding](), archive.reader.code()
    for row in known:
        where = code.file_of(row.converter, row.sha256)
        try:
            damage = code.damage(archive.root, row.converter, row.sha256)
        except FileNotFoundError:
            found.append(Finding(Severity.ERROR, "code-missing", where, "the file is missing", RESTORE_CODE))
        else:
            if damage is not None:
                found.append(Finding(Severity.ERROR, "code-damaged", where, damage, RESTORE_CODE))
    files = {code.file_of(row.converter, row.sha256) for row in known}
    return found + [
        Finding(
            Severity.NOTICE, "code-unknown", where, "the journal knows nothing of this file",
            "nothing needs it: archivefs stopped when it had just been made",
        )
        for where in code.files(archive.root)
        if where not in files and not mounted
    ]  # fmt: skip


def check_folder(root: Path, *, mounted: bool) -> list[Finding]:
    """Files that an interrupted write left, and what lies in quarantine."""
    findings = []
    for folder, folders, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        if not inside.parts:
            folders[:] = [name for name in folders if name in ("journal", "content", "dictionaries")]
        for name in files:
            if name.endswith((".tmp", ".new")) and not mounted:
                findings.append(
                    Finding(
                        Severity.WARNING, "orphan-file", str(inside / name), "a write that was interrupted",
                        "archivefs verify --repair keeps it aside", "orphan",
                    )
                )  # fmt: skip
    kept = root / "quarantine"
    count = sum(1 for _ in kept.iterdir()) if kept.exists() else 0
    if count:
        findings.append(
            Finding(
                Severity.NOTICE, "quarantine", "quarantine/", f"{count} things are kept aside there",
                "archivefs quarantine list",
            )
        )  # fmt: skip
    return findings
