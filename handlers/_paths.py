"""Where handlers write: paths as users give them, which may name the run."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

from eventbus import Event

__all__ = [
    "RunNames",
    "check_folder",
    "file_given",
    "folder_given",
    "path_of_run",
    "paths_of_other_runs",
]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_LEVEL = re.compile(r"(?!\.+$)[\w.+=@-]+")  # one level of a path, which leads nowhere else


class RunNames(NamedTuple):
    """What a path may name a run by; None where the loop tells none."""

    run_id: str | None
    run: str | None

    @classmethod
    def of(cls, event: Event) -> RunNames:
        """Return the names of the run that an emission belongs to."""
        return cls(event.from_context("run_id", None), event.from_context("run", None))


def file_given(owner: str, path: object, *, such_as: str) -> str:
    """Return the path of a file as text, from the root.

    Raises
    ------
    TypeError
        It is no path.
    ValueError
        It is that of a folder, or names what is not known of a run.

    Examples
    --------
    >>> from eventbus.handlers._paths import file_given
    >>> file_given("CSVLog", "runs/", such_as="metrics.csv")
    Traceback (most recent call last):
    ...
    ValueError: CSVLog takes the path of a file; got the folder 'runs/': write 'runs/metrics.csv'
    """
    given = _path_given(owner, path)
    if given.endswith(tuple(filter(None, (os.sep, os.altsep)))) or Path(given).is_dir():
        inside = os.path.join(given, such_as)  # noqa: PTH118 - as it was written
        raise ValueError(
            f"{owner} takes the path of a file; got the folder {given!r}: write {inside!r}"
        )
    return str(Path(given).absolute())


def folder_given(owner: str, path: object) -> str:
    """Return the path of a folder as text, from the root.

    Raises
    ------
    TypeError
        It is no path.
    ValueError
        It is empty, or that of a file, or names what is not known of a run.
    """
    given = _path_given(owner, path)
    if not given:
        raise ValueError(f"{owner} takes the path of a folder; got '': write '.' for this one")
    if Path(given).is_file():
        raise ValueError(f"{owner} takes the path of a folder; got the file {given!r}")
    return str(Path(given).absolute())


def check_folder(owner: str, path: Path) -> Path:
    """Return the path of a folder that is there or may be made.

    Raises
    ------
    FileExistsError
        A file, or a link that leads nowhere, is in its place, or in that of a folder above it.
    """
    for level in (path, *path.parents):
        if level.is_dir():
            break
        if level.exists():
            raise FileExistsError(f"{owner} needs the folder {path}, but {level} is a file")
        if level.is_symlink():
            raise FileExistsError(
                f"{owner} needs the folder {path}, but {level} is a link to {level.readlink()}, "
                "and nothing is there"
            )
    return path


def path_of_run(owner: str, template: str, names: RunNames) -> Path:
    """Put the id and the name of the run in the place of `{run_id}` and `{run}`.

    Raises
    ------
    ValueError
        One of them cannot be the name of a file.

    Examples
    --------
    >>> from eventbus.handlers._paths import RunNames, path_of_run
    >>> path_of_run("CSVLog", "runs/{run}.csv", RunNames("5ec6df6e", "fold-1")).name
    'fold-1.csv'
    """
    for name, value in names._asdict().items():
        if f"{{{name}}}" in template:
            if value is None or not _LEVEL.fullmatch(value):
                raise ValueError(
                    f"{owner}: the path {template!r} names the run: its {name} must be letters, "
                    f"digits and any of _ . + = @ -; got {value!r}"
                )
            template = template.replace(f"{{{name}}}", value)
    return Path(template)


def paths_of_other_runs(owner: str, template: str, names: RunNames) -> list[Path]:
    """List what is there of the paths that `{run_id}` makes for runs of other ids."""
    if "{run_id}" not in template:
        return []
    pattern = glob.escape(template).replace("{run_id}", "*")
    found = sorted(glob.glob(str(path_of_run(owner, pattern, names))))  # noqa: PTH207 - Path.glob takes no absolute pattern
    own = path_of_run(owner, template, names)
    return [Path(path) for path in found if Path(path) != own]


def _path_given(owner: str, path: object) -> str:
    """Return a path as it was given; whoever keeps it, keeps it from the root.

    The process may go elsewhere before it is used.
    """
    given = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(given, str):
        raise TypeError(f"{owner} takes a path, a string or a pathlib.Path; got {path!r}")
    for name in _PLACEHOLDER.findall(given):
        if name not in RunNames._fields:
            raise ValueError(
                f"{owner}: a path may name the run by {{run}} or {{run_id}}, and nothing else; "
                f"got {{{name}}} in {given!r}"
            )
    return given
