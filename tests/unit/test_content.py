"""Reading records: any frame of any record, and damage that stays in the record it is in."""

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from archivefs.errors import ContentDamagedError
from archivefs.parts import Location
from archivefs.store import content as reading
from archivefs.store import frames
from archivefs.store.content import OPEN_SEGMENTS, ContentReader
from archivefs.store.dictionaries import Dictionaries
from archivefs.store.frames import FRAME_BYTES, RecordHeader, encode_bytes
from archivefs.store.segment import SegmentWriter, scan

MIB = 1 << 20
NAME = "2026/02/13/ict.sources.zst"


def appended(content_dir: Path, content: bytes, segment: str = NAME) -> Location:
    writer = SegmentWriter(content_dir, segment, "")
    with encode_bytes(content, 3) as encoded:
        header = RecordHeader(
            kind="source", id="x", name="x", size=len(content), stored=encoded.stored, sha256=encoded.sha256
        )
        place = writer.append(header, encoded)
    writer.close()
    return place


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[ContentReader]:
    reader = ContentReader(tmp_path, Dictionaries(tmp_path))
    yield reader
    reader.close()


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 1000, MIB - 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 7])
def test_content_is_read_as_it_was_written(tmp_path: Path, reader: ContentReader, size: int) -> None:
    appended(tmp_path, b"before")
    place = appended(tmp_path, noise(size))
    appended(tmp_path, b"behind")
    assert reader.read(place, size) == noise(size)
    assert reader.sha256(place, size) == hashlib.sha256(noise(size)).hexdigest()


def test_any_frame_is_read_by_itself(tmp_path: Path, reader: ContentReader) -> None:
    content = noise(5 * MIB + 3)
    place = appended(tmp_path, content)
    for index in (5, 0, 3, 1, 4, 2, 5):
        start = index * FRAME_BYTES
        assert reader.frame(place, len(content), index) == content[start : start + FRAME_BYTES]


def test_what_is_cached_can_be_read_without_waiting(tmp_path: Path, reader: ContentReader) -> None:
    place = appended(tmp_path, noise(1000))
    assert reader.at_once(place, 1000) in (noise(1000), None)
    assert reader.read(place, 1000) == noise(1000)
    assert reader.at_once(place, 1000) in (noise(1000), None)
    place = appended(tmp_path, noise(MIB))
    assert reader.at_once(place, MIB) is None, "it has several frames"
    assert reader.known_layout(place, MIB) is None, "its table was not read"
    assert reader.frame(place, MIB, 1) == noise(MIB)[FRAME_BYTES : 2 * FRAME_BYTES]
    assert reader.known_layout(place, MIB) == reader.layout(place, MIB)


def test_frames_beside_each_other_are_read_together(tmp_path: Path, reader: ContentReader) -> None:
    content = noise(MIB + 5)
    place = appended(tmp_path, content)
    buffers = [bytearray(FRAME_BYTES), bytearray(FRAME_BYTES), bytearray(5)]
    reader.frames_into(place, len(content), 2, buffers)
    assert b"".join(buffers) == content[2 * FRAME_BYTES :]


@pytest.mark.parametrize("size", [FRAME_BYTES, FRAME_BYTES + 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7])
def test_frames_of_a_mebibyte_are_read_as_well(
    tmp_path: Path, reader: ContentReader, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    with monkeypatch.context() as before:
        before.setattr(frames, "FRAME_BYTES", MIB)
        place = appended(tmp_path, noise(size))
    (found,) = scan(tmp_path / NAME, NAME)
    assert found.location == place
    assert len(found.table.frames) == -(-size // MIB)
    assert reader.read(place, size) == noise(size)
    last = (size - 1) // MIB
    assert reader.frame(place, size, last) == noise(size)[last * MIB :]


@pytest.mark.parametrize("frame_size", [0, -1, 256 << 10, (1 << 20) + 1, "1"])
def test_a_table_whose_frames_are_of_another_size_is_named(
    tmp_path: Path, reader: ContentReader, frame_size: object
) -> None:
    size = 2 * MIB
    place = appended(tmp_path, noise(size))
    path = tmp_path / NAME
    table = msgspec.json.decode(path.read_bytes()[place.header + place.stored + 8 :])
    assert table["frame_size"] == FRAME_BYTES
    frames_of = [sum(table["frames"][:4]), *table["frames"][4:]]
    payload = msgspec.json.encode({**table, "frames": frames_of, "frame_size": frame_size})
    with path.open("r+b") as file:
        file.truncate(place.header + place.stored)
        file.seek(0, os.SEEK_END)
        file.write(frames.skippable(frames.TABLE_MAGIC, payload))
    place = msgspec.structs.replace(place, length=path.stat().st_size)
    assert list(scan(path, NAME)) == []
    with pytest.raises(ContentDamagedError, match=f"content/{NAME} at 0"):
        reader.read(place, size)


def test_what_stood_in_the_same_place_before_is_not_taken_for_what_stands_there(
    tmp_path: Path, reader: ContentReader
) -> None:
    for size in (3 * MIB, 2 * MIB, 2 * MIB + 5):
        (tmp_path / NAME).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / NAME).write_bytes(b"")
        place = appended(tmp_path, noise(size))
        assert reader.read(place, size) == noise(size)


def test_a_segment_of_the_same_name_is_another_one(tmp_path: Path, reader: ContentReader) -> None:
    line = b"value;unit\n"
    for content in (line * 100_000 + noise(MIB), noise(MIB) + line * 100_000):
        place = appended(tmp_path, content)
        assert reader.read(place, len(content)) == content
        (tmp_path / NAME).unlink()
        reader.forget(NAME)
        assert reader.known_layout(place, len(content)) is None


def test_not_every_layout_is_kept(
    tmp_path: Path, reader: ContentReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "KNOWN_FRAMES", 20)
    places = [appended(tmp_path, noise(MIB)) for _ in range(6)]
    for place in places:
        reader.layout(place, MIB)
    known = [reader.known_layout(place, MIB) is not None for place in places]
    assert known == [False, False, True, True, True, True], "five starts each"
    large = appended(tmp_path, noise(9 * MIB))
    assert len(reader.layout(large, 9 * MIB).starts) == 37
    assert [place for place in [*places, large] if reader.known_layout(place, 9 * MIB)] == [large]


def test_a_copy_is_checked_while_it_is_written(tmp_path: Path, reader: ContentReader) -> None:
    content = noise(MIB + 5)
    place = appended(tmp_path, content)
    fd = os.open(tmp_path / "copy", os.O_WRONLY | os.O_CREAT)
    try:
        reader.copy(place, len(content), hashlib.sha256(content).hexdigest(), fd)
        assert (tmp_path / "copy").read_bytes() == content
        with pytest.raises(
            ContentDamagedError, match=f"content/{NAME} at 0: the content's SHA-256 is not 0000"
        ):
            reader.copy(place, len(content), "0" * 64, fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "content", [b"value;unit\n" * 30, b"\0" * (2 * FRAME_BYTES + 5)], ids=["small", "three frames"]
)
def test_an_altered_byte_harms_only_its_own_record(tmp_path: Path, content: bytes) -> None:
    before = appended(tmp_path, b"before")
    place = appended(tmp_path, content)
    behind = appended(tmp_path, b"behind")
    with (tmp_path / NAME).open("r+b", buffering=0) as file:
        for at in range(place.offset, place.offset + place.length):
            whole = os.pread(file.fileno(), 1, at)
            for mask in (0x01, 0x80):
                os.pwrite(file.fileno(), bytes([whole[0] ^ mask]), at)
                reader = ContentReader(tmp_path, Dictionaries(tmp_path))
                try:
                    found = reader.read(place, len(content))
                except ContentDamagedError as error:
                    message = str(error)
                else:
                    message = f"content/{NAME} at {place.offset}" if found == content else "silently wrong"
                assert message.startswith(f"content/{NAME} at {place.offset}"), (at - place.offset, mask)
                assert reader.read(before, 6) + reader.read(behind, 6) == b"beforebehind"
                reader.close()
            os.pwrite(file.fileno(), whole, at)


def test_an_error_names_the_frame(tmp_path: Path, reader: ContentReader) -> None:
    content = noise(2 * FRAME_BYTES)
    place = appended(tmp_path, content)
    with (tmp_path / NAME).open("r+b", buffering=0) as file:
        file.seek(place.offset + place.header + place.stored - 100)
        file.write(b"\0" * 50)
    assert reader.frame(place, len(content), 0) == content[:FRAME_BYTES]
    with pytest.raises(ContentDamagedError, match=f"content/{NAME} at 0, frame 1: a content frame does not"):
        reader.frame(place, len(content), 1)


def test_a_segment_that_ends_too_early_is_named(tmp_path: Path, reader: ContentReader) -> None:
    place = appended(tmp_path, noise(1000))
    os.truncate(tmp_path / NAME, 500)
    with pytest.raises(ContentDamagedError, match=f"content/{NAME} at 0: the segment ends inside the record"):
        reader.read(place, 1000)


def test_a_large_record_whose_table_is_cut_off_is_named(tmp_path: Path, reader: ContentReader) -> None:
    place = appended(tmp_path, noise(2 * MIB))
    os.truncate(tmp_path / NAME, place.offset + place.length - 10)
    with pytest.raises(ContentDamagedError, match=f"content/{NAME} at 0"):
        reader.read(place, 2 * MIB)


def test_a_missing_segment_is_named(reader: ContentReader) -> None:
    place = Location(segment="2026/01/01/gone.sources.zst", offset=0, header=1, stored=1, length=3)
    with pytest.raises(
        ContentDamagedError, match=r"the segment content/2026/01/01/gone\.sources\.zst is missing"
    ):
        reader.read(place, 5)


def test_the_wrong_size_is_noticed(tmp_path: Path, reader: ContentReader) -> None:
    place = appended(tmp_path, noise(2 * MIB))
    with pytest.raises(ContentDamagedError, match="the frame table does not fit the content's size"):
        reader.read(place, 3 * MIB)


def test_more_segments_than_are_kept_open_can_be_read(tmp_path: Path, reader: ContentReader) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  counting descriptors
    places = [
        appended(tmp_path, b"%03d" % n, f"2026/02/13/c{n}.sources.zst") for n in range(OPEN_SEGMENTS + 20)
    ]
    for _ in range(2):
        assert [reader.read(place, 3) for place in places] == [b"%03d" % n for n in range(len(places))]
    assert len(os.listdir("/proc/self/fd")) <= before + OPEN_SEGMENTS  # noqa: PTH208


def test_many_threads_read_at_once(tmp_path: Path, reader: ContentReader) -> None:
    contents = [noise(MIB + n) for n in range(4)]
    places = [
        appended(tmp_path, content, f"2026/02/13/c{n}.sources.zst") for n, content in enumerate(contents)
    ]
    wrong: list[int] = []

    def read_all(seed: int) -> None:
        order = random.Random(seed)
        for n in order.choices(range(4), k=20):
            if reader.read(places[n], len(contents[n])) != contents[n]:
                wrong.append(n)

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
