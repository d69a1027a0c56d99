"""blinker's own tests, run on our signals: `bus.signal(name)` really is a `blinker.Signal`.

The tests come with blinker's source distribution, which `make test` fetches.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

NAME = "blinker-1.9.0"
FOLDERS = (Path(sys.prefix), Path(__file__).parents[2] / ".venv")
SUITE = ("test_context.py", "test_signals.py")
TESTS = 23  # all of them pass: none is left out, none may fail

# Loaded before the test modules, so `from blinker import Signal` in them finds ours.
CONFTEST = """
import blinker.base
from eventbus.wire import OrderedNamedSignal, OrderedSignal
{broken}
for module in (blinker, blinker.base):
    module.Signal, module.NamedSignal = OrderedSignal, OrderedNamedSignal
"""
SETTINGS = """
[pytest]
addopts = -p no:cacheprovider
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
DEAF = "OrderedSignal.send = lambda self, *sender, **fields: []"


def unpack_suite(folder: Path) -> None:
    archives = [path / "blinker-sdist" / f"{NAME}.tar.gz" for path in FOLDERS]
    archive = next((path for path in archives if path.exists()), None)
    if archive is None:
        pytest.fail(f"no {archives[-1]}: `make test` fetches it", pytrace=False)
    with tarfile.open(archive) as source:
        for name in SUITE:
            member = source.extractfile(f"{NAME}/tests/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())


def run_suite(folder: Path, broken: str = "") -> dict[str, bool]:
    """Run blinker's tests in a process of their own; return which passed, by name."""
    unpack_suite(folder)
    (folder / "conftest.py").write_text(CONFTEST.format(broken=broken), encoding="utf-8")
    (folder / "pytest.ini").write_text(SETTINGS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--junitxml=results.xml"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    cases = ET.parse(folder / "results.xml").iter("testcase")
    return {case.attrib["name"]: len(case) == 0 for case in cases}


def test_blinkers_own_tests_pass_on_our_signals(tmp_path: Path) -> None:
    passed = run_suite(tmp_path)
    assert len(passed) == TESTS
    assert [name for name, fine in passed.items() if not fine] == []


def test_blinkers_own_tests_fail_on_a_signal_that_sends_nothing(tmp_path: Path) -> None:
    passed = run_suite(tmp_path, broken=DEAF)
    in_each_file = {"test_temp_connection", "test_strong_receiver"}
    assert in_each_file <= {name for name, fine in passed.items() if not fine}
