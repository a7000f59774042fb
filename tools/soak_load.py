"""Knows what programs do to a mount all day: some save, some read, some walk; each says how long it took.

One of them is a process: `soak_load.py KIND NUMBER MOUNT OPTIONS`, OPTIONS in JSON. It reads orders from
standard input, a line each: `pause`, `go`, or a JSON list of entries to read, and ends where its input ends.
It answers `{"paused":true}` to `pause`, holds nothing of the mount open then, and otherwise says what it did
about twice a second, as one JSON object of lists.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from corpus import Sample, samples

TELL_SECONDS = 0.5
KNOWN = 20_000
"""Entries that a reader chooses from; more than the daemon's cache of frames holds."""
SMALL_BYTES = 100_000
LARGE_FOLDER = "images"
LARGE_MIB = (5, 20)
WALKED = 1500
"""Names after which a walk ends, in directories of any size."""


class Known(NamedTuple):
    """An archived source: enough to read and check it."""

    id: str
    name: str
    size: int
    sha256: str


class Link:
    """The line to the process that started this one."""

    def __init__(self) -> None:
        self.fresh: list[Known] = []
        """Entries that nobody has looked at yet."""
        self._rest = b""
        self._noted: dict[str, list[Any]] = defaultdict(list)
        self._told = time.monotonic()

    def note(self, what: str, value: object) -> None:
        """Something to tell."""
        self._noted[what].append(value)

    def pause(self, seconds: float) -> None:
        """Let time pass, tell what was noted, and do as ordered; ends the process where nobody listens."""
        until = time.monotonic() + seconds
        while True:
            if time.monotonic() - self._told > TELL_SECONDS:
                self._tell()
            left = max(until - time.monotonic(), 0)
            if select.select([0], [], [], left)[0]:
                self._read()
            elif left == 0:
                return

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._receive()).split(b"\n")
        for line in lines:
            if line == b"pause":
                self._tell()
                self._say({"paused": True})
                while b"go\n" not in self._rest:
                    self._rest += self._receive()
                self._rest = self._rest.replace(b"go\n", b"")
            elif line:
                self.fresh += (Known(*each) for each in json.loads(line))

    @staticmethod
    def _receive() -> bytes:
        data = os.read(0, 1 << 16)
        if not data:
            sys.exit()
        return data

    def _tell(self) -> None:
        self._told = time.monotonic()
        if self._noted:
            self._say(self._noted)
            self._noted.clear()

    @staticmethod
    def _say(what: object) -> None:
        try:
            print(json.dumps(what), flush=True)
        except BrokenPipeError:
            os._exit(0)


class Writer:
    """Saves files in the ways that programs have; the first one also saves large ones."""

    def __init__(self, link: Link, number: int, mount: Path, options: dict[str, Any]) -> None:
        self._link = link
        self._inbox = mount / "inbox"
        self._chance = random.Random(number)
        self._samples = endless_samples(number)
        self._prefix = f"L{number}_"
        self._large_seconds: float = options["large_seconds"]
        self._large_first: int = 0 if number else options["large_first"]
        self._next_large = time.monotonic() if number == 0 else float("inf")

    def work(self) -> None:
        """Save one file."""
        if time.monotonic() >= self._next_large:
            self._large_first -= 1
            if self._large_first <= 0:
                self._next_large = time.monotonic() + self._large_seconds
            self._save_large()
            return
        sample = next(self._samples)
        path = self._inbox / sample.converter / f"{self._prefix}{sample.name}"
        way = self._chance.choices(("plain", "renamed", "appended", "deleted"), (6, 2, 1, 1))[0]
        if way == "renamed":
            temporary = path.with_name(f".{path.name}.part")
            temporary.write_bytes(sample.content)
            temporary.replace(path)
        else:
            started = time.perf_counter()
            write(path, sample.content)
            self._link.note("close", time.perf_counter() - started)
        self._saved(path, sample.content)
        try:
            if way == "appended":
                more = b"checked by hand\r\n"
                write(path, more, os.O_APPEND)
                self._saved(path, sample.content + more)
            elif way == "deleted":
                path.unlink()
        except FileNotFoundError:
            pass  # it left the inbox meanwhile

    def _save_large(self) -> None:
        name = f"image-{time.time_ns()}.raw"
        content = large_content(self._chance, self._chance.randint(*LARGE_MIB))
        path = self._inbox / LARGE_FOLDER / name
        write(path, content)
        self._saved(path, content)

    def _saved(self, path: Path, content: bytes) -> None:
        """close() returned 0: from now on this content must be in the archive for ever."""
        try:
            id_ = os.getxattr(path, "user.archivefs.id").decode()
        except OSError:  # it left the inbox, or the mount ended; that it was saved counts all the same
            id_ = ""
        sha256 = hashlib.sha256(content).hexdigest()
        self._link.note("saved", [path.parent.name, path.name, sha256, id_, len(content)])


class Reader:
    """Looks at entries as they come, and reads old ones, small and large, checking every byte."""

    def __init__(self, link: Link, number: int, mount: Path, options: dict[str, Any]) -> None:
        self._link = link
        self._mount = mount
        self._chance = random.Random(number)
        self._small: list[Known] = []
        self._large: list[Known] = []

    def work(self) -> None:
        """Look up one entry that was never asked for, and read one that was."""
        if self._link.fresh:
            known = self._link.fresh.pop()
            started = time.perf_counter()
            (self._mount / "by-id" / known.id).stat()
            self._link.note("stat", time.perf_counter() - started)
            self._remember(known)
        if self._large and self._chance.random() < 0.03:
            self._read(self._chance.choice(self._large))
        elif self._small:
            started = time.perf_counter()
            self._read(self._chance.choice(self._small))
            self._link.note("read", time.perf_counter() - started)

    def _remember(self, known: Known) -> None:
        found = self._small if known.size <= SMALL_BYTES else self._large
        if len(found) < KNOWN:
            found.append(known)
        else:
            found[self._chance.randrange(KNOWN)] = known

    def _read(self, known: Known) -> None:
        with (self._mount / "by-id" / known.id / known.name).open("rb", buffering=0) as file:
            content = file.readall()
            # So that the next time the daemon is asked again, not the kernel's page cache.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if hashlib.sha256(content).hexdigest() != known.sha256:
            raise ValueError(f"{known.id} does not read as it was saved")


class Walker:
    """Walks through views, asks for the attributes of whole folders, reads what describes entries."""

    def __init__(self, link: Link, number: int, mount: Path, options: dict[str, Any]) -> None:
        self._link = link
        self._mount = mount
        self._chance = random.Random(number)

    def work(self) -> None:
        """One walk, storm or look; what changes its status meanwhile is not there any more."""
        task: Callable[[], None] = self._chance.choice((self._walk, self._storm, self._look))
        try:
            task()
        except FileNotFoundError:
            self._link.note("moved", 1)

    def _walk(self) -> None:
        seen = 0
        for folder, folders, files in os.walk(self._descend("by-converter", "by-date", "by-status")):
            seen += len(folders) + len(files)
            self._chance.shuffle(folders)
            if "entry.json" in files and self._chance.random() < 0.05:
                json.loads((Path(folder) / "entry.json").read_bytes())
            if seen > WALKED:
                break
        self._link.note("walked", seen)

    def _storm(self) -> None:
        folder = self._descend("sources", leaf=True)
        names = os.listdir(folder)  # noqa: PTH208  names are enough
        for name in self._chance.sample(names, min(len(names), WALKED)):
            try:
                (folder / name).stat()
            except FileNotFoundError:
                self._link.note("moved", 1)
        self._link.note("walked", len(names))

    def _look(self) -> None:
        json.loads((self._mount / "stats.json").read_bytes())
        if not json.loads((self._mount / "health.json").read_bytes())["ok"]:
            raise ValueError("health.json is not ok")

    def _descend(self, *views: str, leaf: bool = False) -> Path:
        """A random folder of a random view, at its end if ``leaf``."""
        place = self._mount / self._chance.choice(views)
        levels = {"by-date": 5}.get(place.name, 3)
        for _ in range(levels if leaf else self._chance.randint(1, levels)):
            names = os.listdir(place)  # noqa: PTH208  names are enough
            if not names:
                break
            place /= self._chance.choice(names)
        return place


def write(path: Path, content: bytes, how: int = os.O_CREAT | os.O_TRUNC) -> None:
    """Save as a program in C does: open, write, close."""
    fd = os.open(path, os.O_WRONLY | how, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def large_content(chance: random.Random, mib: int) -> bytes:
    """Bytes of which half compress."""
    half = 512 << 10
    return b"".join(chance.randbytes(half) + chance.randbytes(1) * half for _ in range(mib))


def endless_samples(number: int) -> Iterator[Sample]:
    """Sources of test stations, others for each number."""
    rounds = 0
    while True:
        yield from samples(1000, 1000 * number + rounds)
        rounds += 1


KINDS: dict[str, type[Writer] | type[Reader] | type[Walker]] = {
    "writer": Writer,
    "reader": Reader,
    "walker": Walker,
}


def main() -> None:
    """Work until standard input ends; a mount that is away for a while is waited for."""
    kind, number, mount, options = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
    link, chance = Link(), random.Random(number)
    one = KINDS[kind](link, number, mount, options)
    while True:
        try:
            one.work()
        except (OSError, ValueError) as error:
            number_or_none = error.errno if isinstance(error, OSError) else None
            link.note("trouble", [time.monotonic(), number_or_none, f"{kind}: {error}"])
            link.pause(0.2)
        link.pause(chance.expovariate(1 / options[f"{kind}_pause"]))


if __name__ == "__main__":
    main()
