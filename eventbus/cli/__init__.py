"""The command `eventbus`: the application on top of bus, handlers and loops.

typer and rich are needed here only, and imported when the command runs.
"""

from __future__ import annotations

__all__: list[str] = []
