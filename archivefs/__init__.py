"""archivefs: what a test station dropped is never lost, and can be found, proven and done again.

For programs in Python: ``Archive`` and ``reprocess`` on trio, ``blocking`` without; docs/api.md.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archivefs import blocking
    from archivefs.api import Archive, reprocess
    from archivefs.errors import ArchiveError

__all__ = ["Archive", "ArchiveError", "__version__", "blocking", "reprocess"]

__version__ = "0.1.0"

_WHERE = {"Archive": "api", "ArchiveError": "errors", "reprocess": "api"}
"""Modules are imported by who uses them: a command starts without those for programs."""


def __getattr__(name: str) -> object:
    if name == "blocking":
        return importlib.import_module("archivefs.blocking")
    if name in _WHERE:
        return getattr(importlib.import_module(f"archivefs.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
