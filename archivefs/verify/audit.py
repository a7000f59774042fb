"""The journal against all that noted its count and hash: which lines were altered, which are gone."""

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from archivefs.catalog.compare import Snapshot
from archivefs.errors import CatalogError, NotAnArchiveError
from archivefs.events import Created
from archivefs.rebuilding import CATALOG
from archivefs.store import journal
from archivefs.store.chain import START, Checkpoint, Head, Link, day_files, gone, walk
from archivefs.verify.findings import Finding, Report, Severity
from archivefs.verify.journal import RESCUE, broken, checkpoint_missing

TOLD = 100
"""Breaks that are told one by one; the others are counted."""


class Note(NamedTuple):
    """A checkpoint, and where it stands."""

    place: str
    checkpoint: Checkpoint

    @property
    def text(self) -> str:
        """Who noted it, and when."""
        return f"{self.place}, of {self.checkpoint.at}" if self.checkpoint.at else self.place


def audit(root: Path, files: Sequence[Path] = ()) -> Report:
    """Check every line, and compare count and hashes with the checkpoint, the catalog and these files.

    Changes nothing, and may run while the journal grows. A file has one checkpoint a line, as ``archivefs
    audit checkpoint`` prints it. Raises ``NotAnArchiveError``, ``OSError``.
    """
    directory = root / "journal"
    if not directory.is_dir() and not (root / CATALOG).exists():
        raise NotAnArchiveError(f"{root} has neither a journal nor a catalog")
    report = Report("journal")
    # What is noted is read before the lines: these only become more meanwhile.
    notes = [*_inside(root, report), *_outside(files, report)]
    checked = _Chain(notes, report, root)
    for link in walk(day_files(directory)):
        checked.take(link)
    checked.end()
    report.events = checked.head.seq
    if not any(note.place == f"journal/{journal.CHECKPOINT}" for note in notes):
        report.findings.append(checkpoint_missing())
    report.findings.sort(key=lambda finding: -finding.severity)
    return report


def _inside(root: Path, report: Report) -> Iterator[Note]:
    """What the archive itself notes: beside the journal, and in the catalog."""
    if (root / CATALOG).exists():
        try:
            catalog = Snapshot(root / CATALOG)
            try:
                known = Checkpoint(catalog.applied_seq(), catalog.applied_sha256())
            finally:
                catalog.close()
        except CatalogError as error:
            report.findings.append(broken(str(error)))
        else:
            yield Note(CATALOG, known)
    beside = journal.noted(root / "journal")
    if beside.seq:
        yield Note(f"journal/{journal.CHECKPOINT}", beside)


def _outside(files: Sequence[Path], report: Report) -> Iterator[Note]:
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield Note(f"{file}:{number}", msgspec.json.decode(line, type=Checkpoint))
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    remedy = "give a file that archivefs audit checkpoint printed"
                    where, what = f"{file}:{number}", f"no checkpoint: {error}"
                    finding = Finding(Severity.ERROR, "checkpoint-unreadable", where, what, remedy)
                    report.findings.append(finding)


class _Chain:
    """The lines as they come, and the notes that wait for theirs."""

    def __init__(self, notes: Sequence[Note], report: Report, root: Path) -> None:
        self._notes = sorted(notes, key=lambda note: note.checkpoint.seq)
        self._seqs = [note.checkpoint.seq for note in self._notes]
        self._found = report.findings
        self._root = root
        self._breaks = 0
        self._met = set[int]()
        self._agreed = ""
        self._archive = ""
        self.head: Head = START

    def take(self, link: Link) -> None:
        """The next line of the journal."""
        if link.broken:
            self._breaks += 1
            if self._breaks <= TOLD:
                what = link.broken.removeprefix(f"{link.file}:{link.number}: ")
                self._found.append(_finding("journal-chain", self._place(link), what))
        if link.event is None:
            return
        if isinstance(link.event, Created) and not self._archive:
            self._archive = link.event.archive
        for at in range(bisect.bisect_left(self._seqs, link.event.seq), len(self._seqs)):
            if self._seqs[at] != link.event.seq:
                break
            self._met.add(at)
            self._compare(self._notes[at], link)
        if link.event.seq > self.head.seq:
            self.head = Head(link.event.seq, link.sha256)

    def _place(self, link: Link) -> str:
        return f"{link.file.relative_to(self._root)}:{link.number}"

    def _compare(self, note: Note, link: Link) -> None:
        seq = note.checkpoint.seq
        if self._is_of_another(note):
            return
        if note.checkpoint.sha256 == link.sha256:
            self._agreed = f", and behind the one that {note.text}, agrees with (line {seq})"
            return
        what = f"line {seq} is not the one noted in {note.text}: it or one before was rewritten{self._agreed}"
        self._found.append(_finding("checkpoint-differs", self._place(link), what))

    def _is_of_another(self, note: Note) -> bool:
        theirs = note.checkpoint.archive
        return bool(theirs and self._archive and theirs != self._archive)

    def end(self) -> None:
        """All lines were there; what is noted and was not met is gone."""
        if self._breaks > TOLD:
            self._found.append(_finding("journal-chain", "journal", f"and {self._breaks - TOLD} places more"))
        for at, note in enumerate(self._notes):
            seq = note.checkpoint.seq
            if self._is_of_another(note):
                what = (
                    f"it is of the archive {note.checkpoint.archive}, this one is {self._archive}: "
                    "another archive, or one whose journal was made again"
                )
                self._found.append(_finding("checkpoint-differs", note.place, what))
            elif seq > self.head.seq:
                lost = gone(self.head.seq + 1, seq)
                what = f"the journal ends at line {self.head.seq}, {note.text}, counted {seq}: {lost}"
                self._found.append(_finding("journal-cut", "journal", what))
            elif seq and at not in self._met:
                self._found.append(
                    _finding("journal-cut", "journal", f"line {seq}, which was noted in {note.text}, is gone")
                )
        if not self.head.seq and not any(self._seqs):
            self._found.append(
                _finding("journal-cut", "journal", "the journal is empty: even its first line is gone")
            )


def _finding(check: str, where: str, what: str) -> Finding:
    return Finding(Severity.CRITICAL, check, where, what, RESCUE)
