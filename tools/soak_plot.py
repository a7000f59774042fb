"""Knows how a run is drawn: panels one below the other over one axis of time, as a small SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from statistics import median
from typing import NamedTuple

from soak_measure import CONTROL, MIB, OPERATIONS, Life, Sample

WIDTH, LEFT, RIGHT = 960, 64, 190
TOP, PANEL, GAP, BOTTOM = 76, 132, 40, 40
POINTS = 220
"""Of each line at most; more are gathered into medians."""
BLUE, ORANGE, GREEN, GREY = "#0b62a4", "#d1480c", "#12804f", "#6b6b6b"
"""Told apart by people who see few colours, and by their lightness in print."""
STYLE = """\
text{font:12px system-ui,"Segoe UI",Helvetica,Arial,sans-serif;fill:#333}
.head{font-size:17px;font-weight:600;fill:#111}.title{font-weight:600;fill:#111}.small{fill:#6b6b6b;font-size:11px}
.grid{stroke:#e4e4e4}.frame{stroke:#bbb;fill:none}.umount{stroke:#6b6b6b;stroke-dasharray:2 3}
.kill{stroke:#d1480c;stroke-dasharray:5 3}
polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}.faint{stroke-width:1;stroke-opacity:.55}"""


Xy = tuple[float, float]


class Line(NamedTuple):
    """One quantity; ``faint`` for what stands behind another of the same colour."""

    label: str
    colour: str
    value: Callable[[Sample], float | None]
    faint: bool = False


class Panel(NamedTuple):
    """Lines with one scale; ``log`` for quantities that differ by powers of ten."""

    title: str
    lines: Sequence[Line]
    log: bool = False


def latency_lines() -> list[Line]:
    """p99 and, fainter, p50 of each operation; of the disk without archivefs only the p99."""
    colours = dict(zip(OPERATIONS, (BLUE, ORANGE, GREEN), strict=True))

    def value(name: str, part: int) -> Callable[[Sample], float | None]:
        return lambda sample: sample.latency[name][part] if name in sample.latency else None

    both = [
        (Line(f"{name} p99", colours[name], value(name, 2)), Line("p50", colours[name], value(name, 1), True))  # noqa: FBT003
        for name in OPERATIONS
    ]
    control = Line(f"{CONTROL} alone p99", GREY, value(CONTROL, 2))
    return [control, *(line for pair in both for line in pair)]


PANELS = (
    Panel(
        "Memory of the daemon, MiB",
        (
            Line("RSS", BLUE, lambda each: each.rss / MIB),
            Line("RssAnon", GREEN, lambda each: each.anon / MIB),
            Line("of it caches, at most", GREY, lambda each: each.cached / MIB),
        ),
    ),
    Panel(
        "Descriptors and threads of the daemon",
        (
            Line("descriptors", BLUE, lambda each: each.descriptors),
            Line("threads", ORANGE, lambda each: each.threads),
        ),
    ),
    Panel("Latency as programs see it, ms (faint: median)", latency_lines(), log=True),
    Panel(
        "Entries, thousands",
        (Line("entries", BLUE, lambda each: each.entries / 1000 if each.entries else None),),
    ),
    Panel(
        "On disk, MiB",
        (
            Line("content", BLUE, lambda each: each.content / MIB),
            Line("catalog", ORANGE, lambda each: each.catalog / MIB),
            Line("journal", GREEN, lambda each: each.journal / MIB),
        ),
        log=True,
    ),
)  # fmt: skip


class Scale:
    """From values to pixels, with round ticks; it ends at a tick unless it is ``exact``."""

    def __init__(
        self, low: float, high: float, start: float, end: float, *, log: bool = False, exact: bool = False
    ) -> None:
        self._log = log
        if log:
            low = 10 ** math.floor(math.log10(max(low, 1e-3)))
            high = 10 ** math.ceil(math.log10(max(high, low * 10)))
            self.ticks = [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]
        else:
            step = round_step((high - low) / (8 if exact else 4) or 1)
            high = high if exact else math.ceil(high / step) * step or step
            self.ticks = [step * number for number in range(round(low / step), int(high / step + 1e-6) + 1)]
        self._low, self._high = self._at(low), self._at(high)
        self._start, self._end = start, end

    def _at(self, value: float) -> float:
        return math.log10(max(value, 1e-3)) if self._log else value

    def pixel(self, value: float) -> float:
        """Where a value stands."""
        share = (self._at(value) - self._low) / (self._high - self._low)
        return self._start + min(max(share, 0), 1) * (self._end - self._start)


def round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, not below ``rough``."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def gathered(samples: Sequence[Sample], value: Callable[[Sample], float | None], seconds: float) -> list[Xy]:
    """Medians of ``seconds`` each; times in minutes."""
    groups: dict[int, list[Xy]] = {}
    for sample in samples:
        found = value(sample)
        if found is not None:
            groups.setdefault(int(sample.at / seconds), []).append((sample.at / 60, found))
    return [
        (median(at for at, _ in each), median(value for _, value in each)) for each in groups.values()
    ]  # fmt: skip


def draw(samples: Sequence[Sample], lives: Sequence[Life], heading: str, below: str) -> str:
    """The whole picture; lines are broken where one daemon ended and the next began."""
    height = TOP + len(PANELS) * (PANEL + GAP) + BOTTOM - GAP
    minutes = max(samples[-1].at, 1) / 60
    across = Scale(0, minutes, LEFT, WIDTH - RIGHT, exact=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(heading)}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        text(16, 28, heading, "head"),
        text(16, 47, below, "small"),
        *legend(WIDTH - RIGHT + 8),
    ]
    for number, panel in enumerate(PANELS):
        top = TOP + number * (PANEL + GAP)
        parts += panel_parts(panel, top, across, samples, lives)
    for tick in across.ticks:
        parts.append(text(across.pixel(tick), height - BOTTOM + 16, f"{tick:g}", "small", "middle"))
    parts.append(text(WIDTH - RIGHT, height - BOTTOM + 32, "minutes", "small", "end"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel_parts(
    panel: Panel,
    top: float,
    across: Scale,
    samples: Sequence[Sample],
    lives: Sequence[Life],
) -> list[str]:
    """One panel: grid, restarts, lines with their names at their ends."""
    seconds = max(samples[-1].at / POINTS, 1e-9)
    drawn = [
        (line, [gathered(mine, line.value, seconds) for mine in of_lives(samples, lives)])
        for line in panel.lines
    ]
    values = [value for _, pieces in drawn for piece in pieces for _, value in piece] or [1.0]
    up = Scale(min(values) if panel.log else 0, max(values), top + PANEL, top, log=panel.log)
    right = WIDTH - RIGHT
    parts = [text(LEFT, top - 8, panel.title, "title")]
    for tick in up.ticks:
        y = up.pixel(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(text(LEFT - 8, y + 4, f"{tick:,g}".replace(",", " "), "small", "end"))
    parts.append(f'<rect class="frame" x="{LEFT}" y="{top}" width="{right - LEFT}" height="{PANEL}"/>')
    for life in lives[:-1]:
        x = across.pixel(life.ended / 60)
        parts.append(f'<path class="{life.end}" d="M{x:.1f} {top}V{top + PANEL}"/>')
    ends = []
    for line, pieces in drawn:
        for piece in filter(None, pieces):
            points = " ".join(f"{across.pixel(x):.1f},{up.pixel(y):.1f}" for x, y in piece)
            faint = ' class="faint"' if line.faint else ""
            parts.append(f'<polyline{faint} stroke="{line.colour}" points="{points}"/>')
        last = next((piece for piece in reversed(pieces) if piece), None)
        if last and not line.faint:
            ends.append((up.pixel(last[-1][1]), line, last[-1][1]))
    return parts + end_labels(ends, right, top)


def legend(x: float) -> list[str]:
    """What the upright lines mean, in the corner above the names of the others."""
    parts = []
    for y, kind, words in ((24, "umount", "umount and mount"), (42, "kill", "kill -9 and mount")):
        parts.append(f'<path class="{kind}" d="M{x:.0f} {y - 10}v13"/>')
        parts.append(text(x + 8, y, words, "small"))
    return parts


def of_lives(samples: Sequence[Sample], lives: Sequence[Life]) -> list[list[Sample]]:
    """The samples of each life."""
    return [[sample for sample in samples if sample.life == life.number] for life in lives]


def end_labels(ends: list[tuple[float, Line, float]], right: float, top: float) -> list[str]:
    """Names and last values beside the lines' ends, moved apart where they would overlap."""
    parts, lowest = [], top - 14.0
    ends.sort(key=lambda end: end[0])
    room = [top + PANEL - 15 * (len(ends) - number - 1) for number in range(len(ends))]
    for (y, line, value), limit in zip(ends, room, strict=True):
        lowest = max(min(y + 4, limit + 4), lowest + 15)
        shown = f"{value:.3g}" if value < 100 else f"{value:,.0f}".replace(",", " ")
        label = escape(f"{line.label} {shown}")
        parts.append(f'<text x="{right + 8}" y="{lowest:.1f}" style="fill:{line.colour}">{label}</text>')
    return parts


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    """A text element."""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{where}>{escape(words)}</text>'
