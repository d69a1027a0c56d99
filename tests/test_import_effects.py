"""What an import does: it loads little and installs nothing, in the process or in the OS (T12)."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

BLOCK = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
import sys
sys.meta_path.insert(0, Blocker())
"""
WATCH = """
import atexit, gc, logging, os, signal, sys, threading, warnings
forked = []
register = os.register_at_fork
def watched(**hooks):
    if sys._getframe(1).f_globals["__name__"].startswith("eventbus"):
        forked.append(hooks)
    register(**hooks)
os.register_at_fork = watched
def hooks():
    return {
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "threads": threading.enumerate(),
        "excepthooks": [sys.excepthook, threading.excepthook, sys.unraisablehook],
        "tracing": [sys.gettrace(), sys.getprofile()],
        "gc": gc.callbacks[:],
        "logging": logging.root.handlers[:],
        "importers": sys.meta_path[:],
        "fork": forked[:],
        "exit": atexit._ncallbacks(),
        "warnings": warnings.filters[:],
    }
"""


def run_python(*sources: str) -> str:
    """Run the sources in a fresh interpreter; return what they print, which is what is wrong."""
    source = "\n".join(map(dedent, sources))
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def hooks_changed_by(statement: str, after: set[str]) -> str:
    """Return the hooks that `statement` changes.

    `after` is imports that come before: other people's modules may install what they like.
    """
    return run_python(
        WATCH,
        "\n".join(sorted(after)),
        "before = hooks()",
        statement,
        """
        for name, now in hooks().items():
            if now != before[name]:
                print(name, before[name], now)
        """,
    )


def modules_of(package: str) -> list[str]:
    paths = importlib.import_module(package).__path__
    return sorted(found.name for found in pkgutil.walk_packages(paths, f"{package}."))


def imported_at_once(module: str) -> set[str]:
    """Return the absolute imports at a module's top level, in a `try` too."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    tried = [inner for node in body if isinstance(node, ast.Try) for inner in node.body]
    imports = [node for node in [*body, *tried] if isinstance(node, ast.Import | ast.ImportFrom)]
    return {ast.unparse(node) for node in imports if not getattr(node, "level", 0)}


def test_eventbus_works_where_torch_cannot_be_imported() -> None:
    complaint = run_python(
        "blocked = {'torch', 'numpy'}",
        BLOCK,
        """
        import eventbus
        public = [getattr(eventbus, name) for name in eventbus.__all__]
        bus = eventbus.EventBus()
        seen = []
        bus.on("batch_finished")(lambda step: seen.append(step))
        bus.bind(sender="train").emit("batch_finished", epoch=1, step=3)
        if seen != [3] or not public:
            print(seen, public)
        """,
    )
    assert complaint == ""


def test_the_command_line_can_be_imported_without_its_extra() -> None:
    assert run_python("blocked = {'typer', 'rich', 'click'}", BLOCK, "import eventbus.cli") == ""


def test_importing_eventbus_loads_nothing_but_blinker_and_the_standard_library() -> None:
    loaded = run_python("""
        import sys
        before = set(sys.modules)
        import eventbus
        print(*(set(sys.modules) - before))
    """).split()
    outer = ("eventbus.handlers", "eventbus.loops", "eventbus.cli")
    tops = {name.partition(".")[0] for name in loaded}
    assert tops - sys.stdlib_module_names == {"blinker", "eventbus"}
    assert [name for name in loaded if name.startswith(outer)] == []


def test_importing_eventbus_leaves_out_what_most_runs_do_not_need() -> None:
    complaint = run_python("""
        import sys
        import eventbus
        late = ("dataclasses", "difflib", "logging", "eventbus.compiled", "eventbus.source")
        found = [name for name in late if name in sys.modules]
        if found:
            print("loaded at once:", *found)
    """)
    assert complaint == ""


def test_importing_eventbus_installs_nothing() -> None:
    theirs = ("blinker", "concurrent.futures.thread", "logging.handlers", "random", "tempfile")
    others = {f"import {name}" for name in theirs}
    assert hooks_changed_by("import eventbus", after=others) == ""


@pytest.mark.parametrize(
    "package",
    ["eventbus.handlers", pytest.param("eventbus.loops", marks=pytest.mark.slow)],  # all frameworks
)
def test_importing_handlers_and_loops_installs_nothing(package: str) -> None:
    modules = [package, *modules_of(package)]
    others = set[str]().union(*map(imported_at_once, modules))
    is_ours = re.compile(r"(import|from) (eventbus|__future__)\b")
    others = {one for one in others if not is_ours.match(one)} | {"import random"}
    told = hooks_changed_by(f"import {', '.join(modules)}", after=others).splitlines()
    assert [line for line in told if not line.startswith("[INFO]")] == []  # a framework's own


@pytest.mark.parametrize(
    ("statement", "hook"),
    [
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signals"),
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "threads"),
        ("atexit.register(print)", "exit"),
        ("exec('os.register_at_fork(before=print)', {'os': os, '__name__': 'eventbus.x'})", "fork"),
    ],
)
def test_the_watch_sees_what_an_import_installs(statement: str, hook: str) -> None:
    assert hooks_changed_by(statement, after={"import json"}).startswith(hook)
