"""The code of a converter: which files it is, the zip that is kept of it, and what workers run.

A snapshot is a zip without compression: ``manifest.json``, then the files of the first folder of ``path``
below ``0/``, of the second below ``1/`` and so on, by name. Nothing in it depends on where or when it was
made, so equal code gives equal bytes, and their SHA-256 is its name.
"""

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from archivefs.config import ConverterConfig
from archivefs.errors import ArchiveError
from archivefs.events import CodeKept
from archivefs.store import code

MANIFEST = "manifest.json"
CODE_BYTES = 64 << 20
CODE_FILES = 10_000
"""Largest code of a converter; more is a folder that holds something else."""
READ_TRIES = 3
_SNAPSHOT = re.compile(r"[0-9a-f]{64}\.zip(\.tmp)?")
_LEFT_OUT = ("__pycache__",)
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold."""


class CodeError(ArchiveError):
    """The code of a converter cannot be kept, so it is not run; says why. Its entries wait."""

    exit_code = 42


class Code(NamedTuple):
    """One version of a converter's code, unpacked to ``folder``.

    ``path``: the folders of it that the worker imports from, relative to ``folder``. ``program``: the program
    of a command, below ``folder`` where it is part of the code. ``elsewhere``: what else the worker must see.
    """

    sha256: str
    folder: Path
    path: tuple[str, ...]
    program: str
    elsewhere: tuple[str, ...]

    def seen_at(self, place: str) -> dict[str, Any]:
        """What a worker is told that sees ``folder`` as ``place``."""
        inside = self.program and self.program.partition("/")[0] in self.path
        program = f"{place}/{self.program}" if inside else self.program
        return {"path": [f"{place}/{each}" for each in self.path], "program": program}


class Found(NamedTuple):
    """A file of a converter's code: its name in the snapshot, its path, and what tells a change."""

    name: str
    path: Path
    executable: bool
    size: int
    ctime_ns: int
    inode: int


class Packed(NamedTuple):
    """A snapshot: the bytes of the zip, and what it is of."""

    sha256: str
    data: bytes
    manifest: Mapping[str, Any]
    files: int

    def save(self, root: Path, converter: str) -> None:
        """Keep it in the archive at ``root``, durably. Raises ``OSError``."""
        code.save(root, converter, self.sha256, self.data)

    def event(self, converter: str) -> CodeKept:
        """What the journal says of it."""
        return CodeKept(
            converter=converter, sha256=self.sha256, size=len(self.data), files=self.files,
            run=self.manifest["run"], distribution=self.manifest.get("distribution", ""),
            version=self.manifest.get("version", ""),
        )  # fmt: skip

    def unpacked(self, folder: Path) -> Code:
        """Write the files to ``folder``, which must not be there. Raises ``OSError``."""
        fresh = folder.with_name(folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(0o755, parents=True)
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            for info in archive.infolist():
                target = fresh / info.filename
                target.parent.mkdir(0o755, parents=True, exist_ok=True)
                target.write_bytes(archive.read(info))
                target.chmod(info.external_attr >> 16 & 0o555)
        for number in range(len(self.manifest["path"])):
            (fresh / str(number)).mkdir(exist_ok=True)
        for each, _, _ in os.walk(fresh):
            Path(each).chmod(0o755)
        fresh.rename(folder)
        return self.code(folder)

    def code(self, folder: Path) -> Code:
        """What a worker runs, once it is unpacked to ``folder``."""
        program = str(self.manifest.get("program", ""))
        path = tuple(str(number) for number in range(len(self.manifest["path"])))
        outside = program.startswith("/") and not program.startswith("/usr/")
        elsewhere = (str(Path(program).parent),) if outside else ()
        return Code(self.sha256, folder, path, program, elsewhere)


def taken_from(root: Path, config: ConverterConfig, folder: str) -> ConverterConfig:
    """The converter with its code in another folder, the whole path of which is given.

    The program of a command has the place in it that it has in its own folder of ``path``; what is in none is
    looked for by its name. Raises ``CodeError`` for a program that is looked up in ``PATH``.
    """
    program = _command(config)
    if not program:
        return msgspec.structs.replace(config, path=[folder])
    if "/" not in program:
        raise CodeError(
            f"its program {program!r} is looked up in PATH; a folder has the code of what is named with a /"
        )
    own = [root / each for each in config.path if (root / program).is_relative_to(root / each)]
    place = (root / program).relative_to(own[0]) if own else Path(program).name
    words = [str(Path(folder, place)), *shlex.split(config.run.partition(":")[2])[1:]]
    return msgspec.structs.replace(config, run=f"command:{shlex.join(words)}", path=[folder])


def fingerprint(root: Path, config: ConverterConfig) -> tuple[Found, ...]:
    """All files of a converter's code as they are now, without reading them. Raises ``CodeError``."""
    found = list[Found]()
    for number, folder in enumerate(_folders(root, config)):
        for each in _files(folder, str(number)):
            found.append(each)
            if len(found) > CODE_FILES:
                raise CodeError(
                    f"{folder} holds more than {CODE_FILES} files; name a folder that is code only"
                )
    if sum(each.size for each in found) > CODE_BYTES:
        where = ", ".join(str(folder) for folder in _folders(root, config))
        raise CodeError(f"{where} holds more than {CODE_BYTES >> 20} MiB; name a folder that is code only")
    return tuple(sorted(found))


def pack(root: Path, config: ConverterConfig) -> tuple[tuple[Found, ...], Packed]:
    """The code of a converter as it is now, and its fingerprint.

    Raises ``CodeError``, also where it changes all the time.
    """
    for _ in range(READ_TRIES):
        found = fingerprint(root, config)
        try:
            contents = [each.path.read_bytes() for each in found]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CodeError(f"{error.filename} cannot be read: {error.strerror}") from None
        if fingerprint(root, config) == found:
            return found, _packed(_manifest(root, config, found), found, contents)
    where = ", ".join(config.path)
    raise CodeError(f"{where} is being changed; the code is kept when that has ended")


def _packed(manifest: Mapping[str, Any], found: Sequence[Found], contents: Sequence[bytes]) -> Packed:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        text = json.dumps(manifest, sort_keys=True, indent=1).encode() + b"\n"
        archive.writestr(_info(MANIFEST, executable=False), text)
        for each, content in zip(found, contents, strict=True):
            archive.writestr(_info(each.name, executable=each.executable), content)
    data = out.getvalue()
    return Packed(hashlib.sha256(data).hexdigest(), data, manifest, len(found))


def _info(name: str, *, executable: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3  # Unix, whatever this is
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    return info


def _command(config: ConverterConfig) -> str:
    """The program of a command; '' for what is none."""
    kind, _, rest = config.run.partition(":")
    try:
        return next(iter(shlex.split(rest))) if kind == "command" else ""
    except (ValueError, StopIteration):  # the worker says of each attempt what is wrong with it
        return ""


def _folders(root: Path, config: ConverterConfig) -> list[Path]:
    """The folders that are its code: ``path``, and that of a program which is part of the archive.

    Raises ``CodeError``.
    """
    folders = [root / each for each in config.path]
    program = _command(config)
    part = "/" in program and not program.startswith("/")
    if part and not any((root / program).is_relative_to(each) for each in folders):
        folders.append((root / program).parent)
    for folder in folders:
        if root.resolve().is_relative_to(folder.resolve()):
            raise CodeError(
                f"{folder} is the archive itself or around it; put the code into a folder of its own"
            )
    return folders


def _files(folder: Path, prefix: str) -> Iterator[Found]:
    """The files below a folder: no hidden ones, caches and snapshots, nor what links to folders lead to."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LEFT_OUT)
        for name in names:
            path = Path(here, name)
            if name.startswith(".") or name.endswith(".pyc") or _SNAPSHOT.fullmatch(name):
                continue
            try:
                status = path.stat()
            except OSError:  # a link to nowhere, or gone meanwhile
                continue
            if stat.S_ISREG(status.st_mode):
                inside = PurePosixPath(prefix, path.relative_to(folder).as_posix())
                yield Found(
                    os.fsencode(inside).decode("utf-8", "backslashreplace"), path,
                    bool(status.st_mode & 0o111), status.st_size, status.st_ctime_ns, status.st_ino,
                )  # fmt: skip


def _manifest(root: Path, config: ConverterConfig, found: Sequence[Found]) -> dict[str, Any]:
    """What the snapshot says besides the files: the ``run`` line, the folders, and what is installed."""
    folders = _folders(root, config)
    told = [*config.path, *(str(each.relative_to(root)) for each in folders[len(config.path) :])]
    manifest: dict[str, Any] = {"run": config.run, "path": told}
    program = _command(config)
    if program:
        place = _place(root, folders, program)
        return manifest | (
            {"program": place} if place else {"program": program} | _installed_program(program)
        )
    top = config.run.partition(":")[2].partition(":")[0].partition(".")[0]
    mine = re.compile(rf"\d+/{re.escape(top)}(/.*|\.[^/]*)")
    if not any(mine.fullmatch(each.name) for each in found):
        manifest |= _distribution(top)
    return manifest


def _place(root: Path, folders: Sequence[Path], program: str) -> str:
    """The program's place in the snapshot, where it is a file of the code; '' where it is installed."""
    for number, folder in enumerate(folders):
        if "/" in program and (root / program).is_relative_to(folder):
            return str(PurePosixPath(str(number), (root / program).relative_to(folder).as_posix()))
    return ""


def _installed_program(program: str) -> dict[str, str]:
    """Which file an installed program is, and its hash; nothing where there is none."""
    found = shutil.which(program)
    if found is None:
        return {}
    with open(found, "rb") as file:  # noqa: PTH123  what which gives
        return {"installed": found, "installed_sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _distribution(top: str) -> dict[str, str]:
    """Name and version of the installed distribution that a module is from; nothing where there is none."""
    if top in sys.stdlib_module_names:
        return {"distribution": "python", "version": ".".join(map(str, sys.version_info[:3]))}
    from importlib import metadata

    names = metadata.packages_distributions().get(top, [])
    return {"distribution": names[0], "version": metadata.version(names[0])} if names else {}
