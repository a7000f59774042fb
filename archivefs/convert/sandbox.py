"""How a worker is shut in: what it sees of this machine (bubblewrap), its environment and its limits.

``strict`` is bubblewrap and limits, ``limits`` the limits alone, ``off`` neither. What the worker adds from
within is ``confinement``.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from archivefs.config import ConverterConfig
from archivefs.convert.confinement import NOBODY
from archivefs.convert.snapshots import Code
from archivefs.errors import ArchiveError

PACKAGE = Path(__file__).parents[1]
LIBRARY = "/archivefs/lib"
CODE = "/archivefs/code"
SOURCE = "/archivefs/source"
TMP = "/tmp"
"""Where a worker finds things inside a strict sandbox."""
VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ")
"""What a worker gets of this process's environment."""
COVERAGE = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
"""And where its lines are counted; not in a strict sandbox, out of which the count could not come."""
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""What belongs to /usr: links to it today, folders on older systems."""
ETC = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
"""All that is to be seen of /etc: what programs and libraries are found by, and the local time."""
PROBE_SECONDS = 20.0
INSTALL = (
    'install it (apt-get install bubblewrap), or choose less in archive.toml: sandbox = "limits" keeps the '
    'limits, sandbox = "off" nothing'
)


class SandboxError(ArchiveError):
    """A converter's sandbox cannot be had on this machine; says what to do. Its entries wait."""

    exit_code = 41


class Place(NamedTuple):
    """The folder of one worker: ``source`` holds one source at a time, ``tmp`` whatever it likes."""

    folder: Path

    @property
    def source(self) -> Path:
        """What the worker sees of sources."""
        return self.folder / "source"

    @property
    def tmp(self) -> Path:
        """Where it may write, outside a strict sandbox."""
        return self.folder / "tmp"

    def make(self) -> None:
        """Make the folders; nobody may look into ``source``, too, but gets no further on this machine."""
        for each in (self.folder, self.source, self.tmp):
            each.mkdir(0o700, parents=True)
        self.source.chmod(0o755)


class Launch(NamedTuple):
    """How to start a worker, and what it is told first."""

    command: list[str]
    environment: dict[str, str]
    folder: Path
    setup: dict[str, Any]


def launch(config: ConverterConfig, code: Code, place: Place) -> Launch:
    """How to start a worker for a version of a converter. Raises ``SandboxError``."""
    strict = config.sandbox == "strict"
    worker = [sys.executable, "-m", "archivefs.convert.worker"]
    environment = {key: os.environ[key] for key in VARIABLES if key in os.environ}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    setup: dict[str, Any] = {
        "run": config.run,
        "reject_threshold": config.reject_threshold,
        "alarm_threshold": config.alarm_threshold,
        "drop_root": strict and os.geteuid() == 0,
        "alone": strict,
        "memory_bytes": config.memory_mb << 20,
    }
    if config.sandbox != "off":
        setup["limits"] = _limits(config, strict=strict)
        setup["cpu_seconds"] = config.cpu_seconds
    if strict:
        environment["PYTHONPATH"] = LIBRARY
        setup |= code.seen_at(CODE) | {"source": SOURCE, "tmp": [TMP, "/dev/shm"]}
        return Launch([*_bubblewrap(config, code, place), *worker], environment, Path("/"), setup)
    environment |= {key: os.environ[key] for key in COVERAGE if key in os.environ}
    environment |= {"PYTHONPATH": str(PACKAGE.parent), "TMPDIR": str(place.tmp)}
    setup |= code.seen_at(str(code.folder)) | {"source": str(place.source), "tmp": [str(place.tmp)]}
    return Launch(worker, environment, place.tmp, setup)


def _limits(config: ConverterConfig, *, strict: bool) -> dict[str, int]:
    limits = {
        "memory_bytes": config.memory_mb << 20,
        "file_bytes": config.tmp_mb << 20,
        "open_files": config.open_files,
    }
    # Elsewhere the kernel would count all that this user runs.
    return limits | ({"processes": config.processes} if strict else {})


def bubblewrap() -> str:
    """The path of the program. Raises ``SandboxError`` where it is not installed."""
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(f'sandbox = "strict" needs bubblewrap, which is not installed: {INSTALL}')
    return found


def _bubblewrap(config: ConverterConfig, code: Code, place: Place) -> list[str]:
    """The command in front of the worker's; the order counts, for later mounts lie on earlier ones."""
    size = str(config.tmp_mb << 20)
    return [
        bubblewrap(),
        "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--new-session", "--die-with-parent", "--hostname", "sandbox", "--cap-drop", "ALL",
        *_identity(),
        "--proc", "/proc",
        "--dev", "/dev",
        *(("--bind", "/proc/sys/user", "/proc/sys/user") if os.geteuid() == 0 else ()),
        "--perms", "1777", "--size", size, "--tmpfs", TMP,
        "--perms", "1777", "--size", size, "--tmpfs", "/dev/shm",
        *_system(),
        *_interpreter(),
        *_library(),
        *_read_only(str(code.folder), CODE),
        *(each for folder in code.elsewhere for each in _read_only(folder, folder)),
        *_read_only(str(place.source), SOURCE),
        "--remount-ro", "/dev",
        "--remount-ro", "/",
        "--chdir", TMP,
        "--",
    ]  # fmt: skip


def _identity() -> tuple[str, ...]:
    """Who the worker starts as: root keeps what it needs to become nobody, all others are nobody at once.

    Root does not get its user namespace from bubblewrap: within one it could not look into folders of others,
    and could be mapped to no other user than root, whom the kernel lets start as many processes as it likes.
    """
    if os.geteuid() == 0:
        return ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    return ("--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY))


def _read_only(here: str, there: str) -> Iterator[str]:
    """A file or folder of this machine, and the folders above it, which bubblewrap would close to nobody."""
    for parent in reversed(Path(there).parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(parent))
    yield from ("--ro-bind", here, there)


def _system() -> Iterator[str]:
    """The programs and libraries of the distribution."""
    yield from _read_only("/usr", "/usr")
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from _read_only(name, name)
    yield from ("--perms", "0755", "--dir", "/etc")
    for name in ETC:
        yield from ("--ro-bind-try", name, name)


def _interpreter() -> Iterator[str]:
    """Python and what is installed for it, where that is not in /usr."""
    for prefix in dict.fromkeys((sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix)):
        if not prefix.startswith("/usr/") and prefix != "/usr":
            yield from _read_only(prefix, prefix)


def _library() -> Iterator[str]:
    """Of archivefs the worker, and what converters import."""
    for name in ("__init__.py", "convert"):
        yield from _read_only(str(PACKAGE / name), f"{LIBRARY}/archivefs/{name}")


def require(config: ConverterConfig, work_dir: Path) -> None:
    """Start the sandbox that a converter asks for once, with nothing in it, to see that it can be had.

    Blocks for about 0.1 s. Raises ``SandboxError`` with what stands in the way.
    """
    if config.sandbox != "strict":
        return
    place = Place(work_dir / "probe")
    shutil.rmtree(place.folder, ignore_errors=True)
    place.make()
    try:
        empty = Code("", place.tmp, (), "", ())
        start = launch(config, empty, place)
        said = _try(start)
    finally:
        shutil.rmtree(place.folder, ignore_errors=True)
    if said is not None:
        raise SandboxError(
            f'sandbox = "strict" cannot be had on this machine: {said or "no reason was given"}; '
            "docs/converters.md tells what it needs"
        )


def _try(start: Launch) -> str | None:
    """What stands in the way of a sandbox, None for nothing."""
    command = [*start.command, "--probe"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=start.environment,
            cwd=start.folder, timeout=PROBE_SECONDS, check=False, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it did not start within {PROBE_SECONDS:g} seconds"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
