"""Retention policies as archive.toml states them, and which of them say nothing or contradict themselves."""

from datetime import date
from typing import Annotated

import msgspec
from msgspec import Meta

from archivefs.states import UNPURGEABLE, Status

Bytes = Annotated[int, Meta(ge=1)]
KEEPABLE = tuple(status for status in Status if status not in UNPURGEABLE)
"""Statuses that ``keep_statuses`` may name; entries of the others are never purged anyway."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table ``[converters.NAME.retention]``; None: no limit.

    ``days``: entries are purged when so many days have passed since their capture, and promised until then.
    ``max_size``: of the converter's sources, reports and logs on the disk, in bytes; the oldest go.
    ``keep_statuses``: entries of these are never purged. ``only_submitted``: only entries go whose reports
    their receiver has. ``retain_until``: YYYY-MM-DD; until the end of that day (UTC) nothing goes.
    """

    days: Annotated[int, Meta(ge=1, le=36_500)] | None = None
    max_size: Bytes | None = None
    keep_statuses: list[str] = []
    only_submitted: bool = False
    retain_until: str = ""

    @property
    def limits(self) -> bool:
        """Whether anything is ever purged because of this table alone."""
        return self.days is not None or self.max_size is not None


class ArchivePolicy(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[retention]``: for converters without a table of their own, and for the whole archive.

    ``max_total_size``: bytes of all sources, reports and logs. ``min_free_space``: bytes that stay free on
    the disk; the oldest entries of all converters go for it.
    """

    max_total_size: Bytes | None = None
    min_free_space: Bytes | None = None

    @property
    def limits(self) -> bool:
        """As of ``Policy``."""
        return super().limits or self.max_total_size is not None or self.min_free_space is not None


SIZES = ("max_size", "max_total_size", "min_free_space")
"""Keys whose value is written as a size."""
DAYS = ("retain_until",)
"""Keys whose value is a day, written as a text or as TOML's date."""


def fault(policy: Policy, *, submits: bool) -> tuple[str, str] | None:
    """``(key, what must be)`` of what is wrong with a table, None where nothing is.

    ``submits``: whether a receiver is configured for the reports.
    """
    for status in policy.keep_statuses:
        if status not in KEEPABLE:
            return "keep_statuses", f"has {status!r}, allowed are: {', '.join(KEEPABLE)}"
    if set(policy.keep_statuses) == set(KEEPABLE):
        return "keep_statuses", "names all statuses, so nothing would ever be purged; name fewer"
    if policy.only_submitted and not submits:
        return (
            "only_submitted",
            "is true, but the converter has no table submit: nothing would ever be purged",
        )
    if policy.retain_until:
        try:
            if date.fromisoformat(policy.retain_until).isoformat() != policy.retain_until:
                raise ValueError
        except ValueError:
            return "retain_until", f"is {policy.retain_until!r}, must be a day such as 2027-12-31"
    return None
