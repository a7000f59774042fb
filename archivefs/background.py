"""Work outside the main thread: in a thread that gives way to all others, or in a process of this package."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def give_way() -> None:
    """Lowest priority for this thread only (on Linux, setpriority takes a thread's number)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def run_last(work: Callable[[], T]) -> T:
    """Do the work in a thread that gives way, and wait for it. Raises what it raises."""
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        return pool.submit(work).result()


def own_process(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a process that runs a module of this very package."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # -P: the folder this runs in is not looked into for modules; it may be one that is read.
    command = [sys.executable, "-P", "-m", module, *arguments]
    return command, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
