"""A folder as one content: a tar that anybody can read, and back."""

import io
import os
import stat
import subprocess
from pathlib import Path

import pytest

from archivefs.config import ConverterConfig
from archivefs.errors import ContentDamagedError
from archivefs.folders import Found, Packed, contents, pack, unpack
from archivefs.fs.folder_sources import is_ready, quiet_needed
from archivefs.parts import Member

ODD = os.fsdecode(b"caf\xe9 " + b"x" * 240)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of all sizes, an empty folder, odd names and times."""
    top = tmp_path / "SN1"
    (top / "raw" / "empty").mkdir(parents=True)
    for name, size in (("a", 0), ("b", 511), ("c", 512), ("d", 3_000_000), (ODD, 5), ("raw/x\ny", 1)):
        (top / name).write_bytes(os.urandom(size))
    (top / "a").chmod(0o640)
    os.utime(top / "b", ns=(1, 1_600_000_000_000_000_001))
    os.utime(top / "raw" / "empty", ns=(1, -1_500_000_000))
    return top


def packed(folder: Path) -> tuple[bytes, list[Member]]:
    out = io.BytesIO()
    members = pack(os.fsencode(folder), contents(os.fsencode(folder)), out)
    return out.getvalue(), members


def exact(member: Member) -> Packed:
    path = bytes.fromhex(member.path_hex) if member.path_hex else member.path.encode()
    return Packed(path, member.mode, member.size, member.mtime_ns, member.offset)


def facts(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """All that a folder holds, and how."""
    found = {}
    for each in contents(os.fsencode(folder)):
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), each.path)))  # noqa: PTH118
        data = path.read_bytes() if path.is_file() else None
        found[each.path] = (each.facts.st_mode, each.facts.st_mtime_ns, data)
    return found


def test_a_folder_comes_back_as_it_was(folder: Path, tmp_path: Path) -> None:
    content, members = packed(folder)
    (tmp_path / "tar").write_bytes(content)
    (tmp_path / "back").mkdir()
    with (tmp_path / "tar").open("rb") as tar:
        unpack(tar.fileno(), [exact(each) for each in members], os.fsencode(tmp_path / "back"))
    before, after = facts(folder), facts(tmp_path / "back")
    assert before == after


def test_tar_reads_it_too(folder: Path, tmp_path: Path) -> None:
    content, _ = packed(folder)
    (tmp_path / "back").mkdir()
    subprocess.run(["tar", "-x", "-p", "-C", tmp_path / "back"], input=content, check=True)
    before, after = facts(folder), facts(tmp_path / "back")
    assert {path: each[2] for path, each in before.items()} == {path: each[2] for path, each in after.items()}
    assert {path: each[0] for path, each in before.items()} == {path: each[0] for path, each in after.items()}
    assert after[b"b"][1] == 1_600_000_000_000_000_001


def test_the_same_folder_gives_the_same_bytes(folder: Path) -> None:
    assert packed(folder) == packed(folder)
    before = packed(folder)[0]
    os.utime(folder / "c", ns=(1, 1))
    assert packed(folder)[0] != before


def test_members_say_where_their_bytes_are(folder: Path) -> None:
    content, members = packed(folder)
    for each in map(exact, members):
        if stat.S_ISREG(each.mode):
            file = Path(os.fsdecode(os.path.join(os.fsencode(folder), each.path)))  # noqa: PTH118
            assert content[each.offset : each.offset + each.size] == file.read_bytes()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(folder: Path) -> None:
    found = contents(os.fsencode(folder))
    (folder / "d").write_bytes(b"short")
    with pytest.raises(OSError, match="unexpected end of data"):
        pack(os.fsencode(folder), found, io.BytesIO())


@pytest.mark.parametrize("path", [b"/etc/x", b"../x", b"a/../../x"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path, path: bytes) -> None:
    with (tmp_path / "tar").open("w+b") as tar, pytest.raises(ContentDamagedError, match="leads out"):
        unpack(tar.fileno(), [Packed(path, stat.S_IFREG | 0o644, 0, 0, 0)], os.fsencode(tmp_path))


def test_bytes_that_are_not_there_are_noticed(tmp_path: Path) -> None:
    with (tmp_path / "tar").open("w+b") as tar, pytest.raises(ContentDamagedError, match="ends after 0 of 5"):
        unpack(tar.fileno(), [Packed(b"x", stat.S_IFREG | 0o644, 5, 0, 512)], os.fsencode(tmp_path))


# -- completeness --------------------------------------------------------------------------------------


def found_in(*paths: str) -> list[Found]:
    file = os.stat_result((stat.S_IFREG | 0o644, *[0] * 9))
    return [Found(path.encode(), file) for path in paths]


@pytest.mark.parametrize(
    ("keys", "paths", "quiet_seconds", "ready"),
    [
        ({}, ["a"], 1.9, False),
        ({}, ["a"], 2, True),
        ({"settle_seconds": 0}, [], 9, False),
        ({"ready_marker": "DONE"}, ["a"], 1e9, False),
        ({"ready_marker": "DONE"}, ["DONE"], 1e9, False),
        ({"ready_marker": "DONE"}, ["a", "DONE"], 0, True),
        ({"ready_marker": "DONE"}, ["a", "deep/DONE"], 0, False),
        ({"ready_marker": "*.ok", "ready_quiet_seconds": 5}, ["a"], 5, True),
        ({"ready_count": 2}, ["a"], 1e9, False),
        ({"ready_count": 2}, ["a", "b"], 0, True),
        ({"ready_count": 2, "ready_marker": "DONE"}, ["a", "b"], 0, True),
        ({"ready_files": ["*.csv", "log"]}, ["a.csv", "b.csv"], 1e9, False),
        ({"ready_files": ["*.csv", "log"]}, ["a.csv", "LOG"], 0, True),
    ],
)
def test_a_folder_is_complete_as_soon_as_one_condition_holds(
    keys: dict[str, object], paths: list[str], quiet_seconds: float, *, ready: bool
) -> None:
    config = ConverterConfig(kind="folder", **keys)  # type: ignore[arg-type]
    assert is_ready(config, found_in(*paths), quiet_seconds) is ready
    assert (quiet_needed(config) <= quiet_seconds) or not ready or bool(keys)
