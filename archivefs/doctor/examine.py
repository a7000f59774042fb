"""The whole examination: which checks, in which order, and that one that fails does not end the others."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from archivefs import names
from archivefs.doctor import condition, machine, mounting
from archivefs.doctor.findings import Case, Line, problem

Check = Callable[[Case], Iterator[Line]]
CHECKS: tuple[tuple[str, Check], ...] = (
    ("archive", condition.archive),
    ("catalog", condition.catalog),
    ("journal", condition.journal),
    ("lock", condition.holder),
    ("mount", mounting.mount),
    ("inbox", mounting.strays),
    ("space", machine.space),
    ("fuse", machine.fuse),
    ("sandbox", machine.bubblewrap),
    ("converters", machine.converters),
    ("verification", condition.verification),
    ("outbox", condition.outbox),
    ("quarantine", condition.quarantine),
    ("alarms", mounting.alarms),
)
"""Later ones use what earlier ones found out."""


def examine(root: Path, mountpoints: Sequence[Path] = ()) -> list[Line]:
    """Look at everything, whatever state it is in; changes nothing, and waits for no mount."""
    case = Case(root.resolve(), tuple(mountpoints))
    lines = list[Line]()
    for name, check in CHECKS:
        if not case.is_archive and name != "fuse":
            continue
        try:
            lines += check(case)
        except Exception as error:  # of a broken archive anything may come, and the other checks still tell
            what = f"it cannot be looked at: {str(error) or type(error).__name__}"
            lines.append(problem(name, what, "correct what this names; then run archivefs doctor again"))
    if case.archive is not None:
        case.archive.close()
    return [line._replace(seen=_text(line.seen), remedy=_text(line.remedy)) for line in lines]


def _text(said: str) -> str:
    """Names need not be UTF-8."""
    return names.text(os.fsencode(said))
