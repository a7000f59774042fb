"""Knows what factory sources look like: a seed yields the same files on every machine."""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

KINDS = ("ict-csv", "functional-xml", "burnin-log")

FIRST_SHIFT = datetime(2024, 1, 8, 6, 0, tzinfo=UTC)
PART_NUMBERS = ("PCB-4471-C", "PCB-4473-A", "PCB-5120-B", "PSU-0220-D", "CTL-7004-A", "CTL-7010-F")
OPERATORS = ("mbauer", "jkowalski", "aschmidt", "lnguyen", "rpatel", "sfischer")

E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
COMPONENTS = (("R", "Ohm", 0.01), ("R", "kOhm", 0.01), ("C", "nF", 0.1), ("C", "uF", 0.2), ("L", "uH", 0.2))
RAILS = {"12V": 12.0, "5V0": 5.0, "3V3": 3.3, "1V8": 1.8, "1V1": 1.1}
PORTS = ("CAN 1", "CAN 2", "RS-485", "Ethernet 1", "Ethernet 2", "USB", "SPI flash", "I2C sensors")
LARGE_BLOCK = 16 << 20
"""Bytes after which a large log repeats itself."""
EVENTS = ("fan 2 restarted", "door interlock checked", "load step 0.5A to 1.0A", "supply retry on slot 3")


@dataclass(frozen=True)
class Sample:
    """A source, where it belongs, and what its conversion must come to."""

    converter: str
    name: str
    content: bytes
    expected_status: str


@dataclass(frozen=True)
class Unit:
    """What a file says about the unit that was tested."""

    serial: str
    part_number: str
    operator: str
    started: datetime


class Step(NamedTuple):
    """One line of an in-circuit test plan."""

    net: str
    unit: str
    low: float
    high: float | None


def random_unit(rng: random.Random) -> Unit:
    """Returns a unit for a file whose name does not matter."""
    started = FIRST_SHIFT + timedelta(seconds=rng.randrange(86_400 * 300))
    return Unit(f"SN24{rng.randrange(10**6):06}", rng.choice(PART_NUMBERS), rng.choice(OPERATORS), started)


@cache
def ict_plan(part_number: str) -> tuple[Step, ...]:
    """Returns the steps which all boards of a part number go through."""
    rng = random.Random(part_number)
    steps = []
    for number in range(rng.randint(130, 230)):
        if rng.random() < 0.15:
            steps.append(Step(f"NET{number}-GND", "MOhm", 10.0, None))
            continue
        prefix, unit, tolerance = rng.choice(COMPONENTS)
        nominal = rng.choice(E12) * rng.choice((1, 10, 100))
        low, high = nominal * (1 - tolerance), nominal * (1 + tolerance)
        steps.append(Step(f"{prefix}{100 + number}", unit, low, high))
    return tuple(steps)


def ict_csv(
    rng: random.Random,
    *,
    failed: bool = False,
    incomplete: bool = False,
    truncated: bool = False,
    unit: Unit | None = None,
) -> bytes:
    """Returns an in-circuit test as Windows testers save it, with a byte order mark and CRLF."""
    unit = unit or random_unit(rng)
    plan = ict_plan(unit.part_number)
    culprits = set(rng.sample(range(len(plan)), rng.randint(1, 3))) if failed else set()
    rows = [ict_row(rng, number, step, failed=number in culprits) for number, step in enumerate(plan)]
    lines = [
        f"serial,{unit.serial}",
        f"part number,{unit.part_number}",
        f"station,ICT-{rng.randint(1, 4):02}",
        f"operator,{unit.operator if rng.random() < 0.95 else ''}",
        f"started,{unit.started.isoformat()}",
        f"status,{'INCOMPLETE' if incomplete else 'COMPLETE'}",
        "",
        "step,net,value,unit,low,high,result",
        *(rows[: rng.randrange(len(rows))] if incomplete else [*rows, f"END,{len(rows)}"]),
    ]
    content = "".join(f"{line}\r\n" for line in lines).encode("utf-8-sig")
    return cut(rng, content) if truncated else content


def ict_row(rng: random.Random, number: int, step: Step, *, failed: bool) -> str:
    """Returns the line of one step, outside its lower limit if it failed."""
    highest = 500.0 if step.high is None else step.high
    value = step.low * rng.uniform(0.1, 0.9) if failed else rng.triangular(step.low, highest)
    high = "" if step.high is None else f"{step.high:.4g}"
    verdict = "FAIL" if failed else "PASS"
    return f"{number + 1},{step.net},{value:.4g},{step.unit},{step.low:.4g},{high},{verdict}"


def functional_xml(
    rng: random.Random, *, failed: bool = False, truncated: bool = False, unit: Unit | None = None
) -> bytes:
    """Returns a functional test whose sequences depend on the part number alone."""
    unit = unit or random_unit(rng)
    plan = random.Random(unit.part_number)
    root = Element("functional-test", {"serial": unit.serial, "part-number": unit.part_number})
    root.attrib |= {"station": f"FCT-{rng.randint(1, 3):02}", "operator": unit.operator}
    root.attrib |= {"started": unit.started.isoformat(), "result": "passed"}
    power = add_sequence(root, "Power")
    for rail, nominal in RAILS.items():
        sequence = add_sequence(power, rail)
        add_number(rng, sequence, "Voltage", "V", nominal * 0.97, nominal * 1.03)
        add_number(rng, sequence, "Ripple", "mV", None, 40.0)
        add_number(rng, sequence, "Current", "A", 0.05, plan.choice((0.5, 1.0, 2.0)))
    firmware = add_sequence(root, "Firmware")
    add_step(rng, firmware, "Flash")
    for name in ("Bootloader", "Application"):
        add_string(rng, firmware, name, f"{plan.randint(1, 4)}.{plan.randint(0, 12)}.{plan.randint(0, 9)}")
    interfaces = add_sequence(root, "Interfaces")
    for port in plan.sample(PORTS, plan.randint(4, len(PORTS))):
        sequence = add_sequence(interfaces, port)
        add_step(rng, sequence, "Connect")
        add_number(rng, sequence, "Level", "V", 1.5, 3.0)
        add_string(rng, sequence, "Loopback", f"0x{plan.getrandbits(64):016X}")
    inputs = add_sequence(root, "Analog inputs")
    for channel in range(plan.randint(4, 24)):
        add_number(rng, inputs, f"AIN{channel} offset", "mV", -5.0, 5.0)
    if failed:
        fail_one_step(rng, root)
    indent(root)
    content: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return cut(rng, content) if truncated else content


def add_sequence(parent: Element, name: str) -> Element:
    """Adds an empty sequence."""
    return SubElement(parent, "sequence", {"name": name, "result": "passed"})


def add_step(rng: random.Random, parent: Element, name: str) -> Element:
    """Adds a step that measures nothing."""
    seconds = f"{rng.uniform(0.02, 2):.3f}"
    return SubElement(parent, "step", {"name": name, "result": "passed", "seconds": seconds})


def add_number(
    rng: random.Random, parent: Element, name: str, unit: str, low: float | None, high: float
) -> None:
    """Adds a step that measures a number within its limits."""
    attributes = {"value": f"{rng.triangular(low or 0.0, high):.4g}", "unit": unit}
    if low is not None:
        attributes["low"] = f"{low:.4g}"
    SubElement(add_step(rng, parent, name), "number", attributes | {"high": f"{high:.4g}"})


def add_string(rng: random.Random, parent: Element, name: str, expected: str) -> None:
    """Adds a step that reads what it expects."""
    SubElement(add_step(rng, parent, name), "string", {"value": expected, "expected": expected})


def fail_one_step(rng: random.Random, root: Element) -> None:
    """Fails a random step and all the sequences around it."""
    element = root
    while element.tag != "step":
        element.set("result", "failed")
        element = rng.choice(list(element))
    element.set("result", "failed")
    for measured in element:
        wrong = f"{float(measured.get('high', 0)) * 1.25:.4g}" if measured.tag == "number" else "no answer"
        measured.set("value", wrong)


def burnin_log(
    rng: random.Random,
    *,
    hours: int = 4,
    failed: bool = False,
    garbled: bool = False,
    unit: Unit | None = None,
) -> bytes:
    """Returns a burn-in, about 5 KB an hour; if garbled, a power cut has spoiled one of its lines."""
    unit = unit or random_unit(rng)
    about = f"serial={unit.serial} part={unit.part_number} station=BI-{rng.randint(1, 8):02}"
    lines = [f"{unit.started:%Y-%m-%dT%H:%M:%SZ} START {about} operator={unit.operator}"]
    chamber, heating = 85.0, 0.0
    overheats_at = rng.randrange(60 * hours) if failed else None
    for minute in range(60 * hours):
        time = unit.started + timedelta(minutes=minute + 1)
        if minute == overheats_at:
            lines.append(f"{time:%Y-%m-%dT%H:%M:%SZ} EVENT board above 105C")
            heating = 20.0
        elif rng.random() < 0.01:
            lines.append(f"{time:%Y-%m-%dT%H:%M:%SZ} EVENT {rng.choice(EVENTS)}")
        chamber += 0.1 * (85.0 - chamber) + rng.gauss(0, 0.2)
        board = chamber + 6.5 + heating + rng.gauss(0, 0.3)
        supply = f"vcc12={rng.gauss(12.02, 0.02):.2f}V vcc3={rng.gauss(3.301, 0.004):.3f}V"
        data = f"chamber={chamber:.1f}C board={board:.1f}C {supply} load={rng.gauss(0.81, 0.03):.2f}A"
        lines.append(f"{time:%Y-%m-%dT%H:%M:%SZ} DATA {data}")
    if garbled:
        victim = rng.randrange(1, len(lines))
        lines[victim] = lines[victim][: rng.randrange(20)] + "\0" * 12
    end = unit.started + timedelta(hours=hours, minutes=1)
    lines.append(f"{end:%Y-%m-%dT%H:%M:%SZ} VERDICT {'FAIL' if failed else 'PASS'}")
    return "".join(f"{line}\n" for line in lines).encode()


def large_log(rng: random.Random, size: int) -> Iterator[bytes]:
    """Yields a burn-in of ``size`` bytes in pieces; it repeats every 16 MiB, which no compressor sees."""
    block = b"".join(burnin_log(rng, hours=600) for _ in range(6))[:LARGE_BLOCK]
    assert len(block) == LARGE_BLOCK
    for start in range(0, size, LARGE_BLOCK):
        yield block[: size - start]


def cut(rng: random.Random, content: bytes) -> bytes:
    """Returns what a broken copy left of a file."""
    return content[: rng.randint(len(content) // 4, len(content) * 3 // 4)]


def samples(count: int, seed: int) -> Iterator[Sample]:
    """Yields sources of all kinds; about one in fifty cannot be converted and as many are unfinished."""
    rng = random.Random(seed)
    started = FIRST_SHIFT
    for index in range(count):
        started += timedelta(seconds=rng.randint(20, 90))
        # A unit visits one station after another, and units are built in batches of one part number.
        number = index // 3
        part_number = PART_NUMBERS[number // 20 % len(PART_NUMBERS)]
        unit = Unit(f"SN24{number:06}", part_number, rng.choice(OPERATORS), started)
        status = rng.choices(("success", "failed", "suspended"), (96, 2, 2))[0]
        yield sample(rng, unit, status)


def sample(rng: random.Random, unit: Unit, status: str) -> Sample:
    """Returns one source of a random kind that converts to the status; only a CSV can be unfinished."""
    converter = "ict-csv" if status == "suspended" else rng.choice(KINDS)
    broken, failed = status == "failed", rng.random() < 0.06
    name = f"{unit.serial}_{unit.started:%Y%m%d%H%M%S}"
    if converter == "ict-csv":
        name = f"ICT_{name}.csv"
        content = ict_csv(rng, failed=failed, incomplete=status == "suspended", truncated=broken, unit=unit)
    elif converter == "functional-xml":
        name = f"FCT_{unit.part_number}_{name}.xml"
        content = functional_xml(rng, failed=failed, truncated=broken, unit=unit)
    else:
        name = f"BURNIN_{name}.log"
        content = burnin_log(rng, hours=rng.randint(1, 10), failed=failed, garbled=broken, unit=unit)
    return Sample(converter, name, content, status)


def main() -> None:
    """Writes samples as DIR/CONVERTER/NAME."""
    parser = argparse.ArgumentParser(description="Write realistic sources as DIR/CONVERTER/NAME.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    written: Counter[str] = Counter()
    for made in samples(options.count, options.seed):
        path = options.directory / made.converter / made.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.content)
        written[f"{made.converter} {made.expected_status}"] += 1
    for kind, number in sorted(written.items()):
        print(f"{number:8} {kind}")


if __name__ == "__main__":
    main()
