"""archivefs converter: list, show, check and test, beside an archive that they do not change."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archive_parts import ROOT, Clock, capture, commit, make
from test_verify_parts import archivefs, files_below

from archivefs.convert.advice import read

TOML = """\
schema_version = 1
reserve = 0
[converters.csv]
run = "python:good:Good"
path = ["converters"]
arguments = { limit = 5 }
[converters.fails]
run = "function:good:fails"
path = ["converters"]
sandbox = "limits"
[converters.broken]
run = "python:absent:Any"
[converters.wrong]
run = "python:good:Declares"
path = ["converters"]
arguments = { limit = "five" }
[converters.files]
"""
GOOD = """\
import os
import subprocess

class Good:
    version = "2.1"

    def convert(self, source, context):
        context.log(f"reading {source.name} as {os.getuid()}")
        return [{"text": source.read_text(), "limit": context.arguments["limit"]}, {"uid": os.getuid()}]

class Declares:
    arguments_schema = {"limit": {"type": "integer"}}

    def convert(self, source, context):
        return {}

def fails(path, arguments):
    subprocess.run(["true"], check=True)
    raise ValueError("line 3: no value")

def names(path, arguments):
    inside = [os.path.join(top, each) for top, folders, files in os.walk(path) for each in folders + files]
    return {"names": sorted(os.path.relpath(each, path) for each in inside)}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive with two entries of ``csv``."""
    folder = tmp_path / "archive"
    with make(folder, Clock(), TOML) as archive:
        commit(archive, capture(b"1", converter="csv"), capture(b"2", converter="csv"))
    (folder / "converters" / "good.py").write_text(GOOD)
    return folder


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_list_tells_what_each_converter_runs(root: Path) -> None:
    ran = archivefs("converter", "list", "--json", "--archive", root)
    first = {"converter": "csv", "run": "python:good:Good", "sandbox": "strict", "priority": 5, "entries": 2}
    rows = lines(ran.out)
    assert rows[0] == first | {"code": ""}
    assert [row["sandbox"] for row in rows] == ["strict", "limits", "strict", "strict", ""]
    text = archivefs("converter", "list", "--archive", root).out
    assert "python:good:Good" in text
    assert "(archive only)" in text


def test_show_tells_every_key(root: Path) -> None:
    facts = json.loads(archivefs("converter", "show", "csv", "--json", "--archive", root).out)
    assert (facts["run"], facts["arguments"], facts["versions"]) == ("python:good:Good", {"limit": 5}, [])
    assert facts["timeout_seconds"] == 300
    assert "sandbox              strict" in archivefs("converter", "show", "csv", "--archive", root).out
    ran = archivefs("converter", "show", "cvs", "--archive", root)
    assert (ran.code, "it has: broken, csv, fails, files, wrong" in ran.err) == (15, True)


def test_check_loads_and_advises(root: Path) -> None:
    ran = archivefs("converter", "check", "csv", "--archive", root)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"{root}/converters/good.py:18: subprocess.run: starts a program; its input must not come from the "
        "source",
        "csv version 2.1 loads, sandbox strict; 1 call to look at",
    ]
    facts = json.loads(archivefs("converter", "check", "csv", "--json", "--archive", root).out)
    assert (facts["version"], facts["advice"][0]["line"], len(facts["code"])) == ("2.1", 18, 64)


def test_check_of_what_does_not_load_says_why(root: Path) -> None:
    ran = archivefs("converter", "check", "broken", "--archive", root)
    assert ran.code == 40
    assert "the converter does not load: ModuleNotFoundError: No module named 'absent'" in ran.err
    assert archivefs("converter", "check", "files", "--archive", root).code == 9
    ran = archivefs("converter", "check", "wrong", "--archive", root)
    assert (ran.code, "arguments.limit: is 'five', must be a integer" in ran.err) == (40, True)


def test_test_prints_reports_and_log_and_changes_nothing(root: Path, tmp_path: Path) -> None:
    before = files_below(root)
    file = tmp_path / "unit 1.csv"
    file.write_text("measured")
    ran = archivefs("converter", "test", "csv", file, "--archive", root)
    assert ran.code == 0
    assert '"text": "measured"' in ran.out
    assert ran.err.startswith("reading unit 1.csv as ")
    assert ran.err.endswith("2 reports\n")
    facts = json.loads(archivefs("converter", "test", "csv", file, "--json", "--archive", root).out)
    assert facts["outcome"] == "success"
    assert facts["reports"][0] == {"text": "measured", "limit": 5}
    assert (facts["version"], "error" in facts) == ("2.1", False)
    ran = archivefs("converter", "test", "fails", file, "--archive", root)
    assert ran.code == 43
    assert "failed: ValueError: line 3: no value (good.py:19)" in ran.err
    assert "Traceback" in ran.err
    assert files_below(root) == before
    assert file.read_text() == "measured"


def test_test_takes_what_the_kind_of_the_converter_is_and_follows_no_link(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "panel 1"
    (folder / "images").mkdir(parents=True)
    (folder / "a.csv").write_text("measured")
    (folder / "images/top").symlink_to(tmp_path)
    (folder / "root").symlink_to("/")
    os.mkfifo(folder / "images/pipe")
    with (root / "archive.toml").open("a") as toml:
        toml.write(
            '[converters.panel]\nkind = "folder"\nrun = "function:good:names"\npath = ["converters"]\n'
        )
    ran = archivefs("converter", "test", "panel", folder, "--json", "--archive", root)
    assert json.loads(ran.out)["reports"] == [{"names": ["a.csv", "images"]}]
    ran = archivefs("converter", "test", "panel", folder / "a.csv", "--archive", root)
    assert (ran.code, f'{folder}/a.csv is a file; the kind of "panel" is "folder"' in ran.err) == (2, True)
    ran = archivefs("converter", "test", "csv", folder, "--archive", root)
    assert (ran.code, f'{folder} is a folder; the kind of "csv" is "file"' in ran.err) == (2, True)


# -- the sandbox of an ordinary user -------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


USER = 54321
IDENTITY = """\
import os
from pathlib import Path

def convert(path, arguments):
    status = Path("/proc/self/status").read_text()
    forks = 0
    try:
        while forks < 50:
            if os.fork() == 0:
                os.pause() if hasattr(os, "pause") else __import__("time").sleep(60)
            forks += 1
    except BlockingIOError:
        pass
    words = dict(line.split(":\\t", 1) for line in status.splitlines() if ":\\t" in line)
    seen = [each for each in ("/etc/passwd", "/home", "/root/.bashrc") if os.path.exists(each)]
    return {"caps": int(words["CapEff"], 16), "forks": forks, "uid": os.getuid(), "seen": seen,
            "unshared": os.system("unshare --user true 2>&1"), "net": sorted(os.listdir("/sys/class/net"))
            if os.path.exists("/sys/class/net") else []}
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("user", [0, USER], ids=["root", "an ordinary user"])
def test_root_and_ordinary_users_get_the_same_sandbox(open_folder: Path, user: int) -> None:
    root, file = open_folder / "archive", open_folder / "unit.csv"
    table = '[converters.csv]\nrun = "function:identity:convert"\npath = ["converters"]\nprocesses = 10\n'
    make(root, Clock(), "schema_version = 1\n" + table).close()
    (root / "converters" / "identity.py").write_text(IDENTITY)
    file.write_text("measured")
    for each in [root, *root.rglob("*")]:
        os.chown(each, user, user)
    command = [sys.executable, "-m", "archivefs.cli.main", "--archive", str(root)]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "TMPDIR": str(open_folder),
    }
    open_folder.chmod(0o777)
    done = subprocess.run(
        [*as_user(user), *command, "converter", "test", "--json", "csv", str(file)],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)["reports"]
    assert report["caps"] == 0
    assert report["uid"] == 65534
    assert report["seen"] == []
    assert report["net"] == []
    assert report["unshared"] != 0
    assert 5 <= report["forks"] < 10


def as_user(user: int) -> list[str]:
    """The beginning of a command that another user runs, who sees the interpreter wherever it lies."""
    if user == 0:
        return []
    folders = sorted({ROOT, Path(sys.prefix), Path(sys.base_prefix)})
    parents = sorted({parent for each in folders for parent in each.parents if len(parent.parts) > 1})
    closed = [parent for parent in parents if not parent.stat().st_mode & 0o001]
    bind = list[str]()
    if closed:
        bind += [word for each in closed for word in ("--perms", "0755", "--tmpfs", str(each))]
        bind += [word for each in parents for word in ("--perms", "0755", "--dir", str(each))]
        bind += [word for each in folders for word in ("--bind", str(each), str(each))]
    return [
        "bwrap", "--dev-bind", "/", "/", *bind, "--cap-add", "ALL",
        "setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--inh-caps=-all",
        "--ambient-caps=-all", "--bounding-set=-all",
    ]  # fmt: skip


# -- advice --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "calls"),
    [
        ("import os\nos.system('x')", ["os.system"]),
        ("from os import system as s\ns('x')", ["os.system"]),
        ("import subprocess as sp\nsp.check_output(['x'])", ["subprocess.check_output"]),
        ("import urllib.request\nurllib.request.urlopen('x')", ["urllib.request.urlopen"]),
        ("import requests\nrequests.Session().get('x')", ["requests.Session"]),
        ("import yaml\nyaml.load(x)\nyaml.load(x, Loader=yaml.SafeLoader)\nyaml.safe_load(x)", ["yaml.load"]),
        ("open('x')\nopen('x', 'rb')\nopen('x', mode='w')\nopen('x', m)", ["open", "open"]),
        ("p.open()\np.open('a')\np.read_text()\np.write_text('x')", [".open", ".write_text"]),
        ("eval('1')\nexec('1')\nre.compile('1')", ["eval", "exec"]),
        ("import socket\nsocket.create_connection(x)", ["socket.create_connection"]),
        ("import json, re, csv\njson.loads(x)\nre.compile('y')\ncsv.reader(x)", []),
        ("def broken(:", [""]),
        ("\0", [""]),
    ],
)
def test_advice_names_the_calls_to_look_at(tmp_path: Path, code: str, calls: list[str]) -> None:
    file = tmp_path / "conv.py"
    file.write_text(code)
    found = list(read(file))
    assert [each.call for each in found] == calls
    assert all(each.why and each.line > 0 for each in found)
