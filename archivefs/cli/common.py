"""What the commands share: the archive they work on, and how they print."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console

from archivefs.names import size_text as size_text

PIPE_WIDTH = 10_000
_F = TypeVar("_F", bound=Callable[..., Any])


def archive_root(ctx: click.Context) -> Path:
    """The folder given by ``--archive`` before or after the command, or by ARCHIVEFS_ARCHIVE."""
    given = ctx.params.get("archive") or ctx.find_root().obj
    if not given:
        raise click.UsageError("which archive? give --archive DIR or set ARCHIVEFS_ARCHIVE")
    return Path(given).absolute()


def with_archive(command: _F) -> _F:
    """Adds ``--archive`` to a command and gives it the folder as ``root``."""

    @click.option("--archive", metavar="DIR", help="The archive [ARCHIVEFS_ARCHIVE].")
    @click.pass_context
    @functools.wraps(command)
    def wrapper(ctx: click.Context, /, archive: str | None, **options: Any) -> Any:  # noqa: ANN401
        return command(root=archive_root(ctx), **options)

    return wrapper  # type: ignore[return-value]


json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, nothing else.")


def print_json(value: object) -> None:
    """One line of JSON."""
    click.echo(msgspec.json.encode(value).decode())


def console() -> Console:
    """Where tables and texts go: as wide as the terminal, and never folded into a pipe or file."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
