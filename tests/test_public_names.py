"""The public names, and their documentation: all there, each with an example, each example true."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import io
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import eventbus

PACKAGES = (
    "eventbus",
    "eventbus.cli",
    "eventbus.conformance",
    "eventbus.handlers",
    "eventbus.loops",
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def module_names() -> list[str]:
    """Return the import name of every module; the folders are only reached through the package."""
    names: set[str] = set(PACKAGES)
    for package in PACKAGES:
        paths = importlib.import_module(package).__path__
        names.update(found.name for found in pkgutil.walk_packages(paths, f"{package}."))
    return sorted(name for name in names if not name.endswith(".__main__"))


def source_of(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def imported(source: str) -> Iterator[str]:
    """Yield the top-level name of each absolute import, lazy ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
            yield ast.literal_eval(node.args[0]).partition(".")[0]


def missing_libraries(source: str) -> list[str]:
    wanted = set(imported(source)) - sys.stdlib_module_names
    return sorted(name for name in wanted if importlib.util.find_spec(name) is None)


def failures(module: ModuleType) -> str:
    """Run the examples of a module; return the report of those that failed."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS)
    report = io.StringIO()
    for example in finder.find(module, module.__name__):
        runner.run(example, out=report.write)
    return report.getvalue()


def test_all_equals_the_public_namespace() -> None:
    public = {
        name
        for name, value in vars(eventbus).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert set(eventbus.__all__) == public
    assert len(eventbus.__all__) == len(public)


@pytest.mark.parametrize("name", eventbus.__all__)
def test_a_public_name_has_a_docstring_with_an_example(name: str) -> None:
    public = getattr(eventbus, name)
    own = vars(public).get("__doc__") if inspect.isclass(public) else inspect.getdoc(public)
    assert own, f"{name} has no docstring of its own"
    assert ">>>" in own, f"the docstring of {name} has no example"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # frameworks' and torch's own
@pytest.mark.filterwarnings(r"ignore:.*LeafSpec\)` is deprecated")  # Lightning's use of torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # Lightning's, of any DataLoader
@pytest.mark.parametrize("name", module_names())
def test_the_examples_of_a_module_are_true(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := missing_libraries(source_of(name)):
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    assert failures(importlib.import_module(name)) == ""


def test_a_false_example_is_reported() -> None:
    module = ModuleType("sample", ">>> 1 + 1\n3\n")
    assert "Expected:\n    3\nGot:\n    2" in failures(module)


def test_a_missing_library_is_found_also_where_it_is_imported_lazily() -> None:
    source = "import json\ndef f():\n    from no_such.part import x\n    require('nor_such.a')\n"
    assert missing_libraries(source) == ["no_such", "nor_such"]


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_exports_is_there(package: str) -> None:
    module = importlib.import_module(package)
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert [name for name in exported if not hasattr(module, name)] == []
