"""archive.toml: its defaults, and for each kind of mistake an error that teaches what is allowed."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archivefs import config
from archivefs.errors import ConfigError, NotAnArchiveError, UnknownConverterError

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "archive.toml"
FILE = "/data/archive/archive.toml"


def parse(toml: str) -> config.Config:
    return config.parse(("schema_version = 1\n" + toml).encode(), FILE)


def complaint(toml: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(toml.encode(), FILE)
    return str(caught.value)


def test_the_example_of_the_documentation_loads() -> None:
    loaded = config.parse(EXAMPLE.read_bytes(), str(EXAMPLE))
    assert set(loaded.converters) == {"ict-csv", "functional-xml", "burnin-log", "photos"}
    assert loaded.converters["ict-csv"].arguments == {"delimiter": ",", "retry_after_seconds": 60}
    assert loaded.converters["photos"].run == ""


def test_the_defaults_are_those_of_the_design() -> None:
    loaded = parse("[converters.files]")
    assert loaded.timezone == "UTC"
    assert loaded.reserve_bytes == 256 * 1024 * 1024
    assert ".*" in loaded.junk
    assert loaded.workers >= 1
    files = loaded.converters["files"]
    assert files == config.ConverterConfig(
        run="", path=[], patterns=[], arguments={}, priority=5, settle_seconds=2.0, timeout_seconds=300.0,
        memory_mb=512, max_retries=3, retry_delay_seconds=60.0, post_action="archive", compression_level=3,
        archive_sources=True, archive_reports=True,
    )  # fmt: skip


def test_every_key_of_the_design_is_read() -> None:
    loaded = parse("""
        timezone = "Europe/Oslo"
        reserve = "1.5 GB"
        junk = ["*.bak"]
        workers = 3
        [converters.ict]
        run = "python:my_converters.ict:IctConverter"
        path = ["converters"]
        patterns = ["*.csv"]
        arguments = { delimiter = "," }
        priority = 1
        settle_seconds = 0
        timeout_seconds = 1
        memory_mb = 64
        max_retries = 0
        retry_delay_seconds = 0.5
        post_action = "keep"
        compression_level = 19
        archive_reports = false
    """)
    assert (loaded.timezone, loaded.reserve_bytes, loaded.junk) == ("Europe/Oslo", 1_500_000_000, ("*.bak",))
    ict = loaded.converters["ict"]
    assert (ict.settle_seconds, ict.post_action, ict.archive_reports) == (0, "keep", False)


@pytest.mark.parametrize(
    "run", ["python:a.b:C", "function:pkg.mod:fn", "command:./convert --fast", "command:/usr/bin/env x"]
)
def test_the_three_kinds_of_converters_can_be_run(run: str) -> None:
    assert parse(f'[converters.a]\nrun = "{run}"').converters["a"].run == run


@pytest.mark.parametrize(
    ("toml", "key", "allowed"),
    [
        ("[", "not valid TOML", ""),
        ("", "schema_version", "allowed is 1; write schema_version = 1"),
        ("schema_version = 2", "schema_version", "is 2, allowed is 1; it was written for a newer archivefs"),
        ("schema_version = -1", "schema_version", "is -1, allowed is 1"),
        ("schema_version = false", "schema_version", "is False, allowed is 1"),
        ('schema_version = "1"', "schema_version", "is '1', allowed is 1"),
        ('schema_version = 1\ntimezone = "Mars/X"', "timezone", "is 'Mars/X', must be a zone name such as"),
        ('schema_version = 1\ntimezone = "../etc/passwd"', "timezone", "must be a zone name"),
        ('schema_version = 1\ntimezone = ""', "timezone", "must be a zone name"),
        ('schema_version = 1\ntimezone = "Europe"', "timezone", "must be a zone name"),
        ("schema_version = 1\ntimezone = 1", "timezone", "is 1; expected `str`"),
        ('schema_version = 1\nreserve = "much"', "reserve", 'is \'much\', must be a size such as "10 GB"'),
        ("schema_version = 1\nreserve = -1", "reserve", "is -1, must be a size"),
        ("schema_version = 1\nreserve = true", "reserve", "is True, must be a size"),
        ("schema_version = 1\nreserve_bytes = 5", "reserve_bytes", 'did you mean "reserve"?'),
        ("schema_version = 1\nworkers = 0", "workers", "is 0; expected `int` >= 1"),
        ("schema_version = 1\nworkers = 257", "workers", "is 257; expected `int` <= 256"),
        ('schema_version = 1\njunk = "*.tmp"', "junk", "is '*.tmp'; expected `array`"),
        ("schema_version = 1\njunk = [1]", "junk[0]", "expected `str`"),
        ('schema_version = 1\ntimezon = "UTC"', "timezon", 'unknown key, did you mean "timezone"?'),
        ("schema_version = 1\nxyz = 1", "xyz", "unknown key, allowed are: converters, junk, max_conc"),
        ("schema_version = 1\nconverters = 5", "converters", "must be tables, [converters.NAME]"),
        ("schema_version = 1\n[converters]\na = 5", "converters.a", "must be a table, [converters.a]"),
        ('schema_version = 1\n[converters."a b"]', "'a b'", "1 to 64 of A-Z a-z 0-9 . _ -"),
        ('schema_version = 1\n[converters."../x"]', "'../x'", "is not allowed"),
        ("schema_version = 1\n[converters.a]\nprority = 1", "converters.a.prority", 'you mean "priority"?'),
        ("schema_version = 1\n[converters.a]\nzzz = 1", "a.zzz", "allowed are: alarm_threshold, archive"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_file_the_key_and_what_is_allowed(toml: str, key: str, allowed: str) -> None:
    text = complaint(toml)
    assert text.startswith(f"{FILE}: ")
    assert key in text
    assert allowed in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("priority", "0", "is 0; expected `int` >= 1"),
        ("priority", "11", "is 11; expected `int` <= 10"),
        ("priority", '"high"', "is 'high'; expected `int`"),
        ("settle_seconds", "-1", "is -1; expected `float` >= 0"),
        ("settle_seconds", '"2s"', "is '2s'; expected `float`"),
        ("linger_seconds", "-0.5", "is -0.5; expected `float` >= 0"),
        ("timeout_seconds", "0", "is 0; expected `float` > 0"),
        ("memory_mb", "63", "is 63; expected `int` >= 64"),
        ("memory_mb", "1.5", "is 1.5; expected `int`"),
        ("max_retries", "-1", "is -1; expected `int` >= 0"),
        ("retry_delay_seconds", "-1", "is -1; expected `float` >= 0"),
        ("post_action", '"delete"', "is 'delete'; allowed are: archive, keep"),
        ("post_action", "1", "is 1"),
        ("compression_level", "0", "is 0; expected `int` >= 1"),
        ("compression_level", "20", "is 20; expected `int` <= 19"),
        ("archive_sources", "false", "is false, must be true; every source is archived"),
        ("archive_reports", '"no"', "is 'no'; expected `bool`"),
        ("patterns", '"*.csv"', "is '*.csv'; expected `array`"),
        ("patterns", "[1]", "expected `str`"),
        ("path", "[[]]", "expected `str`"),
        ("arguments", "5", "is 5; expected `object`"),
        ("run", "5", "is 5; expected `str`"),
        ("run", '"python"', 'must be "python:module:Class", "function:module:function" or "command:'),
        ("run", '"shell:ls"', "is 'shell:ls', must be \"python:module:Class\""),
        ("run", '"command: "', 'must be "python:module:Class"'),
        ("run", '"python:module"', 'must be "python:package.module:name"'),
        ("run", '"function:a/b:fn"', 'must be "function:package.module:name"'),
        ("run", '"python:a:b:c"', 'must be "python:package.module:name"'),
    ],
)
def test_a_mistake_in_a_converter_names_its_table(key: str, value: str, allowed: str) -> None:
    text = complaint(f"schema_version = 1\n[converters.ict-csv]\n{key} = {value}")
    assert text.startswith(f"{FILE}: converters.ict-csv.{key}")
    assert allowed in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "key", ["settle_seconds", "linger_seconds", "timeout_seconds", "retry_delay_seconds"]
)
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_times_are_real_numbers(key: str, value: str) -> None:
    text = complaint(f"schema_version = 1\n[converters.a]\n{key} = {value}")
    assert text.startswith(f"{FILE}: converters.a.{key}: is {value}")


def test_bytes_that_are_not_text_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.parse(b"schema_version = 1 # \xff", FILE)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 0), (5, 5), ("5", 5), ("5 B", 5), ("1kB", 1000), ("1 KB", 1000), ("1 KiB", 1024),
        ("1.5 MB", 1_500_000), ("512 MiB", 512 << 20), ("10 GB", 10**10), ("10 GiB", 10 << 30),
        ("2 tb", 2 * 10**12), ("2 TiB", 2 << 40), (" 3 MB ", 3_000_000), ("0.5 kB", 500),
    ],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(size: object, expected: int) -> None:
    assert config.parse_size(size) == expected


@pytest.mark.parametrize(
    "size", [-1, True, 1.5, None, [], "", "GB", "-5", "5 XB", "5 ib", "1,5 GB", "5 GB x", "1e3", "1 000"]
)
def test_what_is_no_size_says_what_one_looks_like(size: object) -> None:
    with pytest.raises(ValueError, match='"10 GB", "512 MiB" or a number of bytes'):
        config.parse_size(size)


def test_a_size_beyond_any_disk_is_no_size() -> None:
    with pytest.raises(ValueError, match="10 GB"):
        config.parse_size("9" * 400)


@given(st.integers(0, 2**62))
def test_a_number_of_bytes_is_taken_exactly(size: int) -> None:
    assert config.parse_size(str(size)) == size


def test_a_folder_without_archive_toml_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(
        NotAnArchiveError, match=r"is not an archive: it has no archive\.toml \(archivefs init"
    ):
        config.load(tmp_path)


def test_a_file_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAnArchiveError, match="it is not a folder"):
        config.load(tmp_path / "file")


def test_load_names_the_real_file_in_errors(tmp_path: Path) -> None:
    (tmp_path / "archive.toml").write_text("schema_version = 1\nworkers = 0")
    with pytest.raises(ConfigError, match=str(tmp_path / "archive.toml")):
        config.load(tmp_path)


def test_an_unknown_converter_names_those_there_are() -> None:
    loaded = parse("[converters.b]\n[converters.a]")
    with pytest.raises(UnknownConverterError, match=r'no converter "c" in archive\.toml; it has: a, b'):
        loaded.converter("c")
    assert loaded.converter("a") == loaded.converters["a"]


def test_arguments_hold_whatever_toml_can_say() -> None:
    loaded = parse("[converters.a.arguments]\nlimit = 1.5\nnames = ['x', 'y']\ndeep = { a = true }")
    assert loaded.converters["a"].arguments == {"limit": 1.5, "names": ["x", "y"], "deep": {"a": True}}
    assert math.isclose(loaded.converters["a"].arguments["limit"], 1.5)
