"""How figures are told: a table for people, JSON for machines, Markdown for docs/performance.md."""

import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw
import pyfuse3
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench_parts.figures import FLOOR, OURS, Figure

MARKS = "<!-- figures of tools/bench -->", "<!-- end of figures -->"
FORMAT = 1
"""Version of the JSON."""


def rate(value: float) -> str:
    """Operations a second."""
    return f"{value:,.0f} /s" if value < 10_000 else f"{value / 1000:,.0f} k/s"


def size(value: float) -> str:
    """Bytes."""
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}" if abs(value) < 100 else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def duration(value: float) -> str:
    """Seconds."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 0.995:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.2g} us"


UNITS: Mapping[str, Callable[[float], str]] = {
    "per_second": rate,
    "bytes_per_second": lambda value: f"{size(value)}/s",
    "bytes": size,
    "seconds": duration,
}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = re.search(r"(?m)^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1])  # type: ignore[index]
    return {
        "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory * 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyfuse3": pyfuse3.__version__,
        "sqlite": apsw.sqlite_lib_version(),
        "load_before": os.getloadavg()[0],
    }


def about(facts: Mapping[str, Any]) -> str:
    """The same in a sentence."""
    dropped = (
        "caches dropped where it says cold" if facts["caches_dropped"] else "NO CACHES DROPPED (not root)"
    )
    return (
        f"{facts['at']} UTC, {facts['cpus']} x {facts['cpu']}, {facts['memory_bytes'] / 1e9:.0f} GB, "
        f"Linux {facts['kernel']}, Python {facts['python']}, pyfuse3 {facts['pyfuse3']}, "
        f"SQLite {facts['sqlite']}; "
        f"clients in {facts['client']}, {facts['rounds']} rounds, "
        f"{dropped}"
    )


def columns(figures: Sequence[Figure]) -> list[str]:
    """The systems of a group: archivefs, the floor, then the others as they come."""
    found = dict.fromkeys((OURS, FLOOR))
    for figure in figures:
        found |= dict.fromkeys(figure.values)
    return [name for name in found if any(figure.values.get(name) for figure in figures)]


def cells(figure: Figure, systems: Sequence[str]) -> Iterator[str]:
    """A line of the table: name, values, ratio, budget."""
    yield figure.name
    show = UNITS[figure.unit]
    for name in systems:
        found = figure.spread(name)
        yield show(found.median) if found else ""
    yield ratio_text(figure)
    yield "" if figure.budget is None else figure.budget.text


def ratio_text(figure: Figure) -> str:
    """The ratio with its least and greatest, and what it refers to where that is not the floor."""
    found = figure.ratio
    if found is None:
        return ""
    text = f"{found.median:.2f}"
    if found.least != found.most:
        text += f" ({found.least:.2f}-{found.most:.2f})"
    return text if figure.other == FLOOR else f"{text} x {figure.other}"


def show(figures: Sequence[Figure], facts: Mapping[str, Any], console: Console) -> None:
    """Tables for people; green is within the budget, red is not."""
    console.print(Text(about(facts), style="dim"))
    for group, some in groupby(figures, key=lambda figure: figure.group):
        members = list(some)
        systems = columns(members)
        table = Table(title=group, title_justify="left", title_style="bold", header_style="bold", box=None)
        for name in ("", *systems, "ratio", "budget"):
            table.add_column(name, justify="left" if name in ("", "budget") else "right")
        for figure in members:
            colour = {True: "green", False: "red", None: ""}[figure.is_met]
            line = [Text(cell) for cell in cells(figure, systems)]
            line[1].stylize("bold")
            line[-1].stylize(colour)
            line[-2].stylize(colour)
            table.add_row(*line)
        console.print(table)


def markdown(figures: Sequence[Figure], facts: Mapping[str, Any]) -> str:
    """The same for a page; a budget that was missed is bold."""
    lines = [about(facts) + ".", ""]
    for group, some in groupby(figures, key=lambda figure: figure.group):
        members = list(some)
        systems = columns(members)
        lines.append("| " + " | ".join((group, *systems, "ratio", "budget")) + " |")
        lines.append("|---|" + "--:|" * (len(systems) + 1) + "---|")
        for figure in members:
            line = [cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells(figure, systems)]
            if figure.is_met is False:
                line[-1] = f"**missed: {line[-1]}**"
            lines.append("| " + " | ".join(line).replace("|   ", "| &nbsp; ") + " |")
        lines.append("")
    return "\n".join(lines)


def into_page(page: Path, text: str) -> None:
    """Put the tables between the marks of a page."""
    begin, end = MARKS
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"tools/bench: {page} has no lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}{end}{after}")


def write_json(file: Path, figures: Sequence[Figure], facts: Mapping[str, Any]) -> None:
    """All of it, for machines."""
    whole = {"format": FORMAT, **facts, "figures": [figure.as_json() for figure in figures]}
    file.write_text(json.dumps(whole, indent=1) + "\n")
