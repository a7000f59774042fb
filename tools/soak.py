"""Runs archivefs under load for hours and judges whether anything grows; run by tools/soak.

Everything that it starts ends with it, however it ends: programs, daemon and mount.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import soak_measure as measure
from soak_measure import MIB, OPERATIONS, Life, Sample, Trend
from soak_plot import draw
from soak_station import AWAY, REPO, Crowd, SoakError, Station

from archivefs import __version__
from archivefs.rebuilding import CATALOG

SAMPLE_SECONDS = 2.0
LINE_SECONDS = 10.0
RESTARTS = ((0.05, "umount"), (0.10, "kill"), (0.15, "umount"), (0.20, "kill"))
"""When, as a part of the whole time, and how a daemon ends; after the last of them one has the rest."""
HEADING = (
    " time  life entries    RSS   anon cached  fds thr    close p50/p99     stat p50/p99     read p50/p99"
    "  journal catalog content"
)
HEADING_EVERY = 30
stopped = threading.Event()


def main() -> int:
    """Runs; returns the exit code: 0 all is well, 1 it is not, 2 wrong usage, 130 interrupted."""
    options = arguments()
    out: Path = options.out or REPO / "soak" / f"{datetime.now():%Y%m%d-%H%M%S}"
    if out.exists() and any(out.iterdir()):
        print(f"tools/soak: {out} is not empty", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        run = Run(out.resolve(), options.minutes * 60)
        run.go()
        return run.finish()
    except BrokenPipeError:  # as in: tools/soak 1 | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (SoakError, OSError) as error:
        print(f"tools/soak: {error}", file=sys.stderr)
        return 1


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="tools/soak", description="Endurance run; see tools/soak.")
    parser.add_argument("minutes", type=float, metavar="MINUTES")
    parser.add_argument("--out", type=Path, metavar="DIR", help="an empty or new folder for everything")
    options = parser.parse_args()
    if not 0 < options.minutes < math.inf:
        parser.error("MINUTES must be a number above 0")
    return options


def on_signal(number: int, frame: FrameType | None) -> None:
    """Ends the run at the next moment where nothing is half done."""
    stopped.set()


class Run:
    """One run: what was measured, and what was found wrong."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.out = out
        self.seconds = seconds
        self.station = Station(out)
        self.samples: list[Sample] = []
        self.lives: list[Life] = []
        self.trouble: list[str] = []
        self.saved: set[tuple[str, str, str]] = set()
        self.away: list[tuple[float, float]] = []
        self._line: dict[str, list[float]] = defaultdict(list)
        self._lines = 0
        self._began = 0.0

    def now(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    # -- the load --------------------------------------------------------------------------------------

    def go(self) -> None:
        """Load and measurements until the time is up; then everything is ended."""
        with ExitStack() as stack:
            self.station.make()
            stack.callback(self.station.take_down)
            self.station.mount()
            self._began = time.monotonic()
            self.lives.append(Life(1, self.station.pid, 0.0))
            crowd = Crowd(self.station.mount_point, self.seconds)
            stack.callback(crowd.end)
            self._measure(crowd)
            crowd.end()
            self._hear(crowd)
            self.lives[-1].ended = self.now()
            self._end_daemon()
        if self.station.is_mounted() or self.station.is_alive():
            self.trouble.append("the mount could not be taken down")

    def _end_daemon(self) -> None:
        """The last end is clean, too; a daemon that died before is trouble already."""
        if self.station.is_alive():
            try:
                self.station.umount()
            except SoakError as error:
                self.trouble.append(str(error))

    def _measure(self, crowd: Crowd) -> None:
        """Samples and restarts in their time, until it is up, somebody stops the run, or trouble comes."""
        step = min(SAMPLE_SECONDS, self.seconds / 60)
        plan = [(share * self.seconds, how) for share, how in RESTARTS]
        due = step
        while not stopped.wait(max(due - self.now(), 0)):
            if plan and self.now() >= plan[0][0]:
                self._restart(crowd, plan.pop(0)[1])
            self._sample(crowd)
            if self.trouble or (self.now() >= self.seconds and not plan):
                break
            due = max(due + step, self.now())

    def _restart(self, crowd: Crowd, how: str) -> None:
        """Ends the daemon and mounts again; before a kill nobody is asked to stop."""
        self._hear(crowd)
        left = time.monotonic()
        if how == "umount":
            crowd.pause()
            self.station.umount()
        else:
            self.station.kill()
        self.lives[-1].ended, self.lives[-1].end = self.now(), how
        self.station.mount()
        if how == "umount":
            crowd.go()
        self.away.append((left, time.monotonic() + 0.5))
        self.lives.append(Life(len(self.lives) + 1, self.station.pid, self.now()))

    def _hear(self, crowd: Crowd) -> dict[str, list[Any]]:
        """Takes what the programs did; what went wrong outside a restart is trouble."""
        heard = crowd.heard.take()
        for at, number, what in heard["trouble"]:
            expected = number in AWAY and any(start <= at <= end for start, end in self.away)
            if not expected:
                self.trouble.append(what)
        self.saved.update((converter, name, sha256) for converter, name, sha256, _, _ in heard["saved"])
        return heard

    # -- the measurements ------------------------------------------------------------------------------

    def _sample(self, crowd: Crowd) -> None:
        heard = self._hear(crowd)
        heard[measure.CONTROL] = measure.synced_writes(self.out)
        crowd.share([[id_, name, size, sha256] for _, name, sha256, id_, size in heard["saved"] if id_])
        for name in OPERATIONS:
            self._line[name] += heard[name]
        if not self.station.is_alive():
            self.trouble.append("the daemon died")
        if crowd.dead():
            self.trouble.append(f"programs died: {', '.join(crowd.dead())}")
        if self.trouble:
            return
        sample = Sample(
            at=round(self.now(), 2), life=len(self.lives), **measure.process_facts(self.station.pid),
            cached=measure.cached(self.station.root / CATALOG),
            entries=measure.entries_of(self.station.mount_point),
            **measure.archive_facts(self.station.root), kernel_inodes=measure.kernel_inodes(),
            latency={
                name: measure.percentiles(heard[name])
                for name in (*OPERATIONS, measure.CONTROL)
                if heard[name]
            },
        )  # fmt: skip
        self.samples.append(sample)
        if sample.at >= (self._lines + 1) * min(LINE_SECONDS, self.seconds / 12):
            self._print(sample)

    def _print(self, sample: Sample) -> None:
        """A line of the table; latencies are those since the last line."""
        if self._lines % HEADING_EVERY == 0:
            print(f"\n{'sizes in MiB, latencies in ms':>{len(HEADING)}}\n{HEADING}")
        self._lines += 1
        pairs = [measure.percentiles(self._line[name]) if self._line[name] else None for name in OPERATIONS]
        self._line.clear()
        shown = "".join(f"{each.p50:9.2f}/{each.p99:7.1f}" if each else f"{'-':>17}" for each in pairs)
        print(
            f"{int(sample.at) // 60:3}:{int(sample.at) % 60:02} {sample.life:4} {sample.entries:7}"
            f"{sample.rss / MIB:7.1f}{sample.anon / MIB:7.1f}{sample.cached / MIB:7.1f}"
            f"{sample.descriptors:5}{sample.threads:4}{shown}"
            f"{sample.journal / MIB:9.1f}{sample.catalog / MIB:8.1f}{sample.content / MIB:8.1f}",
            flush=True,
        )

    # -- the verdict -----------------------------------------------------------------------------------

    def finish(self) -> int:
        """Verifies, judges, writes the files; returns the exit code."""
        verified = self._prove()
        judged = [] if stopped.is_set() else self._judged()
        trends = measure.trends(judged) if judged else []
        long = bool(judged) and (judged[-1].at - judged[0].at) / 2 >= measure.JUDGED_SECONDS
        growing = [each for each in trends if each.grows] if long else []
        verdict = self._verdict(trends, growing, long=long)
        self._write(verified, trends, verdict)
        self._say(verified, trends, judged, verdict)
        well = not self.trouble and not growing
        if well:
            shutil.rmtree(self.station.root)
            self.station.mount_point.rmdir()
        return 130 if stopped.is_set() else int(not well)

    def _prove(self) -> dict[str, Any]:
        """Everything that close() acknowledged is there, everything there is whole, no error was logged."""
        if self.station.is_mounted() or stopped.is_set():
            return {}
        verified = self.station.verify()
        if verified["worst"] not in ("", "notice"):
            self.trouble.append(f"archivefs verify finds {verified['worst']}: {verified['findings'][:3]}")
        lost = self.saved - self.station.archived()
        if lost:
            self.trouble.append(f"{len(lost)} acknowledged sources are lost, such as {sorted(lost)[0]}")
        self.trouble += self.station.errors_logged()[:5]
        return verified

    def _judged(self) -> list[Sample]:
        """The samples of the longest life."""
        longest = max(self.lives, key=lambda life: life.seconds, default=None)
        return [each for each in self.samples if longest is not None and each.life == longest.number]

    def _verdict(self, trends: list[Trend], growing: list[Trend], *, long: bool) -> str:
        if self.trouble:
            return f"trouble: {'; '.join(self.trouble)}"
        if stopped.is_set():
            return f"stopped after {clock(self.lives[-1].ended)}; nothing was judged"
        if growing:
            return "grows: " + "; ".join(f"{each.quantity} by {rate(each)} an hour" for each in growing)
        if not long or not trends:
            return "no trouble; too short to judge growth, which takes 13 minutes"
        return "no growth"

    def _write(self, verified: dict[str, Any], trends: list[Trend], verdict: str) -> None:
        facts = {
            "date": f"{datetime.now():%Y-%m-%d}", "minutes": self.seconds / 60, "archivefs": __version__,
            "machine": machine(), "saved": len(self.saved), "verified": verified, "verdict": verdict,
            "trends": [{**each._asdict(), "grows": each.grows} for each in trends],
            "lives": [vars(life) for life in self.lives], "samples": measure.as_json(self.samples),
        }  # fmt: skip
        (self.out / "soak.json").write_text(json.dumps(without_infinity(facts)))
        if self.samples:
            heading = f"archivefs under load for {self.seconds / 60:g} minutes"
            below = (
                f"{facts['date']}, {machine()}; {len(self.saved)} sources saved; {len(self.lives)} daemons"
            )
            (self.out / "soak.svg").write_text(draw(self.samples, self.lives, heading, below))

    def _say(self, verified: dict[str, Any], trends: list[Trend], judged: list[Sample], verdict: str) -> None:
        if verified:
            print(
                f"\narchivefs verify: {verified['records']} records and {verified['events']} events, "
                f"worst finding: {verified['worst'] or 'none'}; {len(self.saved)} sources were acknowledged"
            )
        if trends:
            life, start = judged[0].life, (judged[0].at + judged[-1].at) / 2
            print(
                f"\nDaemon {life} from {clock(start)} to {clock(judged[-1].at)}, change an hour "
                f"(Theil-Sen, 95 % confidence); {self._cache_words(judged)}"
            )
            print(f"{'':50}{'median':>12}{'an hour':>12}{'low':>12}{'high':>12}{'tolerated':>12}")
            for each in trends:
                name = f"{each.quantity}, {each.unit}" if each.unit else each.quantity
                numbers = (each.median, each.slope, each.low, each.high, each.tolerance)
                print(f"{name:50}" + "".join(map(cell, numbers)))
        print(f"\n{verdict}\n{self.out / 'soak.json'}\n{self.out / 'soak.svg'}", flush=True)

    @staticmethod
    def _cache_words(judged: list[Sample]) -> str:
        full = next((each.at for each in judged if each.cached >= measure.CACHES_BYTES), None)
        limit = measure.CACHES_BYTES // MIB
        if full is None:
            return f"its caches held at most {judged[-1].cached / MIB:.0f} of {limit} MiB"
        return f"its caches ({limit} MiB) were full from {clock(full)} on"


def rate(trend: Trend) -> str:
    """Growth with its confidence."""
    return f"{trend.slope:.3g} {trend.unit} ({trend.low:.3g} to {trend.high:.3g})".replace("  ", " ")


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def cell(number: float) -> str:
    """A number in the table of changes."""
    return f"{number:12.2f}" if math.isfinite(number) else f"{'-':>12}"


def without_infinity(facts: Any) -> Any:  # noqa: ANN401  any JSON
    """The same without infinite numbers, which JSON has not."""
    if isinstance(facts, dict):
        return {key: without_infinity(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [without_infinity(value) for value in facts]
    return None if isinstance(facts, float) and not math.isfinite(facts) else facts


def machine() -> str:
    """Processor, cores, kernel and Python in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    release = ".".join(platform.release().split(".")[:2])
    words = [model, f"{os.cpu_count()} cores", f"Linux {release}", f"Python {platform.python_version()}"]
    return ", ".join(filter(None, words))


if __name__ == "__main__":
    sys.exit(main())
