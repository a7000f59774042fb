"""Any sequence of what programs do in the inbox, with crashes and remounts, against a plain dictionary."""

import mmap
import os
import tempfile
from pathlib import Path

import pytest
from fault_parts import Station, say
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger import Ledger
from mount_parts import config, converter

KEPT = config(converter("files", settle_seconds=0, post_action="keep"))
NAMES = st.sampled_from(["a.csv", "b.csv", "c.bin"])
FOLDERS = st.sampled_from(["", "sub", "sub/deep"])
DATA = st.binary(min_size=1, max_size=60) | st.integers(1, 40).map(lambda n: bytes([n]) * 3000 * n)
OFFSETS = st.integers(0, 9000)
numbers = {"examples": 0, "steps": 0, "acknowledged": 0, "kills": 0, "hangs": 0}


class Inbox(RuleBasedStateMachine):
    """``files`` is what the inbox must show; ``held`` are descriptors that were written and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.station = Station(Path(self.folder.name), KEPT, {}).mount()
        self.ledger = Ledger()
        self.files: dict[str, bytearray] = {}
        self.folders = {""}
        self.held: dict[str, int] = {}

    def path(self, key: str) -> Path:
        return self.station.inbox / "files" / key

    def key(self, folder: str, name: str) -> str:
        return name if folder not in self.folders or not folder else f"{folder}/{name}"

    def tried(self, key: str) -> None:
        self.ledger.trying("files", Path(key).name, bytes(self.files[key]))

    def closed(self, key: str) -> None:
        self.ledger.promise("files", Path(key).name, bytes(self.files[key]))

    def change(self, key: str, offset: int, data: bytes) -> None:
        model = self.files.setdefault(key, bytearray())
        model.extend(bytes(max(0, offset - len(model))))
        model[offset : offset + len(data)] = data
        self.tried(key)

    # -- what programs do ------------------------------------------------------------------------------

    @rule(folder=FOLDERS, name=NAMES, data=DATA)
    def save(self, folder: str, name: str, data: bytes) -> None:
        key = self.key(folder, name)
        self.files[key] = bytearray(data)
        self.tried(key)
        self.path(key).write_bytes(data)
        self.closed(key)

    @rule(folder=FOLDERS, name=NAMES, offset=OFFSETS, data=DATA, sync=st.booleans(), twice=st.booleans())
    def write_at(self, folder: str, name: str, offset: int, data: bytes, *, sync: bool, twice: bool) -> None:
        key = self.key(folder, name)
        fd = os.open(self.path(key), os.O_RDWR | os.O_CREAT)
        self.change(key, offset, data)
        os.pwrite(fd, data, offset)
        if sync:
            os.fsync(fd)
        if twice:
            other = os.dup(fd)
            os.close(other)
            self.closed(key)
            self.change(key, 0, data[:7])
            os.pwrite(fd, data[:7], 0)
        os.close(fd)
        self.closed(key)

    @rule(folder=FOLDERS, name=NAMES, data=DATA)
    def append(self, folder: str, name: str, data: bytes) -> None:
        key = self.key(folder, name)
        fd = os.open(self.path(key), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.change(key, len(self.files.get(key, b"")), data)
        os.write(fd, data)
        os.close(fd)
        self.closed(key)

    @precondition(lambda self: self.files)
    @rule(size=OFFSETS)
    def truncate(self, size: int) -> None:
        key = sorted(self.files)[size % len(self.files)]
        self.files[key][:] = self.files[key][:size].ljust(size, b"\0")
        self.tried(key)
        os.truncate(self.path(key), size)
        if key not in self.held:
            self.closed(key)

    @precondition(lambda self: any(self.files.values()))
    @rule(pick=OFFSETS, data=DATA)
    def write_mapped(self, pick: int, data: bytes) -> None:
        full = [key for key in sorted(self.files) if self.files[key]]
        key = full[pick % len(full)]
        size = len(self.files[key])
        at = pick % size
        piece = data[: size - at]
        fd = os.open(self.path(key), os.O_RDWR)
        with mmap.mmap(fd, size) as memory:
            self.change(key, at, piece)
            memory[at : at + len(piece)] = piece
        os.close(fd)
        self.closed(key)

    @precondition(lambda self: self.files)
    @rule(pick=OFFSETS, folder=FOLDERS, name=NAMES)
    def rename(self, pick: int, folder: str, name: str) -> None:
        source, target = sorted(self.files)[pick % len(self.files)], self.key(folder, name)
        if source == target or source in self.held or target in self.held:
            return
        self.files[target] = self.files[source]
        self.tried(target)
        self.path(source).rename(self.path(target))
        del self.files[source]
        self.closed(target)

    @precondition(lambda self: self.files)
    @rule(pick=OFFSETS)
    def unlink(self, pick: int) -> None:
        key = sorted(self.files)[pick % len(self.files)]
        if key not in self.held:
            self.path(key).unlink()
            del self.files[key]

    @rule(folder=FOLDERS)
    def mkdir(self, folder: str) -> None:
        if folder and folder not in self.folders and str(Path(folder).parent).strip(".") in self.folders:
            self.path(folder).mkdir()
            self.folders.add(folder)

    @rule(folder=FOLDERS, name=NAMES, data=DATA)
    def write_and_hold(self, folder: str, name: str, data: bytes) -> None:
        key = self.key(folder, name)
        if key not in self.held:
            self.held[key] = os.open(self.path(key), os.O_RDWR | os.O_CREAT)
            self.files.setdefault(key, bytearray())
            self.tried(key)
        self.change(key, 0, data)
        os.pwrite(self.held[key], data, 0)

    @precondition(lambda self: self.held)
    @rule()
    def close_held(self) -> None:
        for key, fd in self.held.items():
            os.close(fd)
            self.closed(key)
        self.held.clear()

    # -- what happens to machines ----------------------------------------------------------------------

    @rule()
    def kill_and_remount(self) -> None:
        numbers["kills"] += 1
        self.station.kill()
        for fd in self.held.values():
            with pytest.raises(OSError, match="connect"):
                os.close(fd)
        self.held.clear()
        self.station.mount()

    @rule()
    def umount_and_remount(self) -> None:
        self.close_held()
        self.station.umount()
        self.station.mount()

    @invariant()
    def the_inbox_shows_what_was_written(self) -> None:
        numbers["steps"] += 1
        top = self.station.inbox / "files"
        shown = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        assert shown == {key: bytes(value) for key, value in self.files.items()}

    def teardown(self) -> None:
        try:
            self.close_held()
            if self.station.is_alive():
                self.station.umount()
                self.station.examine(self.ledger)
                assert self.station.unexpected() == []
        finally:
            self.station.take_down()
            self.folder.cleanup()
            numbers["examples"] += 1
            numbers["acknowledged"] += self.ledger.size
            numbers["hangs"] += self.station.hangs


def test_the_inbox_is_like_a_dictionary_through_crashes_and_remounts() -> None:
    run_state_machine_as_test(Inbox, settings=settings(max_examples=8, stateful_step_count=20, deadline=None))
    say("state machine", **numbers, lost=0)


@pytest.mark.long
def test_the_inbox_is_like_a_dictionary_through_many_crashes_and_remounts() -> None:
    run_state_machine_as_test(
        Inbox, settings=settings(max_examples=250, stateful_step_count=50, deadline=None)
    )
    say("state machine", **numbers, lost=0)
