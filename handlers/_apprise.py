"""One place that messages go to, by apprise; what its URL holds is never told."""

from __future__ import annotations

import inspect
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from eventbus.handlers._messages import Message
from eventbus.handlers._outbox import Outbox
from eventbus.handlers._requires import require

_WAITING = 100  # messages: more than anybody reads
_log = logging.getLogger("eventbus.handlers.notify")


class DeliveryError(RuntimeError):
    """A message did not arrive, as far as its service tells."""


class Service:
    """Sends messages to one URL, each in turn, on a thread of its own.

    Parameters
    ----------
    url
        As apprise takes it.
    number
        Which one it is, from 1: for messages, since the URL is a secret.

    Raises
    ------
    ValueError
        It is not a URL that apprise takes.
    """

    def __init__(self, url: str, number: int) -> None:
        self._made_of = (url, number)
        self._apprise = require("apprise", extra="notify", wanted_by="Notify")
        self.label = f"URL {number}"
        self._mask = _Mask(url)
        self._asset = _asset(self._apprise)
        self._plugin = self._load(url)
        self.label += f" ({url.partition('://')[0]})"  # a scheme, now that apprise has taken it
        # apprise's own pause between messages reads the wall clock, and would sleep for an hour
        # where that is set back by one.
        self._plugin.request_rate_per_sec = 0
        self._outbox = Outbox(f"Notify {self.label}", _WAITING)

    def put(self, message: Message) -> None:
        """Send a message in the background; where too many wait, the oldest is dropped."""
        if not self._outbox.put(lambda: self._send(message), make_room=True):
            _log.warning("Notify: too many messages to %s wait: one was dropped", self.label)

    def close(self, timeout_s: float) -> list[str]:
        """Wait for what is under way, for so long; return what became of messages, if not well."""
        left = self._outbox.close(timeout_s)
        told = [str(error) for error in self._outbox.take_errors()]
        return [*told, f"{self.label}: {left} not sent in time"] if left else told

    def __reduce__(self) -> tuple[Any, ...]:
        return Service, self._made_of  # another one, with a thread of its own and nothing to send

    def _load(self, url: str) -> Any:
        with _overheard() as said, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first URL has apprise import all its plugins
            try:
                plugin = self._apprise.Apprise.instantiate(
                    url, asset=self._asset, suppress_exceptions=False
                )
            except Exception as error:  # noqa: BLE001 - each service has its own
                plugin = None
                said.append(str(error))
        if (
            plugin is None
        ):  # raised here, and not there, so that no cause is shown: it tells the URL
            reason = self._mask(said[-1]) if said else "unknown"
            raise ValueError(f"Notify: {self.label} is not one that apprise takes: {reason}")
        return plugin

    def _send(self, message: Message) -> None:
        with _overheard() as said:
            self._plugin.logger = _Overhearing(said)  # its own: details come below the root's level
            service = self._apprise.Apprise(asset=self._asset)
            service.add(self._plugin)
            is_sent = service.notify(
                title=message.title,
                body=message.body,
                notify_type=message.kind,
                body_format="text",
            )
        if not is_sent:
            reason = self._mask("; ".join(dict.fromkeys(said)) or "it was not accepted")
            _log.warning("Notify: %s: %s", self.label, reason)
            raise DeliveryError(f"{self.label}: {reason}")


def _asset(apprise: Any) -> Any:
    options = {"async_mode": False, "secure_logging": True, "storage_mode": "memory"}
    if "service_timeout" in inspect.signature(apprise.AppriseAsset).parameters:
        # Else it would send on a thread of its own pool, which the end of the process waits for.
        options["service_timeout"] = 0
    return apprise.AppriseAsset(app_id="eventbus", **options)


class _Mask:
    """Replaces the parts of a URL in a text, as written and as decoded."""

    def __init__(self, url: str) -> None:
        parts = re.split(r"[/:@?&=#,;\s]+", url)
        known = {part for raw in parts for part in (raw, unquote(raw)) if len(part) > 2}
        found = sorted(known, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, found)) or r"(?!)")

    def __call__(self, text: str) -> str:
        return self._pattern.sub("***", text)


class _Overheard(logging.Filter):
    """Takes the records of one thread out of apprise's log, which may tell what is in a URL."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING or "Exception" in str(record.msg):
            self._said.append(record.getMessage())
        return False


class _Overhearing(logging.Logger):
    """A logger that belongs to nobody, for one send."""

    def __init__(self, said: list[str]) -> None:
        super().__init__("apprise", logging.DEBUG)
        self.addFilter(_Overheard(said))


@contextmanager
def _overheard() -> Iterator[list[str]]:
    said: list[str] = []
    overheard, log = _Overheard(said), logging.getLogger("apprise")
    log.addFilter(overheard)
    try:
        yield said
    finally:
        log.removeFilter(overheard)
