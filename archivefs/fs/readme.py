"""README.txt of the mount: how to use this folder, with this archive's own names in it."""

from archivefs import query
from archivefs.archive import Archive

_TEXT = """\
This folder is an archive of test-station files, kept by archivefs.

SAVE a file into the folder of its converter and it is archived when the program closes it:
{inbox}
Saved in inbox/ itself, it goes to the converter that it fits, or is kept as "unrouted".

LOOK at what there is. An entry is a folder HHMMSS_xxxxxx_NAME with the file under its own name, what is
known about it in entry.json, its report in report.json, and the reason in error.txt where it failed:
  by-converter/CONVERTER/DATE/STATUS/     by-date/YEAR/MONTH/DAY/CONVERTER/STATUS/
  by-status/STATUS/CONVERTER/DATE/        by-id/ID/

SEARCH by opening a query as a folder; search/README.txt says what there is:
  search/status=failed text=timeout/      search/name=*.csv from=2026-02-13/

SUBMITTED reports have their state in entry.json; archivefs outbox lists those that wait or were refused.

COPY files out to restore them. sources/ shows them under their own names, for "select all, copy":
  sources/CONVERTER/DATE/STATUS/

STATUS is one of: {statuses}
Everything outside inbox/ and control/ is read-only.
Removing a file from inbox/ does not remove it from the archive.
COMMAND with the files in control/: each says how when it is read. To convert again what failed:
  echo status=failed > control/retry

stats.json has the numbers, health.json what needs attention, metrics both for Prometheus.
Dates are in the time zone {zone}.
The same from a terminal: archivefs --archive {root} status | ls | show ID | restore ID... FOLDER
"""
_SEARCH = """\
Every query is a folder here. It need not be listed: open it, and what it selects is in it, newest first.

  ls "search/status=failed text=timeout"
  ls "search/converter=ict-csv from=2026-02-01 to=2026-02-13"
  cp -r "search/sha256=a1b2c3" /tmp

A query is KEY=VALUE conditions, separated by blanks; all of them hold. Commas separate alternatives.

{keys}

Values with blanks are quoted: text='no answer'. Characters that a folder's name cannot have, or that a
shell or Windows does not let through, are written as % and two hexadecimal digits, in UTF-8:
  %2F /   %3A :   %2A *   %3F ?   %22 "   %5C \\   %3C <   %3E >   %7C |   %20 blank   %25 %
  ls "search/name=%2A.csv"            ls "search/text=N%2FA"
Any other % is a %.

Where a query is not understood, opening it fails (Invalid argument), and control/last-error says why.
The same words after a command: archivefs ls status=failed text=timeout
"""
_MEANING = {
    "pending": "waiting to be converted",
    "converting": "being converted",
    "success": "converted",
    "failed": "not convertible, see error.txt",
    "suspended": "tried again later",
    "skipped": "nothing to convert",
    "rejected": "not for this converter",
    "archived": "kept without conversion",
    "superseded": "replaced by a later save before conversion",
    "quarantined": "was being written when the machine stopped",
}


def search() -> bytes:
    """The content of search/README.txt."""
    keys = "\n".join(f"  {key:<10} {meaning}" for key, meaning in query.MEANING.items())
    return _SEARCH.format(keys=keys).encode()


def text(archive: Archive) -> bytes:
    """The file's content."""
    lines = []
    for name, converter in sorted(archive.config.converters.items()):
        takes = ", ".join(converter.patterns) or f"any {converter.kind}"
        lines.append(
            f"  inbox/{name}/".ljust(40)
            + (f"converts {takes}" if converter.run else "archives only")
            + (", submits the reports" if converter.run and converter.submit else "")
        )
    statuses = "".join(f"\n  {status:<12} {meaning}" for status, meaning in _MEANING.items())
    return _TEXT.format(
        inbox="\n".join(lines) or "  (archive.toml has no converters yet)",
        statuses=statuses,
        zone=archive.config.timezone,
        root=archive.root.resolve(),
    ).encode()
