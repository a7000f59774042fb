"""Processes that answer questions, where threads would share one core for all but compression and hashing.

Question and answer are pickles on the helper's standard input and output. A helper ends when its input does,
so none is left behind by a process that is killed.
"""

import contextlib
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

from archivefs.background import own_process

log = logging.getLogger(__name__)

COUNT = min(os.cpu_count() or 1, 8)
"""Helpers at the same time; one thread does not keep more than eight supplied."""
PIPE_BYTES = 1 << 20
PATIENCE_SECONDS = 600.0
"""How long an answer may take beside what the question is worth: the disk may be slow, the machine asleep."""
END_SECONDS = 5.0
"""How long an idle helper may take to end."""
GONE = (OSError, EOFError, pickle.UnpicklingError)
"""What a pipe says whose other end has died."""


class _Helper:
    """One such process."""

    def __init__(self, module: str, first: object) -> None:
        """Start a module that calls ``serve``. Raises ``OSError``."""
        command, environment = own_process(module)
        self._process = subprocess.Popen(
            command, env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=PIPE_BYTES,
        )  # fmt: skip
        self._send(first)

    def ask(self, question: object, seconds: float) -> Any:  # noqa: ANN401  whatever the module answers
        """The answer. Raises one of ``GONE``; one that takes so long is killed, and raises ``TimeoutError``.

        It may be stopped, or wait for a disk that does not answer.
        """
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.kill()

        watch = threading.Timer(seconds, give_up)
        watch.daemon = True
        watch.start()
        try:
            self._send(question)
            assert self._process.stdout is not None
            return pickle.load(self._process.stdout)
        except GONE:
            if late.is_set():
                raise TimeoutError(f"no answer within {seconds:.0f} s") from None
            raise
        finally:
            watch.cancel()

    def _send(self, what: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(what, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def close(self) -> None:
        """Close its input, at which it ends, and wait for that; one that does not is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def kill(self) -> None:
        """End it in the middle of its work; who asked is told that it is gone."""
        self._process.kill()


class Helpers:
    """Up to ``COUNT`` helpers that run a module, each started when a thread asks and all others are busy."""

    def __init__(self, module: str, first: object) -> None:
        """Start none yet; ``first`` is what each is told before its first question."""
        self._module = module
        self._first = first
        self._wanted = COUNT > 1
        self._stopped = False
        self._all: list[_Helper] = []
        self._idle: queue.LifoQueue[_Helper | None] = queue.LifoQueue()
        for _ in range(COUNT):
            self._idle.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """When no thread asks any more."""
        for _slot in range(COUNT):
            helper = self._idle.get()
            if helper is not None:
                helper.close()

    def stop(self) -> None:
        """End all helpers in the middle of their work: what was asked of them raises one of ``GONE``."""
        self._stopped = True
        for each in self._all:
            each.kill()

    def ask(self, question: object, seconds: float = PATIENCE_SECONDS) -> Any | None:  # noqa: ANN401  its answer
        """The answer of an idle helper, waiting for one; None where there are none: the caller does the work.

        Where one dies, or does not answer for so long and is killed, no further one is started. Raises what
        the module raised. For up to ``COUNT`` threads.
        """
        if not self._wanted:
            return None
        helper, answer = self._idle.get(), None
        try:
            if helper is None:
                helper = _Helper(self._module, self._first)
                self._all.append(helper)
            answer = helper.ask(question, seconds)
        except GONE as error:
            if self._stopped:
                raise
            log.warning("a helper process is gone, going on without: %r", error)
            self._wanted = False
            if helper is not None:
                helper.close()
                helper = None
        finally:
            self._idle.put(helper)
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(make: Callable[[Any], Callable[[Any], object]]) -> None:
    """Answer what stdin asks until it ends; ``make`` is given what was told first and gives who answers."""
    with contextlib.suppress(EOFError, BrokenPipeError):
        respond = make(pickle.load(sys.stdin.buffer))
        while True:
            answer: object
            question = pickle.load(sys.stdin.buffer)
            try:
                answer = respond(question)
            except Exception as error:
                answer = error
            pickle.dump(answer, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
            sys.stdout.buffer.flush()
