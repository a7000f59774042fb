"""Changing archive.toml: comments stay, a stop leaves the old file or the new one, and what changed is known.

A new file is written beside the old one first; then the journal says so; then it takes the name. Alone knows
tomlkit.
"""

import hashlib
import logging
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from archivefs import config
from archivefs.config import FILE, Config, ConverterConfig, SubmitConfig
from archivefs.errors import ConfigError
from archivefs.events import Configured, Event
from archivefs.parts import Setting
from archivefs.store.durable import FILE_MODE, replacing, sync_dir, write_all

if TYPE_CHECKING:
    import tomlkit

log = logging.getLogger(__name__)

STAGED = f"{FILE}.new"


def sha256(data: bytes) -> str:
    """The hash by which events name a file."""
    return hashlib.sha256(data).hexdigest()


# -- the file ----------------------------------------------------------------------------------------------


def stage(root: Path, data: bytes) -> None:
    """Write the file that is to take the place of archive.toml; durable. Raises ``OSError``."""
    fd = os.open(root / STAGED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_dir(root)


def install(root: Path) -> None:
    """Give the staged file its name; the journal says so already. Raises ``OSError``."""
    (root / STAGED).replace(root / FILE)
    sync_dir(root)


def bring_up(root: Path, last: tuple[str, str], write: Callable[[list[Event]], object]) -> bool:
    """Name the file that a stopped command wrote, or bring one of an older version up to this; true if so.

    ``last``: the hashes before and after the last change in the journal; ``write`` puts events there.
    """
    if finish(root, *last):
        return True
    event = stage_migration(root)
    if event is None:
        return False
    log.warning("archive.toml is of an older version; the former file is kept as %s", event.backup)
    write([event])
    install(root)
    return True


def finish(root: Path, before: str, after: str) -> bool:
    """Install a staged file of which the journal says that it is valid, or remove it; true where it did.

    ``before`` and ``after`` are the hashes in the last event about it. Where somebody has changed the file
    since, that change stays.
    """
    staged = root / STAGED
    try:
        new = staged.read_bytes()
    except FileNotFoundError:
        return False
    if (sha256(config.read(root)), sha256(new)) == (before, after):
        install(root)
        return True
    staged.unlink()
    return False


def stage_migration(root: Path) -> Configured | None:
    """Keep a file of an older version aside and stage it as one of this; None where it is none.

    Raises ``OSError``.
    """
    data = config.read(root)
    if b"schema_version" not in data or not config.migrate(config.tables(data, str(root / FILE))):
        return None
    document = _document(data)
    old = document["schema_version"]
    config.migrate(document)
    new = document.as_string().encode()
    config.parse(new, str(root / FILE))
    backup = f"{FILE}.version-{old}-{sha256(data)[:8]}"  # the same however often this is begun
    with replacing(root / backup) as out:
        out.write(data)
    stage(root, new)
    change = Setting(key="schema_version", old=int(str(old)), new=config.SCHEMA_VERSION)
    return Configured(changes=[change], before=sha256(data), after=sha256(new), backup=backup)


# -- its content -------------------------------------------------------------------------------------------


def assignment(key: str, value: str) -> tuple[list[str], Any]:
    """A key with dots, in TOML's words, as its parts; and the value, which is a text where it is no TOML.

    Raises ``ConfigError``.
    """
    parts = _parts(key)
    try:
        found: Any = tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        return parts, value
    for part in parts:
        if len(found) > 1:  # the value went on with keys of its own
            return parts, value
        found = found[part]
    return parts, found


def _parts(key: str) -> list[str]:
    parts = []
    try:
        found: Any = tomllib.loads(f"{key} = 0")
        while isinstance(found, dict):
            ((part, found),) = found.items()
            parts.append(part)
    except (tomllib.TOMLDecodeError, ValueError):
        raise ConfigError(f"{key!r} is no key; write such as reserve, or converters.NAME.priority") from None
    return parts


def with_value(data: bytes, parts: Sequence[str], value: object) -> bytes:
    """The file with a key set; its comments and order stay. Raises ``ConfigError``."""
    import tomlkit

    document = _document(data)
    table: Any = document
    for part in parts[:-1]:
        if part not in table:
            table[part] = tomlkit.table()
        table = table[part]
        if not isinstance(table, dict):
            raise ConfigError(f"{'.'.join(parts)}: {part} is not a table")
    table[parts[-1]] = value
    return document.as_string().encode()


def without(data: bytes, key: str) -> bytes:
    """The file without a key or table. Raises ``ConfigError`` where it is not there."""
    document = _document(data)
    table: Any = document
    *path, last = _parts(key)
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    if not isinstance(table, dict) or last not in table:
        raise ConfigError(f"{key}: is not in {FILE}")
    del table[last]
    return document.as_string().encode()


def _document(data: bytes) -> "tomlkit.TOMLDocument":
    import tomlkit

    return tomlkit.parse(data.decode())


# -- what changed ------------------------------------------------------------------------------------------


def spoken(settings: Config) -> dict[str, Any]:
    """The configuration in the words of archive.toml, with everything that it leaves out."""
    tables: dict[str, Any] = msgspec.to_builtins(settings)
    for key, (field, _) in config.SPOKEN.items():
        tables[key] = tables.pop(field)
    seconds = tables.pop("verify_every")
    if seconds:
        tables["verify_every"] = f"{seconds // 3600} hours"
    converters = tables.pop("converters")
    tables["retention"] = _said(tables["retention"])
    if not tables["retention"]:
        del tables["retention"]
    for table in converters.values():
        policy = table.pop("retention")
        if policy is not None:
            table["retention"] = _said(policy)
        submit = table.pop("submit")
        if submit is not None:
            table["submit"] = config.of_its_kind(submit)
    return {**tables, "converters": converters}


def _said(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a policy that say something."""
    return {key: value for key, value in policy.items() if value not in (None, [], False, "")}


def differences(old: Config, new: Config) -> list[Setting]:
    """The keys whose value differs, without what may be secret; a table that is new or gone as one."""
    return _differences("", _public(spoken(old)), _public(spoken(new)))


def _differences(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Setting]:
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        name, before, after = prefix + quoted(key), old.get(key), new.get(key)
        if before == after:
            continue
        leaf = key in ("arguments", "headers")
        if isinstance(before, dict) and isinstance(after, dict) and not leaf:
            found += _differences(f"{name}.", before, after)
        else:
            found.append(Setting(key=name, old=_given(before), new=_given(after)))
    return found


def _given(value: object) -> object:
    """A table without what is the default anyway; anything else as it is."""
    if not isinstance(value, dict):
        return value
    is_submit = value.get("kind") in ("http", "directory", "command")
    defaults = msgspec.to_builtins(SubmitConfig(kind=value["kind"]) if is_submit else ConverterConfig())
    return {
        key: _given(each)
        for key, each in value.items()
        if (is_submit and key == "kind") or key not in defaults or each != defaults[key]
    }


def quoted(part: str) -> str:
    """A part of a key as TOML wants it."""
    bare = part.replace("-", "").replace("_", "")
    return part if bare.isascii() and bare.isalnum() else msgspec.json.encode(part).decode()


def _public(tables: dict[str, Any]) -> dict[str, Any]:
    """Without values of headers, and what stands behind the ``?`` of an address: they may be secret."""
    for table in tables["converters"].values():
        submit = table.get("submit", {})
        path, mark, query = submit.get("url", "").partition("?")
        if mark:
            submit["url"] = f"{path}?{_hidden(query)}"
        if headers := submit.get("headers"):
            submit["headers"] = {
                key: value if value.startswith(("env:", "file:")) else _hidden(value)
                for key, value in headers.items()
            }
    return tables


def _hidden(value: str) -> str:
    """What stands for a secret: whether it changed can be seen."""
    return f"(SHA-256 {sha256(value.encode())[:8]})"


# -- as text -----------------------------------------------------------------------------------------------


def value_of(tables: Mapping[str, Any], key: str) -> object:
    """The value of a key with dots. Raises ``ConfigError`` where there is none."""
    found: Any = tables
    for part in _parts(key):
        if not isinstance(found, Mapping) or part not in found:
            raise ConfigError(f"{key}: is not in the configuration")
        found = found[part]
    return found


def as_toml(value: object) -> str:
    """Tables as an archive.toml, anything else as a TOML value; with a newline at the end."""
    import tomlkit

    return tomlkit.dumps(value) if isinstance(value, Mapping) else literal(value) + "\n"


def literal(value: object) -> str:
    """A value as TOML writes it; ``-`` for none."""
    import tomlkit

    if value is None:
        return "-"
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update(value)
        return table.as_string()
    return tomlkit.item(value).as_string()
