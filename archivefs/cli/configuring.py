"""config: archive.toml checked, shown as it counts, and changed with its comments kept."""

from pathlib import Path

import click
import msgspec

from archivefs import config as configuration
from archivefs import control, settings
from archivefs.archive import Archive
from archivefs.cli.common import json_option, print_json, with_archive
from archivefs.parts import Setting
from archivefs.telling import tell


@click.group()
def config() -> None:
    """The configuration of an archive, archive.toml."""


@config.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_archive
@json_option
def check(root: Path, file: Path | None, as_json: bool) -> None:
    """Say whether archive.toml is sound, or FILE would be in its place, and what it would change."""
    with Archive.open_for_reading(root) as archive:
        checked = (
            archive.config if file is None else configuration.parse(file.read_bytes(), str(file.absolute()))
        )
        archive.require_same_timezone(checked, archive.reader.timezone())
        changes = settings.differences(archive.config, checked)
    if as_json:
        print_json({"converters": list(checked.converters), "changes": changes})
        return
    names = ", ".join(checked.converters) or "none"
    click.echo(f"{file or root / configuration.FILE} is sound; converters: {names}")
    for change in changes:
        click.echo(_text(change))


@config.command()
@click.argument("key", required=False)
@with_archive
@json_option
def show(root: Path, key: str | None, as_json: bool) -> None:
    """The configuration with everything that archive.toml leaves out; or the value of KEY."""
    tables = settings.spoken(configuration.load(root))
    shown = settings.value_of(tables, key) if key else tables
    if as_json:
        print_json(shown)
    else:
        click.echo(settings.as_toml(shown), nl=False)


@config.command("set")
@click.argument("key")
@click.argument("value")
@with_archive
@json_option
def set_(root: Path, key: str, value: str, as_json: bool) -> None:
    """Set KEY, such as reserve or converters.NAME.priority, to VALUE; a mount goes by it at once.

    VALUE is TOML; what is none is a text.
    """
    _print_changes(tell(root, "config", ["set", key, value], "archivefs config set"), as_json=as_json)


@config.command()
@click.argument("key")
@with_archive
@json_option
def unset(root: Path, key: str, as_json: bool) -> None:
    """Take KEY out, so that its default counts; or a whole table."""
    _print_changes(tell(root, "config", ["unset", key], "archivefs config unset"), as_json=as_json)


def _print_changes(reply: control.Reply, *, as_json: bool) -> None:
    changes = msgspec.convert(reply["changes"], list[Setting])
    if as_json:
        print_json({"changes": changes})
        return
    for change in changes:
        click.echo(_text(change))
    if not changes:
        click.echo("that is how it was; nothing was changed")


def _text(change: Setting) -> str:
    return f"{change.key}: {settings.literal(change.old)} -> {settings.literal(change.new)}"
