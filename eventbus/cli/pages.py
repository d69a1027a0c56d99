"""The pages under `docs/` that are written from the code, and the command that writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from eventbus.cli.handlers_page import handlers_page
from eventbus.cli.signals_page import signals_page

PAGES: Mapping[str, Callable[[], str]] = {
    "signals.md": signals_page,
    "handlers.md": handlers_page,
}


def write_pages(folder: Path) -> list[Path]:
    """Write every page into `folder`, which must exist; return what was written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> [path.name for path in write_pages(Path(tempfile.mkdtemp()))]
    ['signals.md', 'handlers.md']
    """
    written = []
    for name, page in PAGES.items():
        path = folder / name
        path.write_text(page(), encoding="utf-8")
        written.append(path)
    return written
