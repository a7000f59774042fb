"""Both faces for programs, without a mount: the examples of docs/api.md as printed, and what stops a job."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from archive_parts import ROOT, capture, child_command, child_environment, commit, run_child

import archivefs
from archivefs import blocking, watching
from archivefs.archive import Archive
from archivefs.errors import (
    ArchiveError,
    ConfigError,
    ControlError,
    DestinationExistsError,
    UnknownConverterError,
)
from archivefs.events import Configured
from archivefs.jobs import running
from archivefs.jobs.job import CreateJob, Job, describe, get
from archivefs.jobs.replaying import CHUNK
from archivefs.states import JobState
from archivefs.store.journal import Journal

EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "api.md").read_text()
UNIT = """serial,{}
part number,PCB-4471-C
station,ICT-03
operator,mbauer
started,2026-11-21T09:14:22+00:00
status,COMPLETE

step,net,value,unit,low,high,result
1,R101,{},kOhm,9.9,10.1,{}
END,1
"""
READ = '"value": read_number("value", value),'
FIXED = '"value": None if value == "OL" else read_number("value", value),\n        "overload": value == "OL",'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive with three imported sources, of which the converter cannot read one; beside it the fix."""
    root = tmp_path / "tests"
    Archive.create(root, (EXAMPLES / "archive.toml").read_text())
    code = (EXAMPLES / "converters" / "ict_csv.py").read_text()
    assert READ in code
    for folder, text in ((root / "converters", code), (tmp_path / "new", code.replace(READ, FIXED))):
        folder.mkdir(exist_ok=True)
        (folder / "ict_csv.py").write_text(text)
    (tmp_path / "out").mkdir()
    with Archive(root) as archive:
        for values in (("SN101", "9.987", "PASS"), ("SN105", "OL", "FAIL"), ("SN109", "10.1", "FAIL")):
            source = UNIT.format(*values).encode()
            commit(archive, capture(source, f"{values[0]}.csv".encode(), "ict-csv", imported=True))
    return root


def fill(root: Path, count: int) -> None:
    """Further sources that the converter can read."""
    with Archive(root) as archive:
        source = UNIT.format("SN200", "9.987", "PASS").encode()
        more = [capture(source, b"more.csv", "ict-csv", imported=True) for _ in range(count)]
        commit(archive, *more)


def slow(root: Path) -> None:
    """Let the converter take longer than any test."""
    file = root / "converters" / "ict_csv.py"
    code = file.read_text()
    assert READ in code
    file.write_text(code.replace(READ, f"{READ[:-1]} if not __import__('time').sleep(600) else 0,"))


@pytest.fixture
def archive(root: Path) -> blocking.Archive:
    return blocking.Archive(root)


def state(archive: blocking.Archive) -> str:
    """Of the latest job."""
    with Archive.open_for_reading(archive.root) as opened:
        return opened.reader.jobs.all(1)[0].state


def test_the_examples_of_the_page_print_what_it_says(root: Path) -> None:
    found = re.findall(r"(?ms)^```python\n(.*?)^```\n\n```\n(.*?)^```$", PAGE)
    assert len(found) == len(re.findall(r"(?m)^```python$", PAGE)) > 4
    names: dict[str, object] = {}
    for code, printed in found:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code.replace("/srv/", f"{root.parent}/"), names)
        assert out.getvalue() == printed


def test_a_source_is_not_restored_over_a_file(archive: blocking.Archive, tmp_path: Path) -> None:
    (entry,) = archive.entries(["name=SN105.csv"])
    path = archive.restore(entry["id"], tmp_path / "out")
    assert path.read_text() == UNIT.format("SN105", "OL", "FAIL")
    with pytest.raises(DestinationExistsError):
        archive.restore(entry["id"], tmp_path / "out")


def test_what_progress_raises_pauses_the_job_and_comes_out(archive: blocking.Archive) -> None:
    fill(archive.root, 2 * CHUNK)

    def progress(current: int, total: int, id_: str | None) -> None:
        raise LookupError(f"{current} of {total}: {id_}")

    with pytest.raises(LookupError, match=f"{CHUNK} of {2 * CHUNK + 3}: "):
        archive.reprocess("converter=ict-csv", progress=progress)
    assert state(archive) == JobState.PAUSED
    assert len(list(archive.entries("status=archived"))) >= 3


def test_a_job_is_done_in_any_thread(archive: blocking.Archive) -> None:
    done = list[dict[str, object]]()
    thread = threading.Thread(target=lambda: done.append(archive.reprocess("converter=ict-csv")))
    thread.start()
    thread.join()
    assert [(each["successful"], each["failed"]) for each in done] == [(2, 1)]


def test_options_that_there_are_not_are_refused_before_anything_is_done(archive: blocking.Archive) -> None:
    with pytest.raises(TypeError, match="no option speed; allowed are: code, arguments"):
        archive.reprocess("converter=ict-csv", speed=5)  # type: ignore[call-arg]
    with pytest.raises(ArchiveError, match='code: is "path:/nowhere"'):
        archive.reprocess("converter=ict-csv", code="/nowhere")
    with Archive.open_for_reading(archive.root) as opened:
        assert opened.reader.jobs.all(1) == []


def test_a_setting_is_given_as_it_is(archive: blocking.Archive) -> None:
    """A text that looks like a number stays a text: the file has no field that "5" separates."""
    result = archive.reprocess("name=SN101.csv", settings={"delimiter": "5"}, promote=False)
    assert (result["successful"], result["failed"]) == (0, 1)
    (entry,) = archive.entries("name=SN101.csv")
    assert archive.entry(entry["id"])["attempts"][0]["arguments"]["delimiter"] == "5"


def test_policies_are_set_and_taken_out_and_what_is_wrong_is_refused(archive: blocking.Archive) -> None:
    (change,) = archive.set_policy("ict-csv", max_size="10 GB")
    assert change["key"] == "converters.ict-csv.retention"
    assert archive.policy("ict-csv").max_size == 10**10
    archive.set_policy("ict-csv", days=30)
    archive.set_policy("ict-csv", max_size=None)
    assert (archive.policy("ict-csv").days, archive.policy("ict-csv").max_size) == (30, None)
    with pytest.raises(ConfigError):
        archive.set_policy("ict-csv", days=0)
    with pytest.raises(UnknownConverterError):
        archive.policy("ict")
    with (archive.root / "archive.toml").open("a") as file:
        file.write('[converters."a.b"]\n')
    archive.set_policy("a.b", days=7)
    assert archive.policy("a.b").days == 7


def test_a_policy_is_set_whole_or_not_at_all(archive: blocking.Archive) -> None:
    archive.set_policy("ict-csv", max_size="10 GB")
    before = (archive.root / "archive.toml").read_bytes()
    with pytest.raises(ConfigError):
        archive.set_policy("ict-csv", keep_statuses=["failed"], days=0, max_size=None)
    assert (archive.root / "archive.toml").read_bytes() == before
    archive.set_policy("ict-csv", keep_statuses=["failed"], days=90, max_size=None)
    policy = archive.policy("ict-csv")
    assert (policy.keep_statuses, policy.days, policy.max_size) == (["failed"], 90, None)
    noted = [event for event in Journal(archive.root / "journal").read() if isinstance(event, Configured)]
    assert len(noted) == 2
    assert archive.set_policy("ict-csv") == []


def test_a_priority_that_there_is_not_is_refused(archive: blocking.Archive) -> None:
    for ask in (archive.reprocess, archive.reproduce):
        with pytest.raises(ControlError, match=r'priority: is "10", must be 0 \(most urgent\) to 9'):
            ask("converter=ict-csv", priority=10)


def test_a_job_of_a_journal_that_knows_no_priorities_has_that_of_its_kind(archive: blocking.Archive) -> None:
    with Archive(archive.root) as opened:
        works: list[tuple[str, dict[str, object]]] = [
            ("reprocess", {"query": ["name=SN101.csv"]}),
            ("verify", {}),
        ]
        first, second = [opened.commit_one(CreateJob(work, request)) for work, request in works]
        assert describe(get(opened, first))["priority"] == 8
        assert describe(get(opened, second))["priority"] == 5
    assert watching.finish(archive.root, first, lambda _: None)["successful"] == 1


# -- on trio -------------------------------------------------------------------------------------------------


async def at_rest(root: Path) -> None:
    """No thread works, no process of the archive's runs, nothing of it is open or locked."""
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    await until(lambda: not workers(root))  # the kernel ends them with the one that was ended
    assert open_files(root) == []
    Archive(root).close()


def open_files(root: Path) -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found.append(str(link.readlink()))
    return [path for path in found if path.startswith(str(root))]


def workers(root: Path) -> list[bytes]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if os.fsencode(root / "staging") in command:
                found.append(command)
    return found


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  of other processes
            await trio.sleep(0.02)


async def test_entries_come_by_pages_and_a_loop_may_be_left(root: Path) -> None:
    fill(root, 2 * blocking.PAGE)
    everything = [each["id"] for each in blocking.Archive(root).entries()]
    assert everything == sorted(everything, reverse=True)
    assert len(set(everything)) == 2 * blocking.PAGE + 3
    archive = archivefs.Archive(root)
    assert [each["id"] async for each in archive.entries()] == everything
    count = blocking.PAGE + 7
    query = f"converter=ict-csv limit={count}"
    assert [each["id"] async for each in archive.entries(query)] == everything[:count]
    async for entry in archive.entries("converter=ict-csv"):
        assert entry["id"] == everything[0]
        break
    await at_rest(root)
    seen = list[str]()
    with trio.CancelScope() as scope:
        async for entry in archive.entries():
            seen.append(entry["id"])
            if len(seen) == count:
                scope.cancel()
    assert (seen, scope.cancelled_caught) == (everything[:count], True)
    await at_rest(root)
    with pytest.raises(archivefs.ArchiveError, match="unknown key"):
        [each async for each in archive.entries("stauts=failed")]
    with pytest.raises(archivefs.ArchiveError, match="is not quoted well"):
        archive.entries("name='")
    await at_rest(root)


async def test_what_is_captured_while_a_loop_runs_does_not_come(root: Path) -> None:
    fill(root, blocking.PAGE)
    found = 0
    async for _ in archivefs.Archive(root).entries():
        if not found:
            await trio.to_thread.run_sync(fill, root, 10)
        found += 1
    assert found == blocking.PAGE + 3


async def test_progress_is_told_in_the_task_of_the_caller(root: Path) -> None:
    fill(root, 3 * CHUNK)
    total = 3 * CHUNK + 3
    archive, told, inside = archivefs.Archive(root), list[tuple[int, int, str | None]](), 0
    newest = (await anext(archive.entries()))["id"]

    async def progress(current: int, total: int, id_: str | None) -> None:
        nonlocal inside
        assert inside == 0
        inside += 1
        told.append((current, total, (await archive.entry(id_ or ""))["id"]))
        inside -= 1

    result = await archive.reprocess("converter=ict-csv", progress=progress)
    assert (result["successful"], result["failed"]) == (total - 1, 1)
    assert told == sorted(told)
    assert told[-1] == (total, total, newest)
    plain = list[tuple[int, int, str | None]]()
    result = await archivefs.reprocess(root, "name=more.csv limit=5", progress=lambda *now: plain.append(now))
    oldest = [each["id"] async for each in archive.entries("name=more.csv")][-5]
    assert (result["job"], plain[-1]) == (2, (5, 5, oldest))
    assert (await archive.reproduce("name=more.csv limit=5", progress=lambda *now: None))["reproduced"] == 5
    await at_rest(root)


async def test_what_an_async_progress_raises_pauses_the_job_and_comes_out_as_it_is(root: Path) -> None:
    fill(root, 2 * CHUNK)

    async def progress(current: int, total: int, id_: str | None) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        await archivefs.reprocess(root, "converter=ict-csv", progress=progress)
    assert state(blocking.Archive(root)) == JobState.PAUSED
    await at_rest(root)


async def test_a_cancelled_job_is_paused_at_once_and_goes_on_later(root: Path) -> None:
    slow(root)
    archive = archivefs.Archive(root)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archive.reprocess, "converter=ict-csv")
        await until(lambda: workers(root))
        with pytest.raises(archivefs.ArchiveError, match="is in use by process"):
            Archive(root)
        nursery.cancel_scope.cancel()
        began = trio.current_time()
    assert trio.current_time() - began < 60  # a conversion takes ten minutes
    assert state(blocking.Archive(root)) == JobState.PAUSED
    assert {
        len((await archive.entry(each["id"])).get("attempts", [])) async for each in archive.entries()
    } == {0}
    await at_rest(root)
    (root / "converters" / "ict_csv.py").write_text((EXAMPLES / "converters" / "ict_csv.py").read_text())
    with Archive(root) as opened:
        row = opened.reader.jobs.all(1)[0]
        change, _ = running.decide(opened, Job(root, row), JobState(row.state), "resume", None)
        opened.commit_one(change)
    result = await trio.to_thread.run_sync(watching.finish, root, 1, lambda _: None)
    assert (result["successful"], result["failed"]) == (2, 1)


BLOCKING = """
import sys
from archivefs import blocking
blocking.Archive(sys.argv[1]).reprocess("converter=ict-csv")
"""
ON_TRIO = """
import archivefs, sys, trio
trio.run(archivefs.reprocess, sys.argv[1], "converter=ict-csv")
"""


@pytest.mark.parametrize("script", [BLOCKING, ON_TRIO], ids=["blocking", "trio"])
def test_ctrl_c_pauses_the_job_and_ends_the_program(root: Path, script: str) -> None:
    slow(root)
    with subprocess.Popen(
        child_command(script, [root]), env=child_environment(), stderr=subprocess.PIPE
    ) as ran:
        try:
            trio.run(until, lambda: workers(root))
            ran.send_signal(signal.SIGINT)
            said = ran.communicate(timeout=60)[1].decode()
        finally:
            ran.kill()
    assert ran.returncode != 0
    assert ("job 1 is paused" if script is BLOCKING else "KeyboardInterrupt") in said
    assert state(blocking.Archive(root)) == JobState.PAUSED
    trio.run(until, lambda: not workers(root))


async def test_a_slow_replay_that_waits_is_paused_at_once(root: Path) -> None:
    seen = trio.Event()
    async with trio.open_nursery() as nursery:
        ask = archivefs.Archive(root).reprocess
        nursery.start_soon(lambda: ask("name=SN*", rate=0.001, progress=lambda *_: seen.set()))
        with trio.fail_after(60):
            await seen.wait()
        nursery.cancel_scope.cancel()
        began = trio.current_time()
    assert trio.current_time() - began < 60  # one entry in a quarter of an hour
    assert state(blocking.Archive(root)) == JobState.PAUSED
    await at_rest(root)


async def test_a_call_that_is_cancelled_before_it_began_asks_for_nothing(root: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await archivefs.reprocess(root, "converter=ict-csv")
    assert scope.cancelled_caught
    with Archive.open_for_reading(root) as opened:
        assert opened.reader.jobs.all(1) == []


async def test_the_rest_is_what_the_blocking_face_gives(root: Path, tmp_path: Path) -> None:
    archive, same = archivefs.Archive(root), blocking.Archive(root)
    entry = await anext(archive.entries("name=SN105.csv"))
    assert await archive.entry(entry["id"]) == same.entry(entry["id"])
    assert (await archive.restore(entry["id"], tmp_path / "out")).read_text() == UNIT.format(
        "SN105", "OL", "FAIL"
    )
    with pytest.raises(DestinationExistsError):
        await archive.restore(entry["id"], tmp_path / "out")
    assert await archive.plan_reprocess("name=SN1*", rate=1) == same.plan_reprocess("name=SN1*", rate=1)
    (change,) = await archive.set_policy("ict-csv", days=30)
    assert change["new"] == {"days": 30}
    assert await archive.policy("ict-csv") == same.policy("ict-csv")
    assert (await archive.statistics())["by_status"] == {"archived": 3}
    with pytest.raises(archivefs.ArchiveError, match="is not an archive"):
        await archivefs.Archive(tmp_path).statistics()
    with pytest.raises(TypeError, match="no option speed"):
        await archive.reprocess("converter=ict-csv", speed=5)  # type: ignore[call-arg]


def test_a_command_does_not_import_what_is_for_programs() -> None:
    code = "import sys, archivefs.cli.main; print([m for m in sys.modules if m in sys.argv])"
    names = ["archivefs.api", "archivefs.blocking"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert ran.stdout == "[]\n"
    assert run_child("import archivefs; print(archivefs.blocking.Archive('x').root.name)").stdout == "x\n"
    with pytest.raises(AttributeError, match="no attribute 'Archives'"):
        getattr(archivefs, "Archives")  # noqa: B009  the one that mypy would see
