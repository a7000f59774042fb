"""What commands and an idle mount cost: the time until each command answers, processor time at rest."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from archivefs.archive import Archive
from archivefs.cli.main import COMMANDS
from bench_parts.bench import Bench
from bench_parts.data import TOML, capture
from bench_parts.figures import OURS, Budget, Figure, Table, at_most
from bench_parts.systems import ARCHIVEFS, ENVIRONMENT, Archivefs

GROUP = "commands"
STARTED = at_most(0.3, "0.3 s")
PYTHON = "python"
"""The interpreter alone, with what every command imports in any case."""


def seconds_of(command: Sequence[object]) -> float:
    """How long a command takes."""
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def startup(bench: Bench) -> list[Figure]:
    """``--help`` of each command, those that look at a small archive, mounting and unmounting."""
    root, point = bench.folder("commands"), bench.folder("mnt-commands")
    root.rmdir()
    Archive.create(root, TOML)
    with Archive(root) as archive:
        capture(archive, list(bench.prepared().sources())[:20])
    system, table = Archivefs(root, point), Table()
    questions = {name: [*ARCHIVEFS, *name.split()] for name in ("--version", "--help")}
    questions |= {f"{name} --help": [*ARCHIVEFS, name, "--help"] for name in COMMANDS}
    for name in ("status", "ls limit=10", "log --last 5"):
        words = name.split()
        questions[name] = [*ARCHIVEFS, "--archive", root, *words]
    for _ in range(bench.options.rounds):
        table.add(PYTHON, {"python": seconds_of([sys.executable, "-c", "pass"])})
        table.add(PYTHON, {"click": seconds_of([sys.executable, "-c", "import click"])})
        for name, command in questions.items():
            table.add(OURS, {name: seconds_of(command)})
        start = time.perf_counter()
        system.start()
        list(point.iterdir())
        table.add(OURS, {"mount": time.perf_counter() - start})
        start = time.perf_counter()
        seconds_of([*ARCHIVEFS, "umount", point])
        table.add(OURS, {"umount": time.perf_counter() - start})
        system.pid = 0
    figures = [
        Figure(GROUP, f"archivefs {name}", "seconds", table.of(name), STARTED, of="") for name in questions
    ]
    figures.append(
        Figure(GROUP, "archivefs mount, until listed", "seconds", table.of("mount"), STARTED, of="")
    )
    figures.append(Figure(GROUP, "archivefs umount", "seconds", table.of("umount"), STARTED, of=""))
    figures.append(Figure(GROUP, "python -c pass", "seconds", table.of("python"), of=""))
    figures.append(Figure(GROUP, "python -c 'import click'", "seconds", table.of("click"), of=""))
    return figures


def idle(bench: Bench) -> list[Figure]:
    """Processor time of a mount that nobody uses."""
    system = next(each for each in bench.readers() if each.name == OURS)
    time.sleep(1)
    before = system.cpu_seconds()
    time.sleep(bench.options.idle_seconds)
    used = system.cpu_seconds() - before
    budget = Budget("0", at_most=0.0)
    title = f"idle mount: processor time in {bench.options.idle_seconds:.0f} s"
    return [
        Figure(GROUP, title, "seconds", {OURS: [used]}, budget, of=""),
        Figure(GROUP, "idle mount: memory", "bytes", {OURS: [float(system.memory())]}, of=""),
    ]


GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {"startup": startup, "idle": idle}
