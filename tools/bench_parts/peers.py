"""The peers: other file systems that show what is in an archive file, where they are installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench_parts.systems import Foreground, System, run

PACKAGES = ("squashfuse", "squashfs-tools", "fuse-zip")
"""What --install-peers takes from the distribution; ratarmount comes from PyPI into a venv of its own."""


class Peer(NamedTuple):
    """A peer: its program, the file that it shows and who makes that, and its arguments."""

    name: str
    program: str
    image: str
    make: Callable[[Path, Path], None]
    arguments: tuple[str, ...]


def make_squashfs(tree: Path, image: Path) -> None:
    """Zstandard at the level of archivefs, blocks of 128 KiB."""
    run("mksquashfs", tree, image, "-comp", "zstd", "-Xcompression-level", 3, "-no-progress", "-quiet")


def members(tree: Path) -> Iterator[Path]:
    """What zip and tar get: everything but the files for many readers."""
    for folder, _, names in os.walk(tree):
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("reader-"))


def make_zip(tree: Path, image: Path) -> None:
    """Deflate at level 6."""
    with zipfile.ZipFile(image, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
        for file in members(tree):
            out.write(file, file.relative_to(tree))


def make_tar(tree: Path, image: Path) -> None:
    """One gzip stream at level 6."""
    names = "\0".join(str(file.relative_to(tree)) for file in members(tree))
    subprocess.run(["tar", "-C", tree, "--null", "-T", "-", "-czf", image], input=names.encode(), check=True)


PEERS = (
    Peer("squashfuse", "squashfuse_ll", "tree.squashfs", make_squashfs, ("-f",)),
    Peer("fuse-zip", "fuse-zip", "tree.zip", make_zip, ("-f", "-r")),
    Peer("ratarmount", "ratarmount", "tree.tar.gz", make_tar, ("-f",)),
)


def program(peer: Peer, work: Path) -> str | None:
    """Where its program is, None where it is not installed."""
    own = work / "ratarmount" / "bin" / peer.program
    return str(own) if own.exists() else shutil.which(peer.program)


def installed(work: Path) -> list[Peer]:
    """The peers that can be compared with."""
    tools = {"squashfuse": "mksquashfs", "ratarmount": "tar"}
    return [
        peer for peer in PEERS if program(peer, work) and shutil.which(tools.get(peer.name, peer.program))
    ]


def install(work: Path) -> None:
    """Install those that are missing. Raises ``CalledProcessError``."""
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    missing = [
        name for name in PACKAGES if not shutil.which({"squashfs-tools": "mksquashfs"}.get(name, name))
    ]
    if missing:
        apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]
        subprocess.run([*apt, "update"], stdout=subprocess.DEVNULL, check=False)
        subprocess.run(
            [*apt, "install", "--yes", "--no-install-recommends", *missing],
            stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    venv = work / "ratarmount"
    if not (venv / "bin" / "ratarmount").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "ratarmount"], check=True)


def systems(work: Path, tree: Path, *, fresh: bool) -> list[System]:
    """The installed peers with the tree in an image of theirs; ``fresh``: the tree is another one now."""
    made: list[System] = []
    for peer in installed(work):
        image, point = work / peer.image, work / f"mnt-{peer.name}"
        if fresh or not image.exists():
            for old in work.glob(f"{peer.image}*"):
                old.unlink()
            peer.make(tree, image)
        point.mkdir(exist_ok=True)
        command = [program(peer, work), *peer.arguments, image, point]
        made.append(Foreground(peer.name, point, command))
    return made
