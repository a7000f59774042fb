"""The command: what is measured, in which order, and where the figures go. Run by tools/bench."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from rich.console import Console

from bench_parts import (
    bench,
    commands,
    converting,
    disk,
    library,
    peers,
    plot,
    reading,
    report,
    scale,
    working,
    writing,
)
from bench_parts.bench import Bench
from bench_parts.figures import Figure
from bench_parts.systems import REPO

GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {
    **reading.GROUPS,
    **writing.GROUPS,
    **library.GROUPS,
    **disk.GROUPS,
    **commands.GROUPS,
    **converting.GROUPS,
    **working.GROUPS,
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measure archivefs beside a file system that does nothing, peers, and the plain design.",
    )
    made.add_argument("--quick", action="store_true", help="one or two minutes instead of about ten")
    made.add_argument("--smallest", action="store_true", help="only to see whether it runs")
    made.add_argument("--only", action="append", choices=GROUPS, metavar="NAME",
                      help=f"measure this; may be given again. There are: {', '.join(GROUPS)}")  # fmt: skip
    made.add_argument("--scale", type=counts, metavar="N[,N...]", help="archives of so many entries instead")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all values to FILE")
    made.add_argument("--page", type=Path, metavar="FILE", help="put the tables into this Markdown page")
    made.add_argument("--plot", type=Path, metavar="FILE", help="with --scale: draw growth into this SVG")
    made.add_argument("--work", type=Path, metavar="DIR", default=REPO / "bench",
                      help="where sources, images and archives are kept [CHECKOUT/bench]")  # fmt: skip
    made.add_argument("--install-peers", action="store_true", help="install the peers, then measure nothing")
    return made


def counts(text: str) -> list[int]:
    """The numbers of a comma list, ascending."""
    return sorted(int(each.replace("_", "")) for each in text.split(","))


def main() -> int:
    """Returns the exit code: 0, whatever the figures are."""
    options = parser().parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if options.install_peers:
        peers.install(work)
        print("installed:", ", ".join(peer.name for peer in peers.installed(work)))
        return 0
    thorough = bench.SMALLEST if options.smallest else bench.QUICK if options.quick else bench.FULL
    start = time.monotonic()
    figures: list[Figure] = []
    with Bench(work, thorough) as run:
        facts = report.machine() | {
            "client": run.client.language,
            "rounds": thorough.rounds,
            "caches_dropped": run.forgets,
            "peers": [peer.name for peer in peers.installed(work)],
        }
        for count in options.scale or ():
            figures += scale.scale(run, count)
        for name in GROUPS:
            if name in (options.only or ()) or not (options.only or options.scale):
                run.say(name)
                figures += GROUPS[name](run)
    facts["seconds"] = round(time.monotonic() - start, 1)
    report.show(figures, facts, Console(width=None if sys.stdout.isatty() else 200))
    if options.json:
        report.write_json(options.json, figures, facts)
    if options.plot:
        plot.draw(figures, options.plot)
    if options.page:
        report.into_page(options.page, report.markdown(figures, facts))
    return 0


def stop(number: int, frame: FrameType | None) -> None:
    """End as an error does, so that everything is unmounted."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
