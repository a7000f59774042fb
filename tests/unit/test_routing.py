"""Which converters a name may be for."""

import pytest

from archivefs.config import Config, parse
from archivefs.routing import UNROUTED, candidates, converter_for

TABLES = """\
schema_version = 1
[converters.csv]
run = "function:a:b"
patterns = ["*.csv", "special-*"]
[converters.special]
run = "python:a:B"
patterns = ["special-*"]
[converters.images]
patterns = ["*.png"]
[converters.any]
run = "python:a:B"
[converters.command]
run = "command:true"
[converters.unrouted]
run = "python:a:B"
[converters.files]
"""


@pytest.fixture
def config() -> Config:
    return parse(TABLES.encode(), "archive.toml")


@pytest.mark.parametrize(
    ("name", "found", "converter"),
    [
        (b"unit.csv", ["csv"], "csv"),
        (b"UNIT.CSV", ["csv"], "csv"),
        (b"photo.png", ["images"], "images"),
        (b"special-1.txt", ["csv", "special"], UNROUTED),
        (b"notes.txt", ["any"], UNROUTED),
        (b"caf\xe9", ["any"], UNROUTED),
    ],
)
def test_patterns_come_first_then_those_that_can_say_how_sure_they_are(
    config: Config, name: bytes, found: list[str], converter: str
) -> None:
    assert candidates(config, name) == found
    assert converter_for(config, name) == converter
