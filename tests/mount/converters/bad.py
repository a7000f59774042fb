"""Converters with mistakes, and some that mean it."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

Arguments = dict[str, Any]
Report = dict[str, Any]


def raises(path: str, arguments: Arguments) -> Report:
    return {"value": int("twelve")}


def names_the_file(path: str, arguments: Arguments) -> Report:
    raise ValueError("cannot read " + Path(path).name)


def prints_the_name(path: str, arguments: Arguments) -> Report:
    print("reading", Path(path).name)
    return {"printed": True}


def hangs(path: str, arguments: Arguments) -> Report:
    time.sleep(3600)
    return {}


def spins(path: str, arguments: Arguments) -> Report:
    while True:
        pass


def leaves_a_child(path: str, arguments: Arguments) -> Report:
    os.fork()
    return hangs(path, arguments)


def kills_itself(path: str, arguments: Arguments) -> Report:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def exits(path: str, arguments: Arguments) -> Report:
    sys.exit(0)


def exits_hard(path: str, arguments: Arguments) -> Report:
    os._exit(3)


def hogs(path: str, arguments: Arguments) -> Report:
    return {"size": len(bytearray(10**9))}


def prints(path: str, arguments: Arguments) -> Report:
    print('{"outcome": "failed"}')
    sys.stdout.write("no newline")
    sys.stdout.flush()
    os.write(1, b"\xff\xfe raw\n")
    os.system("echo from a child; echo and its errors >&2")
    sys.stderr.write("to stderr\n")
    return {"printed": True}


def writes_to_our_pipe(path: str, arguments: Arguments) -> Report:
    for fd in range(3, 20):
        with suppress(OSError):
            os.write(fd, b"rubbish\n")
    return {"rubbish": True}


def closes_stdout(path: str, arguments: Arguments) -> Report:
    sys.stdout.close()
    return {"closed": True}


def floods(path: str, arguments: Arguments) -> Report:
    for _ in range(50):
        print("x" * 999_999)
    print("the last line")
    return {"flooded": True}


def gives_a_set(path: str, arguments: Arguments) -> Report:
    return {"values": {1, 2}}


def gives_nan(path: str, arguments: Arguments) -> Report:
    return {"value": float("nan")}


def gives_nothing(path: str, arguments: Arguments) -> None:
    pass


def gives_text(path: str, arguments: Arguments) -> str:
    return json.dumps({"value": 1})


def gives_a_list_of_text(path: str, arguments: Arguments) -> list[str]:
    return ["one"]


def gives_itself(path: str, arguments: Arguments) -> Report:
    report: Report = {}
    report["again"] = report
    return report


def changes_its_source(path: str, arguments: Arguments) -> Report:
    Path(path).write_bytes(b"forged")
    return {"forged": True}


def removes_its_source(path: str, arguments: Arguments) -> Report:
    Path(path).unlink()
    return {"removed": True}


def takes_a_moment(path: str, arguments: Arguments) -> Report:
    time.sleep(arguments.get("seconds", 0.4))
    return {}


def is_quick(path: str, arguments: Arguments) -> Report:
    return {"quick": True}
