"""Figures as picture files, for those who keep them."""

from __future__ import annotations

import io
from typing import Any


def png_of(figure: Any) -> bytes:
    """Draw a `matplotlib.figure.Figure` as a PNG file; the figure stays as it was.

    Raises
    ------
    TypeError
        It is something else.
    """
    if not hasattr(figure, "savefig"):
        kind = type(figure).__name__
        raise TypeError(
            f"figure_drawn carries a matplotlib figure, got {kind}; draw an image with axes.imshow"
        )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def literal(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics, or from hiding it in a legend."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def size_of(png: bytes) -> tuple[int, int]:
    r"""Return the width and the height of a PNG file, in pixels.

    They follow the signature and the head of the first chunk, big-endian (PNG specification,
    section 11.2.2).

    Examples
    --------
    >>> from eventbus.handlers._pictures import size_of
    >>> size_of(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\0\x10")
    (256, 16)
    """
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
