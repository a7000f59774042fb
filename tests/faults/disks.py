"""Small file systems to break: on images through loop devices, or tmpfs; with a power switch."""

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Self

import pytest
from fault_parts import is_mountpoint, require_tools
from mount_parts import poll, run

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN, the same number as XFS_IOC_GOINGDOWN (include/uapi/linux/ext4.h)."""
NO_FLUSH = 2
"""As when the power goes: nothing that waits is written, the log neither."""
_TOOLS = {"ext4": "mkfs.ext4", "xfs": "mkfs.xfs", "btrfs": "mkfs.btrfs"}
_MAKE = {"ext4": ["mkfs.ext4", "-qF"], "xfs": ["mkfs.xfs", "-qf"], "btrfs": ["mkfs.btrfs", "-qf"]}


class Disk:
    """A file system of its own, mounted at ``path``."""

    def __init__(self, folder: Path, kind: str, size_mb: int, options: str = "") -> None:
        self.kind = kind
        self.path = folder / "disk"
        self._image = folder / "image"
        self._size_mb = size_mb
        self._options = options
        self.path.mkdir()

    def make(self) -> Self:
        """Make it and mount it; skips where this kernel has no such file system or no loop devices."""
        if self.kind != "tmpfs":
            require_tools(_TOOLS[self.kind])
            with self._image.open("wb") as file:
                file.truncate(self._size_mb << 20)
            run(*_MAKE[self.kind], self._image)
        self.mount(first=True)
        return self

    def mount(self, *, first: bool = False) -> None:
        """Mount it (again). What an ext4 or xfs log holds is replayed now."""
        words = ["-t", self.kind]
        options = self._options
        if self.kind == "tmpfs":
            source: str | Path = "tmpfs"
        else:
            source, options = self._image, ",".join(filter(None, ["loop", options]))
        done = subprocess.run(
            ["mount", *words, *(["-o", options] if options else []), source, self.path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0 and first:
            pytest.skip(f"this machine cannot mount {self.kind}: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr

    def resize(self, size: str) -> None:
        """Give a tmpfs another size (``64m``)."""
        run("mount", "-o", f"remount,{size}", self.path)

    def cut(self) -> None:
        """The power goes: what was not synced never reaches the disk, every call from now on fails."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(fd)

    def umount(self) -> None:
        """Unmount; whoever used it must be gone, the kernel may take a moment to notice."""
        if is_mountpoint(self.path):
            poll("a disk that nobody uses", self._umounted, 20)
        if self.kind != "tmpfs":
            # Other mount namespaces, such as those of sandboxes that begin, may have copies of the mount. As
            # long as there is one, mounting the image again would show the old file system.
            poll(
                "a disk that the kernel let go of",
                lambda: not run("losetup", "--associated", self._image),
                20,
            )

    def _umounted(self) -> bool:
        done = subprocess.run(["umount", self.path], capture_output=True, check=False)
        return done.returncode == 0 or not is_mountpoint(self.path)

    def power_on(self) -> None:
        """After ``cut``: what the disk kept is there again."""
        self.umount()
        self.mount()

    def remove(self) -> None:
        """Leave no mount and no loop device."""
        try:
            self.umount()
        except AssertionError:
            run("umount", "-l", self.path, code=None)
            raise
        finally:
            self._image.unlink(missing_ok=True)
