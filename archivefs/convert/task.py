"""What is to be converted beside the daily conversions, and what came of it."""

from typing import TYPE_CHECKING, NamedTuple

from archivefs.catalog.rows import Entry
from archivefs.config import ConverterConfig

if TYPE_CHECKING:  # commands that only ask for a replay start without what runs workers
    from archivefs.convert.process import Answer


class Task(NamedTuple):
    """An entry that is to be converted. ``code``: SHA-256 of a kept version, '' for the one that is now.

    ``config`` is that of the converter, with the arguments that are to be used.
    """

    entry: Entry
    converter: str
    config: ConverterConfig
    code: str = ""


class Done(NamedTuple):
    """What came of a task; times in Unix milliseconds and seconds."""

    answer: "Answer"
    code: str
    log: bytes
    reports: list[bytes]
    started_ms: int
    seconds: float
