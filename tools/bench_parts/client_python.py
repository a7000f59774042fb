"""What client.c does, for machines without a compiler. It is slower itself, so its figures say less."""

import json
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

PIECE = 1 << 20
PAGE = 4096
clock = time.perf_counter


def say(count: int, size: int, seconds: float, times: Sequence[float] = ()) -> None:
    """The same line that client.c prints."""
    ordered = sorted(times) or [0.0]
    median, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    facts = {"count": count, "bytes": size, "seconds": seconds}
    print(json.dumps(facts | {"median_us": median * 1e6, "p99_us": p99 * 1e6}))


def stat(seconds: str) -> None:
    """lstat all paths again and again, after once without the clock."""
    paths = sys.stdin.read().splitlines()
    for path in paths:
        os.lstat(path)
    count, start = 0, clock()
    while clock() - start < float(seconds):
        for path in paths:
            os.lstat(path)
        count += len(paths)
    say(count, 0, clock() - start)


def read_all(path: str) -> int:
    """Bytes in a file, by reading it."""
    fd, total = os.open(path, os.O_RDONLY), 0
    while piece := os.read(fd, PIECE):
        total += len(piece)
    os.close(fd)
    return total


def read() -> None:
    """Open, read and close each path once."""
    paths = sys.stdin.read().splitlines()
    start = clock()
    size = sum(map(read_all, paths))
    say(len(paths), size, clock() - start)


def names_below(directory: str, depth: float) -> int:
    """How many names there are, by listing them."""
    count = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            count += 1
            if depth > 1 and entry.is_dir(follow_symlinks=False):
                count += names_below(entry.path, depth - 1)
    return count


def walk(depth: str, directory: str) -> None:
    """All names below a directory, so many levels deep (0: all)."""
    start = clock()
    say(names_below(directory, int(depth) or math.inf), 0, clock() - start)


def random_pages(number: str, seed: str, path: str) -> None:
    """4 KiB at random places."""
    rng, times = random.Random(seed), []
    fd = os.open(path, os.O_RDONLY)
    pages = os.fstat(fd).st_size // PAGE
    start = clock()
    for _ in range(int(number)):
        before = clock()
        os.pread(fd, PAGE, rng.randrange(pages) * PAGE)
        times.append(clock() - before)
    say(len(times), len(times) * PAGE, clock() - start, times)


def together(jobs: Sequence[Callable[[], list[float]]]) -> tuple[float, list[list[float]]]:
    """Run jobs in processes that begin at once; seconds until the last has ended, and what each returned."""
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(len(jobs) + 1), context.SimpleQueue()

    def work(job: Callable[[], list[float]], gate: Barrier) -> None:
        gate.wait()
        results.put(job())

    processes = [context.Process(target=work, args=(job, gate)) for job in jobs]
    for process in processes:
        process.start()
    gate.wait()
    start = clock()
    found = [results.get() for _ in jobs]
    return clock() - start, found


def readers() -> None:
    """A process for each path reads it from beginning to end."""
    paths = sys.stdin.read().splitlines()
    seconds, sizes = together([lambda path=path: [float(read_all(path))] for path in paths])
    say(len(paths), int(sum(size for (size,) in sizes)), seconds)


def write(seconds: str, size: str, processes: str, template: str, directory: str) -> None:
    """Each process makes files, one after the other."""
    content, length = Path(template).read_bytes(), int(size)

    def writer(number: int) -> list[float]:
        times: list[float] = []
        start = clock()
        while clock() - start < float(seconds):
            at = (len(times) * 7919 + number * 104729) % (len(content) - length)
            path = f"{directory}/w{os.getpid()}-{number}-{len(times):06}.csv"
            before = clock()
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, content[at : at + length])
            os.close(fd)
            times.append(clock() - before)
        return times

    took, found = together([lambda number=number: writer(number) for number in range(int(processes))])
    times = [each for times in found for each in times]
    say(len(times), len(times) * length, took, times)


def sync(seconds: str, size: str, group: str, path: str) -> None:
    """Append GROUP times SIZE bytes, then fdatasync."""
    content, times = b"x" * int(size), []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    start = clock()
    while clock() - start < float(seconds):
        before = clock()
        for _ in range(int(group)):
            os.write(fd, content)
        os.fdatasync(fd)
        times.append(clock() - before)
    count = len(times) * int(group)
    say(count, count * len(content), clock() - start, times)


if __name__ == "__main__":
    programs = {"stat": stat, "read": read, "walk": walk, "random": random_pages, "readers": readers,
                "write": write, "sync": sync}  # fmt: skip
    programs[sys.argv[1]](*sys.argv[2:])
