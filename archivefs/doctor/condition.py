"""The archive itself: configuration, catalog, journal, clock, who holds it, and what waits for a person."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from archivefs import quarantine as quarantines
from archivefs.archive import Archive
from archivefs.catalog.catalog import SCHEMA_VERSION
from archivefs.catalog.compare import Snapshot, told
from archivefs.catalog.reader import Reader
from archivefs.config import load
from archivefs.doctor.findings import Case, Line, ok, problem, warning
from archivefs.errors import ArchiveError, ConfigError, JournalDamagedError, OtherSchemaError
from archivefs.rebuilding import CATALOG, CHECKED_BYTES
from archivefs.states import Status, Submission
from archivefs.store import lock
from archivefs.store.journal import Journal
from archivefs.verify.journal import RESCUE, open_settled

STEP_SECONDS = 1.0
"""A clock that stands no more than so far behind the journal was only corrected."""
LATE = 2
"""A scheduled verification is late when it is so many times overdue."""


def archive(case: Case) -> Iterator[Line]:
    """Whether the folder holds an archive, and archive.toml is sound."""
    try:
        case.config = load(case.root)
    except ConfigError as error:
        yield problem(
            "archive",
            f"{error}; what needs the configuration was not looked at",
            f"correct that line; then: {case.command('config', 'check')}",
        )
    except ArchiveError as error:
        case.is_archive = (case.root / "journal").is_dir()
        yield problem(
            "archive",
            str(error),
            f"name another folder, put archive.toml back from a backup, or: archivefs init {case.root}",
        )
    else:
        yield ok("archive", f"{case.root}, {len(case.config.converters)} converters")


def catalog(case: Case) -> Iterator[Line]:
    """Whether the catalog is there, of this version, whole, and no further than the journal."""
    path, rebuild = case.root / CATALOG, case.command("rebuild")
    if not path.exists() and not (case.root / lock.FILE).exists():
        yield ok("catalog", "not there yet; the first command that opens the archive makes it")
        return
    if not path.exists():
        yield warning("catalog", f"{CATALOG} is missing; it is only an index", rebuild)
        return
    try:
        seq = _looked_into(case)
    except OtherSchemaError as error:
        yield warning("catalog", str(error), rebuild)
    except ArchiveError as error:
        yield problem("catalog", f"it cannot be read: {error}", f"{rebuild} (while it is not mounted)")
    else:
        yield ok("catalog", f"schema {SCHEMA_VERSION}, up to line {seq} of the journal")


def _looked_into(case: Case) -> int:
    """The last journal line that it has; opens the archive as it is. Raises ``CatalogError``."""
    path = case.root / CATALOG
    with told(path):
        reader = Reader.open(path)
        try:
            seq = reader.applied()[0]
        finally:
            reader.close()
        if path.stat().st_size <= CHECKED_BYTES:
            looked = Snapshot(path)
            try:
                damage = looked.damage()
            finally:
                looked.close()
            if damage:
                raise ArchiveError(damage)
        if case.config is not None:
            case.archive = Archive.open_as_it_is(case.root)
    return seq


def journal(case: Case) -> Iterator[Line]:
    """Whether the journal ends where checkpoint and catalog say; and whether the clock is behind it."""
    known = case.archive.reader.applied()[0] if case.archive is not None else 0
    try:
        chain = open_settled(case.root / "journal")
        if chain.head.seq == 0:
            raise JournalDamagedError("the journal is empty or gone")
        if chain.head.seq < known:
            raise JournalDamagedError(
                f"the journal ends at line {chain.head.seq}, the catalog knows line {known}: it was cut"
            )
    except JournalDamagedError as error:
        yield problem("journal", str(error), f"{case.command('audit', 'verify')}; {RESCUE}")
        return
    yield ok("journal", f"{chain.head.seq} lines; {case.command('audit', 'verify')} proves them")
    yield _clock(chain)


def _clock(chain: Journal) -> Line:
    now = datetime.now(UTC)
    ahead = (datetime.fromisoformat(chain.last_at) - now).total_seconds()
    if ahead <= STEP_SECONDS:
        return ok("clock", f"it shows {now:%Y-%m-%d %H:%M:%S} UTC, the journal's last line is earlier")
    return problem(
        "clock",
        f"it shows {now:%Y-%m-%d %H:%M:%S} UTC, {timedelta(seconds=round(ahead))} before "
        "the journal's last line: the clock was wrong then, or is wrong now",
        "compare timedatectl with a clock you trust; then: timedatectl set-ntp true",
    )


def holder(case: Case) -> Iterator[Line]:
    """Who has the archive open for writing, and whether the last one came to a clean end."""
    who = lock.holder(case.root)
    if not lock.is_held(case.root):
        if who is None:
            yield ok("lock", "nobody has the archive open for writing")
            return
        yield warning(
            "lock",
            f"process {who.pid} on {who.host} ({who.program}) had no clean end; nobody holds the lock now",
            f"any command brings in order what it left, such as: {case.command('status')}",
        )
    elif who is None:
        yield ok("lock", "a process that does not say which has the archive open for writing")
    elif who.host == os.uname().nodename and lock.is_dead(who.pid):
        yield problem(
            "lock",
            f"process {who.pid} was killed and waits in the kernel with the archive open",
            f"archivefs mount {case.root} {who.mountpoint or 'MOUNTPOINT'} ends that and mounts again",
        )
    else:
        yield ok("lock", f"held by process {who.pid} on {who.host} ({who.program})")


def verification(case: Case) -> Iterator[Line]:
    """Whether the scheduled verification runs in its time; what it found is an alarm."""
    if case.archive is None or case.config is None:
        return
    last, every = case.archive.reader.last_verified(), case.config.verify_every_seconds
    seen = f"last scheduled part at {last}" if last else "none that was scheduled has ended yet"
    if not every:
        schedule = case.command("config", "set", "verify_every", '"4 weeks"')
        yield ok(
            "verification",
            f"nothing is scheduled; {seen}",
            f"to schedule it: {schedule}; now: {case.command('verify')}",
        )
        return
    part_seconds = every / max(1, every // 86_400)
    age = datetime.now(UTC).timestamp() - datetime.fromisoformat(last).timestamp() if last else 0
    if age > LATE * part_seconds:
        yield warning(
            "verification",
            f"{seen}, more than {LATE} intervals ago; it runs under a mount",
            f"mount it; or now: {case.command('verify')}",
        )
    else:
        yield ok("verification", seen)


def outbox(case: Case) -> Iterator[Line]:
    """Reports on their way; why they do not leave is an alarm."""
    if case.archive is None:
        return
    sums = dict.fromkeys(Submission, 0)
    for states in case.archive.reader.outbox.totals().values():
        for state, count in states.items():
            sums[state] += count
    seen = ", ".join(f"{count} {state}" for state, count in sums.items() if count) or "empty"
    if refused := sums[Submission.REFUSED]:
        yield warning(
            "outbox",
            f"{seen}: {refused} need a decision",
            f"{case.command('outbox')} says why; then: {case.command('outbox', '--retry', 'ID')}",
        )
    else:
        yield ok("outbox", seen)


def quarantine(case: Case) -> Iterator[Line]:
    """Entries and files that wait for a person."""
    kept = len(list(quarantines.kept(case.root)))
    entries = len(case.archive.reader.with_status(Status.QUARANTINED)) if case.archive is not None else 0
    if entries:
        yield warning(
            "quarantine",
            f"{entries} entries need a decision; {kept} things are kept aside",
            f"{case.command('quarantine', 'list')}; then adopt or drop each",
        )
    else:
        what = f"no entries; {kept} things are kept aside in quarantine/" if kept else "nothing"
        yield ok("quarantine", what)
