"""What a converter needs before it can run: its sandbox, and the version of its code that is to run now."""

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import trio

from archivefs.config import ConverterConfig
from archivefs.convert import sandbox, snapshots
from archivefs.convert.snapshots import Code, Found, Packed

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How old the answer may be whether code was changed; looking at 100 files takes about 1 ms."""
QUIET_SECONDS = 1.0
"""Code is taken when it was not changed for so long, for people save one file after the other."""
QUIET_TRIES = 5
Keep = Callable[[str, Packed], Awaitable[None]]
"""Keeps a version of a converter's code; returns when it is durable."""


class _Current(NamedTuple):
    """The version that a converter runs, and when it was last looked for a newer one."""

    run: str
    path: list[str]
    found: tuple[Found, ...]
    code: Code
    looked: float


class Preparation:
    """Knows of each converter the code that it runs now, and unpacks a new version after a change."""

    def __init__(self, root: Path, work_dir: Path, keep: Keep | None = None) -> None:
        """``work_dir``: an empty folder. ``keep``: called with each version before it runs."""
        self._root = root
        self._work_dir = work_dir
        self._keep = keep
        self._lock = trio.Lock()
        self._current: dict[str, _Current] = {}
        self._has_sandbox = False

    async def code(self, converter: str, config: ConverterConfig) -> Code:
        """The code that a conversion runs which begins now.

        Raises ``SandboxError``, ``CodeError``, ``OSError``.
        """
        known = self._known(converter, config)
        if known is not None and time.monotonic() - known.looked < LOOK_SECONDS:
            return known.code
        async with self._lock:
            if config.sandbox == "strict" and not self._has_sandbox:
                await trio.to_thread.run_sync(sandbox.require, config, self._work_dir)
                self._has_sandbox = True
            return await self._look(converter, config)

    def _known(self, converter: str, config: ConverterConfig) -> _Current | None:
        known = self._current.get(converter)
        return known if known and (known.run, known.path) == (config.run, config.path) else None

    async def _look(self, converter: str, config: ConverterConfig) -> Code:
        known = self._known(converter, config)
        if known is not None:
            found = await trio.to_thread.run_sync(snapshots.fingerprint, self._root, config)
            if found == known.found:
                self._current[converter] = known._replace(looked=time.monotonic())
                return known.code
            await self._wait_until_quiet(found, config)
        found, packed = await trio.to_thread.run_sync(snapshots.pack, self._root, config)
        if known is None or known.code.sha256 != packed.sha256:
            code = await trio.to_thread.run_sync(self._unpack, packed)
            if self._keep is not None:
                await self._keep(converter, packed)
            log.info("%s runs its code %s", converter, packed.sha256)
        else:
            code = known.code
        self._current[converter] = _Current(config.run, config.path, found, code, time.monotonic())
        return code

    async def _wait_until_quiet(self, found: tuple[Found, ...], config: ConverterConfig) -> None:
        for _ in range(QUIET_TRIES):
            age = time.time() - max((each.ctime_ns for each in found), default=0) / 1e9
            if not 0 <= age < QUIET_SECONDS:
                return
            await trio.sleep(QUIET_SECONDS - age)
            found = await trio.to_thread.run_sync(snapshots.fingerprint, self._root, config)

    def _unpack(self, packed: Packed) -> Code:
        folder = self._work_dir / "code" / packed.sha256
        return packed.code(folder) if folder.exists() else packed.unpacked(folder)
