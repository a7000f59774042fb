"""A command written to a control file: its words, or an error that says what is wrong with it."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archivefs.control import words_of
from archivefs.control.steps import LINE_BYTES
from archivefs.errors import ControlError

WORDS = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20), max_size=8)


@given(WORDS)
def test_what_is_quoted_for_a_shell_comes_back(words: list[str]) -> None:
    assert words_of(shlex.join(words).encode() + b"\n") == words


@given(st.binary(max_size=200))
def test_any_bytes_are_words_or_refused(line: bytes) -> None:
    said: str
    try:
        said = "".join(words_of(line))
    except ControlError as error:
        said = str(error)
        said.encode()
    assert "\0" not in said


@pytest.mark.parametrize(("line", "why"), [
    (b"a\nb\n", "one command at a time"), (b"a\n\n\nb", "one command at a time"),
    (b"a 'b", "quote as for a shell"),
    (b"\xff", "UTF-8"), (b"a\0b", "no zero bytes"), (b"x" * (LINE_BYTES + 1), f"at most {LINE_BYTES} bytes"),
])  # fmt: skip
def test_what_is_no_command_is_told_why(line: bytes, why: str) -> None:
    with pytest.raises(ControlError, match=why):
        words_of(line)


def test_a_line_may_go_on_within_quotes() -> None:
    assert words_of(b"name='a\nb' x\n") == ["name=a\nb", "x"]
