"""Work that gives way to everything else: a thread of its own at the lowest priority."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def give_way() -> None:
    """Lowest priority for this thread only (on Linux, setpriority takes a thread's number)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def run_last(work: Callable[[], T]) -> T:
    """Do the work in a thread that gives way, and wait for it. Raises what it raises."""
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        return pool.submit(work).result()
