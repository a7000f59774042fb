"""converter: which converters there are, what they run, and how they do with a file before it counts."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from archivefs import config as configuration
from archivefs import describe, names
from archivefs.archive import Archive
from archivefs.catalog.rows import CodeRow
from archivefs.cli.common import console, json_option, print_json, with_archive
from archivefs.config import ConverterConfig
from archivefs.convert import advice, snapshots, trial
from archivefs.convert.process import WorkerError
from archivefs.errors import ArchiveError
from archivefs.states import Outcome

SHORT = 12
"""Digits of a SHA-256 in tables."""


class NotConvertedError(ArchiveError):
    """`converter test`: the converter did not make reports of the file; says what it said."""

    exit_code = 43


@click.group()
def converter() -> None:
    """Which converters there are, what they run, and how they do with a file."""


@converter.command("list")
@with_archive
@json_option
def list_(root: Path, as_json: bool) -> None:
    """The converters of archive.toml: what they run, in which sandbox, and how many entries they have."""
    with Archive.open_for_reading(root) as archive:
        counts = dict[str, int]()
        for total in archive.reader.totals():
            counts[total.converter] = counts.get(total.converter, 0) + total.entries
        rows = [
            {
                "converter": name,
                "run": config.run,
                "sandbox": config.sandbox if config.run else "",
                "priority": config.priority,
                "entries": counts.get(name, 0),
                "code": next((row.sha256 for row in reversed(archive.reader.code(name))), ""),
            }
            for name, config in archive.config.converters.items()
        ]
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table("converter", "run", "sandbox", "priority", "entries", "code", box=None, header_style="bold")
    for row in rows:
        facts = row | {"run": row["run"] or "(archive only)", "code": str(row["code"])[:SHORT]}
        table.add_row(*(Text(names.safe(str(value))) for value in facts.values()))
    console().print(table)


@converter.command()
@click.argument("name", metavar="NAME")
@with_archive
@json_option
def show(root: Path, name: str, as_json: bool) -> None:
    """Everything archive.toml says of a converter, and the versions of its code that ran."""
    with Archive.open_for_reading(root) as archive:
        config = archive.config.converter(name)
        versions = [_version(row) for row in archive.reader.code(name)]
    facts: dict[str, Any] = {"converter": name, **msgspec.structs.asdict(config)}
    if as_json:
        print_json(facts | {"versions": versions})
        return
    out = console()
    for key, value in facts.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        out.print(Text(f"{key:<20} ", style="bold").append(names.safe(text), style="not bold"))
    for each in versions:
        what = (
            f"{each['distribution']} {each['version']}" if each["distribution"] else f"{each['files']} files"
        )
        out.print(Text(f"code {each['sha256']}: {what}, {each['run']}"))


def _version(row: CodeRow) -> dict[str, Any]:
    return {key: value for key, value in row._asdict().items() if key not in ("converter", "seq")}


@converter.command()
@click.argument("name", metavar="NAME")
@with_archive
@json_option
def check(root: Path, name: str, as_json: bool) -> None:
    """Load a converter in its sandbox, and read its code for calls that a person should look at.

    The advice leaves the exit code 0: what keeps a converter from harm is the sandbox.
    """
    config = _runnable(root, name)
    files = [each.path for each in snapshots.fingerprint(root, config) if each.path.suffix == ".py"]
    found = [each for file in files for each in advice.read(file)]
    for each in found:
        if not as_json:
            call = f"{each.call.lstrip('.')}: " if each.call else ""
            click.echo(names.safe(f"{each.file}:{each.line}: {call}{each.why}"))
    tried = trial.run(root, name, config, None)
    if as_json:
        rows = [each._asdict() | {"file": str(each.file)} for each in found]
        print_json({"converter": name, "version": tried.answer.version, "code": tried.code, "advice": rows})
    if tried.answer.outcome is not Outcome.SUCCESS:
        raise WorkerError(tried.answer.error)
    if not as_json:
        version = f" version {tried.answer.version}" if tried.answer.version else ""
        calls = f"{len(found) or 'no'} call{'s' if len(found) != 1 else ''} to look at"
        click.echo(f"{name}{version} loads, sandbox {config.sandbox}; {calls}")


@converter.command()
@click.argument("name", metavar="NAME")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@with_archive
@json_option
def test(root: Path, name: str, file: Path, as_json: bool) -> None:
    """Run a converter on a file, in its sandbox and with its arguments; nothing is archived.

    Its reports are printed on stdout, what it logs on stderr.
    """
    config = _runnable(root, name)
    if file.is_dir() != (config.kind == "folder"):
        there = "a folder" if file.is_dir() else "a file"
        raise click.BadParameter(
            f'{file} is {there}; the kind of "{name}" is "{config.kind}"', param_hint="FILE"
        )
    tried = trial.run(root, name, config, file)
    answer, reports = tried.answer, [msgspec.json.decode(report) for report in tried.reports]
    log = tried.log.decode(errors="replace")
    if as_json:
        facts = {
            "outcome": answer.outcome, "error": answer.error, "warnings": answer.warnings,
            "version": answer.version, "code": tried.code, "seconds": round(tried.seconds, 3),
            "reports": reports, "log": log,
        }  # fmt: skip
        print_json({key: value for key, value in facts.items() if value not in ("", [])})
    else:
        click.echo(log, err=True, nl=False)
        for warning in answer.warnings:
            click.echo(f"warning: {warning}", err=True)
        for report in reports:
            click.echo(describe.as_file(report).decode(), nl=False)
        click.echo(f"{answer.outcome} in {tried.seconds:.3f} s, {len(reports)} reports", err=True)
    if answer.outcome is not Outcome.SUCCESS:
        raise NotConvertedError(f"{answer.outcome}: {answer.error or 'no reason was given'}")


def _runnable(root: Path, name: str) -> ConverterConfig:
    config = configuration.load(root).converter(name)
    if not config.run:
        raise ArchiveError(f'the converter "{name}" has no run in {configuration.FILE}: it only archives')
    return config
