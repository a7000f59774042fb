"""The rules of the house that can be read off the source: who imports whom, and how large things are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "archivefs"
LAYERS = [
    ("errors", "events", "names"),
    ("config",),
    ("query",),
    ("store", "catalog"),
    ("operations",),
    ("archive",),
    ("committer", "describe", "statistics"),
    ("convert", "submit"),
    ("jobs",),
    ("fs",),
    ("cli",),
]
"""From the bottom up. A part imports from itself and from below, never from beside it or above."""
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
KNOWS = {
    "pyfuse3": ("fs/",),
    "apsw": ("catalog/", "archive.py"),
    "zstandard": ("store/",),
    "click": ("cli/",),
    "rich": ("cli/",),
    "trio": ("committer.py", "convert/", "submit/", "jobs/", "fs/", "cli/"),
}
"""Which parts know a library; everything else must do without."""
MODULE_LINES = 500
FUNCTION_LINES = 60
MODULES = sorted(PACKAGE.rglob("*.py"))


def label(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """The dotted names of everything a module imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{label(file)}:{node.lineno}: a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(file: Path) -> Iterator[str]:
    """The parts of archivefs that a module imports from."""
    for name in imports(file):
        top, _, rest = name.partition(".")
        if top == "archivefs" and rest != "__version__":
            yield rest.split(".")[0]


@pytest.mark.parametrize("file", MODULES, ids=label)
def test_every_module_belongs_to_a_layer(file: Path) -> None:
    assert file == PACKAGE / "__init__.py" or part_of(file) in RANK


@pytest.mark.parametrize("file", MODULES, ids=label)
def test_arrows_point_downwards_only(file: Path) -> None:
    here = part_of(file)
    wrong = [
        there
        for there in own_imports(file)
        if there != here and (there not in RANK or RANK[there] >= RANK.get(here, 0))
    ]
    assert wrong == []


@pytest.mark.parametrize("library", KNOWS)
def test_only_the_part_that_knows_a_library_imports_it(library: str) -> None:
    strangers = [
        label(file)
        for file in MODULES
        if library in {name.split(".")[0] for name in imports(file)}
        and not label(file).startswith(KNOWS[library])
    ]
    assert strangers == []


def test_events_imports_nothing_of_archivefs() -> None:
    assert list(own_imports(PACKAGE / "events.py")) == []


def test_archive_knows_of_apsw_only_its_error() -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse((PACKAGE / "archive.py").read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "apsw"
    }
    assert used <= {"Error"}


def error_classes() -> Iterator[tuple[str, str | None]]:
    """Every class of the ArchiveError family with the exit code in its own body, as written."""
    family, classes = {"ArchiveError"}, []
    for file in [PACKAGE / "errors.py", *MODULES]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and (
                node.name == "ArchiveError" or family & {ast.unparse(base) for base in node.bases}
            ):
                family.add(node.name)
                classes.append(node)
    for name in family:
        body = next(node.body for node in classes if node.name == name)
        codes = [
            ast.unparse(line.value)
            for line in body
            if isinstance(line, ast.Assign | ast.AnnAssign)
            and line.value
            and "exit_code" in ast.unparse(line)
        ]
        yield name, codes[0] if codes else None


def test_every_error_class_has_an_exit_code_of_its_own_wherever_it_is_defined() -> None:
    codes = dict(error_classes())
    assert len(codes) > 15
    assert sorted(name for name, code in codes.items() if code is None) == []
    assert len(set(codes.values())) == len(codes)


@pytest.mark.parametrize("file", MODULES, ids=label)
def test_modules_stay_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) < MODULE_LINES


@pytest.mark.parametrize("file", MODULES, ids=label)
def test_functions_stay_small(file: Path) -> None:
    large = [
        f"{label(file)}:{node.lineno}: {node.name}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 >= FUNCTION_LINES
    ]
    assert large == []


@pytest.mark.parametrize("file", MODULES, ids=label)
def test_every_module_says_what_it_is(file: Path) -> None:
    text = file.read_text()
    assert ast.get_docstring(ast.parse(text)) or "=" in text


@pytest.mark.parametrize("file", MODULES, ids=label)
def test_nobody_catches_base_exception_without_raising_it_again(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = "BaseException" if node.type is None else ast.unparse(node.type)
            if "BaseException" in caught:
                assert isinstance(node.body[-1], ast.Raise), f"{label(file)}:{node.lineno}"
