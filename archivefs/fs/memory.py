"""How the daemon uses the C library's heap."""

import contextlib
import ctypes

_M_ARENA_MAX = -8
"""From malloc.h of glibc."""


def share_one_heap() -> None:
    """All threads of this process use one heap; call it before the first thread begins.

    glibc gives threads heaps of their own, up to eight for each processor. The cache of frames is filled by
    many threads, so what is dropped from it leaves holes in the heaps of some while those of others grow:
    after three minutes of tools/soak the daemon took 300 MiB, and still more later; with one heap, 190 MiB.
    Elsewhere than on glibc this does nothing.
    """
    with contextlib.suppress(AttributeError):  # musl has no mallopt
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
