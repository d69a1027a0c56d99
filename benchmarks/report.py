"""The table and the picture, written from what was measured and by nobody's hand."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from benchmarks.results import Results, Row, spelt
from benchmarks.rivals import Rival

__all__ = ["ABOUT", "summary", "write"]

ABOUT = "What eventbus costs, beside others: writes results.md and results.png."
OWN_DISTRIBUTIONS = ("training-eventbus", "blinker", "torch")


def write(results: Results, rivals: list[Rival], folder: Path, effort: str) -> None:
    """Write `results.md` and, where matplotlib is installed, `results.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    has_picture = _draw(results, folder / "results.png")
    picture = ["![the ratios as bars](results.png)", ""] if has_picture else []
    lines = [
        "# Benchmarks",
        "",
        (
            f"Written by `python -m benchmarks` ({effort}). A ratio (×) is the median over rounds"
            " in which all that is compared takes turns, in one process."
        ),
        "",
        *_circumstances(rivals),
        "",
        *picture,
        *_own_table(results),
        *_other_tables(results),
        *_remarks(results),
    ]
    (folder / "results.md").write_text("\n".join(lines), encoding="utf-8")


def summary(results: Results) -> str:
    """Return the goals, one line each, for the terminal."""
    rows = [row for row in results.own() if row.goal is not None]
    lines = [
        f"{_verdict(row):>7}  {_spelt(row):>9} (goal {_goal(row)})  {row.case}" for row in rows
    ]
    missing = [f"{name}: {why}" for name, why in results.missing.items()]
    return "\n".join([*lines, *missing])


# -- tables


def _own_table(results: Results) -> list[str]:
    lines = ["## eventbus", "", "| | case | measured | goal | met |", "|---|---|---:|---:|---|"]
    last = ""
    for row in results.own():
        section = row.section if row.section != last else ""
        last = row.section
        lines.append(f"| {section} | {row.case} | {_spelt(row)} | {_goal(row)} | {_verdict(row)} |")
    return [*lines, ""]


def _other_tables(results: Results) -> list[str]:
    lines: list[str] = []
    for section in dict.fromkeys(row.section for row in results.rows if row.who != "eventbus"):
        rows = [row for row in results.rows if row.section == section]
        lines += [f"## {section}, beside others", "", *_matrix(rows), ""]
    return lines


def _matrix(rows: list[Row]) -> list[str]:
    """Return a line for each library, a column for each case that others have too."""
    compared = {row.case for row in rows if row.who != "eventbus"}
    cases = [case for case in dict.fromkeys(row.case for row in rows) if case in compared]
    cells = {(row.who, row.case): _spelt(row) for row in rows}
    lines = ["| | " + " | ".join(cases) + " |", "|---" + "|---:" * len(cases) + "|"]
    for who in dict.fromkeys(["eventbus", *(row.who for row in rows)]):
        values = [cells.get((who, case), "–") for case in cases]
        lines.append(f"| {who} | " + " | ".join(values) + " |")
    return lines


def _remarks(results: Results) -> list[str]:
    measured = {row.section for row in results.rows}
    lines = ["## What was measured", ""]
    lines += [f"* **{name}**: {note}" for name, note in results.notes.items() if name in measured]
    if results.differs:
        lines += ["", "## What others do differently", ""]
        lines += [f"* **{name}**: {differs}." for name, differs in results.differs.items()]
    if results.missing:
        lines += ["", "## Who is missing", ""]
        lines += [f"* **{name}**: {why}." for name, why in results.missing.items()]
    return [*lines, ""]


def _spelt(row: Row) -> str:
    return f"{spelt(row.value)} {row.unit}".strip()


def _goal(row: Row) -> str:
    return "" if row.goal is None else f"≤ {row.goal:g} {row.unit}".strip()


def _verdict(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row.met]


# -- circumstances


def _circumstances(rivals: Iterable[Rival]) -> list[str]:
    names = [*OWN_DISTRIBUTIONS, *(rival.distribution for rival in rivals)]
    versions = ", ".join(f"{name} {_version(name)}" for name in dict.fromkeys(names))
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return [
        (
            f"* {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {_processor()}, {os.cpu_count()}"
            f" logical cores{load}"
        ),
        (
            f"* {platform.system()} {platform.machine()}, {platform.python_implementation()}"
            f" {platform.python_version()}"
        ),
        f"* {versions}",
    ]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(from the source)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


# -- the picture

PANELS = {
    "dispatch": ("no handler", "10 handlers", "100 handlers", "100 handlers every(100)"),
    "whole run": ("over the bare loop",),
}


def _draw(results: Results, path: Path) -> bool:
    """Draw what others were compared in; tell whether there was something to draw with."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        results.missing["the picture"] = f"not drawn: {error.name} is not installed"
        return False
    panels = [rows for rows in _panels(results) if rows]
    if not panels:
        return False
    figure = Figure(figsize=(3.2 * len(panels), 3.6), layout="constrained")
    for axes, rows in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _bars(axes, rows)
    figure.savefig(path, dpi=150)
    return True


def _panels(results: Results) -> list[list[Row]]:
    return [
        [row for row in results.rows if (row.section, row.case) == (section, case)]
        for section, cases in PANELS.items()
        for case in cases
    ]


def _bars(axes: object, rows: list[Row]) -> None:
    from matplotlib.axes import Axes
    from matplotlib.ticker import NullFormatter

    assert isinstance(axes, Axes)
    rows = sorted(rows, key=lambda row: row.value, reverse=True)
    colours = ["tab:blue" if row.who == "eventbus" else "lightgrey" for row in rows]
    bars = axes.barh([row.who for row in rows], [row.value for row in rows], color=colours)
    axes.bar_label(bars, [_spelt(row) for row in rows], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())  # they would lie on top of each other
    axes.margins(x=0.35)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_title(f"{rows[0].section}: {rows[0].case}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
