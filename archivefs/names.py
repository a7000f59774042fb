"""Names of files as the tree shows them: original bytes in, unique labels of at most 255 bytes out.

Names are bytes everywhere inside. Text for people and JSON replaces what is not UTF-8 by U+FFFD; the exact
bytes then travel beside it as hexadecimal (``name_hex``).
"""

import fnmatch
import functools
import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime

NAME_MAX = 255
"""Longest name of a file in bytes (Linux NAME_MAX)."""

_CONVERTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_converter_name(name: str) -> bool:
    """Whether ``name`` can be a converter: 1 to 64 of ``A-Z a-z 0-9 . _ -``, not starting with a mark."""
    return _CONVERTER.fullmatch(name) is not None


def text(name: bytes) -> str:
    """The name for people: UTF-8, with U+FFFD where the bytes are not."""
    return name.decode("utf-8", "replace")


def safe(text: str) -> str:
    """Without characters that would move the cursor of a terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def size_text(size: int) -> str:
    """Bytes for people: ``17.4 MB``."""
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"


def hex_if_needed(name: bytes) -> str:
    """The exact bytes in hexadecimal where ``text`` loses something, else the empty string."""
    return "" if text(name).encode() == name else name.hex()


def original(name: str, name_hex: str) -> bytes:
    """The exact bytes again, from what ``text`` and ``hex_if_needed`` gave."""
    return bytes.fromhex(name_hex) if name_hex else name.encode()


def _shortened(stem: bytes, limit: int) -> bytes:
    """At most ``limit`` bytes of ``stem``, without cutting a UTF-8 character in two where it is UTF-8."""
    if len(stem) <= limit:
        return stem
    cut = stem[:limit]
    for back in range(min(3, limit) + 1):
        piece = cut[: limit - back]
        try:
            piece.decode()
        except UnicodeDecodeError:
            continue
        return piece
    return cut


def numbered(name: bytes, number: int, limit: int = NAME_MAX) -> bytes:
    """``name`` with ``~number`` before its suffix (none for 1), shortened in the stem to fit ``limit`` bytes.

    >>> numbered(b"unit.csv", 3)
    b'unit~3.csv'
    """
    if number == 1 and len(name) <= limit:
        return name
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  names are bytes
    if len(suffix) > limit // 2:
        stem, suffix = name, b""
    mark = b"" if number == 1 else b"~%d" % number
    return _shortened(stem, limit - len(suffix) - len(mark)) + mark + suffix


def clock(local_time: datetime) -> bytes:
    """``HHMMSS``."""
    return b"%02d%02d%02d" % (local_time.hour, local_time.minute, local_time.second)


def entry_label(when: bytes, digits: str, name: bytes, twin: int) -> bytes:
    """The directory name of an entry: ``HHMMSS_xxxxxx_NAME``, ``~twin`` for the later ones of equal label.

    ``when`` is the ``HHMMSS`` of its capture, ``digits`` the first six of its SHA-256.
    """
    prefix = b"%b_%b_" % (when, digits.encode())
    return prefix + numbered(name, twin, NAME_MAX - len(prefix))


_LABEL = re.compile(rb"(\d{6})_([0-9a-f]{6})_.", re.DOTALL)


def parse_entry_label(label: bytes) -> tuple[str, str] | None:
    """``(HHMMSS, xxxxxx)`` of a label, or None where it is none."""
    match = _LABEL.match(label)
    return None if match is None else (match[1].decode(), match[2].decode())


def first_free(name: bytes, taken: Callable[[bytes], bool]) -> bytes:
    """The first of ``name, name~2, name~3, ...`` that is not taken, in O(log n) questions.

    Numbers are handed out densely, so doubling finds a free one and halving finds the first.
    """
    if not taken(numbered(name, 1)):
        return numbered(name, 1)
    low, high = 1, 2
    while taken(numbered(name, high)):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if taken(numbered(name, middle)):
            low = middle
        else:
            high = middle
    return numbered(name, high)


def matches(name: bytes, patterns: Sequence[str]) -> bool:
    """Whether a shell pattern fits the name, letters of either case alike."""
    return _compiled(tuple(patterns)).match(os.fsdecode(name).lower()) is not None


@functools.lru_cache(128)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all of them; of none, one that fits nothing."""
    return re.compile("|".join(fnmatch.translate(each.lower()) for each in patterns) or "(?!)")
