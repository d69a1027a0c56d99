"""Who may import whom: the rules between the packages, read off the sources.

Every import counts, also inside a function, and also `import_module` and `require` with a literal.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Folder in the repository -> the package that it installs as.
PACKAGES = {"handlers": "eventbus.handlers", "loops": "eventbus.loops", "eventbus": "eventbus"}
OUTER = ("eventbus.handlers", "eventbus.loops", "eventbus.cli")


@dataclass(frozen=True)
class Import:
    """One import: who, whom (the longest known module), in which line, and when it happens."""

    importer: str
    target: str
    line: int
    lazy: bool = False
    typing_only: bool = False

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.target}"


def modules_under(root: Path) -> dict[str, Path]:
    """Return the modules of the three folders, by import name."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root / folder)
            if folder == "eventbus" and relative.parts[0] in {"handlers", "loops"}:
                continue  # seen through the links
            parts = relative.with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


class Walker(ast.NodeVisitor):
    """Collect the imports of one module."""

    def __init__(self, name: str, is_package: bool, known: set[str]) -> None:
        self.name = name
        self.package = name if is_package else name.rpartition(".")[0]
        self.known = known
        self.found: list[Import] = []
        self._functions = 0
        self._typing = 0

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*parents, base] if base else parents)
        for alias in node.names:
            module = f"{base}.{alias.name}"
            self._add(module if module in self.known else base, node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in {"import_module", "__import__", "require"} and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                self._add(argument.value, node)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - named by ast
    visit_Lambda = visit_FunctionDef  # noqa: N815 - named by ast

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self.generic_visit(node)
            return
        self._typing += 1
        for statement in node.body:
            self.visit(statement)
        self._typing -= 1
        for statement in node.orelse:
            self.visit(statement)

    def _add(self, target: str, node: ast.stmt | ast.expr) -> None:
        self.found.append(
            Import(self.name, target, node.lineno, self._functions > 0, self._typing > 0)
        )


def imports_of(name: str, path: Path, known: set[str]) -> list[Import]:
    walker = Walker(name, path.name == "__init__.py", known)
    walker.visit(ast.parse(path.read_text(encoding="utf-8")))
    return walker.found


def violation(found: Import) -> str | None:
    """Return what is wrong with one import, or None."""
    importer = found.importer
    if _within(importer, "eventbus.cli"):
        return None
    if _within(importer, "eventbus.handlers"):
        return _wrong_in_handlers(found)
    if _within(importer, "eventbus.loops"):
        return _wrong_in_loops(found)
    return _wrong_in_core(found)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _is_core(module: str) -> bool:
    return _within(module, "eventbus") and not any(_within(module, outer) for outer in OUTER)


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _wrong_in_core(found: Import) -> str | None:
    target = found.target
    if _is_core(target) or _is_standard(target) or _within(target, "blinker"):
        return None
    if found.typing_only and _within(target, "torch"):
        return None  # read by type checkers only
    return "the wire knows the standard library and blinker, nothing else, not lazily either"


def _wrong_in_handlers(found: Import) -> str | None:
    target = found.target
    if _within(target, "eventbus.loops") or _within(target, "eventbus.cli"):
        return "a handler never knows a loop"
    if _within(target, "eventbus.handlers"):
        return None if _may_share(found) else "a handler never imports a sibling, only `_private`"
    if _is_core(target) or _is_standard(target) or _within(target, "torch"):
        return None
    if found.lazy or found.typing_only:
        return None
    return "a third-party library is imported when the handler is made"


def _may_share(found: Import) -> bool:
    """Whether a handler may import this module of its own package."""
    if found.importer == "eventbus.handlers":
        return True  # the package re-exports its handlers
    mine, theirs = (name.split(".")[2:3] for name in (found.importer, found.target))
    return bool(theirs) and (theirs == mine or theirs[0].startswith("_"))


def _wrong_in_loops(found: Import) -> str | None:
    if _within(found.target, "eventbus.handlers") or _within(found.target, "eventbus.cli"):
        return "a loop never knows a handler"
    return None


def violations(root: Path) -> Iterator[str]:
    modules = modules_under(root)
    for name, path in modules.items():
        for found in imports_of(name, path, set(modules)):
            if wrong := violation(found):
                yield f"{found}: {wrong}"


def test_the_packages_import_only_what_their_rules_allow() -> None:
    assert list(violations(ROOT)) == []


SAMPLE = {
    "eventbus/__init__.py": "from eventbus.core import x\n",
    "eventbus/core.py": "import blinker, json\nif TYPE_CHECKING:\n    from torch import Tensor\n",
    "eventbus/cli/__init__.py": "import eventbus.handlers.stop, eventbus.loops.run, torch, typer\n",
    "handlers/__init__.py": "if TYPE_CHECKING:\n    from .stop import Stop as Stop\n",
    "handlers/_shared.py": "import torch\nfrom eventbus import EventBus\n",
    "handlers/stop.py": "from . import _shared\nfrom ._shared import y\ndef f(): import rich\n",
    "handlers/saved/__init__.py": "from eventbus.handlers.saved.manifest import read\n",
    "handlers/saved/manifest.py": "from ..saved import keep\n",
    "loops/__init__.py": "",
    "loops/run.py": "import torch, somebody\nfrom eventbus import EventBus\nfrom . import other\n",
}


def write_sample(root: Path, **changes: str) -> None:
    for name, source in {**SAMPLE, **changes}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")


def test_the_checker_accepts_what_the_rules_allow(tmp_path: Path) -> None:
    write_sample(tmp_path)
    assert list(violations(tmp_path)) == []


@pytest.mark.parametrize(
    ("file", "source", "target"),
    [
        ("eventbus/core.py", "import torch", "torch"),
        ("eventbus/core.py", "def f():\n    import torch.nn", "torch.nn"),
        ("eventbus/core.py", "class C:\n    async def f(self):\n        import torch", "torch"),
        ("eventbus/core.py", "import rich", "rich"),
        ("eventbus/core.py", "from importlib import import_module as i\nimport numpy", "numpy"),
        ("eventbus/core.py", "import importlib\nimportlib.import_module('torch')", "torch"),
        ("eventbus/core.py", "if TYPE_CHECKING:\n    import numpy", "numpy"),
        ("eventbus/core.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "torch"),
        ("eventbus/core.py", "from eventbus import handlers", "eventbus.handlers"),
        ("eventbus/core.py", "from .loops import run", "eventbus.loops.run"),
        ("eventbus/core.py", "import eventbus.cli", "eventbus.cli"),
        ("handlers/stop.py", "from eventbus.loops import run", "eventbus.loops.run"),
        ("handlers/stop.py", "def f():\n    from eventbus import loops", "eventbus.loops"),
        ("handlers/stop.py", "from .saved.manifest import m", "eventbus.handlers.saved.manifest"),
        ("handlers/stop.py", "def f():\n    from . import saved", "eventbus.handlers.saved"),
        ("handlers/stop.py", "from eventbus.handlers import Saved", "eventbus.handlers"),
        ("handlers/stop.py", "import wandb", "wandb"),
        ("handlers/stop.py", "rich = require('rich.live', extra='progress')", "rich.live"),
        ("handlers/stop.py", "try:\n    import rich\nexcept ImportError:\n    pass", "rich"),
        ("handlers/_shared.py", "from .stop import s", "eventbus.handlers.stop"),
        ("handlers/saved/manifest.py", "from ..stop import s", "eventbus.handlers.stop"),
        ("handlers/__init__.py", "import eventbus.loops", "eventbus.loops"),
        ("loops/run.py", "def f():\n    from ..handlers import stop", "eventbus.handlers.stop"),
        ("loops/run.py", "import eventbus.cli", "eventbus.cli"),
    ],
)
def test_the_checker_names_a_forbidden_import(
    tmp_path: Path, file: str, source: str, target: str
) -> None:
    write_sample(tmp_path, **{file: source + "\n"})
    (found,) = violations(tmp_path)
    assert f"imports {target}: " in found
