"""Extended attributes ``user.*`` of sources: read at capture, kept in Base64, set again by restore."""

import base64
import contextlib
import os

import msgspec


def read(fd: int) -> dict[str, str]:
    """The attributes of an open file; none where its file system has none."""
    try:
        names = [name for name in os.listxattr(fd) if name.startswith("user.") and name.isprintable()]
        return {name: base64.b64encode(os.getxattr(fd, name)).decode() for name in names}
    except OSError:
        return {}


def write(fd: int, kept: str) -> None:
    """Set what was kept (a JSON object), as far as the file system takes it; a source is more than these."""
    for name, value in msgspec.json.decode(kept, type=dict[str, bytes]).items():
        with contextlib.suppress(OSError):
            os.setxattr(fd, name, value)
