"""How the daemon uses the C library's heap."""

import contextlib
import ctypes

from archivefs.fs.frame_cache import INLINE_BYTES

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""From malloc.h of glibc."""


def keep_heap_small() -> None:
    """One heap for all threads, none of it for frames that are kept; call it before the first thread begins.

    glibc gives threads heaps of their own, up to eight for each processor, and keeps what was freed in them.
    The cache of frames is filled by many threads, so what is dropped from it leaves holes in the heaps of
    some while those of others grow: after three minutes of tools/soak the daemon took 300 MiB, and still more
    later; with one heap, 190 MiB. Large pieces are mapped and given back at once.
    """
    with contextlib.suppress(AttributeError):  # musl has no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, INLINE_BYTES)
