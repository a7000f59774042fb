"""How a command is said and carried out, whichever it is: words in, one JSON object out."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from archivefs import names
from archivefs.archive import Archive
from archivefs.errors import ControlError
from archivefs.parts import Actor
from archivefs.steps import Stepwise

VERSION = 1
"""Of what may be written into ``control/``, and of the replies."""
LINE_BYTES = 64 << 10
"""Longest command (DESIGN, control files)."""
Reply = dict[str, Any]
Steps = Stepwise[Reply]


class Command(NamedTuple):
    """``state`` tells in a few words how things stand, ``run`` raises ``ArchiveError`` or ``OSError``."""

    usage: tuple[str, ...]
    about: str
    run: Callable[[Archive, list[str], Actor], Steps]
    state: Callable[[Archive], str]


def words_of(line: bytes) -> list[str]:
    """The words of a command, quoted as for a shell. Raises ``ControlError``."""
    if len(line) > LINE_BYTES:
        raise ControlError(f"a command has at most {LINE_BYTES} bytes, not {len(line)}")
    try:
        text = line.decode().rstrip("\n")
    except UnicodeDecodeError:
        raise ControlError("a command is text in UTF-8") from None
    if "\0" in text:
        raise ControlError("a command has no zero bytes")
    first, *more = text.split("\n")
    if more and _is_whole(first):
        raise ControlError("one command at a time: write one line, and read the reply")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ControlError(f"{names.safe(text)}: {error}; quote as for a shell") from None


def _is_whole(line: str) -> bool:
    """Whether no quotation goes on behind the line."""
    try:
        shlex.split(line)
    except ValueError:
        return False
    return True


def wanted(name: str, command: Command, words: list[str], *first: str) -> tuple[str, list[str]]:
    """What is to be done, and to what. Raises ``ControlError``."""
    if len(words) < 2 or words[0] not in first:
        raise misunderstood(name, command, words)
    return words[0], words[1:]


def misunderstood(name: str, command: Command, words: list[str]) -> ControlError:
    """The error that says what may be written."""
    given = names.safe(shlex.join(words)) or "nothing"
    return ControlError(f'{name}: "{given}" is no command; these are: {"; ".join(command.usage)}')


def options(words: list[str], *keys: str) -> tuple[dict[str, str], list[str]]:
    """The words ``KEY=VALUE`` of these keys, and the others. Raises ``ControlError`` for a key said twice."""
    found, others = dict[str, str](), list[str]()
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or key not in keys:
            others.append(word)
        elif key in found:
            raise ControlError(f"{key}= is said twice")
        else:
            found[key] = value
    return found, others


def number_of(given: Mapping[str, str], key: str) -> int:
    """A whole number that must be given. Raises ``ControlError``."""
    text = given.get(key, "")
    if not text.isascii() or not text.isdecimal():
        raise ControlError(f'{key}: is "{names.safe(text)}", must be a number, as in {key}=3')
    return int(text)
