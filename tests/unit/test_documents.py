"""The documents say what the code says: keys, codes, commands, events; and their links lead somewhere."""

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import click
import msgspec
import pytest

from archivefs import config, metrics, query
from archivefs.bulk import capture
from archivefs.cli.main import COMMANDS, cli, load
from archivefs.config import Config, ConverterConfig, SubmitConfig
from archivefs.convert.process import WorkerError
from archivefs.convert.snapshots import CodeError
from archivefs.doctor import findings
from archivefs.doctor.examine import CHECKS
from archivefs.errors import ArchiveError, ConfigError
from archivefs.events import AnyEvent, Event
from archivefs.fs.control import FILES
from archivefs.fs.jobs import NAMES
from archivefs.fs.readme import _MEANING
from archivefs.jobs.works import WORKS
from archivefs.parts import Content, Location
from archivefs.policies import ArchivePolicy, Policy
from archivefs.states import STATUSES, JobState, Outcome, Status
from archivefs.store.frames import RecordHeader
from archivefs.submit.outbox import UNRECORDED
from archivefs.transaction import GROUP
from archivefs.verify.findings import EXIT_CODES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "archivefs"
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
EVENTS: dict[str, type[Event]] = {str(each.__struct_config__.tag): each for each in get_args(AnyEvent)}
EVERY_EVENT = {"seq", "at", "prev", "actor"}
CODE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-z])(?![\w])")
NO_PAGE_HAS = re.compile(r"(?<![\w.*-])(/work/|/root/)")


def page(name: str) -> str:
    return (DOCS / name).read_text()


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = heading.split(" ")[0]
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of all tables' rows, without headings and rules."""
    lines = without_blocks(text).splitlines()
    for number, line in enumerate(lines):
        below = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and not re.match(r"\|[-| ]+\|$", line) and not below.startswith("|--"):
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def without_blocks(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def words(text: str) -> list[str]:
    """What is set as code and is a single name."""
    return [each for each in CODE.findall(text) if re.fullmatch(r"[a-z][a-z0-9_]*", each)]


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


# -- commands.md ---------------------------------------------------------------------------------------


def family(error: type[ArchiveError]) -> Iterator[type[ArchiveError]]:
    yield error
    for child in error.__subclasses__():
        yield from family(child)


def test_the_exit_codes_in_the_table_are_those_of_the_error_classes_and_of_verify() -> None:
    text = page("commands.md").partition("<!-- exit codes")[2].partition("<!-- end of exit codes")[0]
    table = {int(code): name for code, name, _ in rows(text)}
    assert {WorkerError, CodeError} < set(family(ArchiveError))
    theirs = {error.exit_code: error.__name__ for error in family(ArchiveError)}
    others = dict.fromkeys((0, 1, 2, *EXIT_CODES.values(), *findings.EXIT_CODES.values()), "")
    assert table == theirs | others
    assert list(table) == sorted(table)


def test_no_exit_code_is_given_where_the_table_of_them_does_not_see_it() -> None:
    given = {
        int(code)
        for file in PACKAGE.rglob("*.py")
        for code in re.findall(r"\bexit_code(?:: ClassVar\[int\])? = (\d+)", file.read_text())
    }
    assert given == {error.exit_code for error in family(ArchiveError)}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Each command by the words after ``archivefs``, also those of groups."""
    for name in COMMANDS:
        command = load(name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", command.commands[each]) for each in command.commands)
        else:
            yield name, command


ALL_COMMANDS = dict(commands())


def synopses() -> dict[str, str]:
    """What stands in the text as ``archivefs COMMAND ...``, by the command."""
    found: dict[str, str] = {}
    for code in CODE.findall(without_blocks(page("commands.md")).replace("\\|", "|")):
        match = re.match(r"archivefs ([a-z]+(?: [a-z]+)?)(?= |$)", code)
        if match:
            found[match[1]] = code
    return found


def options(command: click.Command) -> set[str]:
    """Its own options; --archive and --help, which nearly all have, are explained once."""
    given = {opt for each in command.params if isinstance(each, click.Option) for opt in each.opts}
    return given - {"--archive"}


def test_every_command_is_in_the_page_and_no_other() -> None:
    text = page("commands.md")
    assert re.findall(r"(?m)^\| \[`([a-z]+)`\]", text) == list(COMMANDS)
    assert re.findall(r"(?m)^## ([a-z]+)$", text) == list(COMMANDS)
    assert synopses().keys() == ALL_COMMANDS.keys()


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_the_synopsis_of_a_command_has_its_arguments_and_options_and_no_others(name: str) -> None:
    command, synopsis = ALL_COMMANDS[name], synopses()[name]
    named = set(OPTION.findall(synopsis))
    text = section(page("commands.md"), f"## {name.split()[0]}")
    told = set() if " " in name else {opt for cells in rows(text) for opt in OPTION.findall(cells[0])}
    assert told | named == options(command)
    for each in command.params:
        if isinstance(each, click.Argument):
            assert each.make_metavar(click.Context(command)).strip("[]. ") in synopsis


def test_every_option_has_a_line_or_its_place_in_the_synopsis_of_its_command() -> None:
    for name, command in ALL_COMMANDS.items():
        for each in command.params:
            if isinstance(each, click.Option) and each.name not in ("archive", "as_json"):
                listed = [cells[0] for cells in rows(section(page("commands.md"), f"## {name.split()[0]}"))]
                told = any(opt in OPTION.findall(cell) for opt in each.opts for cell in listed)
                assert told or each.required, f"{name} {each.opts}"


def test_the_options_of_the_program_itself_are_told() -> None:
    text = without_blocks(page("commands.md"))
    for each in cli.params:
        assert any(f"`{opt}" in text or f" {opt}`" in text for opt in each.opts), each.opts
    assert "`-h` or `--help`" in text


def test_the_keys_of_a_query_are_in_the_page_and_no_others() -> None:
    told = [key for cells in rows(section(page("commands.md"), "## ls")) for key in words(cells[0])]
    assert told == [*query.KEYS, "limit"]


def test_every_check_of_verify_is_in_the_page_and_no_other() -> None:
    made = set()
    for file in (PACKAGE / "verify").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                place = {"Finding": 1, "_finding": 0, "record_finding": 0}.get(node.func.id)
                if place is not None and isinstance(node.args[place], ast.Constant):
                    made.add(node.args[place].value)
    table = [cells[0] for cells in rows(section(page("verify.md"), "## What is checked"))]
    assert {code for cell in table for code in CODE.findall(cell)} == made


def test_every_check_of_doctor_is_in_the_page_and_no_other() -> None:
    text = page("commands.md").partition("<!-- checks of doctor")[2].partition("<!-- end of checks")[0]
    told = [cells[0].strip("`") for cells in rows(text)]
    assert [each for each in told if each != "clock"] == [name for name, _ in CHECKS]  # one of the journal's
    made = set[str]()
    for file in (PACKAGE / "doctor").glob("*.py"):
        made |= set(re.findall(r"\b(?:ok|warning|problem)\(\s*\"([a-z]+)\"", file.read_text()))
        made |= set(re.findall(r"\)\(\"([a-z]+)\", f", file.read_text()))
    assert made == set(told)


# -- monitoring.md -------------------------------------------------------------------------------------


def test_every_metric_is_told_with_its_type_and_labels_and_no_other() -> None:
    text = page("monitoring.md").partition("<!-- metrics")[2].partition("<!-- end of metrics")[0]
    told = {cells[0].strip("`"): (cells[1], tuple(CODE.findall(cells[2]))) for cells in rows(text)}
    kinds = [each for each in vars(metrics).values() if isinstance(each, metrics.Kind)]
    types = {True: "counter", False: "gauge"}
    assert told == {
        metrics.PREFIX + each.name: (types[each.name.endswith("_total")], each.labels) for each in kinds
    }


# -- configuration.md ----------------------------------------------------------------------------------

SAID: dict[str, Any] = {
    "must be given": msgspec.NODEFAULT,
    "256 MiB": 256 << 20,
    "128 MiB": 128 << 20,
    "never": 0,
    "[below](#junk)": config.JUNK,
    "number of processors": os.cpu_count() or 1,
    "none": {},
    "none: archive only": "",
    "nowhere": None,
    "nothing is purged": ArchivePolicy(),
    "that of the archive": None,
    "no limit": None,
}
"""Defaults that the tables say in words."""


def keys(heading: str) -> dict[str, list[str]]:
    found = {}
    for key, *cells in rows(section(page("configuration.md"), heading).partition("\n### ")[0]):
        found[key.strip("`")] = cells
    return found


def default(cell: str) -> Any:  # noqa: ANN401  any value of TOML
    if cell in SAID:
        return SAID[cell]
    code = CODE.match(cell)
    return tomllib.loads(f"value = {code[1] if code else cell}")["value"]


def bounds(hint: object) -> str:
    """The limits of a value as the tables write them, '' for none."""
    if get_origin(hint) is not Annotated:
        return ""
    meta = get_args(hint)[1]
    low = "above 0" if meta.gt == 0 else f"{meta.ge}"
    if meta.le is None:
        return f"{low} or more"
    return f"{low} to " + (f"{meta.le // 86400} days" if meta.le > 86400 else f"{meta.le}")


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("## The archive", Config),
        ("## Converters", ConverterConfig),
        ("## Submit", SubmitConfig),
        ("## Retention", ArchivePolicy),
    ],
)
def test_every_key_of_archive_toml_is_told_with_its_default_and_limits_and_no_other(
    heading: str, kind: type[msgspec.Struct]
) -> None:
    spoken = {field: key for key, (field, _) in config.SPOKEN.items()} if kind is Config else {}
    told, hints = keys(heading), get_type_hints(kind, include_extras=True)
    of_kind = {spoken.get(field.name, field.name): field for field in msgspec.structs.fields(kind)}
    assert told.keys() == of_kind.keys()
    for key, field in of_kind.items():
        empty = field.default_factory is not msgspec.NODEFAULT
        assert default(told[key][1]) == (field.default_factory() if empty else field.default), key
        assert bounds(hints[field.name]) in told[key][0], key


def test_the_page_about_retention_has_all_keys_and_says_where_each_stands() -> None:
    told = {cells[0].strip("`"): cells[1] for cells in rows(section(page("retention.md"), "## Policies"))}
    assert told == {
        key: "both" if key in fields(Policy) else "`[retention]`" for key in fields(ArchivePolicy)
    }


def test_the_junk_list_is_told() -> None:
    (block,) = blocks(section(page("configuration.md"), "### junk"), "toml")
    assert tuple(tomllib.loads(block)["junk"]) == config.JUNK


def test_the_files_that_are_shown_can_be_used() -> None:
    (heredoc,) = re.findall(r"(?ms)^\$ cat > lab/archive.toml <<'END'\n(.*?)^END$", PAGES[0].read_text())
    first = blocks(page("configuration.md"), "toml")[0]
    example = (DOCS / "examples" / "archive.toml").read_text()
    for text in (heredoc, first, example):
        assert config.parse(text.encode(), "archive.toml").converters


WRONG = (
    "[converters.ict-csv\n",
    None,
    "schema_version = 2\n",
    'timezone = "Oslo"\n',
    None,
    'reserve = "lots"\n',
    'reserve = "9999999999 TB"\n',
    'verify_every = "0 days"\n',
    "worker = 3\n",
    '[converters."my converter"]\n',
    "[converters.ict-csv]\nsetle_seconds = 3\n",
    '[converters.ict-csv]\nrun = "ict_csv.py"\n',
    '[converters.ict-csv]\nrun = "python:ict_csv"\n',
    "[converters.ict-csv]\npriority = 11\n",
    '[converters.ict-csv]\npost_action = "delete"\n',
    '[converters.ict-csv]\nready_marker = "DONE"\n',
    '[converters.ict-csv]\npatterns = "*.csv"\n',
    "[converters.ict-csv]\narchive_sources = false\n",
    '[converters.ict-csv]\narchive_reports = false\nsubmit = {kind = "directory", path = "out"}\n',
    '[converters.ict-csv.submit]\nkind = "ftp"\n',
    '[converters.ict-csv.submit]\nkind = "http"\nurl = "http://a"\npath = "out"\n',
    '[converters.ict-csv.submit]\nkind = "http"\n',
    '[converters.ict-csv.submit]\nkind = "http"\nurl = "reports.example"\n',
    '[converters.ict-csv.submit]\nkind = "http"\nurl = "http://me:secret@reports.example"\n',
    '[converters.ict-csv.submit]\nkind = "http"\nurl = "http://a"\ntoken = "secret"\n',
    '[converters.ict-csv.submit]\nkind = "http"\nurl = "http://a"\ntoken_scheme = "Bearer "\n',
    '[converters.ict-csv.submit]\nkind = "http"\nurl = "http://a"\nheaders = {X-Key = "a "}\n',
    '[converters.ict-csv.submit]\nkind = "http"\nurl = "http://a"\nheaders = {Cookie = "a=b"}\n',
    "[converters.ict-csv]\narguments = { since = 2026-11-20 }\n",
    "[retention]\n",
    '[retention]\nkeep_statuses = ["failed"]\n',
    '[retention]\nmax_size = "10 apples"\n',
    '[retention]\nmin_free_space = "100 MB"\n',
    "[converters.ict-csv.retention]\ndayz = 90\n",
    '[converters.ict-csv.retention]\ndays = 90\nkeep_statuses = ["pending"]\n',
    "[converters.ict-csv.retention]\ndays = 90\nonly_submitted = true\n",
    '[converters.ict-csv.retention]\nretain_until = "2027-02-30"\n',
    '[retention]\nmax_total_size = "1 GB"\n[converters.ict-csv.retention]\nmax_size = "2 GB"\n',
)
"""What brings about the errors that the page shows, in its order; None: no file alone does."""


def test_the_errors_of_archive_toml_read_as_they_are_shown() -> None:
    (shown,) = blocks(section(page("configuration.md"), "## Errors"), "")
    lines = shown.splitlines()
    assert len(lines) == len(WRONG)
    for line, toml in zip(lines, WRONG, strict=True):
        if toml is not None:
            whole = toml if "schema_version" in toml else "schema_version = 1\n" + toml
            with pytest.raises(ConfigError) as error:
                config.parse(whole.encode(), "/srv/cfg/archive.toml")
            assert f"archivefs: {error.value}" == line


# -- format.md -----------------------------------------------------------------------------------------


def paragraph(name: str) -> str:
    """What format.md says behind ``**`name`**``, up to the next such beginning."""
    return page("format.md").partition(f"**`{name}`**")[2].partition("\n**")[0]


def test_every_kind_of_event_is_told_and_no_other() -> None:
    own = set(re.findall(r"(?m)^\*\*`([a-z_]+)`\*\*", page("format.md"))) - {"location"}
    care = page("format.md").partition("**Events of care and repair**")[2].partition("\n**")[0]
    assert own | {cells[0].strip("`") for cells in rows(care)} == set(EVENTS)


@pytest.mark.parametrize("kind", EVENTS)
def test_every_field_of_an_event_is_told_and_no_other(kind: str) -> None:
    expected = fields(EVENTS[kind]) - EVERY_EVENT
    care = page("format.md").partition("**Events of care and repair**")[2].partition("\n**")[0]
    row = next((cells for cells in rows(care) if cells[0] == f"`{kind}`"), None)
    if row is not None:
        assert set(words(row[1])) == expected
        return
    told = paragraph(kind)
    table = [cells[0] for cells in rows(told)]
    if table:
        assert {word for cell in table for word in words(cell)} == expected
    else:
        assert expected <= set(words(told))


def as_told(field: msgspec.structs.FieldInfo) -> str:
    """The default of a field as the tables write it, '' where it must be given."""
    if field.default is None:
        return "none"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{field.default_factory()}`"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    told = {msgspec.NODEFAULT: "", "": '`""`'}
    return told.get(field.default, str(field.default))


def test_the_defaults_of_events_are_told() -> None:
    for kind in ("captured", "attempt_finished", "planned", "hold_added", "job_changed"):
        given = {field.name: as_told(field) for field in msgspec.structs.fields(EVENTS[kind])}
        for cells in rows(paragraph(kind)):
            assert {given[name] for name in words(cells[0])} == {cells[2]}, cells[0]


def test_what_all_events_begin_with_is_told() -> None:
    text = page("format.md").partition("Every event begins with")[2].partition("Fields marked")[0]
    assert {word for cells in rows(text) for word in words(cells[0])} == EVERY_EVENT | {"kind"}


def test_the_parts_of_events_are_told() -> None:
    assert fields(Location) <= set(words(paragraph("location")))
    contents = page("format.md").partition("\nA content is ")[2].partition("\n\n")[0]
    assert fields(Content) <= set(words(contents))
    outcome = next(cells for cells in rows(paragraph("attempt_finished")) if cells[0] == "`outcome`")
    assert words(outcome[3]) == list(Outcome)


def test_the_fields_of_a_record_header_are_told_and_no_others() -> None:
    text = page("format.md").partition("\nHeader JSON;")[2].partition("\nTable JSON")[0]
    assert {word for cells in rows(text) for word in words(cells[0])} == fields(RecordHeader)


# -- tree.md and the others ----------------------------------------------------------------------------


def test_the_statuses_are_told_in_their_order() -> None:
    told = [cells[0].strip("`") for cells in rows(section(page("tree.md"), "### Statuses"))]
    assert told == list(STATUSES)
    assert list(_MEANING) == [each for each in STATUSES if each is not Status.PURGED]  # not in the tree


def test_the_states_files_and_kinds_of_jobs_are_told() -> None:
    states = [cells[0].strip("`") for cells in rows(section(page("jobs.md"), "## States"))]
    assert states == [*JobState, *WORKS]
    text = section(page("jobs.md"), "## jobs/ in the mount").partition("What `result.json` holds")[0]
    files = [cells[0].strip("`") for cells in rows(text)]
    assert sorted(files) == sorted(set(NAMES) - {"comparison.json", "comparison.html"})


def test_the_control_files_are_told() -> None:
    told = [cells[0].strip("`") for cells in rows(section(page("tree.md"), "## Control files"))]
    assert sorted(told) == sorted(FILES)


def test_the_outcomes_of_a_converter_are_told() -> None:
    table = rows(section(page("converters.md"), "## An attempt"))
    assert [word for cells in table for word in words(cells[1])] == list(Outcome)


def test_figures_in_the_text_are_those_of_the_code() -> None:
    assert f"at most {GROUP}." in page("durability.md")
    assert f"up to {capture.GROUP} files" in page("durability.md")
    assert f"at most {query.MAX_ALTERNATIVES} " in page("commands.md")
    assert f"at most the last {UNRECORDED} of a converter" in page("submission.md")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading.lower())
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(file: Path) -> set[str]:
    return {slug(each) for each in re.findall(r"(?m)^#+ (.+)$", without_blocks(file.read_text()))}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_link_leads_somewhere(file: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(file.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/([a-z]+\.md)", PAGES[0].read_text()))
    assert linked == {file.name for file in PAGES[1:]}


def test_no_document_knows_the_machine_it_was_written_on() -> None:
    files = [*PAGES, *(each for each in (DOCS / "examples").rglob("*") if each.suffix in (".py", ".toml"))]
    found = [f"{file.name}: {match[0]}" for file in files for match in NO_PAGE_HAS.finditer(file.read_text())]
    assert found == []
