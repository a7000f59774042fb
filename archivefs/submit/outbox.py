"""Which report goes out when: each converter's in their order, one at a time; retried until it is taken.

A delivery is noted when it ended, so a stop in between means that it is made again: at least once, and under
the same report id. The first of a queue waits while it is retried, and those behind it with it.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence

import trio

from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.catalog.outbox import Item
from archivefs.committer import Committer
from archivefs.config import SubmitConfig
from archivefs.errors import ArchiveError
from archivefs.states import Status, Submission
from archivefs.submit.delivery import delay_seconds
from archivefs.submit.operations import RecordDelivery
from archivefs.submit.receivers import Receivers

log = logging.getLogger(__name__)

TROUBLED_SECONDS = 10.0
UNRECORDED = 32
"""Most reports that were sent and not recorded yet; so many may be sent again after a stop."""
LONGEST_SLEEP_SECONDS = 60.0
"""Sleeping is by another clock than that of ``due_ms``, which may be set."""


class Outbox:
    """Delivers what is queued; sleeps while nothing is. One sender for each converter with a queue."""

    def __init__(self, archive: Archive, committer: Committer, on_room: Callable[[], None]) -> None:
        """``on_room`` is called when a queue that was full is so no more."""
        self._archive = archive
        self._committer = committer
        self._on_room = on_room
        self._uploads = trio.CapacityLimiter(archive.config.max_concurrent_uploads)
        self._senders: set[str] = set()
        self._wake = trio.Event()
        self._hurry = trio.Event()
        self._reloads = 0
        committer.on_change(self._changed)

    def _changed(self, changes: Sequence[Change]) -> None:
        if any(change.after is Status.SUCCESS for change in changes):
            self._wake.set()

    def reload(self) -> None:
        """archive.toml was read again: try at once what waits, for it may be what was put right."""
        self._uploads.total_tokens = self._archive.config.max_concurrent_uploads
        self._reloads += 1
        self._hurry.set()
        self._hurry = trio.Event()
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled; what is on its way then is delivered again at the next start."""
        receivers = Receivers(self._archive, self._uploads)
        await trio.to_thread.run_sync(receivers.clean)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    pause = math.inf
                    try:
                        for converter in self._without_sender():
                            self._senders.add(converter)
                            nursery.start_soon(self._send_all, converter, receivers)
                    except Exception:
                        log.exception("the catalog does not say what is to be delivered; asking again")
                        pause = TROUBLED_SECONDS
                    with trio.move_on_after(pause):
                        await self._wake.wait()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await receivers.aclose()

    def _without_sender(self) -> list[str]:
        """Converters that have something queued, and archive.toml says where it goes."""
        return [
            converter
            for converter, states in self._archive.reader.outbox.totals().items()
            if Submission.QUEUED in states and converter not in self._senders and self._config(converter)
        ]

    def _config(self, converter: str) -> SubmitConfig | None:
        return self._archive.converter_config(converter).submit

    async def _send_all(self, converter: str, receivers: Receivers) -> None:
        """Deliver a converter's queue until it is empty, or archive.toml does not say where to any more."""
        try:
            reloads = self._reloads
            while items := self._archive.reader.outbox.first(converter, UNRECORDED):
                seconds = (items[0].due_ms - self._archive.now_ms()) / 1000
                if seconds > 0 and reloads == self._reloads:
                    with trio.move_on_after(min(seconds, LONGEST_SLEEP_SECONDS)):
                        await self._hurry.wait()
                    continue
                reloads = self._reloads  # before the delivery: one that fails meanwhile is made again at once
                config = self._config(converter)
                if config is None:
                    break
                await self._send_some(items, config, receivers)
                self._tell_of_room(converter, config, len(items))
                if self._archive.reader.outbox.head(converter) == items[0]:
                    log.error("the catalog does not follow the deliveries of %s; waiting for it", converter)
                    await trio.sleep(TROUBLED_SECONDS)
        except Exception:
            log.exception("delivering the reports of %s; it is tried again", converter)
            await trio.sleep(TROUBLED_SECONDS)
        finally:
            self._senders.discard(converter)
            self._wake.set()

    async def _send_some(self, items: Sequence[Item], config: SubmitConfig, receivers: Receivers) -> None:
        """Deliver one after the other up to the first that is not taken; all is recorded when this returns.

        While one is on its way, those before it are committed together.
        """
        async with trio.open_nursery() as records:
            for item in items:
                record = await self._send(item, config, receivers)
                records.start_soon(self._record, record)
                if record.answer.state is not Submission.SENT:
                    break

    async def _send(self, item: Item, config: SubmitConfig, receivers: Receivers) -> RecordDelivery:
        """One delivery, and what is to be recorded of it."""
        started_ms, clock = self._archive.now_ms(), time.monotonic()
        answer = await receivers.deliver(item, config)
        if answer.state is not Submission.SENT:
            log.warning("report %s of %s (%s) is %s: %s", item.report_id, item.id, item.converter,
                        answer.state, answer.error)  # fmt: skip
        delay = delay_seconds(config, item.failures + 1, answer.retry_after)
        return RecordDelivery(
            item.id, item.attempt, item.ordinal, answer, started_ms=started_ms,
            duration_ms=int((time.monotonic() - clock) * 1000),
            due_ms=self._archive.now_ms() + int(delay * 1000),
        )  # fmt: skip

    def _tell_of_room(self, converter: str, config: SubmitConfig, delivered: int) -> None:
        """Where the queue may have been full before; conversions may have filled it again since."""
        queued = self._archive.reader.outbox.count(converter, Submission.QUEUED)
        if queued < config.max_queue_size <= queued + delivered:
            self._on_room()

    async def _record(self, record: RecordDelivery) -> None:
        """Commit the end of a delivery, again and again while the disk refuses it: else it is sent again."""
        delay = 1
        while True:
            try:
                await self._committer.submit(record)
                return
            except ArchiveError as error:
                log.error("the delivery of a report of %s could not be recorded: %s", record.id, error)
            await trio.sleep(delay)
            delay = min(2 * delay, 5)
