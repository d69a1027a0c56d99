"""The build knows every package, every extra that the code names, and a pin for every library."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import requires, version
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FOLDERS = {"eventbus": "eventbus", "handlers": "eventbus.handlers", "loops": "eventbus.loops"}
DISTRIBUTION = "training-eventbus"


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if not line.startswith("#"))
    return {name: version for name, _, version in pins}


def sources() -> Iterator[tuple[str, Path]]:
    """Yield each module's package and path; the links inside `eventbus/` are not followed."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).parent.parts
            if not (folder == "eventbus" and inner and inner[0] in FOLDERS):
                yield ".".join((package, *inner)), path


def extras_named_in(source: str) -> set[str]:
    """Return the extras that errors of this module tell the reader to install."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    keywords = [word for call in calls for word in call.keywords if word.arg == "extra"]
    literals = [word.value.value for word in keywords if isinstance(word.value, ast.Constant)]
    lines = re.findall(rf"{DISTRIBUTION}\[([a-z]+)\]", source)
    return {name for name in (*literals, *lines) if isinstance(name, str)}


def test_the_build_lists_every_package(build: dict[str, Any]) -> None:
    packages = {package for package, _ in sources()}
    assert set(build["tool"]["setuptools"]["packages"]) == packages


def test_an_error_names_an_extra_that_exists(build: dict[str, Any]) -> None:
    extras = set(build["project"]["optional-dependencies"])
    for package, path in sources():
        if path.name == "_requires.py":
            continue  # its example shows one that does not exist
        unknown = extras_named_in(path.read_text(encoding="utf-8")) - extras
        assert not unknown, f"{package}: {path.name} names {unknown}"


def test_extras_are_read_from_calls_and_from_messages() -> None:
    source = "require('rich', extra='progress')\nerror = \"pip install 'training-eventbus[cli]'\""
    assert extras_named_in(source) == {"progress", "cli"}


def test_the_pins_cover_every_requirement(build: dict[str, Any], pins: dict[str, str]) -> None:
    project = build["project"]
    listed = chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {canonicalize_name(Requirement(line).name) for line in listed}
    assert names - {DISTRIBUTION} - set(pins) == set()


def needs(name: str, extras: Iterable[str], found: dict[str, str]) -> dict[str, str]:
    """Add to `found` what a distribution requires, itself and through others: name -> version."""
    for requirement in map(Requirement, requires(name) or ()):
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        required = canonicalize_name(requirement.name)
        if required not in found or requirement.extras:
            found[required] = version(required)
            needs(required, requirement.extras, found)
    return found


def test_the_pins_cover_what_the_development_dependencies_bring(pins: dict[str, str]) -> None:
    installed = needs(DISTRIBUTION, ["dev"], {})
    installed.pop(DISTRIBUTION, None)
    assert "pytest" in installed, "installed without its development extra: `make test` has it"
    installed = {name: release.partition("+")[0] for name, release in installed.items()}
    assert installed == {name: pins.get(name) for name in installed}


def test_the_library_itself_requires_only_blinker_and_torch() -> None:
    requirements = map(Requirement, requires(DISTRIBUTION) or ())
    assert [each.name for each in requirements if not each.marker] == ["blinker", "torch"]
