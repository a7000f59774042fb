"""What a converter says about its arguments, and whether it was given such. Only the standard library.

A schema is a mapping from names to descriptions. A description is a mapping with ``type`` (string, integer,
float, boolean, path, choice, password), ``default``, ``required``, ``choices``, ``min_value``, ``max_value``
and ``pattern``, or an object with these as attributes, as the pyWATS client's ``ArgumentDefinition`` is.
"""

import re
from collections.abc import Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "float": (int, float),
    "boolean": (bool,),
    "path": (str,),
    "choice": (str, int, float),
    "password": (str,),
}


class ArgumentsError(ValueError):
    """archive.toml gives a converter arguments that it does not take; names the key and what is allowed."""


def complete(schema: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the schema's defaults. Raises ``ArgumentsError``.

    A converter without a schema takes whatever it is given.
    """
    if not schema:
        return dict(given)
    unknown = sorted(given.keys() - schema.keys())
    if unknown:
        allowed = ", ".join(sorted(schema))
        raise ArgumentsError(f"arguments.{unknown[0]}: unknown, the converter takes: {allowed}")
    found = dict[str, Any]()
    for name, description in schema.items():
        value = given.get(name, _of(description, "default"))
        if value is None:
            if _of(description, "required"):
                raise ArgumentsError(f"arguments.{name}: must be given")
            continue
        _check(name, value, description)
        found[name] = value
    return found


def _of(description: Any, key: str) -> Any:  # noqa: ANN401  whatever a converter declares
    if isinstance(description, Mapping):
        return description.get(key)
    if key == "type":
        return getattr(description, "arg_type", None)
    return getattr(description, key, None)


def _check(name: str, value: Any, description: Any) -> None:  # noqa: ANN401
    kind = _of(description, "type") or "string"
    kind = str(getattr(kind, "value", kind))
    allowed = _TYPES.get(kind)
    is_flag = isinstance(value, bool)
    if allowed is None:
        raise ArgumentsError(f"arguments.{name}: the converter declares an unknown type, {kind!r}")
    if not isinstance(value, allowed) or (is_flag and kind != "boolean"):
        raise ArgumentsError(f"arguments.{name}: is {value!r}, must be a {kind}")
    choices = _of(description, "choices")
    if choices and value not in choices:
        raise ArgumentsError(
            f"arguments.{name}: is {value!r}, must be one of: {', '.join(map(str, choices))}"
        )
    low, high, pattern = (_of(description, key) for key in ("min_value", "max_value", "pattern"))
    if low is not None and value < low:
        raise ArgumentsError(f"arguments.{name}: is {value!r}, must be at least {low}")
    if high is not None and value > high:
        raise ArgumentsError(f"arguments.{name}: is {value!r}, must be at most {high}")
    if pattern and not re.fullmatch(pattern, str(value)):
        raise ArgumentsError(f"arguments.{name}: is {value!r}, must match {pattern}")
