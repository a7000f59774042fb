"""Where an archive is mounted, whether the mount lives, what it says, and files that missed it."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from archivefs import names, statistics
from archivefs.doctor.asking import ANSWER_SECONDS, ask
from archivefs.doctor.findings import Case, Line, ok, problem, warning
from archivefs.fs import mounts
from archivefs.fs.mounts import Mount
from archivefs.store import lock

FSTAB = Path("/etc/fstab")
SHOWN = 5
"""Stray files that are named; the others are counted."""


def mount(case: Case) -> Iterator[Line]:
    """Each place where the archive is mounted, and whether something answers there."""
    found = [each for each in mounts.mounted() if each.root == case.root]
    for each in found:
        yield _asked(case, each)
    if not found:
        where = mounts.mountpoint_of(case.root)
        if where is None:
            yield ok("mount", "not mounted")
        else:
            yield warning(
                "mount",
                f"mounted at {where}, but not to be seen from here",
                "look from where it was mounted: the same container, the same user's session",
            )


def _asked(case: Case, mount: Mount) -> Line:
    point, again = mount.mountpoint, shlex.join(["archivefs", "mount", str(case.root), str(mount.mountpoint)])
    answer = ask("cat", os.fsencode(point / "health.json"))
    if answer.code == 0:
        said = json.loads(answer.out)
        case.alarms = said["alarms"]
        if said["writable"]:
            return ok("mount", f"mounted at {point}, and answers")
        return problem(
            "mount",
            f"mounted at {point}, and nothing can be captured any more",
            f"see the alarm read-only; when its reason is gone: archivefs umount {point} && {again}",
        )
    if answer.code is None:
        return problem(
            "mount",
            f"mounted at {point}, and does not answer within {ANSWER_SECONDS:g} s",
            f"{case.root}/archivefs.log may say why. To end it: "
            f"{'' if _held(case) else 'as root: '}umount -f -l {point}; then: {again}",
        )
    if "Permission denied" in answer.error:
        return warning(
            "mount",
            f"mounted at {point} for another user; uid {os.geteuid()} may not look",
            f"as that user, or mount with: -o allow_other. Such as: sudo {case.command('doctor')}",
        )
    return problem("mount", f"the mount at {point} is dead: {_reason(answer.error)}", again)


def _held(case: Case) -> bool:
    return os.geteuid() == 0 and lock.is_held(case.root)


def _reason(error: str) -> str:
    """What cat says is wrong, without the path."""
    return error.rpartition(": ")[2] or "it gives no answer"


def alarms(case: Case) -> Iterator[Line]:
    """What the mount says a person should look at; of an archive that is not mounted, its catalog."""
    told = case.alarms
    if told is None:
        if case.archive is None:
            return
        told = statistics.health(case.archive)["alarms"]
    for about, what in told.items():
        if about != "space":  # looked at already
            yield (problem if about in _SERIOUS else warning)(
                "alarms", f"{about}: {what}", _remedy(case, about)
            )
    if not set(told) - {"space"}:
        is_silent = case.alarms is None and lock.is_held(case.root)
        yield ok("alarms", "none in the catalog; who has it open was not asked" if is_silent else "none")


_SERIOUS = {"read-only", "configuration", "verify"}


def _remedy(case: Case, about: str) -> str:
    kind, _, name = about.partition(" ")
    if kind == "outbox":
        return (
            f"{case.command('outbox')}; when its receiver is well: {case.command('outbox', '--retry', name)}"
        )
    if kind == "plan":
        return case.command("retention", "plan")
    if about.startswith("converters."):
        return case.command("converter", "check", about.partition(".")[2])
    return {
        "configuration": f"{case.command('config', 'check')}; then: echo > MOUNTPOINT/control/reload",
        "read-only": f"mend the disk, see {case.root}/archivefs.log; then archivefs umount, archivefs mount",
    }.get(about, case.command("verify"))


# -- files that nobody captured ----------------------------------------------------------------------------


def strays(case: Case) -> Iterator[Line]:
    """Files in folders where the archive is mounted at other times: nobody captured them."""
    there = {each.mountpoint for each in mounts.mounted()}
    places = [each for each in _mountpoints(case) if each not in there]
    clean = list[Path]()
    for place in places:
        answer = ask("find", os.fsencode(place), "-xdev", "-mindepth", "1", "!", "-type", "d", "-print0")
        found = [Path(os.fsdecode(each)) for each in answer.out.split(b"\0")[:-1]]
        if found:
            yield from _found(case, place, found, is_all=answer.code is not None)
        elif answer.code is None:
            yield warning("inbox", f"{place} cannot be looked at: it does not answer", f"ls {place}")
        else:
            clean.append(place)
    if len(clean) == len(places):
        where = ", ".join(map(str, clean))
        yield ok("inbox", f"nothing was saved into {where}" if where else "no other mountpoint to look at")


def _mountpoints(case: Case) -> list[Path]:
    """Where the archive was mounted last, what fstab says, and what was named."""
    last = lock.last_mountpoint(case.root)
    found = [*case.mountpoints, *([Path(last)] if last else [])]
    try:
        lines = FSTAB.read_text(errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = [mounts.plain(word) for word in line.split()]
        if len(words) >= 3 and words[2] in ("archivefs", "fuse.archivefs"):
            source = words[0].rpartition("#")[2]
            found += [Path(words[1])] if Path(source) == case.root else []
    return list(dict.fromkeys(mounts.absolute(each) for each in found))


def _found(case: Case, place: Path, found: list[Path], *, is_all: bool) -> Iterator[Line]:
    """A line for each converter whose files they are, by the folder they were saved in."""
    owners = dict[str, list[Path]]()
    for each in found:
        parts = each.relative_to(place).parts
        known = len(parts) > 2 and parts[0] == "inbox" and case.config and parts[1] in case.config.converters
        owners.setdefault(parts[1] if known else "", []).append(each)
    for converter, files in owners.items():
        which = ", ".join(names.safe(str(each)) for each in files[:SHOWN])
        more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        count = f"{len(files)}{'' if is_all else ' or more'} file{'s' * (len(files) != 1)}"
        what = [place / "inbox" / converter] if converter else files[:SHOWN]
        take = case.command("capture", "--converter", converter or "CONVERTER", *what)
        if not converter and case.config:
            take += f" (CONVERTER: {', '.join(case.config.converters)})"
        yield problem(
            "inbox",
            f"{count} in {place}, saved while nothing was mounted there and not captured: {which}{more}",
            f"{take}; when all are captured: find {shlex.quote(str(place))} -mindepth 1 -delete",
        )
