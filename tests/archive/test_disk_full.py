"""Disks that refuse to write: the true errno comes back, nothing of the failed group stays, work goes on.

The refusals are real: a limit on the size of files (EFBIG at an exact byte), a small tmpfs (ENOSPC), and
files that may only be appended to (a cut fails with EPERM).
"""

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archive_parts import (
    Clock,
    capture,
    captured,
    catalog_rows,
    entry,
    every_entry,
    everything_is_readable,
    journal_lines,
    make,
    nothing_is_left_over,
    run_child,
    some_bytes,
    source,
)

from archivefs.archive import Archive
from archivefs.errors import ArchiveError, CaptureFailedError, ReadOnlyError
from archivefs.packing import Packing
from archivefs.rebuilding import rebuild
from archivefs.store.segment import scan
from archivefs.transaction import Operation, Transaction

PAGE = 4096

# -- a limit on the size of files --------------------------------------------------------------------------

LIMITED = """
import json, resource, sys
from pathlib import Path
from archive_parts import capture, captured, commit, some_bytes
from archivefs.archive import Archive
from archivefs.operations import Touch

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def told(outcome):
    if isinstance(outcome, Exception):
        return [type(outcome).__name__, getattr(outcome, "os_errno", 0), str(outcome)]
    return outcome.id

def journal_size():
    return max(Path(sys.argv[1]).glob("journal/*/*/*.jsonl")).stat().st_size

with Archive(Path(sys.argv[1])) as archive:
    first = captured(archive, b"first", converter="known")
    commit(archive, *[Touch(first.id, n, 0o600, 0, 0) for n in range(200)])
    said = {"before": [first.id]}
    SCENARIO
    limit(resource.RLIM_INFINITY)
    said["after"] = [captured(archive, b"after", converter=name).id for name in ("known", "new", "c0")]
print(json.dumps(said))
"""


def limited(root: Path, scenario: str) -> dict[str, Any]:
    """What a process with limited file sizes says: ids, or [class, errno, message] of errors."""
    make(root, Clock()).close()
    done = run_child(LIMITED.replace("SCENARIO", scenario.replace("\n", "\n    ")), root)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def only_these_remain(root: Path, ids: list[str]) -> None:
    """The archive holds exactly these entries, also where only the segments are asked."""
    with Archive(root) as archive:
        assert sorted(row.id for row in every_entry(archive)) == sorted(ids)
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    content = root / "content"
    segments = sorted(content.rglob("*.sources*.zst"))
    assert sorted(record.header.id for file in segments for record in scan(file, file.name)) == sorted(ids)
    rows = catalog_rows(root)
    rebuild(root)
    assert catalog_rows(root) == rows


@pytest.mark.parametrize("converter", ["known", "new"])
@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_journal_that_cannot_grow_fails_the_group_without_a_trace(
    root: Path, converter: str, room: int
) -> None:
    said = limited(
        root,
        f"limit(journal_size() + {room})\n"
        f"group = [capture(b'x', converter='{converter}')] * 2\n"
        "said['failed'] = [told(each) for each in archive.commit(group)[0]]",
    )
    for kind, number, message in said["failed"]:
        assert (kind, number) == ("CaptureFailedError", errno.EFBIG)
        assert message == "writing the journal failed: File too large"
    only_these_remain(root, said["before"] + said["after"])


def test_a_journal_that_cannot_grow_fails_a_group_of_many_converters_without_a_trace(root: Path) -> None:
    said = limited(
        root,
        "limit(journal_size())\n"
        "group = [capture(b'x', converter=f'c{n}') for n in range(40)]\n"
        "said['failed'] = [told(each) for each in archive.commit(group)[0]]",
    )
    assert [number for _, number, _ in said["failed"]] == [errno.EFBIG] * 40
    only_these_remain(root, said["before"] + said["after"])


@pytest.mark.parametrize("converter", ["known", "new"])
@pytest.mark.parametrize("room", [60_000, 1_100_000, 2_000_000])
def test_a_source_that_does_not_fit_fails_alone(root: Path, converter: str, room: int) -> None:
    said = limited(
        root,
        f"limit({room})\n"
        "contents = (b'small', some_bytes(1, 2_500_000), b'small too')\n"
        f"group = [capture(content, converter='{converter}') for content in contents]\n"
        "outcomes = [told(each) for each in archive.commit(group)[0]]\n"
        "said['failed'] = [each for each in outcomes if isinstance(each, list)]\n"
        "said['before'] += [each for each in outcomes if isinstance(each, str)]",
    )
    ((kind, number, message),) = said["failed"]
    assert (kind, number) == ("CaptureFailedError", errno.EFBIG)
    assert message.startswith("writing content/")
    assert message.endswith(f"/{converter}.sources failed: File too large")
    only_these_remain(root, said["before"] + said["after"])


# -- a small disk ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def nearly_full(disk: Path, pages_left: int) -> Iterator[None]:
    """All but so many pages of the disk are taken."""
    filler = disk / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        if free > pages_left * PAGE:
            os.posix_fallocate(fd, 0, free - pages_left * PAGE)
        yield
    finally:
        os.close(fd)
        filler.unlink()


def test_a_catalog_that_cannot_be_committed_is_right_when_it_can(root: Path) -> None:
    """The journal has the events; the catalog's own file reached its limit, so that its COMMIT failed."""
    said = limited(
        root,
        "said['before'] += [captured(archive, b'x', converter='known').id for _ in range(20)]\n"
        "log = (Path(sys.argv[1]) / 'catalog.sqlite-wal').stat().st_size\n"
        "assert log > journal_size() + 20_000, 'the limit is meant for the catalog'\n"
        "limit(log)\n"
        "for name in ('new', 'newer'):\n"
        "    said['before'] += [told(each) for each in archive.commit([capture(b'x', converter=name)])[0]]",
    )
    only_these_remain(root, said["before"] + said["after"])


def test_enospc_anywhere_in_a_group_leaves_nothing_and_harms_nothing(
    small_disk: Path, expected_errors: list[str]
) -> None:
    expected_errors.append("the catalog refused")
    root, kept, refused = small_disk / "archive", [], 0
    with make(root, Clock()) as archive:
        kept.append(captured(archive, b"first").id)
        for pages in range(24):
            group = [capture(some_bytes(pages * 3 + n, size)) for n, size in enumerate((100, 20_000, 9000))]
            with nearly_full(small_disk, pages):
                outcomes, _ = archive.commit(group)
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    assert isinstance(outcome, CaptureFailedError)
                    assert outcome.os_errno == errno.ENOSPC
                    refused += 1
                else:
                    kept.append(outcome.id)
            kept.append(captured(archive, b"%d" % pages).id)
            assert [row.id for row in every_entry(archive)] == sorted(kept)
            nothing_is_left_over(archive)
    assert refused > 5
    assert len(kept) > 1 + 24 + 10
    only_these_remain(root, kept)


@pytest.mark.parametrize("pages", [0, 1, 2, 5, 9, 12, 20])
def test_an_archive_on_a_full_disk_opens_or_says_why_and_is_left_alone(small_disk: Path, pages: int) -> None:
    root = small_disk / "archive"
    with make(root, Clock()) as archive:
        receipt = captured(archive, b"first")
    lines = journal_lines(root)
    with nearly_full(small_disk, pages), contextlib.suppress(OSError, ArchiveError):
        Archive(root).close()
    assert not (root / "catalog.sqlite.damaged").exists()
    with Archive(root) as archive:
        assert source(archive, receipt.id) == b"first"
        captured(archive, b"second")
    assert journal_lines(root)[:-1] == lines


# -- what cannot be cut back -------------------------------------------------------------------------------


@pytest.fixture
def append_only() -> Iterator[Callable[[Path], None]]:
    """Makes a file one that may only be appended to, until the test ends."""
    changed: list[Path] = []

    def change(file: Path) -> None:
        done = subprocess.run(["chattr", "+a", file], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"files cannot be made append-only here: {done.stderr.strip()}")
        changed.append(file)

    yield change
    for file in changed:
        subprocess.run(["chattr", "-a", file], check=True)


class Withdrawn(Operation[None]):
    """Writes a record, then thinks better of it."""

    def __init__(self) -> None:
        self.written = capture(b"withdrawn", b"withdrawn")

    def run(self, txn: Transaction) -> None:
        """Fails after the write."""
        self.written.prepare(Packing(txn.config))
        self.written.run(txn)
        raise ArchiveError("withdrawn")


def test_a_segment_that_cannot_be_cut_back_is_not_appended_to_any_more(
    archive: Archive, append_only: Callable[[Path], None], expected_errors: list[str]
) -> None:
    expected_errors.append("content/2026/02/13/files.sources.zst could not be cut back")
    first = captured(archive, b"first")
    append_only(archive.root / "content/2026/02/13/files.sources.zst")
    (withdrawn, second), _ = archive.commit([Withdrawn(), capture(b"second")])
    third = captured(archive, b"third")
    assert str(withdrawn) == "withdrawn"
    segments = [archive.reader.location(entry(archive, each.id)).segment for each in (first, second, third)]
    assert segments == ["2026/02/13/files.sources.zst"] + ["2026/02/13/files.sources.2.zst"] * 2
    everything_is_readable(archive)


def test_a_journal_that_cannot_be_taken_back_makes_the_archive_read_only(
    root: Path, clock: Clock, append_only: Callable[[Path], None]
) -> None:
    make(root, clock).close()
    script = LIMITED.replace("SCENARIO", "raise SystemExit")
    assert run_child(script, root).returncode == 0
    append_only(max((root / "journal").glob("*/*/*.jsonl")))
    done = run_child(
        """
import json, resource, sys
from pathlib import Path
from archive_parts import capture, every_entry, source
from archivefs.archive import Archive

size = max(Path(sys.argv[1]).glob("journal/*/*/*.jsonl")).stat().st_size
archive = Archive(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
said = [str(each) for _ in range(2) for each in archive.commit([capture(b"lost")])[0]]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
contents = [source(archive, row.id).decode() for row in every_entry(archive)]
said += [archive.writable, archive.failure, contents]
archive.close()
print(json.dumps(said))
""",
        root,
    )
    assert done.returncode == 0, done.stderr
    failed, refused, writable, why, contents = json.loads(done.stdout)
    assert failed == "writing the journal failed: File too large"
    assert refused == f"the archive is read-only: {why}"
    assert (writable, contents) == (False, ["first"])
    assert why.startswith("the journal could not be taken back after a failed write: ")
    subprocess.run(["chattr", "-a", max((root / "journal").glob("*/*/*.jsonl"))], check=True)
    with Archive(root) as archive:
        captured(archive, b"works again")
        everything_is_readable(archive)
        nothing_is_left_over(archive)


def test_an_archive_that_became_read_only_says_so(archive: Archive) -> None:
    assert archive._store is not None
    archive._store.failed = "a test says so"
    (outcome,), _ = archive.commit([capture(b"1")])
    assert isinstance(outcome, ReadOnlyError)
    assert str(outcome) == "the archive is read-only: a test says so"
    assert not archive.writable
