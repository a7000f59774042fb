"""The rules of the house that can be read off the source: who imports whom, and how large things are."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "archivefs"
LAYERS = [
    ("attributes", "background", "errors", "names", "parts", "reports", "states"),
    ("events",),
    ("policies",),
    ("config", "folders", "helper"),
    ("query", "routing"),
    ("store", "catalog"),
    ("packing", "statuses"),
    ("transaction",),
    ("operations", "steps"),
    ("rebuilding", "reopening", "settings"),
    ("archive",),
    ("bulk", "committer", "configuring", "describe", "quarantine", "restoring", "statistics"),
    ("convert", "manifest", "metrics", "retention", "submit", "verify"),
    ("jobs",),
    ("control",),
    ("fs",),
    ("doctor", "telling", "watching"),
    ("blocking",),
    ("api",),
    ("cli",),
]
"""From the bottom up. A part imports from itself and from below, never from beside it or above."""
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
KNOWS = {
    "pyfuse3": ("fs/",),
    "apsw": ("catalog/", "rebuilding.py"),
    "zstandard": ("store/",),
    "click": ("cli/",),
    "httpx": ("submit/http.py",),
    "tomlkit": ("settings.py",),
    "prometheus_client": ("metrics.py",),
    "rich": ("cli/",),
    "trio": ("committer.py", "convert/", "submit/", "verify/", "jobs/", "fs/", "api.py", "cli/"),
}
"""Which parts know a library; everything else must do without."""
MODULE_LINES = 500
FUNCTION_LINES = 60
MODULES = sorted(PACKAGE.rglob("*.py"))


def label(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def nodes(file: Path) -> Iterator[ast.AST]:
    yield from ast.walk(parsed(file))


def imports(file: Path) -> Iterator[str]:
    """The dotted names of everything a module imports, also inside functions."""
    for node in nodes(file):
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


def test_every_module_belongs_to_a_layer() -> None:
    known = {*RANK, "__init__", "__main__"}
    assert [label(file) for file in MODULES if part_of(file) not in known] == []


def test_arrows_point_downwards_only() -> None:
    wrong = [
        f"{label(file)} imports {there}"
        for file in MODULES
        for there in own_imports(file)
        if there != part_of(file) and RANK.get(there, 99) >= RANK.get(part_of(file), 99)
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


def test_events_imports_nothing_but_what_it_is_made_of() -> None:
    assert set(own_imports(PACKAGE / "events.py")) == {"parts", "states"}
    for name in ("parts.py", "states.py"):
        assert list(own_imports(PACKAGE / name)) == []


def test_archive_knows_of_apsw_only_its_errors() -> None:
    used = {
        node.attr
        for node in nodes(PACKAGE / "archive.py")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "apsw"
    }
    assert [name for name in used if not name.endswith("Error")] == []


def error_classes() -> Iterator[tuple[str, str | None]]:
    """Every class of the ArchiveError family with the exit code in its own body, as written."""
    family, classes = {"ArchiveError"}, []
    for file in [PACKAGE / "errors.py", *MODULES]:
        for node in nodes(file):
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


def test_modules_stay_small() -> None:
    lines = {label(file): len(file.read_text().splitlines()) for file in MODULES}
    assert {name: count for name, count in lines.items() if count >= MODULE_LINES} == {}


def test_functions_stay_small() -> None:
    large = [
        f"{label(file)}:{node.lineno}: {node.name}"
        for file in MODULES
        for node in nodes(file)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 >= FUNCTION_LINES
    ]
    assert large == []


def test_every_module_says_what_it_is() -> None:
    silent = [label(file) for file in MODULES if not ast.get_docstring(parsed(file))]
    assert silent == []


def test_whoever_catches_base_exception_raises_it_again() -> None:
    """Trio cancels with it."""
    swallowed = [
        f"{label(file)}:{node.lineno}"
        for file in MODULES
        for node in nodes(file)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or "BaseException" in ast.unparse(node.type))
        and not isinstance(node.body[-1], ast.Raise)
    ]
    assert swallowed == []
