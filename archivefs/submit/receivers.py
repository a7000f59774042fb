"""Takes a queued report out of the archive and to where its converter's reports go, whatever kind that is."""

import hashlib
import importlib
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from archivefs import reports
from archivefs.archive import Archive
from archivefs.catalog.outbox import Item
from archivefs.catalog.rows import Stored
from archivefs.config import SubmitConfig
from archivefs.errors import ContentDamagedError, SegmentMissingError
from archivefs.store.durable import make_dirs
from archivefs.submit import command, directory
from archivefs.submit.delivery import Answer, Letter, later, refused

if TYPE_CHECKING:
    from archivefs.submit.http import HttpReceiver


class Receivers:
    """All kinds of receivers; ``uploads`` bounds how many deliveries over a network run at once."""

    def __init__(self, archive: Archive, uploads: trio.CapacityLimiter) -> None:
        self._archive = archive
        self._uploads = uploads
        self._work_dir = archive.root / "staging" / "outbox"
        self._http: HttpReceiver | None = None
        self._starting = trio.Lock()

    def clean(self) -> None:
        """Remove what the last process left."""
        shutil.rmtree(self._work_dir, ignore_errors=True)

    async def deliver(self, item: Item, config: SubmitConfig) -> Answer:
        """Deliver a report; whatever goes wrong outside of this program is the answer. May be cancelled."""
        try:
            body = reports.with_id(await self._content(item), item.report_id)
        except (SegmentMissingError, OSError) as error:
            return later(f"the report cannot be read: {error}")
        except ContentDamagedError as error:
            return refused(f"the report cannot be read: {error}")
        letter = Letter(item.converter, item.id, item.attempt, item.ordinal, item.report_id, body)
        if config.kind == "directory":
            # A share that hangs must not take the place of uploads; its thread ends with the process.
            send = partial(directory.deliver, self._archive.root, config, letter)
            return await trio.to_thread.run_sync(send, abandon_on_cancel=True)
        async with self._uploads:
            if config.kind == "command":
                return await self._run(config, letter)
            return await (await self._http_receiver()).deliver(config, letter)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _run(self, config: SubmitConfig, letter: Letter) -> Answer:
        try:
            folder = await trio.to_thread.run_sync(self._fresh_folder)
        except OSError as error:
            return later(f"there is no place for the report: {error}")
        try:
            return await command.deliver(self._archive.root, config, letter, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fresh_folder(self) -> Path:
        make_dirs(self._work_dir)
        return Path(tempfile.mkdtemp(dir=self._work_dir))

    async def _http_receiver(self) -> "HttpReceiver":
        """Made when first needed: its import takes a fifth of a second, which requests shall not wait for."""
        async with self._starting:
            if self._http is None:
                module = await trio.to_thread.run_sync(importlib.import_module, "archivefs.submit.http")
                self._http = module.HttpReceiver(self._archive.root)
            return self._http

    async def _content(self, item: Item) -> bytes:
        """The report as it was stored; looked for again where a repack moved it meanwhile.

        Raises ``ContentDamagedError``, ``OSError``.
        """
        stored = self._stored(item)
        try:
            return await trio.to_thread.run_sync(self._read, stored)
        except SegmentMissingError:
            moved = self._stored(item)
            if moved.location == stored.location:
                raise
            return await trio.to_thread.run_sync(self._read, moved)

    def _stored(self, item: Item) -> Stored:
        for each in self._archive.reader.contents(item.n):
            if (each.attempt, each.ordinal) == (item.attempt, item.ordinal):
                return each
        raise ContentDamagedError(f"attempt {item.attempt} has no report {item.ordinal}")

    def _read(self, stored: Stored) -> bytes:
        if stored.location is None:
            raise ContentDamagedError(f"{stored.name} is not on the disk")
        content = self._archive.content.read(stored.location, stored.size)
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            raise ContentDamagedError(f"the SHA-256 of {stored.name} is another")
        return content
