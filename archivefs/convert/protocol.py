"""The words between a converter and archivefs. Only the standard library: converters import this.

A converter is one of three things (docs/converters.md):

* a class with ``name``, ``version``, ``convert(source, context)`` and, if it likes, ``validate``,
* a function ``convert(path, arguments)`` that returns a report or a list of them,
* a command that gets the path as its last argument and prints a report, or a list of them, as JSON.

A report is a JSON object (``dict``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

Reports = dict[str, Any] | Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """The file or folder to convert, under its original name. It may be read as often as needed.

    It must not be written.
    """

    path: Path

    @property
    def name(self) -> str:
        """The original name."""
        return self.path.name

    @property
    def files(self) -> list[Path]:
        """All files of a folder, in the order of their paths; of a file, that alone."""
        if not self.path.is_dir():
            return [self.path]
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    @property
    def size(self) -> int:
        """Bytes; of a folder, of all its files together."""
        return sum(path.stat().st_size for path in self.files)

    def read_bytes(self) -> bytes:
        """The whole content."""
        return self.path.read_bytes()

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole content as text. Raises ``UnicodeDecodeError``, which fails the attempt."""
        return self.path.read_text(encoding)


@dataclass(frozen=True)
class Context:
    """What archive.toml and the moment give: ``attempt`` counts from 1, ``log`` writes to log.txt."""

    arguments: Mapping[str, Any]
    attempt: int = 1
    log: Callable[[str], None] = print


@dataclass(frozen=True)
class Validation:
    """Whether this converter is the one for the source, and how sure it is (0 to 1)."""

    can_convert: bool
    confidence: float = 1.0
    message: str = ""


@dataclass(frozen=True)
class Result:
    """How a conversion ended. Make one with the class methods."""

    outcome: str
    reports: tuple[dict[str, Any], ...] = ()
    error: str = ""
    retry_after: float | None = None
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def success(cls, *reports: dict[str, Any], warnings: Sequence[str] = ()) -> Self:
        """The source became these reports."""
        return cls("success", reports, warnings=tuple(warnings))

    @classmethod
    def failed(cls, error: str) -> Self:
        """The source cannot be converted; ``error`` tells a person why. Not tried again by itself."""
        return cls("failed", error=error)

    @classmethod
    def suspended(cls, reason: str, retry_after: float | None = None) -> Self:
        """Not now: try again in ``retry_after`` seconds (None: as configured)."""
        return cls("suspended", error=reason, retry_after=retry_after)

    @classmethod
    def skipped(cls, reason: str) -> Self:
        """Nothing to report in this source, and that is fine."""
        return cls("skipped", error=reason)

    @classmethod
    def rejected(cls, reason: str) -> Self:
        """This is no source for this converter."""
        return cls("rejected", error=reason)
