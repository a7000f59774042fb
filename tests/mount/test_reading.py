"""Reading what is archived: large files by many programs at once, within the memory that is allowed."""

import hashlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from mount_parts import Mounted, config, converter, sha256

Make = Callable[..., Mounted]
MIB = 1 << 20
CACHE_MIB = 16
READERS = 32
BESIDE_MIB = 48
"""What 32 readers take beside the cache: buffers of requests, compressed frames, Python's own."""
FORGET = ["sh", "-c", "echo 1 > /proc/sys/vm/drop_caches"]
"""Makes the kernel drop pages of files, those of segments too, where root runs the tests."""


def log_of(rng: random.Random, size: int) -> bytes:
    """Lines as a burn-in writes them."""
    lines, total = list[str](), 0
    while total < size:
        lines.append(
            f"{rng.randrange(10**9):09} DATA chamber={rng.gauss(85, 1):.2f}C load={rng.random():.3f}A\n"
        )
        total += len(lines[-1])
    return "".join(lines).encode()


def memory_mib(pid: int, key: str) -> float:
    """VmRSS or VmHWM of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def test_many_readers_of_large_files_stay_within_the_memory_that_is_allowed(mounted: Make) -> None:
    station = mounted(config(converter("logs"), read_cache=f"{CACHE_MIB} MiB"))
    rng = random.Random(3)
    contents = {f"{number}.log": log_of(rng, 12 * MIB) for number in range(8)}
    for name, content in contents.items():
        station.drop("logs", name, content)
    station.remount()
    rows = {row.name.decode(): row for row in station.entries()}
    files = [station.entry_dir(rows[name]) / name for name in contents]
    before = memory_mib(station.pid, "VmRSS")
    crowd = [
        subprocess.Popen(["sha256sum", files[number % len(files)]], stdout=subprocess.PIPE, text=True)
        for number in range(READERS)
    ]
    said = [each.communicate()[0].split()[0] for each in crowd]
    expected = [sha256(contents[file.name]) for file in files]
    assert said == expected * (READERS // len(files))
    assert memory_mib(station.pid, "VmHWM") - before < CACHE_MIB + BESIDE_MIB


def test_a_large_file_reads_the_same_from_front_to_back_from_back_to_front_and_anywhere(
    mounted: Make,
) -> None:
    station = mounted(config(converter("logs"), read_cache="8 MiB"))
    rng = random.Random(4)
    content = log_of(rng, 9 * MIB + 12_345)
    station.drop("logs", "large.log", content)
    station.remount()
    path = station.entry_dir(station.only("large.log")) / "large.log"
    with path.open("rb", buffering=0) as file:
        digest = hashlib.sha256()
        while piece := file.read(100_000):
            digest.update(piece)
        assert digest.hexdigest() == sha256(content)
        places = [
            *range(len(content) - 1000, 0, -700_001),
            *(rng.randrange(len(content)) for _ in range(200)),
        ]
        for place in places:
            file.seek(place)
            assert file.read(4096) == content[place : place + 4096][:4096]


def test_small_files_read_the_same_by_many_while_the_kernel_forgets_their_pages(mounted: Make) -> None:
    """The kernel is given their pages at open; that must not wait for a page that somebody asked for."""
    station = mounted(config(converter("csv")))
    rng = random.Random(5)
    contents = {f"{number:03}.csv": log_of(rng, rng.choice((1, 4096, 7000, 60_000))) for number in range(120)}
    for name, content in contents.items():
        station.drop("csv", name, content)
    rows = {row.name.decode(): row for row in station.entries()}
    sums = "".join(
        f"{sha256(content)}  {station.entry_dir(rows[name]) / name}\n" for name, content in contents.items()
    )
    for _ in range(4):
        readers = [
            subprocess.Popen(["sha256sum", "--check", "--quiet"], stdin=subprocess.PIPE, text=True)
            for _ in range(8)
        ]
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.write(sums)
            reader.stdin.close()
        while any(reader.poll() is None for reader in readers):
            subprocess.run(FORGET, check=False, stderr=subprocess.DEVNULL)
        assert [reader.returncode for reader in readers] == [0] * 8
