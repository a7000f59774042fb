"""Knows the XML files of the functional testers: sequences within sequences, and steps within those.

    <functional-test serial="SN24000017" part-number="PCB-4471-C" station="FCT-02" operator="mbauer"
                     started="2024-03-18T09:31:05+00:00" result="passed">
      <sequence name="Power" result="passed">
        <step name="3V3" result="passed" seconds="0.41">
          <number value="3.301" unit="V" low="3.2" high="3.4" />
        </step>
      </sequence>
      <step name="Firmware" result="passed" seconds="1.9"><string value="2.4.1" expected="2.4.1" /></step>
    </functional-test>

Either limit of a number may be missing, and a step may measure nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

__version__ = "1.0.0"


def convert(path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the report of one run; whatever is raised here becomes the source's error."""
    root = ElementTree.parse(path).getroot()
    if root.tag != "functional-test":
        raise ValueError(f"expected <functional-test>, found <{root.tag}>")
    return {
        "type": "functional",
        "serial_number": read_text(root, "serial"),
        "part_number": read_text(root, "part-number"),
        "station": read_text(root, "station"),
        "operator": read_text(root, "operator"),
        "started_at": read_text(root, "started"),
        "result": read_text(root, "result"),
        "measurements": list(read_steps(root)),
    }


def read_steps(parent: Element, prefix: str = "") -> Iterator[dict[str, Any]]:
    """Yields the steps in the order they ran, each named by the sequences around it: `Power/3V3`."""
    for child in parent:
        name = prefix + read_text(child, "name")
        if child.tag == "sequence":
            yield from read_steps(child, f"{name}/")
            continue
        try:
            step = read_step(child)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        yield {"name": name, **step}


def read_step(step: Element) -> dict[str, Any]:
    """Reads what was measured: a number with limits, a text with its expected value, or nothing."""
    report: dict[str, Any] = {"result": read_text(step, "result"), "seconds": read_number(step, "seconds")}
    for measured in step:
        if measured.tag == "number":
            report["value"] = read_number(measured, "value")
            report["unit"] = read_text(measured, "unit")
            report["low"] = read_number(measured, "low") if "low" in measured.attrib else None
            report["high"] = read_number(measured, "high") if "high" in measured.attrib else None
        elif measured.tag == "string":
            report["value"] = read_text(measured, "value")
            report["expected"] = read_text(measured, "expected")
        else:
            raise ValueError(f"expected <number> or <string>, found <{measured.tag}>")
    return report


def read_text(element: Element, name: str) -> str:
    """Returns an attribute that must be there."""
    if name not in element.attrib:
        raise ValueError(f"<{element.tag}> has no {name}")
    return element.attrib[name]


def read_number(element: Element, name: str) -> float:
    """Returns an attribute that must be a finite number, as JSON has no other."""
    text = read_text(element, name)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"<{element.tag}> has a {name} that is not a number: {text!r}")
    return number
