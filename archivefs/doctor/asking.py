"""Questions that may never be answered: asked by a child, which is left behind when time is up.

Who asks a mount whose daemon hangs waits in the kernel, and cannot be killed there: this process never asks.
"""

import os
import selectors
import subprocess
import time
from typing import NamedTuple

ANSWER_SECONDS = 5.0
ANSWER_BYTES = 1 << 20


class Answer(NamedTuple):
    """What a program said; ``code`` is None where it did not end in time, or said too much."""

    code: int | None
    out: bytes
    error: str


def ask(*command: str | bytes, seconds: float = ANSWER_SECONDS, limit_bytes: int = ANSWER_BYTES) -> Answer:
    """Run a program that reads something. Returns within about ``seconds``; raises ``OSError``."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"}, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    said = {child.stdout: bytearray(), child.stderr: bytearray()}
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for pipe in said:
            waiting.register(pipe, selectors.EVENT_READ)
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                pipe = child.stdout if key.fileobj is child.stdout else child.stderr
                piece = os.read(pipe.fileno(), 1 << 16)
                said[pipe] += piece
                if not piece:
                    waiting.unregister(pipe)
            if len(said[child.stdout]) > limit_bytes:
                break
        is_done = not waiting.get_map()
    out, error = bytes(said[child.stdout]), said[child.stderr].decode(errors="replace").strip()
    child.stdout.close()
    child.stderr.close()
    if is_done:
        return Answer(child.wait(), out, error)
    child.kill()
    child.returncode = -9  # nobody waits for it: it may never leave the kernel
    return Answer(None, out, error)
