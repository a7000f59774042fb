"""Content as frames: from memory or from a file the same, in bounded memory, and all of one size."""

import base64
import gzip
import hashlib
import itertools
import os
import random
import struct
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from archivefs.errors import ContentDamagedError
from archivefs.store import frames
from archivefs.store.dictionaries import Dictionaries
from archivefs.store.frames import (
    FRAME_BYTES,
    PIECE_BYTES,
    Encoded,
    RecordHeader,
    encode_bytes,
    encode_file,
    encode_pieces,
)

NONE = Dictionaries(Path("/nowhere"))

MIB = 1 << 20
SIZES = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, MIB, 9 * MIB]


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
            frames.decompress(
                packed[at : at + length], frames.bytes_in_frame(encoded.size, FRAME_BYTES, index), NONE
            )
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
        assert len(memory.frames) == -(-size // FRAME_BYTES)
        assert b"".join(memory.pieces()) == b"".join(file.pieces())
        assert unpacked(file) == content
        assert all(len(piece) <= PIECE_BYTES for piece in file.pieces())


@pytest.mark.parametrize("step", [1000, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, MIB, 5 * MIB])
@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * MIB + 7])
def test_pieces_of_any_size_make_the_same_frames(tmp_path: Path, size: int, step: int) -> None:
    content = some_content(size, compressible=True)
    pieces = (content[at : at + step] for at in range(0, size, step))
    with encode_bytes(content, 3) as memory, encode_pieces(pieces, 3, tmp_path) as pieced:
        assert (pieced.size, pieced.sha256, pieced.frames) == (size, memory.sha256, memory.frames)
        assert b"".join(pieced.pieces()) == b"".join(memory.pieces())


CHANCE = random.Random(7)
NOISE = CHANCE.randbytes(4 * FRAME_BYTES)
TEXT = b"".join(b"%d;voltage;%.4f;V\n" % (n, CHANCE.gauss(5, 0.1)) for n in range(60_000))[:MIB]
FLOATS = struct.pack(f"<{FRAME_BYTES // 4}f", *(CHANCE.gauss(5, 0.01) for _ in range(FRAME_BYTES // 4)))


def plainly(content: bytes, level: int) -> list[bytes]:
    """What zstd makes of each frame when nothing is decided beforehand."""
    plain = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    return [plain.compress(content[at : at + FRAME_BYTES]) for at in range(0, len(content), FRAME_BYTES)]


def packed(content: bytes, level: int) -> list[bytes]:
    """The frames as they are stored."""
    with encode_bytes(content, level) as encoded:
        assert unpacked(encoded) == content
        data, ends = b"".join(encoded.pieces()), list(itertools.accumulate(encoded.frames, initial=0))
        return [data[start:end] for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("level", [1, 3, 9])
@pytest.mark.parametrize(
    "content",
    [
        TEXT[:FRAME_BYTES],
        FLOATS,
        base64.b64encode(NOISE)[:FRAME_BYTES],
        NOISE[:100_000] * 10,
        bytes(FRAME_BYTES),
        NOISE[: FRAME_BYTES // 2] + TEXT[: FRAME_BYTES // 2],
        TEXT[: FRAME_BYTES // 8] + NOISE[: FRAME_BYTES - FRAME_BYTES // 8],
        NOISE[: FRAME_BYTES - FRAME_BYTES // 8] + TEXT[: FRAME_BYTES // 8],
    ],
    ids=[
        "text",
        "floats",
        "base64",
        "repeated",
        "zeros",
        "noise+text",
        "text+noise",
        "noise+text at the end",
    ],
)
def test_what_compresses_is_compressed_as_the_level_says(content: bytes, level: int) -> None:
    assert packed(content, level) == plainly(content, level)


@pytest.mark.parametrize("order", ["NNT", "TNN", "NTN"])
def test_each_frame_decides_by_itself(order: str) -> None:
    content = b"".join(NOISE[:FRAME_BYTES] if kind == "N" else TEXT[:FRAME_BYTES] for kind in order)
    for kind, frame, plain in zip(order, packed(content, 9), plainly(content, 9), strict=True):
        assert frame == plain if kind == "T" else len(frame) <= len(plain) + 8


def test_what_is_packed_already_is_not_searched_at_a_high_level() -> None:
    for content in (NOISE[:FRAME_BYTES], gzip.compress(TEXT)[:FRAME_BYTES], zlib.compress(FLOATS)):
        (frame,) = packed(content, 19)
        assert len(frame) <= len(content) * 1.001 + 50
        assert frame == plainly(content, -1)[0]


@pytest.mark.parametrize("size", [1, 100, 128 << 10, (128 << 10) + 1, FRAME_BYTES - 1])
def test_noise_of_any_size_grows_by_a_few_bytes_at_most(size: int) -> None:
    for level in (1, 3, 19):
        (frame,) = packed(NOISE[:size], level)
        assert len(frame) <= size + 50


def test_the_zstd_program_reads_what_was_stored_as_it_is(tmp_path: Path) -> None:
    content = NOISE[: 2 * MIB] + TEXT
    (tmp_path / "x.zst").write_bytes(b"".join(packed(content, 19)))
    done = subprocess.run(["zstd", "-dcq", tmp_path / "x.zst"], capture_output=True, check=True)
    assert done.stdout == content


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_whole_frames_of_what_was_read(
    opened: int, tmp_path: Path
) -> None:
    os.pwrite(opened, NOISE, 0)
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            for size in (8 * MIB, 5 * MIB + 7, 3 * MIB + 1):
                os.truncate(opened, size)

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            for _ in range(50):
                with encode_file(opened, 1, tmp_path) as encoded:
                    assert hashlib.sha256(unpacked(encoded)).hexdigest() == encoded.sha256
        finally:
            ended.set()
        changing.result()


def test_where_no_thread_can_begin_the_frames_are_the_same(opened: int, tmp_path: Path) -> None:
    content = some_content(3 * MIB + 5, compressible=True)
    os.pwrite(opened, content, 0)
    before = threading.stack_size(1 << 45)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=print).start()
        with encode_file(opened, 3, tmp_path) as encoded:
            assert unpacked(encoded) == content
    finally:
        threading.stack_size(before)


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


def unpacked_anew(frame: bytes, size: int) -> bytes:
    """A frame's content in new memory."""
    return frames.decompress(frame, size, NONE)


def unpacked_again(frame: bytes, size: int) -> bytes:
    """The same in memory that held something else."""
    buffer = bytearray(b"\xa5" * size)
    frames.decompress_into(frame, [0], [buffer], NONE)
    return bytes(buffer)


def test_frames_beside_each_other_are_unpacked_together_or_not_at_all() -> None:
    content = some_content(3 * FRAME_BYTES + 100, compressible=True)
    encoded = encode_bytes(content, 3)
    data, starts = b"".join(encoded.pieces()), list(itertools.accumulate(encoded.frames[:-1], initial=0))
    sizes = [FRAME_BYTES, FRAME_BYTES, FRAME_BYTES, 100]
    buffers = [bytearray(b"\xa5" * size) for size in sizes]
    frames.decompress_into(data, starts, buffers, NONE)
    assert b"".join(buffers) == content
    for at in [*range(0, len(data), 17), *(start - 1 for start in starts[1:]), *starts, len(data) - 1]:
        altered = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        try:
            frames.decompress_into(altered, starts, buffers, NONE)
        except ContentDamagedError:
            continue
        assert b"".join(buffers) == content, at
    for cut in (1, 4, len(data) - starts[-1]):
        with pytest.raises(ContentDamagedError):
            frames.decompress_into(data[:-cut], starts, buffers, NONE)


Unpack = Callable[[bytes, int], bytes]
both = pytest.mark.parametrize("unpack", [unpacked_anew, unpacked_again])


@both
@pytest.mark.parametrize("size", [1, 100, FRAME_BYTES])
def test_any_altered_byte_of_a_frame_is_noticed_or_harmless(size: int, unpack: Unpack) -> None:
    content = some_content(size, compressible=True)
    frame = b"".join(encode_bytes(content, 3).pieces())
    for at in range(len(frame)):
        for mask in (0x01, 0x10, 0x80, 0xC0, 0xFF):
            altered = frame[:at] + bytes([frame[at] ^ mask]) + frame[at + 1 :]
            try:
                found = unpack(altered, size)
            except ContentDamagedError:
                continue
            assert found == content


@both
@pytest.mark.parametrize("cut", [0, 1, 5, -1, -4])
def test_a_cut_frame_is_damaged(cut: int, unpack: Unpack) -> None:
    frame = b"".join(encode_bytes(b"x" * 1000, 3).pieces())
    with pytest.raises(ContentDamagedError):
        unpack(frame[:cut], 1000)


@both
def test_a_frame_of_another_size_is_damaged(unpack: Unpack) -> None:
    frame = b"".join(encode_bytes(b"x" * 1000, 3).pieces())
    with pytest.raises(ContentDamagedError, match="holds 1000 bytes instead of 999"):
        unpack(frame, 999)


def test_a_header_comes_back_from_its_frame() -> None:
    header = RecordHeader(
        kind="source", id="20260213T120000000-a1b2c3", name="å\n\ufffd", name_hex="ff", size=1, stored=2,
        sha256="f" * 64, converter="ict", folder="a/b", mtime_ns=-7, mode=0o4755, uid=1, gid=2,
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
        frames.parse_table(payload, 0)
