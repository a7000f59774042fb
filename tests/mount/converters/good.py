"""Converters that do what a converter should, in each way there is."""

import os
import time
from pathlib import Path
from typing import Any

from archivefs.convert import Context, Result, Source, Validation


class Good:
    """Logs, reads its source, and tells what it was given."""

    name, version = "good", "2.1"

    def convert(self, source: Source, context: Context) -> dict[str, Any]:
        context.log("converting " + source.name)
        return {"class": True, "text": source.read_text(), "arguments": dict(context.arguments)}


class Several:
    """Makes three reports of one source."""

    def convert(self, source: Source, context: Context) -> list[dict[str, Any]]:
        return [{"number": 1}, {"number": 2}, {"number": 3}]


class Choosy:
    """Looks at the source before it takes it."""

    version = "3"

    def validate(self, source: Source, context: Context) -> Validation:
        return Validation(source.read_bytes().startswith(b"serial"), message="it does not begin with serial")

    def convert(self, source: Source, context: Context) -> Result:
        return Result.success({"chosen": True}, warnings=["no operator"])


class Ends:
    """Ends as its arguments say."""

    def convert(self, source: Source, context: Context) -> Result:
        result: Result = getattr(Result, context.arguments["end"])(context.arguments["words"])
        return result


class Later:
    """Is suspended some times first."""

    def convert(self, source: Source, context: Context) -> Result:
        if context.attempt <= context.arguments["times"]:
            missing = f"part {context.attempt} is missing"
            return Result.suspended(missing, retry_after=context.arguments.get("after"))
        return Result.success({"attempt": context.attempt})


class Gate:
    """Waits for the file ``gate`` where one is named; how it ends follows from the source's name."""

    name, version = "gate", "1.2"

    def convert(self, source: Source, context: Context) -> Result:
        context.log(f"attempt {context.attempt} of {source.name}")
        gate = Path(context.arguments.get("gate", "/"))
        while not gate.exists():
            gate.with_name("waiting for the gate").touch()
            time.sleep(0.01)
        if source.name.startswith("bad"):
            return Result.failed("line 7: no value")
        if source.name.startswith("late") and context.attempt == 1:
            return Result.suspended("not finished yet", retry_after=1.5)
        first = {"attempt": context.attempt, "size": source.size}
        return Result.success(first, {"second": True}, warnings=["odd"])


def count(path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Tells the size, the exact name and what it was given."""
    name = os.fsencode(Path(path).name).hex()
    return {"size": len(Path(path).read_bytes()), "name_hex": name, "arguments": arguments}


def look(path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Tells what is to be seen around the source."""
    file = Path(path)
    return {
        "beside": [each.name for each in file.parent.iterdir()],
        "mtime_ns": file.stat().st_mtime_ns,
        "environment": sorted(os.environ),
    }


def named(path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A report with an id of its own: what the source says."""
    return {"id": Path(path).read_text(), "named": True}
