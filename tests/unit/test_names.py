"""Names: bytes in, unique labels of at most 255 bytes out, and the same bytes back."""

import os
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archivefs import names

FILE_BYTES = st.integers(1, 255).filter(lambda byte: byte != ord("/"))
NAMES = (
    st.lists(FILE_BYTES, min_size=1, max_size=255).map(bytes).filter(lambda name: name not in (b".", b".."))
)
SHORT_NAMES = st.lists(FILE_BYTES, min_size=1, max_size=12).map(bytes)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
LETTER = st.characters(exclude_characters="\0/.", exclude_categories=["Cs"])
UTF8_NAMES = st.builds(
    lambda letter, count, suffix: (letter * count + suffix).encode(),
    LETTER,
    st.integers(1, 255),
    st.sampled_from(["", ".csv", ".åå", ".tar.gz"]),
).filter(lambda name: len(name) <= 255)


def suffix_of(name: bytes) -> bytes:
    return os.path.splitext(name)[1]  # noqa: PTH122  names are bytes


@given(NAMES, st.integers(1, 10**6))
def test_a_numbered_name_fits_255_bytes(name: bytes, number: int) -> None:
    assert 0 < len(names.numbered(name, number)) <= names.NAME_MAX


@given(NAMES)
def test_number_one_is_the_name_itself(name: bytes) -> None:
    assert names.numbered(name, 1) == name


@given(NAMES, st.integers(2, 10**6), st.integers(40, 255))
def test_a_numbered_name_keeps_its_suffix_behind_the_number(name: bytes, number: int, limit: int) -> None:
    suffix = suffix_of(name)
    made = names.numbered(name, number, limit)
    assert len(made) <= limit
    if len(suffix) <= limit // 2:
        assert made.endswith(b"~%d" % number + suffix)
    else:
        assert made.endswith(b"~%d" % number)


@given(NAMES, st.integers(2, 10**6))
def test_a_numbered_name_is_shortened_only_where_it_must_be(name: bytes, number: int) -> None:
    mark, suffix = b"~%d" % number, suffix_of(name)
    if len(name) + len(mark) <= names.NAME_MAX and len(suffix) <= names.NAME_MAX // 2:
        assert names.numbered(name, number) == name[: len(name) - len(suffix)] + mark + suffix
    elif len(name) + len(mark) > names.NAME_MAX:
        assert len(names.numbered(name, number)) >= names.NAME_MAX - 3


@given(UTF8_NAMES, st.integers(1, 10**6), st.integers(20, 255))
def test_a_utf8_name_is_never_cut_inside_a_character(name: bytes, number: int, limit: int) -> None:
    if len(suffix_of(name)) <= limit // 2:
        names.numbered(name, number, limit).decode()


@given(NAMES, st.lists(st.integers(1, 10**5), min_size=2, max_size=20, unique=True))
def test_different_numbers_give_different_names(name: bytes, numbers: list[int]) -> None:
    assert len({names.numbered(name, number) for number in numbers}) == len(numbers)


@pytest.mark.parametrize(
    ("name", "number", "numbered"),
    [
        (b"unit.csv", 2, b"unit~2.csv"),
        (b"unit", 2, b"unit~2"),
        (b".profile", 2, b".profile~2"),
        (b"a.tar.gz", 10, b"a.tar~10.gz"),
        ("måling.csv".encode(), 3, "måling~3.csv".encode()),
        (b"x" * 255, 2, b"x" * 253 + b"~2"),
        (b"x" * 251 + b".csv", 2, b"x" * 249 + b"~2.csv"),
        (b"x" * 100 + b"." + b"y" * 154, 2, b"x" * 100 + b"." + b"y" * 152 + b"~2"),
        ("å".encode() * 127, 2, "å".encode() * 126 + b"~2"),
    ],
)
def test_the_number_stands_before_the_suffix(name: bytes, number: int, numbered: bytes) -> None:
    assert names.numbered(name, number) == numbered


@given(st.binary(max_size=255))
def test_text_and_hexadecimal_give_the_exact_bytes_back(name: bytes) -> None:
    assert names.original(names.text(name), names.hex_if_needed(name)) == name


@given(st.binary(max_size=255))
def test_hexadecimal_is_given_only_for_what_is_not_utf8(name: bytes) -> None:
    try:
        name.decode()
    except UnicodeDecodeError:
        assert names.hex_if_needed(name) == name.hex()
        assert "\ufffd" in names.text(name)
    else:
        assert names.hex_if_needed(name) == ""


@given(NAMES, st.integers(0, 300))
def test_the_first_free_name_follows_the_dense_ones(name: bytes, count: int) -> None:
    taken = {names.numbered(name, number) for number in range(1, count + 1)}
    assert names.first_free(name, taken.__contains__) == names.numbered(name, count + 1)


@given(NAMES, st.sets(st.integers(1, 40)))
def test_the_first_free_name_is_free_whatever_else_is_taken(name: bytes, numbers: set[int]) -> None:
    taken = {names.numbered(name, number) for number in numbers}
    assert names.first_free(name, taken.__contains__) not in taken


def test_the_first_free_of_a_hundred_thousand_takes_few_questions() -> None:
    asked = []

    def taken(name: bytes) -> bool:
        asked.append(name)
        found = re.search(rb"~(\d+)", name)
        return int(found[1] if found else 1) <= 100_000

    assert names.first_free(b"unit.csv", taken) == b"unit~100001.csv"
    assert len(asked) < 40


@given(NAMES, SHA256, st.datetimes(), st.integers(1, 10**4))
def test_an_entry_label_fits_and_tells_its_parts(name: bytes, sha256: str, when: datetime, twin: int) -> None:
    label = names.entry_label(names.clock(when), sha256[:6], name, twin)
    assert len(label) <= names.NAME_MAX
    assert b"/" not in label
    assert names.parse_entry_label(label) == (when.strftime("%H%M%S"), sha256[:6])
    if twin == 1 and len(name) <= names.NAME_MAX - 14:
        assert label[14:] == name


@pytest.mark.parametrize("name", [b"two\nlines.csv", b"\n", b"\xff\xfe\x80.bin", b"x" * 255, b" ", b"~2"])
def test_a_label_is_parsed_whatever_its_name_is(name: bytes) -> None:
    label = names.entry_label(b"143022", "a1b2c3", name, 1)
    assert names.parse_entry_label(label) == ("143022", "a1b2c3")


@pytest.mark.parametrize(
    "label",
    [
        b"",
        b"143022",
        b"143022_a1b2c3",
        b"143022_a1b2c3_",
        b"143022_A1B2C3_x",
        b"14302_a1b2c3_x",
        b"x143022_a1b2c3_x",
    ],
)
def test_what_is_no_label_is_not_parsed(label: bytes) -> None:
    assert names.parse_entry_label(label) is None


@given(SHORT_NAMES)
def test_a_name_matches_itself_as_a_pattern(name: bytes) -> None:
    pattern = re.sub(r"([\[*?])", r"[\1]", os.fsdecode(name))
    assert names.matches(name, [pattern])


@given(st.text("abcxyzæøåÆØÅABCXYZ.~_-0123456789", min_size=1, max_size=20))
def test_patterns_do_not_care_for_the_case_of_letters(name: str) -> None:
    assert names.matches(name.upper().encode(), [name.lower()])
    assert names.matches(name.lower().encode(), [name.upper()])


@pytest.mark.parametrize(
    ("name", "patterns", "fits"),
    [
        (b"UNIT.CSV", ["*.csv"], True),
        (b"unit.csv", ["*.CSV"], True),
        (b"unit.csv", ["*.xml", "*.csv"], True),
        (b"unit.csv.part", ["*.csv"], False),
        (b"\xff\xfe.csv", ["*.csv"], True),
        (b"unit.csv", [], False),
        (b"~$report.docx", ["~$*"], True),
        (b".hidden", ["*"], True),
        (b"thumbs.db", ["Thumbs.db"], True),
        (b"a\nb.csv", ["*.csv"], True),
        (b"unit.csv", ["[!U]*.csv"], False),
        (b"other.csv", ["[!U]*.csv"], True),
    ],
)
def test_a_name_fits_where_one_shell_pattern_does(name: bytes, patterns: list[str], fits: bool) -> None:  # noqa: FBT001
    assert names.matches(name, patterns) is fits


@pytest.mark.parametrize("name", ["a", "ict-csv", "A.b_c-9", "0", "x" * 64])
def test_these_can_be_converters(name: str) -> None:
    assert names.is_converter_name(name)


@pytest.mark.parametrize("name", ["", ".x", "-x", "_x", "a b", "a/b", "å", "x" * 65, "a\n", "..", "a%"])
def test_these_cannot_be_converters(name: str) -> None:
    assert not names.is_converter_name(name)
