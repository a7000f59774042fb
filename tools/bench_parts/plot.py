"""Growth with the size of an archive as small charts in one SVG, both axes logarithmic."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from bench_parts.figures import OURS, Figure
from bench_parts.report import UNITS

WIDE, HIGH = 330, 220
LEFT, RIGHT, TOP, BOTTOM = 62, 32, 40, 30
COLUMNS = 3
COLOURS = ("#2563c9", "#c2571a", "#2b8a55", "#8a3fae")
STYLE = """
.page { fill: #ffffff } text { font: 11px system-ui, sans-serif; fill: #4a4f57 }
.title { font-size: 13px; font-weight: 600; fill: #16191d } .grid { stroke: #e4e7eb; stroke-width: 1 }
.budget { stroke: #c03434; stroke-width: 1; stroke-dasharray: 4 3 } .line { fill: none; stroke-width: 2 }
.bound { fill: #c03434 }
@media (prefers-color-scheme: dark) {
  .page { fill: #0f1317 } text { fill: #aab2bd } .title { fill: #eef1f4 } .grid { stroke: #262c33 }
}
"""


class Chart(NamedTuple):
    """Some figures over the number of entries; ``budget`` is drawn as a line, 0 for none."""

    title: str
    unit: str
    figures: tuple[tuple[str, str], ...]
    budget: float = 0.0


CHARTS = (
    Chart("Size on disk", "bytes", (
        ("content", "size of content"), ("journal", "size of journal"),
        ("catalog", "size of catalog.sqlite"))),
    Chart("Mount, cold, until listed", "seconds", (("", "mount, cold, until listed"),), 2.0),
    Chart("Memory of the daemon", "bytes", (
        ("during find", "  memory at most meanwhile"), ("after mount", "memory after the mount")), 200e6),
    Chart("Top-level listings", "seconds", (
        ("by-converter", "ls by-converter/"), ("by-date", "ls by-date/"), ("sources", "ls sources/")), 0.01),
    Chart("100 entries of a query", "seconds", (
        ("text=timeout", "100 of: text=timeout"), ("name=absent.csv", "100 of: name=absent.csv"),
        ("status=failed", "100 of: status=failed")), 0.01),
    Chart("Rebuild, events a second", "per_second", (("", "rebuild, events"),), 20_000),
)  # fmt: skip


class Scale(NamedTuple):
    """From values to places on one axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where the value is drawn."""
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)

    @property
    def decades(self) -> range:
        """The powers of ten on it."""
        return range(math.ceil(self.low), math.floor(self.high) + 1)


def draw(figures: Sequence[Figure], file: Path) -> None:
    """Write the charts; ``figures`` are those of several archives, their group is "N entries"."""
    rows = -(-len(CHARTS) // COLUMNS)
    width, height = COLUMNS * WIDE, rows * HIGH
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="growth with the number of entries">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    for number, chart in enumerate(CHARTS):
        row, column = divmod(number, COLUMNS)
        pieces.append(f'<g transform="translate({column * WIDE} {row * HIGH})">')
        pieces += drawn(chart, figures)
        pieces.append("</g>")
    file.write_text("\n".join([*pieces, "</svg>", ""]))


def points(name: str, figures: Sequence[Figure]) -> list[tuple[float, float]]:
    """(entries, value) of one figure in all archives."""
    found = [(int(each.group.split()[0]), each.spread(OURS)) for each in figures if each.name == name]
    return sorted((entries, values.median) for entries, values in found if values and values.median > 0)


def drawn(chart: Chart, figures: Sequence[Figure]) -> list[str]:
    """One chart: title, grid, budget, lines with their names."""
    lines = {label: points(name, figures) for label, name in chart.figures}
    lines = {label: line for label, line in lines.items() if line}
    if not lines:
        return []
    entries = [x for line in lines.values() for x, _ in line]
    values = [y for line in lines.values() for _, y in line] + ([chart.budget] if chart.budget else [])
    x = Scale(math.log10(min(entries)) - 0.08, math.log10(max(entries)) + 0.08, LEFT, WIDE - RIGHT)
    low, high = math.log10(min(values)), math.log10(max(values))
    y = Scale(math.floor(low * 2 - 0.2) / 2, math.ceil(high * 2 + 0.2) / 2, HIGH - BOTTOM, TOP)
    pieces = [f'<text class="title" x="{LEFT}" y="20">{escape(chart.title)}</text>']
    for power in y.decades:
        place, text = y(10**power), UNITS[chart.unit](10**power)
        pieces.append(f'<line class="grid" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{place}" y2="{place}"/>')
        pieces.append(f'<text x="{LEFT - 6}" y="{place + 4}" text-anchor="end">{text}</text>')
    for power in x.decades:
        pieces.append(f'<text x="{x(10**power)}" y="{HIGH - 10}" text-anchor="middle">{10**power:,}</text>')
    if chart.budget:
        place = y(chart.budget)
        pieces.append(f'<line class="budget" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{place}" y2="{place}"/>')
        pieces.append(
            f'<text class="bound" x="{WIDE - RIGHT}" y="{place - 4}" text-anchor="end">budget</text>'
        )
    for colour, line in zip(COLOURS, lines.values(), strict=False):
        places = [(x(at), y(value)) for at, value in line]
        path = " ".join(f"{across},{down}" for across, down in places)
        pieces.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        pieces += [f'<circle cx="{across}" cy="{down}" r="3" fill="{colour}"/>' for across, down in places]
    return pieces + legend(list(lines))


def legend(labels: Sequence[str]) -> list[str]:
    """The names of the lines, below the title."""
    pieces, at = [], LEFT
    for colour, label in zip(COLOURS, labels, strict=False):
        if label:
            pieces.append(f'<circle cx="{at + 4}" cy="32" r="4" fill="{colour}"/>')
            pieces.append(f'<text x="{at + 12}" y="36">{escape(label)}</text>')
            at += 24 + round(6.2 * len(label))
    return pieces
