"""Sources, validations and results."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any


class ConversionStatus(Enum):
    """How a conversion ended."""

    SUCCESS = "success"
    FAILED = "failed"
    SUSPENDED = "suspended"
    SKIPPED = "skipped"
    REJECTED = "rejected"


class ArgumentType(Enum):
    """What an argument is."""

    STRING = "string"
    INTEGER = "integer"
    CHOICE = "choice"


@dataclass
class ArgumentDefinition:
    """One argument."""

    arg_type: ArgumentType
    default: Any = None
    required: bool = False
    choices: list[str] | None = None
    min_value: float | None = None


@dataclass
class ConverterSource:
    """A file or folder."""

    path: Path
    files: list[Path] = field(default_factory=list)

    @classmethod
    def from_file(cls, path: Path) -> "ConverterSource":
        """One file."""
        return cls(path, [path])

    @classmethod
    def from_folder(cls, path: Path) -> "ConverterSource":
        """A folder with its files."""
        return cls(path, sorted(path.rglob("*")))


@dataclass
class ValidationResult:
    """Whether it can be converted."""

    can_convert: bool
    confidence: float
    detected_serial_number: str | None = None
    detected_part_number: str | None = None
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    ready: bool = True
    missing_dependencies: list[str] = field(default_factory=list)
    retry_after: timedelta | None = None


@dataclass
class ConverterResult:
    """What came of it."""

    status: ConversionStatus
    report: Any = None
    reports: list[Any] = field(default_factory=list)
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    suspend_reason: str | None = None
    retry_after: timedelta | None = None
    processing_time_ms: int | None = None
    records_processed: int = 0
