"""What a worker does to itself before it imports a converter: limits, and giving up its privileges.

Only the standard library. It runs inside the sandbox that ``sandbox`` describes; where that one starts as
root, this is where root ends.
"""

import contextlib
import ctypes
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOBODY = 65534
"""uid and gid of converters where archivefs runs as root; the kernel's own number for nobody."""
_CLONE_NEWUSER = 0x1000_0000
_PR_SET_DUMPABLE = 4
_CAPABILITY_VERSION_3 = 0x2008_0522
"""From linux/sched.h, linux/prctl.h and linux/capability.h."""


def limit(limits: Mapping[str, int]) -> None:
    """Set the limits that hold for this process and each that it starts; none of them can be raised again.

    ``memory_bytes`` (address space), ``file_bytes`` (each file), ``open_files``; ``processes`` where it is
    given. Raises ``OSError``, ``ValueError``.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
    }
    if "processes" in limits:
        wanted[resource.RLIMIT_NPROC] = limits["processes"]
    for what, value in wanted.items():
        _, hard = resource.getrlimit(what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def limit_cpu(seconds: int) -> None:
    """From now on this process may use so many further seconds of processor time, then SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, hard))


def offer_to_the_oom_killer() -> None:
    """Of all processes, the kernel is to end this one and those it starts first when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def drop_root() -> None:
    """Become nobody, in a user namespace of its own and without any capability.

    Not before this, for only root may look into every folder that is bound into the sandbox. In a namespace
    of its own RLIMIT_NPROC counts this sandbox alone, and root's exemption from it ends. Raises ``OSError``.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _call(libc.prctl, _PR_SET_DUMPABLE, 1, 0, 0, 0)  # else its own /proc/self is closed to it
    _call(libc.unshare, _CLONE_NEWUSER)
    # Nobody in here makes a further namespace, in which it would be root. Where the kernel does not let us
    # say so (AppArmor, on Ubuntu), it takes what such a root could do away instead.
    with contextlib.suppress(OSError):
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    _call(libc.capset, (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())


def _call(function: Any, *arguments: object) -> None:  # noqa: ANN401  a function of the C library
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}: {os.strerror(number)}")
