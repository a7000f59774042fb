"""search/: a query is a folder, what it selects is in it, and what is wrong with one is said."""

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from mount_parts import Make, Mounted, an_archive, config, converter, names_in, run

from archivefs import query
from archivefs.archive import Archive
from archivefs.operations import Capture

CSV = converter("csv", "python:good:Gate", patterns=["*.csv"], arguments={"limit": 3})
FILES = converter("files")
ODD = [
    b"100% sure.txt", b"50%25.txt", b'say "yes".txt', b"it's.txt", b"a:b.txt", b"back\\slash.txt", b"[1].txt",
    b"what?.txt", b"a*b.txt", b"a<b>|c.txt", "m\u00e5ling.txt".encode(), b"\xff\xfe.txt", b"two\nlines.txt",
    b"x=y z.txt", b"-.txt",
]  # fmt: skip


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with an_archive(tmp_path_factory.mktemp("search"), config(CSV, FILES)) as archive:
        for number in range(3):
            archive.drop("csv", f"good-{number}.csv", b"serial,1\n%d\n" % number)
        archive.drop("csv", "bad.csv", b"serial,2\n")
        for name in ODD:
            archive.drop("files", os.fsdecode(name), b"odd " + name)
        for number in range(3):
            archive.wait_for_status(f"good-{number}.csv", "success")
        archive.wait_for_status("bad.csv", "failed")
        archive.wait_for("the inbox being empty", lambda: not any((archive.inbox / "csv").iterdir()))
        yield archive


def refused(number: int, action: Callable[[], object]) -> None:
    """The action must fail with exactly this errno."""
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        action()
    assert caught.value.errno == number


def sources(station: Mounted, words: str) -> set[bytes]:
    """The names of the sources that a query's folder shows."""
    folder = os.fsencode(station.point / "search") + b"/" + os.fsencode(words)
    return {label.split(b"_", 2)[2] for label in os.listdir(folder)}  # noqa: PTH208  names are bytes


def selected(station: Mounted, words: str) -> set[bytes]:
    """The same, of the library."""
    with Archive.open_as_it_is(station.root) as archive:
        return {bytes(row.name) for row in archive.reader.search(query.parse(words, archive.zone))}


def as_component(text: bytes) -> str:
    """Each byte that could mean anything else, escaped."""
    return quote(text, safe="")


@pytest.mark.parametrize(
    "words",
    [
        "status=failed", "converter=csv status=success", "status=failed text=bad", "text=GOOD",
        "name=*.csv", "sha256=abcdef", "report=yes", "converter=nobody", "limit=2 converter=csv",
        "name=good-[01].csv",
        "text='a:b'", "converter=files", "version=9", "name=*.csv,it\"'\"s.txt",
    ],
)  # fmt: skip
def test_a_query_is_a_folder_of_what_it_selects(station: Mounted, words: str) -> None:
    assert sources(station, words) == selected(station, words)


def test_an_entry_there_is_as_everywhere(station: Mounted) -> None:
    row = station.only("bad.csv")
    (folder,) = (station.point / "search" / "status=failed").iterdir()
    other = station.entry_dir(row)
    assert folder.name == os.path.basename(os.fsdecode(station.places(row, "failed")[0]))  # noqa: PTH119  of bytes
    assert names_in(folder) == names_in(other)
    for name in ("bad.csv", "entry.json", "error.txt", "attempts/1/attempt.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
        assert (folder / name).stat().st_ino == (other / name).stat().st_ino
    assert folder.stat().st_ino != other.stat().st_ino
    assert os.getxattr(folder, "user.archivefs.id") == row.id.encode()
    assert (folder.parent / row.id / "bad.csv").read_bytes() == (other / "bad.csv").read_bytes()


@pytest.mark.parametrize("name", ODD)
def test_any_name_is_found_whatever_a_shell_or_samba_makes_of_it(station: Mounted, name: bytes) -> None:
    pattern = as_component(name.replace(b"[", b"[[]").replace(b"*", b"[*]").replace(b"?", b"[?]"))
    assert sources(station, f"name={pattern}") == {name}
    if name.isascii() or b"m" in name:
        assert sources(station, f"text={as_component(name)} converter=files") == {name}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("text=100%", {b"100% sure.txt"}), ("text='100% sure'", {b"100% sure.txt"}),
        ("text=50%2525", {b"50%25.txt"}), ("text=%22yes%22", {b'say "yes".txt'}),
        ("name=%2A%3C%2A", {b"a<b>|c.txt"}), ("name=%2a%3c%2a", {b"a<b>|c.txt"}),
        ("text=100%25%20sure", {b"100% sure.txt"}), ("text=%zz", set()),
        ("text=x%3Dy%20z", {b"x=y z.txt"}), ("name=bad.csv%2Cgood-1.csv", {b"bad.csv", b"good-1.csv"}),
    ],
)  # fmt: skip
def test_a_percent_sign_and_two_digits_are_a_letter_and_any_other_is_itself(
    station: Mounted, words: str, found: set[bytes]
) -> None:
    assert sources(station, words) == found


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ("stauts=failed", 'unknown key \\"stauts\\": did you mean \\"status\\"?'),
        ("status=fail", "must be one of pending, converting"),
        ("status=failed text='open", "is not quoted well"),
        ("text=%FF", "not UTF-8"),
        ("min_size=big", "must be a size"),
    ],
)
def test_what_is_no_query_is_refused_and_last_error_says_why(
    station: Mounted, words: str, phrase: str
) -> None:
    refused(errno.EINVAL, (station.point / "search" / words).stat)
    told = (station.point / "control" / "last-error").read_text()
    assert json.loads(told)["command"] == "search"
    assert phrase in told


@pytest.mark.parametrize("name", ["desktop.ini", ".Trash-0", "failed", ".hidden=1", "x"])
def test_what_programs_look_for_everywhere_is_just_not_there(station: Mounted, name: str) -> None:
    refused(errno.ENOENT, (station.point / "search" / name).stat)


def test_the_folder_helps_who_looks_into_it(station: Mounted) -> None:
    names = names_in(station.point / "search")
    assert {"README.txt", "status=failed limit=100", "converter=csv limit=100"} <= set(names)
    readme = (station.point / "search" / "README.txt").read_text()
    assert all(f"  {key:<10} {meaning}\n" in readme for key, meaning in query.MEANING.items())
    for name in names:
        if name != "README.txt":
            assert sources(station, name) == selected(station, name)
    assert "search/" in (station.point / "README.txt").read_text()


def test_nothing_can_be_written_there(station: Mounted) -> None:
    folder = station.point / "search"
    refused(errno.EROFS, (folder / "status=failed" / "x").touch)
    refused(errno.EEXIST, (folder / "converter=new").mkdir)
    refused(errno.EROFS, (folder / "new").mkdir)
    refused(errno.ENOENT, (folder / "status=failed" / "120000_abcdef_x").stat)
    refused(errno.ENOENT, (folder / "status=success" / station.only("bad.csv").id).stat)


def test_a_shell_does_what_the_manual_says(station: Mounted, tmp_path: Path) -> None:
    script = """
        set -e; cd "$1/search"
        ls "converter=csv status=failed text=BAD"
        cp -r "name=good-1.csv" "$2/copy"
        find "name=*.csv" -name error.txt
        cd "status=failed" && ls
    """
    done = subprocess.run(
        ["bash", "-c", script, "-", station.point, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert [line.rsplit("_", 1)[-1] for line in lines] == ["bad.csv", "bad.csv/error.txt", "bad.csv"]
    (copied,) = (tmp_path / "copy").iterdir()
    assert (copied / "good-1.csv").read_bytes() == b"serial,1\n1\n"


def test_entries_of_equal_label_are_told_apart_and_many_are_paged(mounted: Make) -> None:
    """1300 entries of two converters in one second: each name twice."""
    station = mounted(config(converter("one"), converter("two")))
    station.umount()
    count, when = 650, time.time_ns() // 10**9 * 10**9
    with Archive(station.root, clock=lambda: when) as archive:
        for name in ("one", "two"):
            outcomes, _ = archive.commit(
                [Capture(name, b"unit-%d.csv" % number, b"%d" % number, when) for number in range(count)]
            )
            assert not any(isinstance(each, Exception) for each in outcomes)
    station.mount()
    folder = station.point / "search" / "name=unit-*"
    names = names_in(folder)
    assert len(set(names)) == len(names) == 2 * count
    labels = [name for name in names if "_" in name]
    assert len(labels) == count
    assert set(labels) == set(names_in(station.point / "search" / "name=unit-* converter=one"))
    shown = {(folder / name / "entry.json").stat().st_ino for name in names}
    assert len(shown) == 2 * count
    assert len(names_in(station.point / "search" / "name=unit-* limit=501")) == 501
    run("find", folder, "-name", "*.csv", "-type", "f")


def test_what_is_retried_leaves_a_query_and_comes_back(mounted: Make) -> None:
    station = mounted(config(CSV))
    station.drop("csv", "bad.csv", b"serial,2\n")
    station.wait_for_status("bad.csv", "failed")
    failed, twice = (station.point / "search" / words for words in ("status=failed", "name=bad.csv"))
    assert len(names_in(failed)) == 1
    (entry,) = twice.iterdir()
    assert names_in(entry / "attempts") == ["1"]
    (station.point / "control" / "retry").write_text("status=failed")
    station.wait_for("a second attempt", lambda: names_in(entry / "attempts") == ["1", "2"])
    station.wait_for("the end of it", lambda: len(names_in(failed)) == 1)
