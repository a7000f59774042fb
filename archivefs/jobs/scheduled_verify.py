"""Verification by itself: a mounted archive reads a part of itself a day, all of it in the set time."""

import logging
import math
import threading
from datetime import datetime
from pathlib import Path

import trio

from archivefs.archive import Archive
from archivefs.committer import Committer
from archivefs.events import Verified
from archivefs.operations import Note
from archivefs.verify.findings import Report, Severity
from archivefs.verify.verify import Scope, verify

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400
LOOK_SECONDS = 600.0
"""How often it looks whether the next part is due."""


class Schedule:
    """Splits the archive's segments into as many parts as ``verify_every`` has days; one part a day."""

    def __init__(self, archive: Archive, committer: Committer) -> None:
        self._archive = archive
        self._committer = committer
        every = archive.config.verify_every_seconds
        self._parts = max(1, every // DAY_SECONDS)
        self._found: dict[int, str] = {}
        self._interval = every / self._parts if every else math.inf

    async def run(self) -> None:
        """Verify when it is time, until cancelled; returns at once where nothing is scheduled."""
        if self._interval == math.inf:
            return
        while True:
            try:
                if self._is_due():
                    await self._verify_part()
            except Exception as error:
                log.exception("the scheduled verification failed; it is tried again")
                self._archive.alarms["verify"] = f"it could not be done: {error}"
            await trio.sleep(min(LOOK_SECONDS, self._interval))

    def _is_due(self) -> bool:
        last = self._archive.reader.last_verified()
        if not last:
            return True
        age = self._archive.now_ms() / 1000 - datetime.fromisoformat(last).timestamp()
        return age >= self._interval or age < 0

    async def _verify_part(self) -> None:
        part = self._archive.reader.last_verified_part() % self._parts
        scope = Scope(part=part, parts=self._parts, background=True)
        stop = threading.Event()
        try:
            report = await trio.to_thread.run_sync(
                _read, self._archive.root, scope, stop, abandon_on_cancel=True
            )
        finally:
            stop.set()
        await self._committer.submit(Note(_event(report, part + 1)))
        for finding in report.findings:
            if finding.severity >= Severity.WARNING:
                log.error("verify: %s: %s", finding.where, finding.what)
        self._found.pop(part, None)
        if report.worst >= Severity.WARNING:
            counts = ", ".join(f"{count} {word}" for word, count in report.counts().items())
            self._found[part] = f"{counts}; see archivefs verify"
        self._raise_alarm()

    def _raise_alarm(self) -> None:
        """What each part had when it was last read, until it is read again without findings."""
        self._archive.alarms.pop("verify", None)
        if self._found:
            self._archive.alarms["verify"] = "; ".join(self._found.values())


class _StoppedError(Exception):
    """The mount ends; the part is read another time."""


def _read(root: Path, scope: Scope, stop: threading.Event) -> Report:
    def progress(done: int, total: int) -> None:
        if stop.is_set():
            raise _StoppedError

    with Archive.open_for_reading(root) as archive:
        return verify(archive, scope, progress)


def _event(report: Report, part: int) -> Verified:
    return Verified(
        scope=report.scope, part=part, records=report.records, bytes=report.bytes, findings=report.counts()
    )
