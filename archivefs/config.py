"""archive.toml: what may stand in it, its defaults, and an error for everything else.

The file is checked as a whole before anything starts. An error names the file, the key and what is allowed.
"""

import difflib
import json
import os
import re
import shlex
import tomllib
import urllib.parse
import zoneinfo
from collections.abc import Callable, Mapping, MutableMapping
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta

from archivefs import names
from archivefs.errors import ConfigError, NotAnArchiveError, UnknownConverterError
from archivefs.policies import DAYS, SIZES, ArchivePolicy, Policy, fault

SCHEMA_VERSION = 1
READ_CACHE_BYTES = 128 << 20
FILE = "archive.toml"

JUNK = (
    ".*", "*.tmp", "*.part", "*.filepart", "*.crdownload", "*.swp", "*~", "~$*", "._*",
    ".Trash-*", "Thumbs.db", "desktop.ini", ".DS_Store",
)  # fmt: skip
"""Names that programs use for files that are not finished or not data; accepted, never captured.

Collected from the ignore lists of drop-folder products (paperless-ngx, syncthing) and from what rsync,
browsers, editors, Windows, macOS and freedesktop file managers leave behind.
"""

Seconds = Annotated[float, Meta(ge=0, le=366 * 86400)]
_S = TypeVar("_S", bound=msgspec.Struct)
_P = TypeVar("_P", Policy, ArchivePolicy)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: unknown keys are errors."""


class SubmitConfig(_Section, frozen=True, kw_only=True):
    """One ``[converters.NAME.submit]`` table: where the reports go; times in seconds.

    ``token`` and the values of ``headers`` may be ``env:NAME`` or ``file:PATH``, read at each delivery.
    """

    kind: Literal["http", "directory", "command"]
    url: str = ""
    token: str = ""
    token_scheme: str = "Bearer"
    headers: dict[str, str] = {}
    ca_file: str = ""
    path: str = ""
    command: str = ""
    timeout_seconds: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    retry_delay_seconds: Annotated[float, Meta(gt=0, le=86400)] = 5.0
    max_retry_delay_seconds: Annotated[float, Meta(gt=0, le=86400)] = 900.0
    max_queue_size: Annotated[int, Meta(ge=1)] = 10_000


_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "http": ("url", "token", "token_scheme", "headers", "ca_file"),
    "directory": ("path",),
    "command": ("command",),
}
"""Keys that only one kind of submission has; the first must be given."""
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})
"""Headers whose value must not stand in archive.toml itself."""


READY = ("ready_marker", "ready_files", "ready_count", "ready_quiet_seconds")
"""Keys that say when a folder is complete."""


class ConverterConfig(_Section, frozen=True, kw_only=True):
    """One ``[converters.NAME]`` table; times in seconds. ``run`` empty: archive only."""

    run: str = ""
    kind: Literal["file", "folder"] = "file"
    ready_marker: str = ""
    ready_files: list[str] = []
    ready_count: Annotated[int, Meta(ge=0)] = 0
    ready_quiet_seconds: Seconds = 0.0
    path: list[str] = []
    patterns: list[str] = []
    arguments: dict[str, Any] = {}
    priority: Annotated[int, Meta(ge=1, le=10)] = 5
    settle_seconds: Seconds = 2.0
    linger_seconds: Seconds = 2.0
    timeout_seconds: Annotated[float, Meta(gt=0, le=366 * 86400)] = 300.0
    sandbox: Literal["strict", "limits", "off"] = "strict"
    memory_mb: Annotated[int, Meta(ge=64, le=65_536)] = 512
    cpu_seconds: Annotated[int, Meta(ge=1, le=31_622_400)] = 300
    tmp_mb: Annotated[int, Meta(ge=1, le=65_536)] = 256
    processes: Annotated[int, Meta(ge=4, le=4096)] = 32
    open_files: Annotated[int, Meta(ge=32, le=65_536)] = 256
    worker_conversions: Annotated[int, Meta(ge=1)] = 1000
    max_retries: Annotated[int, Meta(ge=0)] = 3
    retry_delay_seconds: Seconds = 60.0
    post_action: Literal["archive", "keep"] = "archive"
    compression_level: Annotated[int, Meta(ge=1, le=19)] = 3
    reject_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.2
    alarm_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    archive_sources: bool = True
    archive_reports: bool = True
    submit: SubmitConfig | None = None
    retention: Policy | None = None


class Config(_Section, frozen=True, kw_only=True):
    """The whole file, checked.

    ``reserve_bytes``: capture stops while the disk has less free. ``verify_every_seconds``: a mounted
    archive reads all of itself once in this time, 0: never by itself. ``read_cache_bytes``: memory of a
    mount for decompressed content.
    """

    schema_version: int
    timezone: str = "UTC"
    reserve_bytes: int = 256 * 1024 * 1024
    junk: tuple[str, ...] = JUNK
    verify_every_seconds: int = 0
    read_cache_bytes: int = READ_CACHE_BYTES
    workers: Annotated[int, Meta(ge=1, le=256)] = os.cpu_count() or 1
    max_concurrent_uploads: Annotated[int, Meta(ge=1, le=256)] = 5
    retention: ArchivePolicy = ArchivePolicy()
    converters: dict[str, ConverterConfig] = {}

    def policy(self, converter: str) -> Policy:
        """What is retained of a converter: its own table alone, or where it has none the common one."""
        return self.converters.get(converter, ConverterConfig()).retention or self.retention

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The time zone that decides which day an entry belongs to."""
        return zoneinfo.ZoneInfo(self.timezone)

    def converter(self, name: str) -> ConverterConfig:
        """The configuration of one converter. Raises ``UnknownConverterError`` naming those there are."""
        try:
            return self.converters[name]
        except KeyError:
            known = ", ".join(sorted(self.converters)) or "none"
            raise UnknownConverterError(f'no converter "{name}" in {FILE}; it has: {known}') from None


MAX_SIZE = 2**63 - 1
"""Largest size of anything (off_t, and SQLite's integers)."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?i?B)?", re.IGNORECASE)
_UNIT = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "ib": 1}  # fmt: skip


_DURATION = {"hour": 3600, "day": 86400, "week": 7 * 86400}


def parse_duration(value: object) -> int:
    """Seconds of ``"7 days"``, ``"12 hours"``. Raises ``ValueError`` saying what is allowed."""
    match = re.fullmatch(r"(\d+)\s*(hour|day|week)s?", value.strip()) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError('a time such as "7 days", "12 hours" or "1 week"')
    return int(match[1]) * _DURATION[match[2]]


def parse_size(value: object) -> int:
    """Bytes of ``"10 GB"``, ``"512 MiB"`` or a whole number. Raises ``ValueError`` saying what is allowed."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or (match[2] or "").lower() == "ib":
        raise ValueError('a size such as "10 GB", "512 MiB" or a number of bytes')
    size = int(Fraction(match[1]) * _UNIT[(match[2] or "B").lower()])
    if size > MAX_SIZE:
        raise ValueError(f'a size such as "10 GB", at most {MAX_SIZE} bytes')
    return size


def load(root: Path) -> Config:
    """The checked configuration of the archive at ``root``.

    Raises ``NotAnArchiveError`` where there is no archive.toml, ``ConfigError`` for anything wrong in it.
    """
    return parse(read(root), str(root / FILE))


def read(root: Path) -> bytes:
    """The bytes of archive.toml. Raises ``NotAnArchiveError``."""
    try:
        return (root / FILE).read_bytes()
    except FileNotFoundError:
        raise NotAnArchiveError(
            f"{root} is not an archive: it has no {FILE} (archivefs init {root})"
        ) from None
    except NotADirectoryError:
        raise NotAnArchiveError(f"{root} is not an archive: it is not a folder") from None


def _from_0(raw: MutableMapping[str, Any]) -> None:
    """0 was written by drafts of the first version, with the same keys."""


MIGRATIONS: Mapping[int, Callable[[MutableMapping[str, Any]], None]] = {0: _from_0}
"""What brings a file of each older version to the next one; applied to a ``dict`` or a tomlkit document."""


def migrate(raw: MutableMapping[str, Any]) -> bool:
    """Bring the tables of an older file up to this version; false where it is none."""
    version = raw.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version not in MIGRATIONS:
        return False
    for older in range(version, SCHEMA_VERSION):
        MIGRATIONS[older](raw)
    raw["schema_version"] = SCHEMA_VERSION
    return True


def tables(data: bytes, file: str) -> dict[str, Any]:
    """The tables of an archive.toml, unchecked. Raises ``ConfigError`` where it is not valid TOML."""
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None


def of_its_kind(submit: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a table ``submit`` without those of other kinds."""
    others = {key for kind, keys in _OF_KIND.items() if kind != submit["kind"] for key in keys}
    return {key: value for key, value in submit.items() if key not in others}


def parse(data: bytes, file: str) -> Config:
    """Check the bytes of an archive.toml; ``file`` is named in errors. Raises ``ConfigError``."""
    raw = tables(data, file)
    migrate(raw)
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        hint = "it was written for a newer archivefs" if newer else f"write schema_version = {SCHEMA_VERSION}"
        raise ConfigError(f"{file}: schema_version: is {version!r}, allowed is {SCHEMA_VERSION}; {hint}")
    converters = raw.get("converters", {})
    if not isinstance(converters, dict):
        raise ConfigError(f"{file}: converters: must be tables, [converters.NAME]")
    top = {key: value for key, value in raw.items() if key not in ("converters", "retention")}
    for key, (field, parse_value) in SPOKEN.items():
        if field in top:
            raise ConfigError(f'{file}: {field}: unknown key, did you mean "{key}"?')
        if key in top:
            top[field] = _spoken(top.pop(key), parse_value, f"{file}: {key}")
    fields = {field for field, _ in SPOKEN.values()}
    config = _section(top, Config, file, "", hidden=fields, extra=set(SPOKEN))
    checked = {name: _converter(name, section, file) for name, section in converters.items()}
    _check_zone(config.timezone, file)
    policy = ArchivePolicy()
    if "retention" in raw:
        submits = any(each.submit and each.retention is None for each in checked.values())
        policy = _policy(raw["retention"], ArchivePolicy, file, "retention", submits=submits)
    config = msgspec.structs.replace(config, converters=checked, retention=policy)
    _check_limits(config, file)
    return config


def _policy(section: object, kind: type[_P], file: str, where: str, *, submits: bool) -> _P:
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: {where}: must be a table, [{where}]")
    if not section:
        raise ConfigError(f"{file}: {where}: is empty; say what is kept, such as days = 90, or leave it out")
    sizes = {
        key: _spoken(section[key], parse_size, f"{file}: {where}.{key}") for key in SIZES if key in section
    }
    days = {key: day.isoformat() for key, day in section.items() if key in DAYS and type(day) is date}
    policy = _section({**section, **sizes, **days}, kind, file, f"{where}.")
    found = fault(policy, submits=submits)
    if found is not None:
        raise ConfigError(f"{file}: {where}.{found[0]}: {found[1]}")
    return policy


def _check_limits(config: Config, file: str) -> None:
    """Tables that protect from limits that nobody set, and limits that cannot both be kept."""
    own = {f"converters.{name}.retention": table.retention for name, table in config.converters.items()}
    for where, policy in {"retention": config.retention, **own}.items():
        if policy is None or policy == ArchivePolicy():
            continue
        if not (policy.limits or policy.retain_until or config.retention.limits):
            raise ConfigError(
                f"{file}: {where}: limits nothing; add days or max_size, "
                "or max_total_size or min_free_space in [retention]"
            )
    least = config.retention.min_free_space
    if least is not None and least < config.reserve_bytes:
        raise ConfigError(
            f"{file}: retention.min_free_space: is {least} bytes, must be at least the reserve of "
            f"{config.reserve_bytes} bytes, at which capture stops"
        )
    total = config.retention.max_total_size
    for name, table in config.converters.items():
        size = config.policy(name).max_size
        if total is not None and table.retention is not None and size is not None and size > total:
            raise ConfigError(
                f"{file}: converters.{name}.retention.max_size: is {size} bytes, more than "
                f"retention.max_total_size, {total} bytes"
            )


SPOKEN: Mapping[str, tuple[str, Callable[[object], int]]] = {
    "reserve": ("reserve_bytes", parse_size),
    "read_cache": ("read_cache_bytes", parse_size),
    "verify_every": ("verify_every_seconds", parse_duration),
}
"""Keys whose value is written as people say it, and the field of ``Config`` that holds it as a number."""


def _spoken(value: object, parse_value: Callable[[object], int], where: str) -> int:
    try:
        return parse_value(value)
    except ValueError as error:
        raise ConfigError(f"{where}: is {value!r}, must be {error}") from None


def _check_zone(name: str, file: str) -> None:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f'{file}: timezone: is {name!r}, must be a zone name such as "UTC" or "Europe/Oslo"'
        ) from None


def _converter(name: str, section: object, file: str) -> ConverterConfig:
    if not names.is_converter_name(name):
        raise ConfigError(
            f"{file}: converters: the name {name!r} is not allowed: 1 to 64 of A-Z a-z 0-9 . _ -, "
            "starting with a letter or digit"
        )
    where = f"converters.{name}"
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: {where}: must be a table, [{where}]")
    tables = {"submit", "retention"}
    own = {key: value for key, value in section.items() if key not in tables}
    checked = _section(own, ConverterConfig, file, where + ".", hidden=tables, extra=tables)
    if "submit" in section:
        submit = _submit(section["submit"], file, where + ".submit")
        checked = msgspec.structs.replace(checked, submit=submit)
        if not checked.archive_reports:
            raise ConfigError(
                f"{file}: {where}.archive_reports: is false, must be true: a report is sent from the archive"
            )
    if "retention" in section:
        submits = checked.submit is not None
        policy = _policy(section["retention"], Policy, file, f"{where}.retention", submits=submits)
        checked = msgspec.structs.replace(checked, retention=policy)
    if not checked.archive_sources:
        raise ConfigError(
            f"{file}: {where}.archive_sources: is false, must be true; every source is archived"
        )
    try:
        json.dumps(checked.arguments, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{file}: {where}.arguments: must be texts, numbers, booleans, lists and tables: {error}"
        ) from None
    given = [key for key in READY if getattr(checked, key)]
    if given and checked.kind != "folder":
        raise ConfigError(f'{file}: {where}.{given[0]}: is for kind = "folder" only')
    kind, _, rest = checked.run.partition(":")
    if checked.run and (kind not in ("python", "function", "command") or not rest.strip()):
        raise ConfigError(
            f'{file}: {where}.run: is {checked.run!r}, must be "python:module:Class", '
            '"function:module:function" or "command:program arguments"; leave it out to archive only'
        )
    if kind in ("python", "function") and not re.fullmatch(r"[\w.]+:\w+", rest):
        raise ConfigError(f'{file}: {where}.run: is {checked.run!r}, must be "{kind}:package.module:name"')
    return checked


def _submit(section: object, file: str, where: str) -> SubmitConfig:
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: {where}: must be a table, [{where}]")
    checked = _section(section, SubmitConfig, file, where + ".")
    for kind, keys in _OF_KIND.items():
        for key in keys if kind != checked.kind else ():
            if key in section:
                own = ", ".join(_OF_KIND[checked.kind])
                raise ConfigError(f"{file}: {where}.{key}: is for {kind}; {checked.kind} has: {own}")
    must = _OF_KIND[checked.kind][0]
    if not section.get(must):
        raise ConfigError(f"{file}: {where}.{must}: must be given for {checked.kind}")
    if checked.kind == "http":
        _check_http(checked, file, where)
    if checked.kind == "command":
        try:
            shlex.split(checked.command)
        except ValueError as error:
            raise ConfigError(f"{file}: {where}.command: is {checked.command!r}: {error}") from None
    return checked


def _check_http(submit: SubmitConfig, file: str, where: str) -> None:
    """What would fail at each delivery, and secrets that would stand where everybody reads them."""
    try:
        url = urllib.parse.urlsplit(submit.url)
        sound = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        sound = False
    if not sound or re.search(r"[\s\x00-\x1f]", submit.url):
        raise ConfigError(
            f"{file}: {where}.url: is {submit.url!r}, must be such as https://server.example/api/report"
        )
    if "@" in url.netloc:
        raise ConfigError(f"{file}: {where}.url: must hold no password; give it as token")
    if submit.token and not submit.token.startswith(("env:", "file:")):
        raise ConfigError(f'{file}: {where}.token: must be "env:NAME" or "file:PATH", not the token itself')
    if not re.fullmatch(r"[A-Za-z0-9-]+", submit.token_scheme):
        raise ConfigError(f"{file}: {where}.token_scheme: is {submit.token_scheme!r}, must be such as Bearer")
    for name, value in submit.headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigError(f"{file}: {where}.headers: {name!r} is no name of a header (RFC 9110)")
        if not re.fullmatch(r"[\x20-\x7e]*", value) or value != value.strip():
            raise ConfigError(
                f"{file}: {where}.headers.{name}: must be printable ASCII, without blanks at its ends"
            )
        if name.lower() in SECRET_HEADERS and not value.startswith(("env:", "file:")):
            raise ConfigError(f'{file}: {where}.headers.{name}: must be "env:NAME" or "file:PATH"')


def _section(
    raw: Mapping[str, Any],
    kind: type[_S],
    file: str,
    prefix: str,
    *,
    hidden: frozenset[str] | set[str] = frozenset(),
    extra: frozenset[str] | set[str] = frozenset(),
) -> _S:
    """One table as its struct; ``hidden`` fields are not keys of the file, ``extra`` keys are not fields."""
    known = ({field.name for field in msgspec.structs.fields(kind)} - hidden) | extra
    for key in raw:
        if key not in known and key not in hidden:
            near = difflib.get_close_matches(key, known, 1)
            hint = f'did you mean "{near[0]}"?' if near else "allowed are: " + ", ".join(sorted(known))
            raise ConfigError(f"{file}: {prefix}{key}: unknown key, {hint}")
    try:
        return msgspec.convert(dict(raw), kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        path = path.rstrip("`")
        field = path.split("[")[0]
        choices = get_args(get_type_hints(kind).get(field))
        if choices and "enum" in message:
            message = "allowed are: " + ", ".join(choices)
        value = raw.get(field, "(missing)")
        raise ConfigError(
            f"{file}: {prefix}{path}: is {value!r}; {message[:1].lower()}{message[1:]}"
        ) from None
