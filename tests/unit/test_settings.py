"""Changes of archive.toml: what is set, what stays, and what is said to have changed."""

from typing import Any

import pytest

from archivefs import config, settings
from archivefs.config import Config
from archivefs.errors import ConfigError
from archivefs.parts import Setting

FILE = "/srv/archive.toml"
ICT = "converters.ict-csv"
TOML = """\
# The archive of the plant.
schema_version = 1   # must be
reserve = "1 GB"

[converters.ict-csv]          # in-circuit test
run = "command:true"
patterns = ["*.csv",          # what the station writes
            "*.CSV"]
arguments = { delimiter = "," }

[converters.ict-csv.submit]
kind = "http"
url = "http://a/b?key=secret-key"
headers = { X-Key = "secret-header", X-File = "file:/etc/key" }

[converters."a.b"]
"""


def parsed(toml: str | bytes) -> Config:
    return config.parse(toml if isinstance(toml, bytes) else toml.encode(), FILE)


def changed(key: str, value: str) -> bytes:
    parts, given = settings.assignment(key, value)
    return settings.with_value(TOML.encode(), parts, given)


@pytest.mark.parametrize(
    ("key", "value", "given"),
    [
        ("reserve", "10 GB", "10 GB"),
        ("reserve", "5", 5),
        ("converters.ict-csv.priority", "2", 2),
        ("converters.ict-csv.post_action", "keep", "keep"),
        ("converters.ict-csv.patterns", '["*.txt"]', ["*.txt"]),
        ('converters."a.b".settle_seconds', "0.5", 0.5),
        ("converters.new.run", "function:a:b", "function:a:b"),
        ("converters.ict-csv.arguments.delimiter", ";", ";"),
        ("converters.ict-csv.arguments", '{ a = 1, b = ["x"] }', {"a": 1, "b": ["x"]}),
        ("reserve", "1\npriority = 2", "1\npriority = 2"),
        ("converters.x.run", 'say "hello"\nand more', 'say "hello"\nand more'),
    ],
)
def test_a_key_is_set_and_everything_else_stays(key: str, value: str, given: object) -> None:
    after = changed(key, value)
    assert settings.value_of(config.tables(after, FILE), key) == given
    lines = after.decode().splitlines()
    name = key.rpartition(".")[2]
    for line in TOML.splitlines():
        if not line.startswith((name, '            "*.CSV"')) and "arguments" not in line + name:
            assert line in lines
    assert after.decode().startswith("# The archive of the plant.\n")


@pytest.mark.parametrize("key", ["", "a b", "a..b", "a = 1\nb", ".a", "a.", "[a]", '"', "#"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="is no key"):
        settings.assignment(key, "1")


def test_a_key_below_what_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="reserve is not a table"):
        changed("reserve.a", "1")


def test_a_key_or_table_is_taken_out() -> None:
    after = settings.without(TOML.encode(), "converters.ict-csv.submit")
    assert parsed(after).converters["ict-csv"].submit is None
    assert parsed(settings.without(after, "reserve")).reserve_bytes == 256 << 20
    assert "# in-circuit test" in after.decode()
    for wrong in ("nothing", "reserve.a", "converters.none.run"):
        with pytest.raises(ConfigError, match=r"is not in archive\.toml"):
            settings.without(TOML.encode(), wrong)


def differences(toml: str) -> list[Setting]:
    return settings.differences(parsed(TOML), parsed(toml))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('reserve = "1 GB"', 'reserve = "2 GB"', Setting(key="reserve", old=10**9, new=2 * 10**9)),
        ('reserve = "1 GB"', "", Setting(key="reserve", old=10**9, new=256 << 20)),
        ("reserve", 'verify_every = "2 days"\nreserve', Setting(key="verify_every", new="48 hours")),
        ("command:true", "command:false", Setting(key=f"{ICT}.run", old="command:true", new="command:false")),
        ('"command:true"', '"command:true"\npriority = 1', Setting(key=f"{ICT}.priority", old=5, new=1)),
        ('","', '";"', Setting(key=f"{ICT}.arguments", old={"delimiter": ","}, new={"delimiter": ";"})),
        ('[converters."a.b"]', "", Setting(key='converters."a.b"', old={})),
        ("[converters.ict", "[converters.c]\npriority = 9\n[converters.ict",
         Setting(key="converters.c", new={"priority": 9})),
    ],
)  # fmt: skip
def test_what_changed_is_told_with_old_and_new_value(old: str, new: str, said: Setting) -> None:
    assert differences(TOML.replace(old, new, 1)) == [said]


def test_no_secret_is_told() -> None:
    for old, new in (
        ("secret-key", "secret-two"),
        ("secret-header", "secret-two"),
        ("file:/etc/key", "env:KEY"),
    ):
        (change,) = differences(TOML.replace(old, new))
        assert "secret" not in str(change)
        assert change.old != change.new
    table = differences(TOML.partition("[converters.ict-csv.submit]")[0] + '[converters."a.b"]')
    assert [change.key for change in table] == ["converters.ict-csv.submit"]
    assert "secret" not in str(table)
    assert differences(TOML) == []
    assert differences("# other words\n" + TOML) == []


def test_the_whole_configuration_as_toml_is_the_same_configuration() -> None:
    for toml in (TOML, 'schema_version = 1\nverify_every = "1 week"\njunk = []', "schema_version = 1"):
        shown = settings.as_toml(settings.spoken(parsed(toml)))
        assert parsed(shown) == parsed(toml)


@pytest.mark.parametrize("value", [1, 1.5, True, "a\nb", ["x", 1], {"a": {"b": [1]}}, []])
def test_values_are_written_as_toml(value: Any) -> None:  # noqa: ANN401
    assert settings.assignment("key", settings.literal(value)) == (["key"], value)


def test_an_older_file_is_read_as_one_of_this_version() -> None:
    assert parsed("schema_version = 0\nworkers = 3") == parsed("schema_version = 1\nworkers = 3")
