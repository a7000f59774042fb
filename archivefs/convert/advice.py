"""Reads a converter's code and says what a person should look at: dangerous calls, and what will not work.

Advice, not the barrier: code that means it can hide every one of these.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_RUNS_TEXT = "runs text as code"
_STARTS = "starts a program; its input must not come from the source"
_NETWORK = "uses the network, which a strict sandbox does not have; reports are sent by archivefs"
_UNPICKLES = "runs whatever code the data names"
_REMOVES = "removes or moves files; the source is read-only, and what a conversion leaves is removed anyway"
_NATIVE = "calls native code, past all checks of Python"
_WRITES = "writes a file; in a strict sandbox only below /tmp, and nothing of it is kept"
_PROCESSES = "makes or signals processes; they are bounded, and end with the conversion"
CALLS: Mapping[str, str] = {
    "eval": _RUNS_TEXT, "exec": _RUNS_TEXT, "compile": _RUNS_TEXT, "__import__": _RUNS_TEXT,
    "importlib.import_module": _RUNS_TEXT,
    "os.system": _STARTS, "os.popen": _STARTS, "subprocess": _STARTS, "pty.spawn": _STARTS,
    "os.execv": _STARTS, "os.execve": _STARTS, "os.execvp": _STARTS, "os.spawnv": _STARTS,
    "os.posix_spawn": _STARTS, "asyncio.create_subprocess_exec": _STARTS,
    "asyncio.create_subprocess_shell": _STARTS,
    "socket": _NETWORK, "urllib.request": _NETWORK, "http.client": _NETWORK, "ftplib": _NETWORK,
    "smtplib": _NETWORK, "requests": _NETWORK, "httpx": _NETWORK, "aiohttp": _NETWORK, "urllib3": _NETWORK,
    "paramiko": _NETWORK,
    "pickle.load": _UNPICKLES, "pickle.loads": _UNPICKLES, "pickle.Unpickler": _UNPICKLES,
    "marshal.load": _UNPICKLES, "marshal.loads": _UNPICKLES, "shelve.open": _UNPICKLES,
    "dill.load": _UNPICKLES, "dill.loads": _UNPICKLES, "joblib.load": _UNPICKLES,
    "pandas.read_pickle": _UNPICKLES, "yaml.load": _UNPICKLES, "yaml.unsafe_load": _UNPICKLES,
    "os.remove": _REMOVES, "os.unlink": _REMOVES, "os.rmdir": _REMOVES, "os.rename": _REMOVES,
    "os.replace": _REMOVES, "os.removedirs": _REMOVES, "shutil.rmtree": _REMOVES, "shutil.move": _REMOVES,
    "ctypes": _NATIVE, "cffi": _NATIVE,
    "os.fork": _PROCESSES, "os.kill": _PROCESSES, "os.killpg": _PROCESSES, "multiprocessing": _PROCESSES,
    "concurrent.futures.ProcessPoolExecutor": _PROCESSES, "os._exit": _PROCESSES,
}  # fmt: skip
"""Functions, and modules of which every function counts."""
METHODS: Mapping[str, str] = {
    "write_text": _WRITES, "write_bytes": _WRITES, "touch": _WRITES, "symlink_to": _WRITES,
    "unlink": _REMOVES, "rmdir": _REMOVES,
}  # fmt: skip
"""Of ``Path``, whatever the object is called."""
_WRITING = frozenset("wax+")


class Advice(NamedTuple):
    """A place in the code, and why somebody should look at it."""

    file: Path
    line: int
    call: str
    why: str


def read(file: Path) -> Iterator[Advice]:
    """What there is to say of a file of Python. Raises ``OSError``."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        yield Advice(file, line, "", f"is no Python of this version: {getattr(error, 'msg', error)}")
        return
    names = _imported(tree)
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    for node in sorted(found, key=lambda node: (node.lineno, node.col_offset)):
        call = _dotted(node.func, names)
        why = _why(node, call)
        if why:
            yield Advice(file, node.lineno, call, why)


def _imported(tree: ast.Module) -> dict[str, str]:
    """What the names of imported things stand for: ``{"run": "subprocess.run"}``."""
    names = dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.expr, names: Mapping[str, str]) -> str:
    """``subprocess.run`` for what is called; ``.write_text`` where the object is none that was imported."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = node.value
        if isinstance(base, ast.Name) and base.id not in names:
            return f".{node.attr}"
        inner = _dotted(base, names)
        return f".{node.attr}" if not inner or inner.startswith(".") else f"{inner}.{node.attr}"
    return ""


def _why(node: ast.Call, call: str) -> str:
    if call.startswith("."):
        return METHODS.get(call[1:], "") or (_WRITES if call == ".open" and _writes(node, 0) else "")
    if call in ("open", "io.open"):
        return _WRITES if _writes(node, 1) else ""
    if call == "yaml.load" and any(
        "Safe" in ast.unparse(each) for each in [*node.args, *(word.value for word in node.keywords)]
    ):
        return ""
    parts = call.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((CALLS[prefix] for prefix in prefixes if prefix in CALLS), "")


def _writes(node: ast.Call, position: int) -> bool:
    """Whether the mode of an ``open`` writes; a mode that is not written out may."""
    modes = [word.value for word in node.keywords if word.arg == "mode"] + node.args[position : position + 1]
    if not modes:
        return False
    mode = modes[0]
    return not isinstance(mode, ast.Constant) or bool(_WRITING & set(str(mode.value)))
