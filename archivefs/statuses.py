"""What an entry becomes that is captured, adopted, routed or asked about again; and in which words."""

from archivefs import names
from archivefs.catalog.catalog import VOID_REASON
from archivefs.catalog.rows import Entry
from archivefs.config import Config, ConverterConfig
from archivefs.routing import ROUTING_REASON, UNROUTED, candidates
from archivefs.states import Status

NO_CONVERTER_REASON = "it fits no converter"
"""``reason`` of an entry that stays ``unrouted``."""
PART_REASON = "it is part of a folder that is one source when it is complete"
NO_FOLDER_REASON = "its converter takes folders, and it lies in none"
IMPORT_REASON = "imported"
"""``reason`` of an entry that came with an import and waits for no conversion."""

RETRIABLE = frozenset({Status.FAILED, Status.REJECTED, Status.SKIPPED, Status.SUSPENDED})
"""Statuses of entries that a person may want to have tried again."""


def first_status(
    config: Config, name: str, file: bytes, when_ms: int, *, is_folder: bool = False, is_part: bool = False
) -> tuple[Status, str, int]:
    """Status, reason and time of the first conversion (0: none) of a source archived at ``when_ms``.

    ``name`` is that of the converter; for one that is still to be found, the time is when to ask for it.
    ``is_folder``: the source is one; ``is_part``: it lies in one.
    """
    converter = config.converters.get(name, ConverterConfig())
    if converter.kind == "folder" and not is_folder:
        return (Status.ARCHIVED, PART_REASON, 0) if is_part else (Status.SKIPPED, NO_FOLDER_REASON, 0)
    if is_folder:  # it was left alone until it was complete
        when_ms -= int(converter.settle_seconds * 1000)
    if name == UNROUTED and candidates(config, file):
        return Status.PENDING, ROUTING_REASON, when_ms + int(converter.settle_seconds * 1000)
    return status_for(converter, file, when_ms)


def status_for(converter: ConverterConfig, name: bytes, when_ms: int) -> tuple[Status, str, int]:
    """The same for a converter that is certain."""
    if not converter.run:
        return Status.ARCHIVED, "", 0
    if converter.patterns and not names.matches(name, converter.patterns):
        return Status.SKIPPED, f"the name fits none of: {', '.join(converter.patterns)}", 0
    return Status.PENDING, "", when_ms + int(converter.settle_seconds * 1000)


def why_not_again(config: Config, converter: str, entry: Entry, status: Status) -> str:
    """Why an entry that has this status cannot be converted again now, '' where it can."""
    is_unrouted = converter == UNROUTED and status is Status.ARCHIVED
    if status not in RETRIABLE and not is_unrouted:
        return f"is {status}; tried again is what is {', '.join(sorted(RETRIABLE))}"
    if entry.reason == VOID_REASON:
        return entry.reason
    is_folder, is_part = entry.members > 0, bool(entry.folder)
    first, reason, _ = first_status(config, converter, entry.name, 0, is_folder=is_folder, is_part=is_part)
    if first is Status.ARCHIVED:
        return f"archive.toml does not say how to convert for {converter}"
    return "" if first is Status.PENDING else reason
