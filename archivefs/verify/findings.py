"""What a check found: how bad it is, where, and what a person does about it."""

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class Severity(IntEnum):
    """From "good to know" to "content is lost". The exit code of ``archivefs verify`` follows the worst."""

    NOTICE = 0
    WARNING = 1
    ERROR = 2
    CRITICAL = 3


EXIT_CODES = {Severity.NOTICE: 0, Severity.WARNING: 50, Severity.ERROR: 51, Severity.CRITICAL: 52}
"""0 also where nothing was found."""


class Finding(NamedTuple):
    """One thing that is not as it should be. ``repair`` names the mend, '' where only a person can."""

    severity: Severity
    check: str
    where: str
    what: str
    remedy: str
    repair: str = ""


@dataclass
class Report:
    """A verification: what was read and what was found."""

    scope: str
    records: int = 0
    bytes: int = 0
    events: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def worst(self) -> Severity:
        """The highest severity, NOTICE where there is no finding."""
        return max((finding.severity for finding in self.findings), default=Severity.NOTICE)

    def counts(self) -> dict[str, int]:
        """How many findings of each severity."""
        return dict(Counter(finding.severity.name.lower() for finding in self.findings))
