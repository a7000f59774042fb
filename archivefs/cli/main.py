"""``archivefs``: finds the command, and turns errors into a line on stderr and an exit code.

Commands are imported when they are called, so ``--help`` and ``--version`` answer at once and without FUSE.
"""

import importlib
import json
import keyword
import sys
from collections.abc import Mapping
from typing import NamedTuple

import click

from archivefs import __version__


class _Command(NamedTuple):
    module: str
    help: str


COMMANDS: Mapping[str, _Command] = {
    "init": _Command("setup", "Make an empty archive."),
    "mount": _Command("mounting", "Mount an archive as a folder."),
    "umount": _Command("mounting", "Unmount it, everything committed."),
    "status": _Command("looking", "Entries, sizes and room, in numbers."),
    "ls": _Command("looking", "List entries, newest first."),
    "show": _Command("looking", "Everything about one entry."),
    "log": _Command("auditing", "The journal, readable."),
    "audit": _Command("auditing", "Who did what with entries; and the proof that nothing was altered."),
    "manifest": _Command("manifests", "SHA-256 sums that sha256sum checks, or everything about entries."),
    "capture": _Command("capturing", "Archive files."),
    "import": _Command("capturing", "Archive a folder of old files, quickly."),
    "restore": _Command("moving", "Copy sources out, checked."),
    "why": _Command("whereabouts", "What became of a file, and what happens next."),
    "retry": _Command("retrying", "Convert again what failed."),
    "verify": _Command("checking", "Prove that everything is there and unaltered."),
    "doctor": _Command("examining", "What is wrong with an archive and its machine, and what mends it."),
    "metrics": _Command("examining", "The archive's numbers for Prometheus."),
    "quarantine": _Command("checking", "What was being written when the machine stopped."),
    "config": _Command("configuring", "The configuration: checked, shown, changed."),
    "converter": _Command("converting", "Which converters there are, and how they do with a file."),
    "outbox": _Command("submitting", "Reports on their way to where they are submitted."),
    "reprocess": _Command("replaying", "Convert the past again, and see what changes."),
    "reproduce": _Command("replaying", "Prove that the code of then gives the reports of then."),
    "retention": _Command("retaining", "What is purged when, planned and done."),
    "hold": _Command("retaining", "Protect entries from every purge."),
    "erase": _Command("retaining", "Remove the bytes of one entry, keep the fact."),
    "jobs": _Command("watching", "Long work: how far it is, paused, cancelled."),
    "repack": _Command("upkeep", "Make finished days smaller."),
    "rebuild": _Command("setup", "Make the catalog again from the journal."),
}


def load(name: str) -> click.Command:
    """The command of that name; its function has an underscore behind it where Python reserves the word."""
    module = importlib.import_module(f"archivefs.cli.{COMMANDS[name].module}")
    command: click.Command = getattr(module, f"{name}_" if keyword.iskeyword(name) else name)
    return command


class _Lazy(click.Group):
    """Knows the commands by name and one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="archivefs")
@click.option("--archive", metavar="DIR", envvar="ARCHIVEFS_ARCHIVE", help="The archive [ARCHIVEFS_ARCHIVE].")
@click.pass_context
def cli(ctx: click.Context, archive: str | None) -> None:
    """An archive of test-station files: captured durably, converted, browsed, restored."""
    ctx.obj = archive


def main() -> None:
    """The program. Exit codes are in docs/commands.md."""
    try:
        cli(prog_name="archivefs")
    except Exception as error:
        from archivefs.errors import ArchiveError

        if not isinstance(error, ArchiveError | OSError):
            raise
        code = error.exit_code if isinstance(error, ArchiveError) else 1
        if "--json" in sys.argv:
            print(json.dumps({"error": str(error), "exit_code": code}), file=sys.stderr)  # noqa: T201
        else:
            print(f"archivefs: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(code)


if __name__ == "__main__":
    main()
