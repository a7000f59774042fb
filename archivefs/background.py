"""Work outside the main thread: threads that give way to all others, and processes of this very package."""

import os
import sys
import threading
from pathlib import Path


def give_way() -> None:
    """Lowest priority for this thread only (on Linux, setpriority takes a thread's number)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def own_process(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a process that runs a module of this very package."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # -P: the folder this runs in is not looked into for modules; it may be one that is read.
    command = [sys.executable, "-P", "-m", module, *arguments]
    return command, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
