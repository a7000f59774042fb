"""What tools/soak calls growth, and how it draws a run; on numbers that are known."""

import importlib
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
HOUR = 3600


@pytest.fixture(scope="module")
def _import_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        yield


@pytest.fixture(scope="module")
def measure(_import_path: None) -> ModuleType:
    return importlib.import_module("soak_measure")


@pytest.fixture(scope="module")
def plot(_import_path: None) -> ModuleType:
    return importlib.import_module("soak_plot")


def run_of(
    measure: ModuleType, memory: Callable[[float], float], **more: Callable[[float], float]
) -> list[Any]:
    """Samples of half an hour with some noise; ``memory`` in MiB and the others by the second."""
    chance = random.Random(1)
    samples = []
    for number in range(900):
        at = 2.0 * number
        facts = {name: int(value(at)) for name, value in more.items()}
        anon = int((memory(at) + chance.gauss(0, 1.5)) * MIB)
        samples.append(
            measure.Sample(
                **{"at": at, "life": 1, "rss": anon + 14 * MIB, "anon": anon, "descriptors": 39, "threads": 5,
                   "cached": 0, "entries": int(at * 20), "journal": int(at * 30_000), "catalog": MIB,
                   "content": int(at * MIB), "kernel_inodes": 500, **facts},
                latency={"close": measure.percentiles([0.002 + chance.random() / 100 for _ in range(40)])},
            )
        )  # fmt: skip
    return samples


def growing(measure: ModuleType, samples: list[Any]) -> list[str]:
    return [each.quantity for each in measure.trends(samples) if each.grows]


def test_the_slope_of_a_line_is_not_moved_by_outliers(measure: ModuleType) -> None:
    points = [(float(x), 3.0 * x + (1000 if x in (5, 20) else 0)) for x in range(40)]
    slope, low, high = measure.slope_of(points)
    assert slope == pytest.approx(3)
    assert low <= 3 <= high


def test_too_few_points_have_no_bounds(measure: ModuleType) -> None:
    assert measure.slope_of([(0.0, 1.0)]) == (0.0, -math.inf, math.inf)
    assert measure.slope_of([(0.0, 1.0), (1.0, 2.0)]) == (1.0, -math.inf, math.inf)


def test_a_daemon_that_stays_as_it_is_does_not_grow(measure: ModuleType) -> None:
    assert growing(measure, run_of(measure, lambda at: 60)) == []


def test_a_daemon_that_keeps_something_of_each_file_grows(measure: ModuleType) -> None:
    kilobyte_a_file = run_of(measure, lambda at: 60 + at * 20 / 1024)
    assert growing(measure, kilobyte_a_file) == ["RSS without caches", "RssAnon without caches"]


def test_filling_a_cache_is_no_growth(measure: ModuleType) -> None:
    def cached(at: float) -> float:
        return min(at * 0.08, 128)

    filling = run_of(measure, lambda at: 60 + cached(at), cached=lambda at: cached(at) * MIB)
    assert growing(measure, filling) == []


def test_descriptors_that_are_not_closed_are_named(measure: ModuleType) -> None:
    leaking = run_of(measure, lambda at: 60, descriptors=lambda at: 39 + at / 100)
    assert growing(measure, leaking) == ["descriptors"]


def test_latencies_may_grow_as_those_of_the_machine_do(measure: ModuleType) -> None:
    samples = run_of(measure, lambda at: 60)
    for sample in samples:
        slower = 1 + sample.at / 900
        sample.latency["close"] = measure.percentiles([0.01 * slower])
        sample.latency["disk"] = measure.percentiles([0.002 * slower])
    assert growing(measure, samples) == []
    for sample in samples:
        sample.latency["disk"] = measure.percentiles([0.002])
    assert growing(measure, samples) == ["p99 of create, write, close"]


def test_the_cache_of_pages_holds_the_catalog_up_to_its_bound(measure: ModuleType, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.sqlite"
    assert measure.cached(catalog) == 0
    catalog.write_bytes(bytes(4096))
    assert measure.cached(catalog) == 4096
    with catalog.open("r+b") as file:
        file.truncate(1 << 30)
    assert measure.cached(catalog) == measure.CACHES_BYTES


def test_percentiles_are_in_milliseconds(measure: ModuleType) -> None:
    found = measure.percentiles([number / 1000 for number in range(1, 101)])
    assert found == (100, 51.0, 100.0)
    assert measure.percentiles([0.25]) == (1, 250.0, 250.0)


def test_a_long_run_is_drawn_small_with_every_panel_and_restart(
    measure: ModuleType, plot: ModuleType
) -> None:
    samples = run_of(measure, lambda at: 60)
    for sample in samples[:100]:
        sample.life = 0
    lives = [measure.Life(0, 10, 0.0, 200.0, "kill"), measure.Life(1, 11, 201.0, 1800.0)]
    drawn = plot.draw(samples, lives, "archivefs under <load>", "a machine")
    assert len(drawn) < 60_000
    root = ElementTree.fromstring(drawn)
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "archivefs under <load>" in texts
    for panel in plot.PANELS:
        assert panel.title in texts
    kills = [each for each in root.iter("{http://www.w3.org/2000/svg}path") if each.get("class") == "kill"]
    assert len(kills) == len(plot.PANELS) + 1, "one in each panel, and one that explains it"
