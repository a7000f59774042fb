"""Purges that somebody paused: what they list stays until they are resumed, all else goes by its policy."""

from collections.abc import Iterator

from archivefs.archive import Archive
from archivefs.catalog.jobs import JobRow
from archivefs.errors import RetentionError
from archivefs.jobs.job import PURGE, Job
from archivefs.retention import plans
from archivefs.retention.choosing import Choice
from archivefs.states import JobState


def paused(archive: Archive) -> Iterator[tuple[JobRow, int]]:
    """The jobs of purges that are paused, each with its plan."""
    for row in archive.reader.jobs.open():
        if row.work == PURGE and row.state == JobState.PAUSED:
            yield row, int(Job(archive.root, row).request["plan"])


def without_paused(archive: Archive, choice: Choice) -> Choice:
    """What is left of a choice where what a paused purge lists is to stay. Raises ``OSError``."""
    stays = set[str]()
    for _, number in paused(archive):
        plan = archive.reader.purges.plan(number)
        try:
            stays |= {each.id for each in plans.listed(archive.root, plan)} if plan else set()
        except RetentionError:  # its list is gone, or another: it will purge nothing
            continue
    return choice._replace(chosen=[each for each in choice.chosen if each.id not in stays])
