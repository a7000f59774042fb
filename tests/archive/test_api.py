"""The face for programs, without a mount: the examples of docs/api.md as printed, and what stops a job."""

import contextlib
import io
import re
import threading
from pathlib import Path

import pytest
from archive_parts import ROOT, capture, commit

from archivefs.api import OpenArchive, open_archive
from archivefs.archive import Archive
from archivefs.errors import (
    ArchiveError,
    ConfigError,
    DestinationExistsError,
    JobError,
    UnknownConverterError,
)
from archivefs.jobs.replaying import CHUNK
from archivefs.states import JobState

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


@pytest.fixture
def archive(root: Path) -> OpenArchive:
    return open_archive(root)


def state(archive: OpenArchive) -> str:
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


def test_a_source_is_not_restored_over_a_file(archive: OpenArchive, tmp_path: Path) -> None:
    (entry,) = archive.entries(["name=SN105.csv"])
    path = archive.restore(entry["id"], tmp_path / "out")
    assert path.read_text() == UNIT.format("SN105", "OL", "FAIL")
    with pytest.raises(DestinationExistsError):
        archive.restore(entry["id"], tmp_path / "out")


def test_what_progress_raises_pauses_the_job_and_comes_out(archive: OpenArchive) -> None:
    with Archive(archive.root) as opened:
        for number in range(2 * CHUNK):
            source = UNIT.format(f"SN{number}", "9.987", "PASS").encode()
            commit(opened, capture(source, b"more.csv", "ict-csv", imported=True))

    def progress(current: int, total: int, id_: str | None) -> None:
        raise LookupError(f"{current} of {total}: {id_}")

    with pytest.raises(LookupError, match=f"{CHUNK} of {2 * CHUNK + 3}: "):
        archive.reprocess("converter=ict-csv", progress=progress)
    assert state(archive) == JobState.PAUSED
    assert len(list(archive.entries("status=archived"))) >= 3


def test_in_another_thread_the_job_waits_for_a_mount(archive: OpenArchive) -> None:
    raised: list[Exception] = []

    def run() -> None:
        try:
            archive.reprocess("converter=ict-csv")
        except ArchiveError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [type(error) for error in raised] == [JobError]
    assert state(archive) == JobState.QUEUED


def test_options_that_there_are_not_are_refused_before_anything_is_done(archive: OpenArchive) -> None:
    with pytest.raises(TypeError, match="no option speed; allowed are: code, arguments"):
        archive.reprocess("converter=ict-csv", speed=5)  # type: ignore[call-arg]
    with pytest.raises(ArchiveError, match='code: is "path:/nowhere"'):
        archive.reprocess("converter=ict-csv", code="/nowhere")
    with Archive.open_for_reading(archive.root) as opened:
        assert opened.reader.jobs.all(1) == []


def test_a_setting_is_given_as_it_is(archive: OpenArchive) -> None:
    """A text that looks like a number stays a text: the file has no field that "5" separates."""
    result = archive.reprocess("name=SN101.csv", settings={"delimiter": "5"}, promote=False)
    assert (result["successful"], result["failed"]) == (0, 1)
    (entry,) = archive.entries("name=SN101.csv")
    assert archive.entry(entry["id"])["attempts"][0]["arguments"]["delimiter"] == "5"


def test_policies_are_set_and_taken_out_and_what_is_wrong_is_refused(archive: OpenArchive) -> None:
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
