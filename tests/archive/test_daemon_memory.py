"""What the daemon keeps in memory has a bound, however many files went through it."""

import errno
import os
import subprocess
import sys
import tracemalloc
from typing import NamedTuple

import pytest
import trio
from archive_parts import ROOT, capture, commit, some_bytes

from archivefs.archive import Archive
from archivefs.fs import frame_cache
from archivefs.fs.frame_cache import BEHIND_BYTES, FRAME_COST, LEAST_BYTES, ContentHandle, FrameCache
from archivefs.fs.inbox import Inbox
from archivefs.fs.inbox_items import InboxDir, InboxFile
from archivefs.store import frames
from archivefs.store.frames import FRAME_BYTES, LARGEST_FRAME_BYTES


class Caller(NamedTuple):
    """Who makes a request."""

    uid: int = os.geteuid()
    gid: int = os.getegid()
    pid: int = os.getpid()


def folder(inbox: Inbox) -> InboxDir:
    found = inbox.root.lookup(b"files")
    assert isinstance(found, InboxDir)
    return found


def saved(inbox: Inbox, name: bytes) -> InboxFile:
    """A file that was made, written and closed, and that the kernel refers to."""
    handle = inbox.create(folder(inbox), name, 0o644, Caller())
    handle.file.lookups = 1
    handle.close()
    return handle.file


def test_a_file_that_left_the_inbox_is_not_remembered_though_the_kernel_refers_to_it(
    archive: Archive,
) -> None:
    inbox = Inbox(archive)
    files = [saved(inbox, b"unit %d.csv" % number) for number in range(50)]
    for file in files:
        inbox.unlink(file.parent, file.name)
    assert inbox.files() == []
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        inbox.item(files[0].ino)
    inbox.forget(files[0].ino, 1)


def test_a_folder_that_was_removed_is_not_remembered_though_the_kernel_refers_to_it(archive: Archive) -> None:
    inbox = Inbox(archive)
    made = inbox.mkdir(folder(inbox), b"shift 1", 0o755, Caller())
    made.lookups = 1
    inbox.rmdir(folder(inbox), b"shift 1")
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        inbox.item(made.ino)


def test_a_removed_file_is_remembered_as_long_as_it_is_open(archive: Archive) -> None:
    inbox = Inbox(archive)
    handle = inbox.create(folder(inbox), b"unit.csv", 0o644, Caller())
    handle.file.lookups = 1
    os.write(handle.fd, b"measured")
    inbox.unlink(handle.file.parent, b"unit.csv")
    assert inbox.item(handle.file.ino).attributes().size == 8
    handle.close()
    inbox.drop_if_idle(handle.file)
    assert inbox.files() == []


async def test_the_cache_of_frames_keeps_its_bound_with_the_smallest_frames_as_well(archive: Archive) -> None:
    count, limit = 6000, 1 << 20
    for start in range(0, count, 1000):
        commit(archive, *(capture(b"%d" % number) for number in range(start, start + 1000)))
    entries = archive.reader.all_after(0, count)
    places = [archive.reader.location(entry) for entry in entries]
    cache = FrameCache(archive.content, limit)
    tracemalloc.start()
    try:
        for entry, place in zip(entries, places, strict=True):
            await cache.frame(place, entry.size, 0)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 1.1 * limit


async def test_memory_of_frames_is_used_again_but_never_while_anybody_has_it(archive: Archive) -> None:
    contents = some_bytes(1, 6 * FRAME_BYTES)
    commit(archive, capture(contents))
    (entry,) = archive.reader.all_after(0, 1)
    place = archive.reader.location(entry)
    cache = FrameCache(archive.content, 2 * (FRAME_BYTES + FRAME_COST))

    async def frame(index: int) -> bytes | bytearray:
        found = await cache.frame(place, entry.size, index)
        assert found == contents[index * FRAME_BYTES : (index + 1) * FRAME_BYTES]
        return found

    view = memoryview(await frame(0))[1000:2000]
    seen = [id(await frame(index)) for index in range(1, 6)]
    assert view == contents[1000:2000]
    assert len(set(seen)) == 2, "the others took turns in the same memory"


@pytest.mark.parametrize("frame_bytes", [FRAME_BYTES, LARGEST_FRAME_BYTES])
async def test_who_copies_a_large_file_takes_a_few_mebibytes(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, frame_bytes: int
) -> None:
    size = 40 << 20
    with monkeypatch.context() as before:
        before.setattr(frames, "FRAME_BYTES", frame_bytes)
        commit(archive, capture(bytes(size)))
    (entry,) = archive.reader.all_after(0, 1)
    place = archive.reader.location(entry)
    cache = FrameCache(archive.content, 128 << 20)
    handle = ContentHandle(cache, 1, place, size, lambda: place)
    for at in range(0, size, 128 << 10):
        await handle.read(at, 128 << 10)
        assert cache.taken().bytes < BEHIND_BYTES + (2 << 20)


async def test_readers_at_the_same_time_follow_a_content_to_its_new_place(archive: Archive) -> None:
    size = 3 * FRAME_BYTES
    commit(archive, *(capture(some_bytes(1, size), converter=name) for name in ("files", "ict")))
    gone, there = (archive.reader.location(entry) for entry in archive.reader.all_after(0, 2))
    (archive.root / "content" / gone.segment).unlink()
    handle = ContentHandle(FrameCache(archive.content, LEAST_BYTES), 1, gone, size, lambda: there)
    found = dict[int, bytes]()

    async def read(at: int) -> None:
        found[at] = bytes(await handle.read(at, FRAME_BYTES))

    async with trio.open_nursery() as nursery:
        for at in range(0, size, FRAME_BYTES):
            nursery.start_soon(read, at)
    assert b"".join(found[at] for at in sorted(found)) == some_bytes(1, size)


async def test_who_copies_a_large_file_takes_no_frame_from_others(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_cache, "BEHIND_BYTES", FRAME_BYTES)
    commit(archive, *(capture(some_bytes(seed, 8 * FRAME_BYTES)) for seed in range(2)))
    cache = FrameCache(archive.content, 4 * (FRAME_BYTES + FRAME_COST))
    places = [archive.reader.location(entry) for entry in archive.reader.all_after(0, 2)]
    wanted = await cache.frame(places[0], 8 * FRAME_BYTES, 5)
    handle = ContentHandle(cache, 2, places[1], 8 * FRAME_BYTES, lambda: places[1])
    step = 128 << 10
    copied = b"".join([await handle.read(at, step) for at in range(0, 8 * FRAME_BYTES, step)])
    assert copied == some_bytes(1, 8 * FRAME_BYTES)
    assert await cache.frame(places[0], 8 * FRAME_BYTES, 5) is wanted


CHURN = """
import threading
from pathlib import Path
from archivefs.fs import memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) << 10

def fill(number):
    for index in range(len(frames)):
        frames[index] = bytes([number]) * (1 << 20)
        kept.append(bytes([number]) * 4096)  # something that stays, between two frames
    done.set()
    end.wait()

memory.keep_heap_small()
before = resident()
frames, kept, end = [b""] * 50, [], threading.Event()
for number in range(8):
    done = threading.Event()
    threading.Thread(target=fill, args=(number,)).start()
    done.wait()
print(resident() - before)
end.set()
"""


def test_frames_that_many_threads_make_take_no_more_memory_than_those_of_one() -> None:
    """The same 50 MiB are replaced by each of eight threads."""
    done = subprocess.run(
        [sys.executable, "-c", CHURN], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 100 << 20
