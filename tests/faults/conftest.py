"""Faults need real mounts and a root's tools: what is missing skips with its name, and fails in CI."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "mount"))

from disks import Disk
from fault_parts import Station, connections, missing
from makers import Make, MakeDisk


@pytest.fixture(scope="session", autouse=True)
def _privileges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not Path("/dev/fuse").exists():
        missing("there is no /dev/fuse, so nothing can be mounted and no fault test can run")
    if os.geteuid() != 0:
        missing("the fault tests mount file systems and trace processes: they need root")
    with connections(tmp_path_factory.mktemp("fusectl")):
        yield


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """Makes small file systems (ext4, xfs, btrfs, tmpfs) and takes them down, whatever happens."""
    with ExitStack() as stack:

        def make(kind: str, size_mb: int = 256, options: str = "") -> Disk:
            folder = tmp_path / f"disk {len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            made = Disk(folder, kind, size_mb, options)
            stack.callback(made.remove)
            return made.make()

        yield make


@pytest.fixture
def station(tmp_path: Path, disk: MakeDisk) -> Iterator[Make]:
    """Makes archives with mountpoints; takes each down before its disk goes.

    The arguments are those of ``Station`` without the folder.
    """
    with ExitStack() as stack:

        def make(*arguments: Any, **more: Any) -> Station:  # noqa: ANN401  those of Station
            folder = tmp_path / f"station {len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            made = Station(folder, *arguments, **more)
            stack.callback(made.take_down)
            return made

        yield make
