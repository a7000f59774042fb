"""Segments: any zstd reads them, and the whole records in them are found up to the first that is not."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from archivefs.parts import Location
from archivefs.store import frames
from archivefs.store.frames import RecordHeader, encode_bytes
from archivefs.store.segment import ScannedRecord, SegmentWriter, scan

NAME = "2026/02/13/ict.sources.zst"
MIB = 1 << 20
CONTENTS = [b"first", b"", b"x" * (2 * MIB + 1), b"last;" * 20]


def header(number: int, content: bytes, stored: int, sha256: str) -> RecordHeader:
    return RecordHeader(
        kind="source", id=f"20260213T12000000{number}-a1b2c3", name=f"{number}.csv", converter="ict",
        size=len(content), stored=stored, sha256=sha256,
    )  # fmt: skip


def written(content_dir: Path, contents: list[bytes]) -> list[Location]:
    writer = SegmentWriter(content_dir, NAME, "")
    places = []
    for number, content in enumerate(contents):
        with encode_bytes(content, 3) as encoded:
            places.append(writer.append(header(number, content, encoded.stored, encoded.sha256), encoded))
    writer.sync()
    writer.close()
    return places


def found(content_dir: Path, start: int = 0) -> list[ScannedRecord]:
    return list(scan(content_dir / NAME, NAME, start))


def test_the_zstd_program_finds_the_segment_whole(tmp_path: Path) -> None:
    written(tmp_path, CONTENTS)
    subprocess.run(["zstd", "-tq", tmp_path / NAME], check=True)


def test_the_zstd_program_gives_the_contents_one_after_the_other(tmp_path: Path) -> None:
    places = written(tmp_path, CONTENTS)
    done = subprocess.run(["zstd", "-dcq", tmp_path / NAME], capture_output=True, check=True)
    assert done.stdout == b"".join(CONTENTS)
    data = (tmp_path / NAME).read_bytes()
    for place, content in zip(places, CONTENTS, strict=True):
        record = data[place.offset : place.offset + place.length]
        done = subprocess.run(["zstd", "-dcq"], input=record, capture_output=True, check=True)
        assert done.stdout == content


def test_scan_finds_every_record_where_it_was_written(tmp_path: Path) -> None:
    places = written(tmp_path, CONTENTS)
    records = found(tmp_path)
    assert [record.location for record in records] == places
    assert [record.header.name for record in records] == ["0.csv", "1.csv", "2.csv", "3.csv"]
    assert [record.header.size for record in records] == [len(content) for content in CONTENTS]
    assert [len(record.table.frames) for record in records] == [1, 0, 9, 1]
    assert [sum(record.table.frames) for record in records] == [place.stored for place in places]


def test_what_goes_without_saying_may_be_said(tmp_path: Path) -> None:
    """A header with its kind and the time of the capture, and the length of a single frame."""
    place = written(tmp_path, [b"first"])[0]
    (record,) = found(tmp_path)
    file = tmp_path / NAME
    told = {"kind": "source", "captured_ms": 5, **msgspec.to_builtins(record.header)}
    payload = msgspec.json.encode(told)
    table = {"header": frames.header_check(payload), "frames": [place.stored]}
    content = file.read_bytes()[place.header : place.header + place.stored]
    head = frames.skippable(frames.HEADER_MAGIC, payload)
    file.write_bytes(head + content + frames.skippable(frames.TABLE_MAGIC, msgspec.json.encode(table)))
    (same,) = found(tmp_path)
    assert (same.header, same.table.frames) == (record.header, record.table.frames)
    assert same.location.length == file.stat().st_size > place.length


def test_scan_can_begin_behind_known_records(tmp_path: Path) -> None:
    places = written(tmp_path, CONTENTS)
    assert [record.location for record in found(tmp_path, places[2].offset)] == places[2:]
    assert found(tmp_path, places[-1].offset + places[-1].length) == []


def test_scan_stops_before_a_record_that_is_cut_at_any_byte(tmp_path: Path) -> None:
    places = written(tmp_path, CONTENTS)
    file = tmp_path / NAME
    data = file.read_bytes()
    for end in range(len(data) - 1, places[-1].offset - 1, -1):
        with file.open("r+b") as out:
            out.truncate(end)
        assert [record.location for record in found(tmp_path)] == places[:-1], end


def test_scan_stops_before_a_record_whose_header_or_table_is_altered(tmp_path: Path) -> None:
    places = written(tmp_path, CONTENTS)
    file, place = tmp_path / NAME, places[1]
    data = file.read_bytes()
    for at in range(place.offset, place.offset + place.length):
        for mask in (0x01, 0x20, 0xFF):
            with file.open("r+b") as out:
                out.seek(at)
                out.write(bytes([data[at] ^ mask]))
            assert [record.location for record in found(tmp_path)] == places[:1], (at, mask)
        with file.open("r+b") as out:
            out.seek(at)
            out.write(data[at : at + 1])
    assert [record.location for record in found(tmp_path)] == places


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"hello", b"\x5a\x2a\x4d\x18\xff\xff\xff\xff", b"\x5a\x2a"])
def test_scan_stops_before_garbage(tmp_path: Path, garbage: bytes) -> None:
    places = written(tmp_path, CONTENTS)
    with (tmp_path / NAME).open("ab") as out:
        out.write(garbage)
    assert [record.location for record in found(tmp_path)] == places


def test_scan_does_not_take_the_table_of_another_header(tmp_path: Path) -> None:
    (place,) = written(tmp_path, [b"first"])
    data = (tmp_path / NAME).read_bytes()
    other, _ = frames.header_frame(header(1, b"first", place.stored, "0" * 64))
    (tmp_path / NAME).write_bytes(other + data[place.header :])
    assert found(tmp_path) == []


def test_a_record_that_was_cut_back_leaves_nothing(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, NAME, "")
    with encode_bytes(b"kept", 3) as kept, encode_bytes(b"dropped" * 1000, 3) as dropped:
        first = writer.append(header(0, b"kept", kept.stored, kept.sha256), kept)
        writer.append(header(1, b"dropped" * 1000, dropped.stored, dropped.sha256), dropped)
        writer.cut(first.offset + first.length)
        again = writer.append(header(2, b"kept", kept.stored, kept.sha256), kept)
    writer.close()
    assert [record.location for record in found(tmp_path)] == [first, again]
    assert (tmp_path / NAME).stat().st_size == again.offset + again.length


def test_a_segment_that_is_opened_again_is_appended_to(tmp_path: Path) -> None:
    first = written(tmp_path, CONTENTS[:2])
    second = written(tmp_path, CONTENTS[3:])
    assert [record.location for record in found(tmp_path)] == first + second
    assert second[0].offset == first[-1].offset + first[-1].length


def test_only_the_owner_may_read_segments(tmp_path: Path) -> None:
    written(tmp_path, CONTENTS[:1])
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / NAME).parent.stat().st_mode & 0o777 == 0o700
