"""What the tests of retention share: commands as the command line gives them, and what they leave behind."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archive_parts import (
    catalog_rows,
    every_entry,
    nothing_is_left_over,
    source,
)

from archivefs import control
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.jobs.engine import run_here
from archivefs.jobs.job import Job, Progress
from archivefs.jobs.running import Wanted
from archivefs.jobs.works import WORKS
from archivefs.parts import Actor
from archivefs.rebuilding import rebuild
from archivefs.states import JobState, Status
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope, verify_folder

ME = Actor(uid=1234, program="a test")


def tell(archive: Archive, command: str, *words: str) -> control.Reply:
    """A command, carried out here. Raises what it raises."""
    steps = control.COMMANDS[command].run(archive, list(words), ME)
    return control.carry_out(steps, lambda operations: archive.commit(operations)[0])


def work(archive: Archive, number: int, show: Callable[[Progress], None] = lambda _: None) -> dict[str, Any]:
    """Do a job here, to its end; its result."""
    assert run_here(archive, number, WORKS, show, Wanted()) == JobState.DONE
    row = archive.reader.jobs.get(number)
    assert row is not None
    result: dict[str, Any] = json.loads((Job(archive.root, row).folder / "result.json").read_bytes())
    return result


def purge(archive: Archive, *query: str) -> dict[str, Any]:
    """Plan and apply at once."""
    plan = tell(archive, "retention", "plan", *query)["plan"]
    return work(archive, tell(archive, "retention", "apply", f"plan={plan}")["job"])


def left(archive: Archive) -> list[Entry]:
    """The entries that still hold bytes."""
    return [row for row in every_entry(archive) if row.status is not Status.PURGED]


def disk(root: Path) -> int:
    """Bytes that the contents take on the disk."""
    return sum(file.stat().st_blocks * 512 for file in (root / "content").rglob("*.zst"))


def all_is_well(root: Path) -> None:
    """What is left can be read, also with zstd alone; the catalog can be made again; verify is content."""
    with Archive(root) as archive:
        for row in left(archive):
            source(archive, row.id)
            for piece in archive.reader.contents(row.n):
                if piece.location is not None:
                    assert archive.content.sha256(piece.location, piece.size) == piece.sha256
        nothing_is_left_over(archive)
        sizes = dict.fromkeys(archive.reader.segment_ends(), 0)
        for name in sizes:
            sizes[name] = sum(record.size for record in archive.reader.records(name))
    for name, size in sizes.items():
        if (root / "content" / name).exists() and "files" in name:
            done = subprocess.run(["zstd", "-dc", root / "content" / name], capture_output=True, check=True)
            assert len(done.stdout) == size
    found = [each for each in verify_folder(root, Scope()).findings if each.severity is not Severity.NOTICE]
    assert [each.what for each in found] == []
    rows = catalog_rows(root)
    rebuild(root)
    again = catalog_rows(root)
    assert {table for table in rows if again[table] != rows[table]} == set()
