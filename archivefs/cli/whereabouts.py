"""why: where a dropped file is now, what happened to it, and what happens next and when."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.text import Text

from archivefs import describe, names
from archivefs.archive import Archive
from archivefs.catalog.catalog import RETRY_REASON, day_number
from archivefs.catalog.rows import Entry
from archivefs.cli.common import archive_root, console, json_option, print_json
from archivefs.config import ConverterConfig
from archivefs.describe import time_text
from archivefs.errors import UnknownEntryError
from archivefs.fs import mounts
from archivefs.fs.views import VIEWS, View
from archivefs.routing import ROUTING_REASON, UNROUTED
from archivefs.states import Status, Submission
from archivefs.statuses import why_not_again

INBOX, BY_ID = "inbox", "by-id"
HEADS = (INBOX, BY_ID, *(view.name for view in VIEWS))
"""What stands at the top of a mount and leads to entries."""
SHOWN = 8
"""Attempts that a person is shown; of more, the first and the last ones."""
_XATTR = f"{describe.XATTR}id"


class Asked(NamedTuple):
    """What was asked about: the names from the top of a mount on, or an id alone; and its mount, if any."""

    parts: tuple[str, ...]
    mountpoint: Path | None


class Dropped(NamedTuple):
    """A file in the inbox, or that was there; ``converter`` is '' for one at the top.

    ``path`` is where it is now, None where it is not.
    """

    converter: str
    folder: bytes
    name: bytes
    path: Path | None
    is_junk: bool


class Step(NamedTuple):
    """What happens next; ``at_ms``: Unix milliseconds, 0 where nobody can say or nothing happens."""

    what: str
    at_ms: int = 0


@click.command()
@click.argument("thing", metavar="PATH|ID")
@click.option("--archive", metavar="DIR", help="The archive [ARCHIVEFS_ARCHIVE]; a path in a mount says it.")
@json_option
@click.pass_context
def why(ctx: click.Context, thing: str, archive: str | None, as_json: bool) -> None:
    """Where a dropped file is now, what happened to it, and what happens next and when.

    PATH is a file in the inbox of a mount, though it has left it, or anything in a view of it, or what stands
    behind inbox/ alone: ict-csv/unit.csv. ID may be shortened to its beginning.
    """
    mount = None if archive else _mount_of(thing)
    root = archive_root(ctx) if mount is None else mount.root
    with Archive.open_for_reading(root) as opened:
        facts = _facts(opened, _asked(thing, root, mount))
    if as_json:
        print_json(facts)
    else:
        _print(facts)


# -- what is asked about -------------------------------------------------------------------------------


def _mount_of(thing: str) -> mounts.Mount | None:
    """The mount in which a path lies."""
    path = mounts.absolute(Path(thing))
    inside = [each for each in mounts.mounted() if path.is_relative_to(each.mountpoint)]
    return max(inside, key=lambda each: len(each.mountpoint.parts), default=None)


def _asked(thing: str, root: Path, mount: mounts.Mount | None) -> Asked:
    """The names from the top of the mount on: also of a path that was valid when the archive was mounted."""
    where = mounts.mountpoint_of(root)
    if mount is not None:
        return Asked(mounts.absolute(Path(thing)).relative_to(mount.mountpoint).parts, where)
    parts = tuple(part for part in Path(thing).parts if part not in ("/", "."))
    start = next((at for at, part in enumerate(parts) if part in HEADS), None)
    if start is not None:
        return Asked(parts[start:], where)
    if len(parts) == 1 and re.fullmatch(r"\d{8}T[0-9a-f-]*|\d{8}", parts[0]):
        return Asked((BY_ID, parts[0]), where)
    return Asked((INBOX, *parts), where)


def _facts(archive: Archive, asked: Asked) -> dict[str, Any]:
    """All that is known, with the keys of the JSON output. Raises ``UnknownEntryError``."""
    head, rest = (asked.parts[0], asked.parts[1:]) if asked.parts else ("", ())
    dropped = None
    if head == INBOX and rest:
        dropped = _dropped(archive, rest, asked.mountpoint)
        row = _entry_of(archive, dropped)
    elif head == BY_ID and rest:
        row = archive.reader.get(rest[0])
    elif head in HEADS and rest:
        view = next(view for view in VIEWS if view.name == head)
        row = _shown(archive, view, rest)
    else:
        raise UnknownEntryError(
            f'"{"/".join(asked.parts)}" is no file or entry: name one in {", ".join(HEADS)}'
        )
    if row is None:
        assert dropped is not None
        config = archive.converter_config(dropped.converter or UNROUTED)
        return _without_entry(dropped, config, asked.mountpoint)
    if dropped is None:
        dropped = _origin(archive, row, asked.mountpoint)
    facts = describe.entry(archive, row)
    step = _next(archive, row, asked.mountpoint)
    return {
        **facts,
        "inbox": _in_inbox(archive, row, dropped),
        "path": _place(archive, row, asked.mountpoint),
        "next": step.what,
        **({"next_at": time_text(step.at_ms)} if step.at_ms else {}),
    }


def _shown(archive: Archive, view: View, parts: Sequence[str]) -> Entry:
    """The entry that a path in a view leads to, or led to while it had another status or converter."""
    depth = len(view.levels)
    values = dict(zip(view.levels, parts, strict=False))
    day = values.get("day") or "-".join(values.get(key, "") for key in ("year", "month", "mday"))
    if len(parts) <= depth:
        raise UnknownEntryError(f'"{view.name}/{"/".join(parts)}" is a folder of entries: name one of them')
    try:
        number = day_number(day)
    except ValueError:
        raise UnknownEntryError(f'"{day}" in that path is no day') from None
    name, reader = os.fsencode(parts[depth]), archive.reader
    first = reader.converter_id(values["converter"])
    others = reader.groups("converter_id", {"day": (number, number)})
    for converter_id in sorted(others, key=lambda each: each != first):
        if view.flat:
            source = reader.by_flat_name(converter_id, number, name)
            found = reader.entry(source.n) if source else None
        else:
            found = reader.by_label(name, number, archive.zone, converter_id)
        if found is not None:
            return found
    raise UnknownEntryError(f'no entry "{names.text(name)}" on {day}')


# -- the inbox -----------------------------------------------------------------------------------------


def _origin(archive: Archive, row: Entry, mountpoint: Path | None) -> Dropped:
    """The file that an entry was made of: in the folder of its converter, or at the top."""
    path = (archive.reader.converter_name(row.converter_id), os.fsdecode(row.folder), os.fsdecode(row.name))
    at_top = _dropped(archive, path[-1:], mountpoint)
    if at_top.path is not None and _id_of(at_top.path) == row.id:
        return at_top
    return _dropped(archive, [part for part in path if part], mountpoint)


def _dropped(archive: Archive, parts: Sequence[str], mountpoint: Path | None) -> Dropped:
    """The file of that path below inbox/."""
    top = mountpoint / INBOX if mountpoint else archive.root / "staging" / INBOX
    path = top.joinpath(*parts)
    is_folder = len(parts) > 1 and archive.converter_config(parts[0]).kind == "folder"
    return Dropped(
        converter=parts[0] if len(parts) > 1 else "",
        folder=os.fsencode("/".join(parts[1:-1])),
        name=os.fsencode(parts[-1]),
        path=path if path.is_file() or (is_folder and path.is_dir()) else None,
        is_junk=any(
            names.matches(os.fsencode(part), archive.config.junk) for part in (parts[-1], *parts[1:-1])
        ),
    )


def _entry_of(archive: Archive, dropped: Dropped) -> Entry | None:
    """The entry of a file, None for one that is in the inbox and has none. Raises ``UnknownEntryError``."""
    if dropped.path is not None:
        id_ = _id_of(dropped.path)
        if id_ or dropped.is_junk:
            return archive.reader.get(id_) if id_ else None
    row = archive.reader.newest_of_place(dropped.converter, dropped.folder, dropped.name)
    if row is None and dropped.path is None:
        name = names.text(dropped.name)
        raise UnknownEntryError(
            f'"{name}" is not in inbox/{dropped.converter}, and no file of that name was captured there; '
            f"archivefs ls 'name=*{name}*' looks for it everywhere"
        )
    return row


def _id_of(path: Path) -> str:
    """The id of the newest entry of a file in the inbox, '' where it has none or nobody knows."""
    try:
        return os.getxattr(path, _XATTR).decode()
    except OSError:
        return ""


def _completeness(config: ConverterConfig) -> str:
    """What a folder must have before it is archived."""
    if config.ready_marker:
        return f"{config.ready_marker} is there"
    if config.ready_files:
        return f"it has {', '.join(config.ready_files)}"
    if config.ready_count:
        return f"it has {config.ready_count} files"
    return f"nothing in it changed for {config.ready_quiet_seconds:g} s"


def _without_entry(dropped: Dropped, config: ConverterConfig, mountpoint: Path | None) -> dict[str, Any]:
    """What is said of a file in the inbox of which nothing is archived."""
    if dropped.is_junk:
        step = "nothing: its name says that it is no data or not finished (junk in archive.toml)"
    elif mountpoint is None:
        step = "it was being written when archivefs stopped: a quarantined entry at the next mount"
    elif config.kind == "folder":
        step = f"its folder is captured as one when {_completeness(config)}"
    else:
        step = "it is captured when the program that writes it closes it"
    facts = {"converter": dropped.converter or UNROUTED, "name": names.text(dropped.name)}
    return facts | {"inbox": f"{dropped.path}, not archived", "next": step}


def _in_inbox(archive: Archive, row: Entry, dropped: Dropped) -> str:
    """Whether the file is still in the inbox, and how long."""
    if dropped.path is None:
        return "no longer there"
    there = _id_of(dropped.path)
    if there not in ("", row.id):
        return f"another file has its name there: {there}"
    config = archive.converter_config(archive.reader.converter_name(row.converter_id))
    if config.post_action == "keep":
        return f"{dropped.path}, until someone removes it"
    return f"{dropped.path}, until {config.linger_seconds:g} s after the end of its conversion"


# -- the entry -----------------------------------------------------------------------------------------


def _place(archive: Archive, row: Entry, mountpoint: Path | None) -> str:
    """Its directory in the first view, of a mount or below none."""
    if row.status is Status.PURGED:
        return ""
    converter = archive.reader.converter_name(row.converter_id)
    label = names.text(row.label(archive.zone))
    return str((mountpoint or Path()) / VIEWS[0].name / converter / row.day_text / row.status / label)


def _next(archive: Archive, row: Entry, mountpoint: Path | None) -> Step:
    """What happens with an entry now."""
    converter = archive.reader.converter_name(row.converter_id)
    config = archive.converter_config(converter)
    match row.status:
        case Status.PENDING | Status.SUSPENDED:
            return _waits(archive, row, converter, mountpoint)
        case Status.CONVERTING:
            started = archive.reader.attempts(row.n)[-1].started_ms
            longest = started + int(config.timeout_seconds * 1000)
            return Step(f"attempt {row.attempts} ends, at the latest by timeout_seconds", longest)
        case Status.FAILED | Status.REJECTED | Status.SKIPPED:
            reason = why_not_again(archive.config, converter, row, row.status)
            again = f"archivefs retry id={row.id} converts it again"
            return Step(f"nothing: {reason}" if reason else f"nothing by itself; {again}")
        case Status.PURGED:
            return Step("nothing: its bytes are gone, the facts stay")
        case Status.SUPERSEDED:
            return Step(f"nothing: a later save replaced it, see {row.superseded_by}")
        case Status.QUARANTINED:
            return Step(f"nothing by itself; archivefs quarantine adopt {row.id}, or drop")
        case Status.ARCHIVED if converter == UNROUTED:
            return Step(f"nothing by itself; archivefs retry id={row.id} asks again")
        case Status.SUCCESS:
            return _delivered(archive, row, is_mounted=mountpoint is not None)
        case _:
            return Step("nothing: it is kept")


def _delivered(archive: Archive, row: Entry, *, is_mounted: bool) -> Step:
    """What happens with the reports of an entry."""
    reports = archive.reader.outbox.of_entry(row.n)
    waiting = [each for each in reports if each.state is Submission.QUEUED]
    if waiting and is_mounted:
        return Step(f"{len(waiting)} of its reports to be delivered", max(waiting[0].due_ms, 0))
    if waiting:
        return Step(f"{len(waiting)} of its reports to be delivered, when the archive is mounted")
    if any(each.state is Submission.REFUSED for each in reports):
        return Step(f"nothing by itself; archivefs outbox --retry {row.id} delivers its report again")
    return Step("nothing: it is kept")


def _alarm(mountpoint: Path, about: str) -> str:
    """What a mount says is wrong with something, '' where it says nothing."""
    try:
        said = json.loads((mountpoint / "health.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(said.get("alarms", {}).get(about, ""))


def _waits(archive: Archive, row: Entry, converter: str, mountpoint: Path | None) -> Step:
    number = row.attempts + 1
    is_routed = converter == UNROUTED and row.reason in (ROUTING_REASON, RETRY_REASON)
    what = "converters are asked how sure they are of it" if is_routed else f"attempt {number}"
    if not is_routed and not archive.converter_config(converter).run:
        return Step(f"attempt {number}, when archive.toml says how to convert for {converter}")
    if mountpoint is None:
        return Step(f"{what}, when the archive is mounted")
    if row.due_ms > archive.now_ms():
        return Step(what, row.due_ms)
    config = archive.converter_config(converter)
    if config.submit is not None and archive.reader.outbox.is_full(converter, config.submit):
        return Step(f"{what}, when its outbox has room: {config.submit.max_queue_size} reports wait there")
    if alarm := _alarm(mountpoint, f"converters.{converter}"):
        return Step(f"{what}, when its converter can run: {alarm}")
    others = archive.reader.due_count(archive.now_ms()) - 1
    return Step(f"{what}, when it is its turn; {others} other entries are due")


# -- for people ----------------------------------------------------------------------------------------


def _print(facts: dict[str, Any]) -> None:
    name = f"{facts['folder']}/{facts['name']}" if "folder" in facts else facts["name"]
    lines = {"file": [f"{name}, {facts['converter']}"], "now": [], "so far": _history(facts)}
    if "id" in facts:
        lines["now"] = [f"{facts['status']}, {facts['id']}", facts["path"]]
    lines["now"].append(f"inbox: {facts['inbox']}")
    at = f", {facts['next_at']}" if "next_at" in facts else ""
    lines["next"] = [facts["next"] + at]
    out = console()
    for key, said in lines.items():
        for number, line in enumerate(said):
            left = Text(f"{key if number == 0 else '':<8}", style="bold")
            out.print(left.append(names.safe(line), style="not bold"))


def _history(facts: dict[str, Any]) -> list[str]:
    """A line for the capture and for each attempt."""
    if "id" not in facts:
        return []
    reason = f": {facts['reason']}" if "reason" in facts else ""
    lines = [f"{facts['captured_at']}  captured, {facts['size']} bytes{reason}"]
    attempts = facts.get("attempts", [])
    left_out = len(attempts) - SHOWN
    for each in attempts:
        if left_out > 0 and 1 < each["attempt"] <= 1 + left_out:
            if each["attempt"] == 2:
                lines.append(f"... {left_out} more attempts")
            continue
        error = f": {each['error']}" if "error" in each else ""
        first_line = error.partition("\n")[0]
        lines.append(
            f"{each['started_at']}  attempt {each['attempt']} ({each['cause']}) {each['outcome']}{first_line}"
        )
        lines += [_delivery(report) for report in each.get("reports", ()) if "submission" in report]
    return lines


def _delivery(report: dict[str, Any]) -> str:
    """Where a report stands in the outbox, and what the receiver said last."""
    about = report["submission"]
    last = about.get("deliveries", [{}])[-1]
    error = f": {last['error']}" if "error" in last else ""
    return f"{last.get('started_at', about['queued_at'])}  {report['name']} {about['state']}{error}"
