"""log and audit: who did what when, and the proof that nothing of it was altered."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec

from archivefs import names, query
from archivefs.archive import Archive
from archivefs.cli.checking import counted, facts_of, print_findings
from archivefs.cli.common import console, json_option, print_json, with_archive
from archivefs.events import AnyEvent, Created, entries_of
from archivefs.store.chain import Checkpoint
from archivefs.store.journal import Journal, utc_text
from archivefs.verify import audit as audits
from archivefs.verify.findings import EXIT_CODES

SHOWN = 10
"""Things of one list that a line tells; the others are counted."""


@click.command()
@click.option("-n", "--last", type=click.IntRange(min=1), help="Only the last N events.")
@with_archive
@json_option
def log(root: Path, last: int | None, as_json: bool) -> None:
    """The journal: who did what when, oldest first; its chain is checked on the way."""
    from archivefs import config

    config.load(root)
    journal = Journal(root / "journal")
    for event in journal.read(max(journal.head.seq - last, 0) if last else 0):
        if as_json:
            print_json(event)
        else:
            _print(event)


def _print(event: AnyEvent) -> None:
    click.echo(f"{event.seq:>8}  {event.at}  {_event_text(event)}")


def _event_text(event: AnyEvent) -> str:
    """An event in a line: its kind, then what it says, without places and hashes."""
    facts = msgspec.to_builtins(event)
    who = facts.pop("actor", None)
    kind = facts.pop("kind").replace("_", " ")
    dull = {
        "seq",
        "at",
        "prev",
        "location",
        "mtime_ns",
        "mode",
        "uid",
        "gid",
        "captured_ms",
        "due_ms",
        "started_ms",
        "sha256",
        "before",
        "after",
    }
    words = [f"{key}={_short(value)}" for key, value in facts.items() if key not in dull]
    by = f" by uid {who['uid']}" + (f" ({who['program']})" if who.get("program") else "") if who else ""
    return names.safe(f"{kind}: {' '.join(words)}{by}")


def _item(value: object) -> str:
    if isinstance(value, dict) and "key" in value:
        old, new = (msgspec.json.encode(value.get(each)).decode() for each in ("old", "new"))
        return f"{value['key']} {old} -> {new}"
    return str(value["name"]) if isinstance(value, dict) else str(value)


def _short(value: object) -> str:
    if isinstance(value, str):
        return value if len(value) <= 200 else value[:200] + "..."
    if isinstance(value, list):
        more = f",... ({len(value)})" if len(value) > SHOWN else ""
        return ",".join(_item(each) for each in value[:SHOWN]) + more
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    return msgspec.json.encode(value).decode()


class _Showing(click.Group):
    """``audit`` alone, or with a query, is ``audit show``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "-h", "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Showing)
def audit() -> None:
    """What was done with entries or with the archive itself, by whom; and the proof that all is there."""


@audit.command("show")
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@with_archive
@json_option
def show_(root: Path, words: tuple[str, ...], as_json: bool) -> None:
    """The events of the entries that a query selects; without one, those of the archive itself.

    Newest last, with who caused them; "show" may be left out: archivefs audit id=20260213T143022123-a1b2c3
    """
    with Archive.open_for_reading(root) as archive:
        journal = Journal(root / "journal")
        if words:
            is_wanted, day = _selected(archive, words)
        else:
            is_wanted, day = (lambda event: not entries_of(event)), ""
        for event in journal.read(day=day):
            if not is_wanted(event):
                continue
            if as_json:
                print_json(event)
            else:
                _print(event)


def _selected(archive: Archive, words: tuple[str, ...]) -> tuple[Callable[[AnyEvent], bool], str]:
    """Whether an event is about an entry that a query selects, and the day before which none is.

    The entries are a bit each: 125 kB for a million. Times in ids run a little ahead of the clock
    where many were captured at once, so the day is the one before that of the first.
    """
    bits, first, last, first_ms = bytearray(), "", "", 0
    for row in archive.reader.search(query.parse(list(words), archive.zone)):
        place = row.n >> 3
        if place >= len(bits):
            bits.extend(bytes(max(place + 1 - len(bits), len(bits))))
        bits[place] |= 1 << (row.n & 7)
        first, last = min(first or row.id, row.id), max(last, row.id)
        first_ms = min(first_ms or row.captured_ms, row.captured_ms)

    def is_wanted(event: AnyEvent) -> bool:
        for id_ in entries_of(event):
            if first <= id_ <= last:
                n = archive.reader.number(id_)
                if n is not None and n >> 3 < len(bits) and bits[n >> 3] & 1 << (n & 7):
                    return True
        return False

    if not first:
        return (lambda event: False), "9999-12-31"
    day = datetime.fromtimestamp(first_ms / 1000, UTC) - timedelta(days=1)
    return is_wanted, f"{day:%Y-%m-%d}"


@audit.command("verify")
@click.option(
    "--checkpoint", "files", multiple=True, metavar="FILE", type=click.Path(exists=True, path_type=Path),
    help="Compare with the checkpoints in FILE, which was kept elsewhere.",
)  # fmt: skip
@with_archive
@json_option
def verify_(root: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Check every line of the journal, its count and its hashes, against all that noted them.

    The exit code follows the worst finding, as that of archivefs verify: 0 for none, 50 warning, 51 error, 52
    critical.
    """
    start = time.monotonic()
    report = audits.audit(root, files)
    report.seconds = time.monotonic() - start
    if as_json:
        print_json(facts_of(report))
    else:
        print_findings(report)
        console().print(f"{report.events} lines verified in {report.seconds:.1f} s: {counted(report)}")
    raise click.exceptions.Exit(EXIT_CODES[report.worst])


@audit.command("checkpoint")
@with_archive
def checkpoint_(root: Path) -> None:
    """Print count and newest hash of the journal, to keep where nobody who writes the archive can.

    One line of JSON: append it to a file elsewhere, and give that to audit verify --checkpoint.
    """
    with Archive.open_for_reading(root) as archive:
        seq, sha256 = archive.reader.applied()
        first = next(Journal(root / "journal").read())
    identity = first.archive if isinstance(first, Created) else ""
    print_json(Checkpoint(seq, sha256, utc_text(time.time_ns()), identity))
