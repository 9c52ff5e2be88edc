"""The rules of STYLE.md that no linter knows."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gcos", "site_agent", "broker", "predictor", "policies", "testbed")
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "v1" not in path.relative_to(ROOT).parts
)
#: Where a process without our seam must read the clock itself, and why.
READS_THE_CLOCK = {
    "gcos/system.py": "the seam",
    "site_agent/supervisor.py": "a small process of its own that imports nothing of ours",
}
REFUSED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
LEAN = ("gcos", "site_agent", "policies")
HEAVY = {"torch", "numba", "scipy", "lightgbm", "pandas", "pyarrow", "sklearn"}
NEEDS_AN_EXTRA = {"site_agent.signals.parquet"}

IMPORT_ALL = """
import importlib, pkgutil, sys
skipped = set(sys.argv[1].split(","))
def names(package):
    yield package.__name__
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if found.name in skipped:
            continue
        if found.ispkg:
            yield from names(importlib.import_module(found.name))
        else:
            yield found.name
for name in sys.argv[2:]:
    for module in names(importlib.import_module(name)):
        importlib.import_module(module)
print("\\n".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_an_agent_imports_no_research_library() -> None:
    """An agent starts in a fraction of a second and 100 MB; any of these would double both."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(NEEDS_AN_EXTRA), *LEAN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "grpc" in imported, "the check imports the shells, too"
    assert imported & HEAVY == set()


def test_imports_point_one_way_and_cores_are_pure() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as f; f()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_file_is_named_after_what_is_inside() -> None:
    beside = [
        path for name in ("tests", "proto", "examples") for path in (ROOT / name).rglob("*.py")
    ]
    assert [shown(path) for path in [*SOURCES, *beside] if path.stem in REFUSED_NAMES] == []


def loose_concurrency(tree: ast.AST) -> Iterator[str]:
    """Yield calls that start or await coroutines outside a TaskGroup."""
    groups = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name)
        and ast.unparse(item.context_expr).endswith("TaskGroup()")
    }
    banned = {"gather", "ensure_future", "wait_for"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "asyncio":
            yield from (name.name for name in node.names if name.name in {*banned, "create_task"})
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        is_group = owner in groups or owner.endswith("group")
        is_loose = node.attr == "create_task" and not is_group
        if is_loose or (node.attr in banned and owner == "asyncio"):
            yield f"{owner}.{node.attr}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("async with asyncio.TaskGroup() as g:\n    g.create_task(f())", []),
        ("self._group.create_task(f())", []),
        ("asyncio.create_task(f())", ["asyncio.create_task"]),
        ("loop.create_task(f())", ["loop.create_task"]),
        ("asyncio.wait_for(f(), 1)", ["asyncio.wait_for"]),
        ("from asyncio import gather", ["gather"]),
        ("event.wait_for()", []),
    ],
)
def test_the_check_for_loose_concurrency_sees_it(source: str, found: list[str]) -> None:
    tree = ast.parse(source if "async with" not in source else f"async def f():\n {indent(source)}")
    assert list(loose_concurrency(tree)) == found


def indent(source: str) -> str:
    return source.replace("\n", "\n ")


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_module_keeps_the_rules(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert list(loose_concurrency(tree)) == [], "open a TaskGroup"
    assert ("time" in imports_of(tree)) <= (shown(path) in READS_THE_CLOCK), "hand the clock in"
    assert list(undocumented(tree)) == []


def imports_of(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return names


def undocumented(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    """Yield public modules, classes and functions without a docstring."""
    if not prefix and tree.body and ast.get_docstring(tree) is None:
        yield "the module"
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_overload = any("overload" in ast.unparse(d) for d in node.decorator_list)
        if node.name.startswith("_") or is_overload:
            continue
        if ast.get_docstring(node) is None:
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node, f"{node.name}.")
