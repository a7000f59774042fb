"""Tells the story of twelve test reports; run by tools/demo, which makes everything ready for it.

The commands it shows are the commands it runs, in the folder of this checkout, so a person can repeat them.
Nothing is said that was not checked: the demo ends with an error where archivefs breaks a promise.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from corpus import Sample, samples

REPO = Path(__file__).resolve().parent.parent
DEMO = REPO / "demo"
MARKER = DEMO / "made-by-tools-demo"
MOUNT = DEMO / "mount"
SAMPLES = 12
SEED = 1451
"""Yields four reports for each converter; one cannot be converted, and one is of a test that still runs."""
CONVERSION_SECONDS = 60.0
"""How long the conversions may take; about one second is usual."""
COMMAND_SECONDS = 60.0
"""How long a single command may take."""
LOOK_EVERY_SECONDS = 0.02
"""How often the mount is asked how far the conversions are."""

KEPT = """\
The archive is still mounted. Things to try, after
  $ cd {repo} && . .venv/bin/activate && export ARCHIVEFS_ARCHIVE=demo/archive

  $ cat demo/mount/README.txt
  $ ls -R demo/mount/by-status
  $ cat {success}/report.json
  $ cp demo/samples/ict-csv/{name} demo/mount/inbox/ict-csv/again.csv
  $ archivefs ls status=failed
  $ archivefs show {failed_id}
  $ archivefs log --last 5
  $ archivefs umount demo/mount"""


class DemoError(Exception):
    """Something was not as promised."""


class Interruption:
    """Remembers that somebody wants to stop: what runs comes to its end, then the demo unmounts."""

    def __init__(self) -> None:
        self.wanted = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` where it is safe to stop."""
        if self.wanted:
            raise KeyboardInterrupt


interruption = Interruption()


def main() -> int:
    """Tells the story; returns the exit code."""
    started = time.monotonic()
    keep = "--keep" in sys.argv[1:]
    try:
        remove_old_demo()
        with unmounted_at_worst():
            tell_story(keep=keep)
    except KeyboardInterrupt:
        print("\ntools/demo: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in: tools/demo | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, OSError) as error:
        print(f"\ntools/demo: {error}", file=sys.stderr)
        return 1
    say(f"\nAll of it was checked, in {time.monotonic() - started:.1f} s.")
    return 0


def tell_story(*, keep: bool) -> None:
    """The chapters, in their order."""
    say("To repeat by hand what follows, move the folder demo away and begin with")
    say(f"  $ cd {quoted(REPO)} && . .venv/bin/activate && export ARCHIVEFS_ARCHIVE=demo/archive")
    make_archive()
    reports = save_reports()
    entries = wait_for_conversions(reports)
    show_tree(entries)
    show_success(entries[one(reports, "success")])
    show_failure(entries[one(reports, "failed")])
    show_suspension(entries[one(reports, "suspended")])
    copy_out(entries)
    show_cost(reports)
    check_log()
    if keep:
        suggest(entries[one(reports, "success")], entries[one(reports, "failed")])
    else:
        unmount()


def make_archive() -> None:
    """An archive as the examples describe it, mounted."""
    title("An archive with three converters: a class for CSV, a function for XML, a command for logs")
    run("archivefs init --config docs/examples/archive.toml demo/archive")
    run("cp docs/examples/converters/*.py demo/archive/converters/")
    run("mkdir demo/mount && archivefs mount demo/archive demo/mount")
    run("ls demo/mount")
    expect(is_mounted(), "archivefs mount ended well, but demo/mount is no mount")


def save_reports() -> list[Sample]:
    """Reports of test stations, saved where a station would save them."""
    title("Test stations save twelve reports into the inbox")
    reports = list(samples(SAMPLES, SEED))
    made = Counter(report.expected_status for report in reports)
    expect(
        made == {"success": SAMPLES - 2, "failed": 1, "suspended": 1},
        f"tools/corpus.py makes other samples of seed {SEED} than it did: {dict(made)}; choose another seed",
    )
    run(f"python tools/corpus.py demo/samples --count {SAMPLES} --seed {SEED}")
    run("cp -r demo/samples/. demo/mount/inbox/")
    return reports


def wait_for_conversions(reports: list[Sample]) -> dict[Sample, Path]:
    """The folder of each report's entry, once all of them have the status that they must come to."""
    started = time.monotonic()
    while True:
        entries = {(path.parts[-3], path.name[14:]): path for path in list_entries()}
        found = {report: entries.get((report.converter, report.name)) for report in reports}
        wrong = [
            f"  {report.name}: {'nowhere' if path is None else path.parts[-4]}, not {report.expected_status}"
            for report, path in found.items()
            if path is None or path.parts[-4] != report.expected_status
        ]
        seconds = time.monotonic() - started
        if not wrong:
            break
        expect(seconds < CONVERSION_SECONDS, f"after {seconds:.0f} s still\n" + "\n".join(wrong))
        interruption.check()
        time.sleep(LOOK_EVERY_SECONDS)
    say(f"\nEach is on disk already, as `cp` came to its end. All are converted {seconds:.1f} s later:")
    run("archivefs status")
    return {report: path for report, path in found.items() if path is not None}


def list_entries() -> list[Path]:
    """All of MOUNT/by-status/STATUS/CONVERTER/DATE/ENTRY; what moves meanwhile may be missing."""
    found = [MOUNT / "by-status"]
    for _ in range(4):
        found = [folder / name for folder in found for name in listdir(folder)]
    return found


def listdir(folder: Path) -> list[str]:
    """The names in a folder of the mount, none if it is gone: its last entry has another status now."""
    try:
        return os.listdir(folder)  # noqa: PTH208  names, not paths
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = "the mount died" if error.errno == errno.ENOTCONN else str(error)
        raise DemoError(
            f"{shown(folder)} cannot be listed: {reason}; see demo/archive/archivefs.log"
        ) from None


def show_tree(entries: dict[Sample, Path]) -> None:
    """One of the views: each entry is a folder."""
    title("They are browsed as folders: by status here, and by converter, date and id as well")
    listed = run("cd demo/mount/by-status && find . -mindepth 4 -maxdepth 4 | sort").split()
    expect(
        {MOUNT / "by-status" / line for line in listed} == set(entries.values()),
        "find lists other entries than there are",
    )


def show_success(entry: Path) -> None:
    """A source beside what the converter made of it."""
    title("A source and its report")
    run(f"ls -l {shown(entry)}")
    run(f"head -c 400 {shown(entry)}/report.json; echo ...")
    expect(
        "serial_number" in json.loads((entry / "report.json").read_bytes()), "the report has no serial number"
    )


def show_failure(entry: Path) -> None:
    """A source beside the reason why it has no report."""
    title("A source that cannot be converted stands beside its error")
    run(f"ls {shown(entry)}")
    error = run(f"cat {shown(entry)}/error.txt")
    expect(bool(error.strip()), "error.txt is empty")
    number = re.search(r"line (\d+)", error)
    if number is not None:
        run(f"sed -n {number[1]}p {shown(entry)}/*.log | cat -v")
    expect(not (entry / "report.json").exists(), "a failed entry has a report")


def show_suspension(entry: Path) -> None:
    """A source whose converter wants to see it again later."""
    title("A test that still runs: its converter said 'suspended, retry later'")
    run(f"cat {shown(entry)}/error.txt")
    run(f"archivefs show {facts(entry)['id']}")


def copy_out(entries: dict[Sample, Path]) -> None:
    """What comes out is what went in."""
    title("A source is restored by copying it")
    sources = {
        report: MOUNT / "sources" / report.converter / entry.parts[-2] / report.expected_status / report.name
        for report, entry in entries.items()
    }
    report = one(list(entries), "success", "ict-csv")
    run(f"mkdir demo/restored && cp -p {shown(sources[report])} demo/restored/")
    run(f"cmp demo/samples/ict-csv/{report.name} demo/restored/{report.name} && echo equal")
    run(f"sha256sum demo/samples/ict-csv/{report.name} demo/restored/{report.name}")
    for each, source in sources.items():
        expect(source.read_bytes() == each.content, f"{shown(source)} is not what was saved")
    say(f"\nAll {SAMPLES} were compared: each is byte for byte what was saved.")


def show_cost(reports: list[Sample]) -> None:
    """Bytes that went in, and the room they take."""
    title("What the sources cost on disk")
    run("du -cb demo/samples/*/* | tail -n 1")
    run("du -cB1 demo/archive/content/*/*/*/*.sources.zst")
    files = list((DEMO / "archive" / "content").glob("*/*/*/*.sources.zst"))
    expect(len(files) >= 3, f"three converters have {len(files)} files of sources")
    disk = sum(file.stat().st_blocks * 512 for file in files)
    size = sum(len(report.content) for report in reports)
    say(f"\n{size} bytes of sources take {disk} bytes of the disk: {size / disk:.1f} times less.")
    expect(disk < size, "the archive takes more room than the sources")


def suggest(success: Path, failed: Path) -> None:
    """What to try with two of the entries, while the archive stays mounted."""
    title("Now you")
    name = facts(success)["name"]
    say(KEPT.format(repo=quoted(REPO), success=shown(success), name=name, failed_id=facts(failed)["id"]))


def check_log() -> None:
    """Nothing may have gone wrong unseen."""
    log = (DEMO / "archive" / "archivefs.log").read_text()
    expect(" ERROR " not in log and "Traceback" not in log, f"demo/archive/archivefs.log has errors:\n{log}")


def unmount() -> None:
    """Back to a folder, with everything committed."""
    title("Unmount; the archive can be asked without it, too")
    run("archivefs umount demo/mount")
    expect(not is_mounted(), "archivefs umount ended well, but demo/mount is still mounted")
    listed = run("archivefs ls status=failed,suspended")
    expect("failed" in listed, "archivefs ls does not list what failed")
    check_log()
    expect(not list(MOUNT.iterdir()), "something was written below the mount, into demo/mount")


def remove_old_demo() -> None:
    """Removes what an earlier demo made, and nothing else that may be in the folder."""
    expect(
        not DEMO.exists() or MARKER.is_file() or not any(DEMO.iterdir()),
        f"{DEMO} was not made by tools/demo; move it away",
    )
    for mountpoint in mountpoints():
        say("An earlier demo is still mounted.")
        run(f"archivefs umount {quoted(mountpoint)}")
    try:
        DEMO.mkdir(exist_ok=True)
        MARKER.touch()
        if MOUNT.exists():
            MOUNT.rmdir()  # fails on what is mounted there or stands in it, and that is wanted
        for name in ("archive", "samples", "restored"):
            if (DEMO / name).exists():
                shutil.rmtree(DEMO / name)
    except OSError as error:
        raise DemoError(f"the earlier demo cannot be removed: {error}") from None


@contextmanager
def unmounted_at_worst() -> Iterator[None]:
    """Leaves no mount behind where the story does not come to its end."""
    try:
        yield
    except BaseException:
        umount = str(REPO / ".venv/bin/archivefs"), "umount", str(MOUNT)
        for command in (umount, (*umount, "--lazy")):
            if is_mounted():
                subprocess.run(command, check=False, start_new_session=True)
        raise


def mountpoints() -> list[Path]:
    """Where the demo's archive is mounted, alive or dead; also what else is mounted at demo/mount."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        mountpoint, source = unescaped(left.split()[4]), unescaped(right.split()[1])
        if mountpoint == MOUNT or source == DEMO / "archive":
            found.append(mountpoint)
    return found


def unescaped(field: bytes) -> Path:
    """A path of mountinfo, where blanks are octal numbers."""
    return Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)))


def is_mounted() -> bool:
    """Whether the kernel has something at demo/mount, alive or dead."""
    return MOUNT in mountpoints()


def one(reports: list[Sample], status: str, converter: str = "") -> Sample:
    """The first report that comes to a status."""
    return next(
        report
        for report in reports
        if report.expected_status == status and report.converter.startswith(converter)
    )


def facts(entry: Path) -> dict[str, str]:
    """What entry.json says."""
    found: dict[str, str] = json.loads((entry / "entry.json").read_bytes())
    return found


def run(command: str) -> str:
    """Shows a command, runs it, shows what it prints and returns that."""
    interruption.check()
    print(styled("2", f"\n$ {command}"), flush=True)
    width = shutil.get_terminal_size((120, 24)).columns
    environment = os.environ | {
        "PATH": f"{REPO / '.venv' / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "ARCHIVEFS_ARCHIVE": "demo/archive",
        "COLUMNS": str(width),
    }
    try:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=REPO, env=environment, start_new_session=True, timeout=COMMAND_SECONDS, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DemoError(f"`{command}` did not end within {COMMAND_SECONDS:.0f} s") from None
    print(done.stdout, end="", flush=True)
    expect(done.returncode == 0, f"`{command}` ended with exit code {done.returncode}")
    return done.stdout


def expect(promise: bool, otherwise: str) -> None:  # noqa: FBT001
    """Ends the demo with an error unless the promise is kept."""
    if not promise:
        raise DemoError(otherwise)


def title(text: str) -> None:
    """Begins a chapter."""
    say(f"\n{styled('1', text)}")


def say(text: str) -> None:
    """Prints a line."""
    print(text, flush=True)


def styled(code: str, text: str) -> str:
    """Bold or dim on a terminal."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def shown(path: Path) -> str:
    """A path as the commands name it: from the checkout."""
    return str(path.relative_to(REPO))


def quoted(path: Path) -> str:
    """A path for the shell: from the checkout, or the whole."""
    return shlex.quote(shown(path) if REPO in path.parents else str(path))


if __name__ == "__main__":
    sys.exit(main())
