"""Which reports in the outbox a person means."""

from archivefs.archive import Archive
from archivefs.catalog.outbox import Item
from archivefs.errors import UnknownEntryError
from archivefs.states import Submission


def unsent(archive: Archive) -> list[Item]:
    """All reports that wait, were refused or were dropped; in the order of sending."""
    reader = archive.reader.outbox
    states = (Submission.QUEUED, Submission.REFUSED, Submission.DROPPED)
    return [item for state in states for item in reader.unsent(state)]


def named(archive: Archive, id_: str, state: Submission) -> list[Item]:
    """The reports that an ID stands for, without those that are in that state already.

    Of an entry they are those of its latest attempt: what was sent since must not be replaced by an older.
    Raises ``UnknownEntryError``.
    """
    there = unsent(archive)
    if id_ in {item.converter for item in there}:
        # What a person has dropped comes back only by its own id.
        found = [item for item in there if item.converter == id_ and item.state is not Submission.DROPPED]
    elif not (found := [item for item in there if item.report_id == id_]):
        try:
            entry = archive.reader.get(id_)
        except UnknownEntryError:
            raise UnknownEntryError(
                f'the outbox has no report, entry or converter "{id_}"; see archivefs outbox'
            ) from None
        items = archive.reader.outbox.of_entry(entry.n)
        latest = items[-1].attempt if items else 0
        found = [item for item in items if item.attempt == latest and item.state is not Submission.SENT]
        if not found:
            what = "were sent already" if items else "were never queued"
            raise UnknownEntryError(f"the outbox has nothing of {entry.id}: its reports {what}")
    return [item for item in found if item.state is not state]
