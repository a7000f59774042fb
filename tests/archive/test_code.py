"""The code of converters: what is kept of it, under which name, and what verify says where it is lost."""

import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from archive_parts import NOON_MS, Clock, capture, commit, make
from test_verify_parts import verify

from archivefs.archive import Archive
from archivefs.config import ConverterConfig
from archivefs.convert import snapshots
from archivefs.convert.snapshots import CodeError, Packed
from archivefs.events import CodeKept
from archivefs.operations import BeginAttempt, FinishAttempt, KeepCode
from archivefs.rebuilding import rebuild
from archivefs.states import Outcome, Status
from archivefs.store import code

CSV = ConverterConfig(run="python:ict:Ict", path=["converters"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a converter's code in ``converters``."""
    folder = tmp_path / "root"
    (folder / "converters" / "helpers").mkdir(parents=True)
    (folder / "converters" / "ict.py").write_text("class Ict: ...\n")
    (folder / "converters" / "helpers" / "tables.py").write_text("ROWS = 5\n")
    program = folder / "converters" / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return folder


def packed(root: Path, config: ConverterConfig = CSV) -> Packed:
    return snapshots.pack(root, config)[1]


def names(made: Packed) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(made.data)).namelist()


# -- the zip -------------------------------------------------------------------------------------------


def test_a_snapshot_holds_the_files_of_its_folders_and_what_it_is_of(root: Path) -> None:
    made = packed(root)
    assert names(made) == ["manifest.json", "0/helpers/tables.py", "0/ict.py", "0/program"]
    archive = zipfile.ZipFile(io.BytesIO(made.data))
    assert json.loads(archive.read("manifest.json")) == {"run": "python:ict:Ict", "path": ["converters"]}
    assert archive.read("0/ict.py") == b"class Ict: ...\n"
    assert archive.testzip() is None
    assert made.sha256 == hashlib.sha256(made.data).hexdigest()
    assert made.files == 3


def test_equal_code_makes_equal_bytes_wherever_and_whenever(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "moved" / "elsewhere"
    shutil.copytree(root, other)
    for number, file in enumerate(sorted(other.rglob("*"))):
        os.utime(file, (number, number))
    assert packed(other).data == packed(root).data


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "ict.py").write_text("class Ict: pass\n"),
        lambda folder: (folder / "more.py").touch(),
        lambda folder: (folder / "helpers" / "tables.py").unlink(),
        lambda folder: (folder / "ict.py").rename(folder / "ict2.py"),
        lambda folder: (folder / "program").chmod(0o644),
    ],
)
def test_other_code_is_another_version(root: Path, change: Callable[[Path], object]) -> None:
    before = packed(root).sha256
    change(root / "converters")
    assert packed(root).sha256 != before
    assert packed(root, ConverterConfig(run="python:ict:Other", path=["converters"])).sha256 != before


def test_what_is_no_code_is_left_out(root: Path) -> None:
    before = packed(root).data
    folder = root / "converters"
    for name in (
        "__pycache__/ict.cpython-311.pyc",
        ".git/HEAD",
        f"ict-csv/{'0f' * 32}.zip",
        "old.pyc",
        ".swp",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "outside").symlink_to("/etc")
    (folder / "nowhere").symlink_to("nothing")
    os.mkfifo(folder / "pipe")
    assert packed(root).data == before


def test_a_program_brings_its_folder(root: Path) -> None:
    made = packed(root, ConverterConfig(run="command:converters/program --fast"))
    assert made.manifest["program"] == "0/program"
    assert "0/helpers/tables.py" in names(made)
    there = made.unpacked(root.parent / "unpacked")
    assert os.access(there.folder / there.program, os.X_OK)
    assert there.seen_at("/code") == {"path": ["/code/0"], "program": "/code/0/program"}


def test_what_is_installed_is_named_instead(root: Path) -> None:
    program = packed(root, ConverterConfig(run="command:sh -c true"))
    shell = shutil.which("sh")
    assert shell is not None
    assert program.manifest["installed"] == shell
    assert program.manifest["installed_sha256"] == hashlib.sha256(Path(shell).read_bytes()).hexdigest()
    event = packed(root, ConverterConfig(run="function:msgspec.json:encode")).event("ict")
    assert (event.distribution, event.files) == ("msgspec", 0)
    assert event.version
    event = packed(root, ConverterConfig(run="function:json:dumps")).event("ict")
    assert (event.distribution, event.version) == ("python", ".".join(map(str, sys.version_info[:3])))


@pytest.mark.parametrize("path", [".", "..", "converters/.."])
def test_the_archive_itself_is_no_code(root: Path, path: str) -> None:
    with pytest.raises(CodeError, match="is the archive itself or around it"):
        packed(root, ConverterConfig(run="python:ict:Ict", path=[path]))


def test_too_much_is_no_code(root: Path) -> None:
    with (root / "converters" / "data.bin").open("wb") as file:
        file.truncate(snapshots.CODE_BYTES)
    with pytest.raises(CodeError, match="converters holds more than 64 MiB; name a folder that is code only"):
        packed(root)


def test_what_was_unpacked_cannot_be_changed_by_who_only_reads_it(root: Path) -> None:
    there = packed(root).unpacked(root.parent / "unpacked")
    modes = {path.name: path.stat().st_mode & 0o777 for path in there.folder.rglob("*")}
    assert modes == {
        "0": 0o755, "helpers": 0o755, "program": 0o555, "ict.py": 0o444, "tables.py": 0o444,
        "manifest.json": 0o444,
    }  # fmt: skip


# -- in an archive -------------------------------------------------------------------------------------


def sample(folder: Path) -> Packed:
    """An archive with a conversion whose code is kept."""
    with make(folder, Clock()) as archive:
        (folder / "converters" / "ict.py").write_text("class Ict: ...\n")
        made = packed(folder)
        made.save(folder, "ict")
        (receipt,) = commit(archive, capture(b"measured", converter="ict"))
        commit(archive, KeepCode(made.event("ict")), BeginAttempt(receipt.id, "capture", code=made.sha256))
        end = (Outcome.SUCCESS, Status.SUCCESS, NOON_MS, 5)
        commit(archive, FinishAttempt(receipt.id, "ict", 1, *end))
    return made


def file_of(root: Path, made: Packed) -> Path:
    return root / code.file_of("ict", made.sha256)


def test_an_attempt_names_its_code_and_a_rebuild_knows_it_too(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    made = sample(root)
    rebuild(root)
    with Archive(root) as archive:
        (row,) = archive.reader.code("ict")
        assert (row.sha256, row.size, row.files, row.run) == (made.sha256, len(made.data), 1, CSV.run)
        (entry,) = archive.reader.all_after(0, 10)
        (attempt,) = archive.reader.attempts(entry.n)
        assert attempt.code == made.sha256
        assert archive.reader.code("other") == []
    assert file_of(root, made).read_bytes() == made.data
    assert verify(root).findings == []


def test_a_version_is_journaled_once(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    made = sample(root)
    with Archive(root) as archive:
        before = archive.reader.changed_seq()
        made.save(root, "ict")
        commit(archive, KeepCode(made.event("ict")))
        assert archive.reader.changed_seq() == before
        commit(archive, KeepCode(made.event("other")))
        assert [row.converter for row in archive.reader.code()] == ["ict", "other"]


def test_a_file_without_its_event_is_a_notice_until_the_code_runs(tmp_path: Path) -> None:
    """As a stop between the two leaves it."""
    root = tmp_path / "archive"
    made = sample(root)
    made.save(root, "second")
    ran = verify(root)
    (finding,) = ran.findings
    assert (finding["check"], finding["severity"]) == ("code-unknown", "notice")
    with Archive(root) as archive:
        commit(archive, KeepCode(made.event("second")))
    assert verify(root).findings == []


class Break(NamedTuple):
    """Damages the only version that is kept."""

    damage: Callable[[Path], object]
    check: str


def unreadable(file: Path) -> None:
    """As a bad sector: reading a folder as a file fails with an errno."""
    file.unlink()
    file.mkdir()


BREAKS: Mapping[str, Break] = {
    "missing": Break(Path.unlink, "code-missing"),
    "the whole folder is missing": Break(lambda file: shutil.rmtree(file.parent), "code-missing"),
    "one byte is another": Break(
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"), "code-damaged"
    ),
    "one byte is missing": Break(lambda file: file.write_bytes(file.read_bytes()[:-1]), "code-damaged"),
    "empty": Break(lambda file: file.write_bytes(b""), "code-damaged"),
    "unreadable": Break(unreadable, "code-damaged"),
}
named = pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS.keys())


@named
def test_lost_code_is_found_and_a_backup_mends_it(broken: Break, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    file = file_of(root, sample(root))
    kept = file.read_bytes()
    broken.damage(file)
    for options in ((), ("--repair",)):
        ran = verify(root, *options)
        (finding,) = ran.findings
        where = str(file.relative_to(root))
        assert (finding["check"], finding["severity"], finding["where"]) == (broken.check, "error", where)
        assert ran.code == 51
    if file.is_dir():
        file.rmdir()
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(kept)
    assert verify(root).findings == []


def test_the_same_code_mends_what_was_lost_when_it_runs_again(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    made = sample(root)
    for damage in (BREAKS["missing"].damage, BREAKS["one byte is another"].damage):
        damage(file_of(root, made))
        made.save(root, "ict")
        assert verify(root).findings == []


def test_old_attempts_without_a_version_can_be_read(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    with make(root, Clock()) as archive:
        (receipt,) = commit(archive, capture(b"measured", converter="ict"))
        commit(archive, BeginAttempt(receipt.id, "capture"))
        line = next(line for line in (root / "journal").rglob("*.jsonl") if line.is_file()).read_text()
        assert '"code"' not in line
        (entry,) = archive.reader.all_after(0, 10)
        assert archive.reader.attempts(entry.n)[0].code == ""
        assert CodeKept(converter="a", sha256="b", size=1, files=1, run="c").distribution == ""
