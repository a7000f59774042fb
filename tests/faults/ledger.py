"""Who was promised what: every content that a program tried to save, and which of them were acknowledged."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from archivefs.archive import Archive
from archivefs.catalog.catalog import VOID_REASON
from archivefs.states import Status

EMPTY = hashlib.sha256().hexdigest()


class Saved(NamedTuple):
    """A content under a name in a converter's inbox."""

    converter: str
    name: str
    sha256: str


class Ledger:
    """``tried`` may be in the archive, ``promised`` must be; ``synced`` must be unless it was replaced.

    Contents that were neither tried as a whole nor quarantined must not be there.
    """

    def __init__(self) -> None:
        self.tried: set[Saved] = set()
        self.promised: set[Saved] = set()
        self.synced: set[Saved] = set()
        self.errors: dict[int, int] = {}
        self._logs: dict[Path, int] = {}

    # -- what programs say -----------------------------------------------------------------------------

    def follow(self, log: Path) -> None:
        """Read also what a writer process (writer.py) notes there."""
        self._logs[log] = 0

    def read(self) -> None:
        """Read what the writers noted since the last time."""
        for log, start in self._logs.items():
            if not log.exists():
                continue
            with log.open("rb") as file:
                file.seek(start)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    start += len(line)
                    self._note(json.loads(line))
            self._logs[log] = start

    def _note(self, said: dict[str, str]) -> None:
        if said["what"] == "error":
            number = int(said["errno"])
            self.errors[number] = self.errors.get(number, 0) + 1
            return
        saved = Saved(said["converter"], said["name"], said["sha256"])
        sets = {"try": self.tried, "ack": self.promised, "sync": self.synced}
        sets[said["what"]].add(saved)

    @property
    def size(self) -> int:
        """How many closes were acknowledged, as of the last ``read``."""
        return len(self.promised)

    def noted(self) -> int:
        """Read, and count the acknowledged closes."""
        self.read()
        return self.size

    def passes(self, count: int) -> bool:
        """Whether more closes than that were acknowledged by now."""
        return self.noted() > count

    # -- what a test says itself -----------------------------------------------------------------------

    def trying(self, converter: str, name: str, content: bytes) -> Saved:
        """A program is about to save this."""
        saved = Saved(converter, name, hashlib.sha256(content).hexdigest())
        self.tried.add(saved)
        return saved

    def promise(self, converter: str, name: str, content: bytes) -> None:
        """close() returned 0."""
        self.promised.add(self.trying(converter, name, content))

    # -- what the archive has --------------------------------------------------------------------------

    def compare(self, archive: Archive, *, synced: bool = False) -> None:
        """Nothing promised is missing, and nothing is there that nobody saved.

        ``archive`` was verified before: a row's SHA-256 is that of the bytes on the disk. ``synced``: it was
        mounted since the last stop, so what was in staging has become entries.
        """
        self.read()
        rows = archive.reader.all_after(0, 10**7)
        names = {
            number: archive.reader.converter_name(number) for number in {row.converter_id for row in rows}
        }
        there: set[Saved] = set()
        strange: list[str] = []
        tried_names = {(each.converter, each.name) for each in self.tried}
        for row in rows:
            saved = Saved(names[row.converter_id], row.name.decode(), row.sha256)
            if row.reason == VOID_REASON:
                strange.append(f"{row.id} {saved} is void")
                continue
            there.add(saved)
            known = (
                (saved.converter, saved.name) in tried_names if row.status is Status.QUARANTINED else False
            )
            if saved not in self.tried and not known:
                strange.append(f"{row.id} {saved} {row.status} {row.size} bytes: nobody saved that")
        lost = self.promised - there
        assert not lost, (
            f"{len(lost)} of {len(self.promised)} acknowledged closes are lost: {sorted(lost)[:3]}"
        )
        assert strange == [], strange[:5]
        if synced:
            # What holds nothing looks like what is left of an earlier file of that name, and follows that one
            # (docs/durability.md, "What is not covered").
            unsynced = {each for each in self.synced - there if each.sha256 != EMPTY}
            assert not unsynced, (
                f"{len(unsynced)} of {len(self.synced)} fsyncs are lost: {sorted(unsynced)[:3]}"
            )
