"""What the tests of captures in bulk share: trees of files, and what an archive has of them."""

import os
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from archive_parts import every_entry, source

from archivefs.archive import Archive
from archivefs.bulk.capture import Bulk, Manner, Tally
from archivefs.bulk.walk import Found, LeftOut, Tree, walk
from archivefs.config import JUNK

STAMP_NS = 1_600_000_000_123_456_789
"""When the first file of a tree was written; each further one a second later."""
Place = tuple[bytes, bytes, bytes]
"""Folder, name and content."""


def plant(top: Path, files: Mapping[bytes, bytes]) -> Path:
    """Write files by their path below ``top``, with modes and times of their own."""
    for number, (path, content) in enumerate(files.items()):
        file = top / os.fsdecode(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o640)
        stamp = STAMP_NS + number * 10**9
        os.utime(file, ns=(stamp, stamp))
    return top


def places(files: Mapping[bytes, bytes]) -> dict[Place, int]:
    """What an archive has that has each file once."""
    return {(*_split(path), content): 1 for path, content in files.items()}


def _split(path: bytes) -> tuple[bytes, bytes]:
    folder, _, name = path.rpartition(b"/")
    return folder, name


def plant_many(top: Path, count: int, seed: int = 1) -> dict[Place, int]:
    """Write many small files into a few folders, some of equal content; their ``places``."""
    chance = random.Random(seed)
    files = {}
    for number in range(count):
        folder = chance.choice([b"", b"2024/", b"2024/01/", b"2024/02/", b"line 7/"])
        content = chance.choice([b"", b"passed\n", b"serial;%d\n" % number * chance.randrange(1, 40)])
        files[folder + b"%06d.csv" % number] = content
    plant(top, files)
    return places(files)


def held(archive: Archive) -> Counter[Place]:
    """How often each file is in the archive; every content is compared with its hash."""
    return Counter((row.folder, row.name, source(archive, row.id)) for row in every_entry(archive))


def things_in(top: Path) -> list[Found | LeftOut]:
    """What lies below a folder, sorted by path."""
    found = walk(Tree(os.fsencode(top)), JUNK, set())
    return sorted(found, key=lambda each: each.path)


def bring(archive: Archive, top: Path, converter: str = "files", **manner: bool) -> Tally:
    """Import a folder."""
    how = Manner(converter, **{"imported": True, "again": False, **manner})  # type: ignore[arg-type]
    return Bulk(archive, how).run(walk(Tree(os.fsencode(top)), JUNK, set()))
