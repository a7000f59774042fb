"""What tests of replay need: a mount with a past, its converter mended, and jobs at their end."""

import json
from pathlib import Path
from typing import Any

from mount_parts import (
    Make,
    Mounted,
    config,
    converter,
)
from test_control import told

from archivefs.catalog.reader import Reader
from archivefs.catalog.rows import Attempt

COUNT = 60
FIRST = """
import json
VERSION = "1.0"
class Ict:
    name, version = "ict", VERSION
    def convert(self, source, context):
        text = source.read_text()
        if "bad" in text:
            raise ValueError("cannot read " + text)
        return {"result": "Passed", "length": len(text), "limit": context.arguments.get("limit")}
"""
SECOND = FIRST.replace('"1.0"', '"2.0"').replace('if "bad" in text', 'if "worse" in text').replace(
    '"result": "Passed"', '"result": "Failed" if len(text) > 6 else "Passed"'
)  # fmt: skip
TOML = config(converter("ict", "python:ict:Ict", settle_seconds=0, arguments={"limit": 5}))
ENDS = ("done", "failed", "cancelled")


def past_of(mounted: Make, tmp_path: Path) -> Mounted:
    """A mount with entries that version 1.0 converted; ten of them failed."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "ict.py").write_text(FIRST)
    archive = mounted(TOML, converters=code)
    for number in range(COUNT):
        archive.drop(
            "ict", f"u{number:02}.csv", b"bad %d" % number if number % 6 == 5 else b"unit %d" % number
        )
    archive.wait_for("an end of all", lambda: counts(archive) == {"success": 50, "failed": 10}, 60)
    return archive


def counts(archive: Mounted) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in archive.entries():
        found[entry.status] = found.get(entry.status, 0) + 1
    return found


def fix(archive: Mounted, code: str = SECOND) -> None:
    (archive.root / "converters" / "ict.py").write_text(code)


def ended(archive: Mounted, number: int) -> dict[str, Any]:
    def facts() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((archive.point / f"jobs/{number}/job.json").read_bytes())
        return found

    archive.wait_for("the job's end", lambda: facts()["state"] in ENDS, 60)
    return facts()


def replay(archive: Mounted, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job made with one line in control/reprocess: its job.json and result.json at its end."""
    number = told(archive, "reprocess", " ".join(words).encode() + b"\n")["job"]
    facts = ended(archive, number)
    return facts, json.loads((archive.point / f"jobs/{number}/result.json").read_bytes())


def attempts(archive: Mounted, name: str) -> list[Attempt]:
    entry = archive.only(name)
    reader = Reader.open(archive.root / "catalog.sqlite")
    try:
        return reader.attempts(entry.n)
    finally:
        reader.close()
