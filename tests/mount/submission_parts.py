"""What tests of submission need: converters that send, and what the mount says of their reports."""

import json
from typing import Any

from mount_parts import Mounted, archivefs, converter, toml_table
from receiver_parts import ReportServer

QUICKLY: dict[str, Any] = {"retry_delay_seconds": 0.05, "max_retry_delay_seconds": 0.2, "timeout_seconds": 5}


def submit(name: str, **keys: Any) -> str:  # noqa: ANN401  whatever the table may hold
    """The table that says where the reports of a converter go."""
    return toml_table(f"converters.{name}.submit", {**QUICKLY, **keys})


def sending(name: str, server: ReportServer | str, run: str = "python:good:Good", **keys: Any) -> str:  # noqa: ANN401
    """A converter whose reports go to a server."""
    url = server if isinstance(server, str) else server.url
    return converter(name, run, settle_seconds=0) + submit(name, kind="http", url=url, **keys)


def listed(archive: Mounted, *arguments: str) -> list[dict[str, Any]]:
    """What `archivefs outbox` says, as JSON."""
    done = archivefs("outbox", "--json", *arguments, "--archive", archive.root)
    return [json.loads(line) for line in done.stdout.splitlines()]


def numbers(archive: Mounted) -> dict[str, Any]:
    """The outbox in stats.json."""
    found: dict[str, Any] = json.loads((archive.point / "stats.json").read_bytes())["outbox"]
    return found


def alarms(archive: Mounted) -> dict[str, str]:
    """What needs attention."""
    found: dict[str, str] = json.loads((archive.point / "health.json").read_bytes())["alarms"]
    return found


def submission(archive: Mounted, name: str, ordinal: int = 1) -> dict[str, Any]:
    """What attempt.json says of a report on its way."""
    entry = archive.only(name)
    said: dict[str, Any] = archive.attempt(entry)["reports"][ordinal - 1]["submission"]
    return said


def wait_for_state(archive: Mounted, name: str, state: str) -> dict[str, Any]:
    """Wait until the first report of an entry has come to that state, and return what is said of it."""
    archive.wait_for_status(name, "success")
    archive.wait_for(f"{state} report of {name}", lambda: submission(archive, name)["state"] == state)
    entry, said = archive.only(name), submission(archive, name)
    archive.wait_for(
        "entry.json that says the same",
        lambda: archive.facts(entry)["attempts"][0]["reports"][0]["submission"] == said,
    )
    return said
