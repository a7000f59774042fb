"""Content as frames: from memory or from a file the same, in bounded memory, and never larger than 1 MiB."""

import hashlib
import os
import random
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from archivefs.errors import ContentDamagedError
from archivefs.store import frames
from archivefs.store.dictionaries import Dictionaries
from archivefs.store.frames import FRAME_BYTES, Encoded, RecordHeader, encode_bytes, encode_file

NONE = Dictionaries(Path("/nowhere"))

MIB = 1 << 20
SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 9 * MIB]


def some_content(size: int, *, compressible: bool) -> bytes:
    if compressible:
        return (b"measurement;value;unit\n" * (size // 23 + 1))[:size]
    return random.Random(size).randbytes(size)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def unpacked(encoded: Encoded) -> bytes:
    packed = b"".join(encoded.pieces())
    content, at = [], 0
    for index, length in enumerate(encoded.frames):
        content.append(
            frames.decompress(packed[at : at + length], frames.frame_size(encoded.size, index), NONE)
        )
        at += length
    assert at == len(packed) == encoded.stored
    return b"".join(content)


@pytest.mark.parametrize("compressible", [True, False], ids=["text", "noise"])
@pytest.mark.parametrize("size", SIZES)
def test_bytes_and_file_are_encoded_alike(opened: int, tmp_path: Path, size: int, compressible: bool) -> None:  # noqa: FBT001
    content = some_content(size, compressible=compressible)
    os.pwrite(opened, content, 0)
    with encode_bytes(content, 3) as memory, encode_file(opened, 3, tmp_path) as file:
        assert memory.size == file.size == size
        assert memory.sha256 == file.sha256 == hashlib.sha256(content).hexdigest()
        assert memory.frames == file.frames
        assert len(memory.frames) == -(-size // MIB)
        assert b"".join(memory.pieces()) == b"".join(file.pieces())
        assert unpacked(file) == content
        assert all(len(piece) <= FRAME_BYTES for piece in file.pieces()) or size <= FRAME_BYTES


def test_pieces_can_be_had_more_than_once(opened: int, tmp_path: Path) -> None:
    os.pwrite(opened, some_content(9 * MIB, compressible=False), 0)
    with encode_file(opened, 1, tmp_path) as encoded:
        assert b"".join(encoded.pieces()) == b"".join(encoded.pieces())


def test_the_position_of_the_file_does_not_matter(opened: int, tmp_path: Path) -> None:
    os.write(opened, b"x" * 100)
    with encode_file(opened, 3, tmp_path) as encoded:
        assert encoded.size == 100


def test_a_spool_file_leaves_no_name_behind(opened: int, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    os.pwrite(opened, some_content(9 * MIB, compressible=False), 0)
    with encode_file(opened, 1, spool):
        assert list(spool.iterdir()) == []


def test_the_zstd_program_reads_the_frames(tmp_path: Path) -> None:
    content = some_content(2 * MIB + 5, compressible=True)
    (tmp_path / "x.zst").write_bytes(b"".join(encode_bytes(content, 3).pieces()))
    assert (
        subprocess.run(["zstd", "-dcq", tmp_path / "x.zst"], capture_output=True, check=True).stdout
        == content
    )


@pytest.mark.parametrize("kind", ["sparse", "noise"])
def test_memory_stays_bounded_for_large_content(opened: int, tmp_path: Path, kind: str) -> None:
    if kind == "sparse":
        os.ftruncate(opened, 200 * MIB)
    else:
        block = random.Random(1).randbytes(MIB)
        for index in range(100):
            os.pwrite(opened, block, index * MIB)
    tracemalloc.start()
    try:
        with encode_file(opened, 1, tmp_path) as encoded:
            assert encoded.size == os.fstat(opened).st_size
            assert sum(len(piece) for piece in encoded.pieces()) == encoded.stored
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 100, MIB])
def test_any_altered_byte_of_a_frame_is_noticed_or_harmless(size: int) -> None:
    content = some_content(size, compressible=True)
    frame = b"".join(encode_bytes(content, 3).pieces())
    for at in range(len(frame)):
        for mask in (0x01, 0x10, 0x80, 0xC0, 0xFF):
            altered = frame[:at] + bytes([frame[at] ^ mask]) + frame[at + 1 :]
            try:
                found = frames.decompress(altered, size, NONE)
            except ContentDamagedError:
                continue
            assert found == content


@pytest.mark.parametrize("cut", [0, 1, 5, -1, -4])
def test_a_cut_frame_is_damaged(cut: int) -> None:
    frame = b"".join(encode_bytes(b"x" * 1000, 3).pieces())
    with pytest.raises(ContentDamagedError):
        frames.decompress(frame[:cut], 1000, NONE)


def test_a_frame_of_another_size_is_damaged() -> None:
    frame = b"".join(encode_bytes(b"x" * 1000, 3).pieces())
    with pytest.raises(ContentDamagedError, match="holds 1000 bytes instead of 999"):
        frames.decompress(frame, 999, NONE)


def test_a_header_comes_back_from_its_frame() -> None:
    header = RecordHeader(
        kind="source", id="20260213T120000000-a1b2c3", name="å\n\ufffd", name_hex="ff", size=1, stored=2,
        sha256="f" * 64, converter="ict", folder="a/b", captured_ms=5, mtime_ns=-7, mode=0o4755, uid=1, gid=2,
    )  # fmt: skip
    frame, check = frames.header_frame(header)
    payload = frame[frames.SKIPPABLE.size :]
    assert frames.SKIPPABLE.unpack_from(frame) == (frames.HEADER_MAGIC, len(payload))
    assert frames.parse_header(payload) == header
    assert check == frames.header_check(payload) == hashlib.sha256(payload).hexdigest()[:16]


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b'{"kind":5}', b"[]"])
def test_what_is_no_header_or_table_is_damaged(payload: bytes) -> None:
    with pytest.raises(ContentDamagedError, match="a record header is not readable"):
        frames.parse_header(payload)
    with pytest.raises(ContentDamagedError, match="a frame table is not readable"):
        frames.parse_table(payload)
