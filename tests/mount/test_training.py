"""A mount makes dictionaries by itself; what is saved before, meanwhile and after reads back the same."""

import json
import random
from collections.abc import Callable

from mount_parts import Mounted, config, converter

from archivefs.events import DictionaryTrained
from archivefs.jobs.dictionaries import SAMPLES
from archivefs.store.journal import Journal

Make = Callable[..., Mounted]


def measured(rng: random.Random) -> bytes:
    """A small report of a test station; all have most of their words in common."""
    steps = [
        {"step": f"Voltage at test point {point}", "limits": [point, point + 2], "unit": "V",
         "value": round(point + rng.random() * 2, 3), "result": "PASS"}
        for point in range(12)
    ]  # fmt: skip
    return json.dumps({"serial": f"SN{rng.randrange(10**8):08}", "steps": steps}).encode()


def test_enough_small_sources_make_a_dictionary_that_is_used_from_then_on(mounted: Make) -> None:
    station = mounted(config(converter("reports", settle_seconds=0, linger_seconds=0), converter("few")))
    rng = random.Random(1)
    saved = {f"{number}.json": measured(rng) for number in range(SAMPLES + 100)}
    for name, content in saved.items():
        station.drop("reports", name, content)
    station.drop("few", "alone.json", measured(rng))
    file = station.root / "dictionaries" / "reports-1.zdict"
    station.wait_for("the dictionary", file.exists, 60)
    events = Journal(station.root / "journal").read
    station.wait_for("its event", lambda: any(isinstance(each, DictionaryTrained) for each in events()), 10)
    later = {f"later {number}.json": measured(rng) for number in range(50)}
    for name, content in later.items():
        station.drop("reports", name, content)
    rows = {row.name.decode(): row for row in station.entries()}
    for name, content in (saved | later).items():
        assert station.content(rows[name]) == content
    before = sum(rows[name].stored for name in saved) / len(saved)
    after = sum(rows[name].stored for name in later) / len(later)
    assert after < 0.6 * before
    assert [each.name for each in file.parent.iterdir()] == [file.name]
