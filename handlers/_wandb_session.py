"""One run of the wandb client, driven from a thread of its own, which nobody waits for."""

from __future__ import annotations

import html
import io
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from eventbus.handlers._outbox import Outbox

_WAITING = 1000  # calls of the client
_log = logging.getLogger("eventbus.handlers.wandb")


class Session:
    """Begins a run at once, in the background; whatever follows is done after that, in order.

    Parameters
    ----------
    wandb
        The module.
    options
        For `wandb.init`.

    Attributes
    ----------
    run : wandb.Run or None
        None until the client has begun it, which may take a while.
    """

    def __init__(self, wandb: Any, options: Mapping[str, Any]) -> None:
        self._wandb = wandb
        self._options = dict(options)
        self._outbox = Outbox("WandB", _WAITING)
        self.run: Any = None
        self._outbox.put(self._begin)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """File numbers."""
        self._put(partial(self._log, values, step))

    def log_picture(self, tag: str, png: bytes, step: int) -> None:
        """File a picture."""
        self._put(partial(self._log_picture, tag, png, step))

    def log_text(self, tag: str, text: str, step: int) -> None:
        """File a text, as it is."""
        self._put(partial(self._log_text, tag, text, step))

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Put values into the run's summary."""
        self._put(partial(self._summarize, values))

    def finish(self, exit_code: int, timeout_s: float) -> None:
        """End the run; wait for it for so long.

        Raises
        ------
        TimeoutError
            It goes on in the background, where it had begun.
        Exception
            What the client raised before.
        """
        self.end(exit_code)
        left = self._outbox.close(timeout_s)
        if self._outbox.dropped:
            _log.warning("WandB: %d records were dropped: too many waited", self._outbox.dropped)
        self.raise_error()
        if left:
            rest = "what it has not sent is on the disk, `wandb sync` sends it"
            rest = rest if self.run is not None else "it had not even begun, and nothing was filed"
            raise TimeoutError(f"wandb has not finished within {timeout_s:g} s: {rest}")

    def end(self, exit_code: int) -> None:
        """End the run, without waiting."""
        self._outbox.put(partial(self._finish, exit_code), make_room=True)

    def raise_error(self) -> None:
        """Raise what the client raised in the background, once."""
        errors = self._outbox.take_errors()
        if not errors:
            return
        if isinstance(errors[0], Exception):
            raise errors[0]
        raise RuntimeError(f"wandb raised {errors[0]!r}") from errors[0]

    def _put(self, job: Any) -> None:
        self._outbox.put(job)
        self.raise_error()

    # -- in the background

    def _begin(self) -> None:
        self.run = self._wandb.init(**self._options)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        if self.run is not None:  # else beginning it failed, which has been told
            self.run.log(dict(values), step=step)

    def _log_picture(self, tag: str, png: bytes, step: int) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._log({tag: self._wandb.Image(picture)}, step)

    def _log_text(self, tag: str, text: str, step: int) -> None:
        shown = html.escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))
        self._log({tag: self._wandb.Html(f"<pre>{shown}</pre>")}, step)

    def _summarize(self, values: Mapping[str, Any]) -> None:
        if self.run is not None:
            self.run.summary.update(dict(values))

    def _finish(self, exit_code: int) -> None:
        if self.run is not None:
            self.run.finish(exit_code=exit_code)
