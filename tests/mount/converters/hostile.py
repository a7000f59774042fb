"""Converters that try to get out, or to take everything."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Arguments = dict[str, Any]
Report = dict[str, Any]
MIB = 1 << 20


def forks(path: str, arguments: Arguments) -> Report:
    """Each process makes two, for ever."""
    while True:
        os.fork()


def hogs_with_children(path: str, arguments: Arguments) -> Report:
    """As much memory as it can get, in as many processes as it can get."""
    children = 0
    try:
        while True:
            if os.fork() == 0:
                held = []
                while True:
                    try:
                        held.append(b"x" * (8 * MIB))
                    except MemoryError:
                        time.sleep(3600)
            children += 1
    except OSError as error:
        time.sleep(1)
        raise RuntimeError(f"{children} children, then {error}") from None


def spins(path: str, arguments: Arguments) -> Report:
    while True:
        pass


def writes_one_large_file(path: str, arguments: Arguments) -> Report:
    with open("/tmp/large", "wb") as file:
        for _ in range(10_000):
            file.write(b"x" * MIB)
    return {"written": True}


def writes_many_files(path: str, arguments: Arguments) -> Report:
    for number in range(10_000):
        Path("/tmp", str(number)).write_bytes(b"x" * MIB)
    return {"written": True}


def everywhere() -> Iterator[tuple[str, list[str]]]:
    """All folders and the files in them, but for those that Python and the distribution installed."""
    for folder, folders, names in os.walk("/"):
        yield folder, names
        if folder in ("/usr", "/proc", sys.prefix, sys.base_prefix):
            folders.clear()


def writes_where_it_can(path: str, arguments: Arguments) -> Report:
    """Every folder that there is; what it could write must not be more than it may."""
    written = {}
    for folder, _ in everywhere():
        try:
            with open(folder + "/written", "wb") as file:
                for _ in range(200):
                    file.write(b"x" * MIB)
        except OSError:
            try:
                written[folder] = os.stat(folder + "/written").st_size
            except OSError:
                continue
    raise RuntimeError(json.dumps(written))


def prints_for_ever(path: str, arguments: Arguments) -> Report:
    while True:
        print("x" * MIB)


def reads_passwords(path: str, arguments: Arguments) -> Report:
    return {"passwords": Path("/etc/passwd").read_text()}


def reads_other_sources(path: str, arguments: Arguments) -> Report:
    """Looks at every file there is for what stands in the source of another converter."""
    found = []
    for folder, names in everywhere():
        for name in names:
            if not os.path.isfile(os.path.join(folder, name)):
                continue
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    if b"the other's " + b"secret" in file.read(MIB):
                        found.append(os.path.join(folder, name))
            except OSError:
                continue
    raise RuntimeError(
        f"found {found}, processes {sorted(int(p) for p in os.listdir('/proc') if p.isdigit())}"
    )


def connects(path: str, arguments: Arguments) -> Report:
    socket.create_connection(("127.0.0.1", arguments["port"]), timeout=5)
    return {"connected": True}


def kills_its_parent(path: str, arguments: Arguments) -> Report:
    """And all others that it can name; then it goes on as if nothing were."""
    told = []
    for pid in (os.getppid(), 1, -1, arguments["daemon"]):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError as error:
            told.append(str(error))
    raise RuntimeError(f"tried to kill them: {told}")


def links_out(path: str, arguments: Arguments) -> Report:
    """Follows links of its own out of its folder, and leaves some where the daemon may come by."""
    for name in ("/tmp/report.json", "/tmp/log.txt", "/tmp/out"):
        os.symlink(arguments["victim"], name)
    Path("/tmp/out").write_text("overwritten")
    return {"written": True}


def becomes_root(path: str, arguments: Arguments) -> Report:
    told = []
    for call in (lambda: os.setuid(0), lambda: os.chroot("/tmp"), lambda: os.mknod("/tmp/d", 0o60666, 0x800)):
        try:
            call()
            told.append("done")
        except OSError as error:
            told.append(error.strerror)
    unshared = os.system("unshare --user --map-root-user true")
    mounted = os.system("mount -t tmpfs none /tmp")
    identity = [line for line in Path("/proc/self/status").read_text().splitlines() if line[:6] in CAPABLE]
    raise RuntimeError(f"{told} {unshared != 0} {mounted != 0} {identity}")


CAPABLE = ("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewP")


def interrupts_the_protocol(path: str, arguments: Arguments) -> Report:
    for fd in range(256):
        try:
            os.write(fd, b'{"outcome": "success"}\n\x00\xff noise\n')
        except OSError:
            continue
    return {"noise": True}


def cannot_be_written(path: str, arguments: Arguments) -> Report:
    return {"socket": socket.socket()}


def is_too_large(path: str, arguments: Arguments) -> Report:
    return {"text": "x" * (200 * MIB)}


def lies_about_its_reports(path: str, arguments: Arguments) -> Report:
    """Answers itself, before the worker does."""
    for fd in range(3, 256):
        try:
            os.write(fd, json.dumps({"outcome": "success", "reports": [10**12]}).encode() + b"\n")
        except OSError:
            continue
    time.sleep(3600)
    return {}


def exits_in_the_middle(path: str, arguments: Arguments) -> Report:
    print("half done", flush=True)
    os._exit(0)


def leaves_things_behind(path: str, arguments: Arguments) -> Report:
    """What the next conversion of the same worker must not find: files and processes."""
    deadline = time.monotonic() + 5
    while (pids := [p for p in os.listdir("/proc") if p.isdigit()]) != ["1", "2"]:
        assert time.monotonic() < deadline, pids
    before = os.listdir("/tmp")
    Path("/tmp/left").mkdir()
    Path("/tmp/left/behind").write_bytes(b"x" * MIB)
    if os.fork() == 0:
        os.setsid()
        time.sleep(3600)
    return {"pid": os.getpid(), "before": before}


def grows(path: str, arguments: Arguments) -> Report:
    KEPT.append(b"x" * (40 * MIB))
    return {"pid": os.getpid(), "kept": len(KEPT)}


KEPT: list[bytes] = []


def counts(path: str, arguments: Arguments) -> Report:
    KEPT.append(b"")
    return {"kept": len(KEPT)}
