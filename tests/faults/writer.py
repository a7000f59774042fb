"""A program that saves files until it is killed, in the ways programs have, and notes what it was promised.

Arguments: the inbox, the file for its notes, its number, and the converters' names with commas. It goes on
over a mount that dies and comes back. What it is about to save is noted before, what was acknowledged after.
"""

import contextlib
import hashlib
import json
import os
import random
import select
import sys
from pathlib import Path

SIZES = (0, 10, 700, 4000, 9000, 9000, 30_000, 100_000, 300_000, 1_200_000)
WEIGHTS = (1, 20, 20, 20, 10, 10, 5, 3, 1, 0.3)
Note = dict[str, str | int]


def main() -> None:
    """Save until standard input is closed or a signal comes."""
    inbox, log, number, kinds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
    chance = random.Random(number)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0
    while not select.select([0], [], [], 0)[0]:
        count += 1
        converter = chance.choice(kinds)
        content = content_of(chance, f"{converter} {number} {count}\n".encode())
        name = f"unit {number}-{chance.randrange(200) if count % 3 else count}.csv"
        said: Note = {"converter": converter, "name": name, "sha256": hashlib.sha256(content).hexdigest()}
        try:
            save(inbox / converter, name, content, chance.randrange(5), out, said)
        except OSError as error:
            note(out, {"what": "error", "errno": error.errno or 0})
            select.select([0], [], [], 0.01)


def content_of(chance: random.Random, label: bytes) -> bytes:
    """A label that no other content has, and bytes of which half compress."""
    size = chance.choices(SIZES, WEIGHTS)[0]
    return b"" if size == 0 else label + chance.randbytes(size // 2) + b"measured;" * (size // 18)


def save(folder: Path, name: str, content: bytes, way: int, out: int, said: Note) -> None:
    """One file: at once, in pieces, synced, under a temporary name, or synced and then renamed."""
    note(out, {"what": "try", **said})
    if way in (3, 4):
        temporary = folder / f".{name}.part"
        write(temporary, content, os.O_TRUNC, synced=way == 4)
        temporary.rename(folder / name)
    else:
        path = folder / name
        if way == 1 and not path.exists():
            write(path, content, os.O_APPEND, pieces=3)
        else:
            write(path, content, os.O_TRUNC, synced=way == 2, out=out, said=said)
    note(out, {"what": "ack", **said})


def write(
    path: Path,
    content: bytes,
    flags: int,
    *,
    pieces: int = 1,
    synced: bool = False,
    out: int = -1,
    said: Note | None = None,
) -> None:
    """Write a file; an error of write() leaves no file of that name that looks complete."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    step = len(content) // pieces + 1
    try:
        for start in range(0, len(content), step):
            view = memoryview(content)[start : start + step]
            while view:
                view = view[os.write(fd, view) :]
        if synced:
            os.fsync(fd)
            if said is not None:
                note(out, {"what": "sync", **said})
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def note(out: int, said: Note) -> None:
    """One line, whole."""
    os.write(out, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main()
