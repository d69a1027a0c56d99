"""Messages about a run: mail, Slack and a hundred other services."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from eventbus import Event, Priority, handles, on_rank
from eventbus.handlers._apprise import DeliveryError, Service
from eventbus.handlers._arguments import When, count_given, number_given
from eventbus.handlers._messages import Message, check_template, compose, compose_failure
from eventbus.handlers._run_log import OnEach, schedule
from eventbus.marks import hears_always

__all__ = ["DeliveryError", "Notify"]

_ENDS = {"run_finished", "run_failed"}


class Notify:
    """Sends a message when the run has finished, when it failed, or on any signal.

    A service is a URL: `mailto://user:password@example.org`, `slack://…`, `tgram://…`; apprise's
    documentation lists them. It is a secret, and never part of a log, a `repr` or an error: those
    say `URL 1 (mailto)`. Read it from the environment, not from the code.

    A message says what became of the run, where it is, and of a failure the exception and its
    place: the innermost line of the traceback that is not a library's. It is sent in the
    background, in order; a service that hangs delays neither training nor other services. The end
    of the run waits for it, but not for longer than `timeout_s`. What was not delivered is logged
    at once, and an error at the end, which is isolated like any of an observer. A run that fails as
    it ends, with no `run_failed` (a last checkpoint that cannot be written), is told of as it is
    closed, unless neither that nor `run_finished` is in `on`.

    ==================  =====================================================================
    signals consumed    those of `on`; `run_failed`, `run_closed`
    values produced     messages; `held_back`, a count
    cost                each message: reading the fields that it shows, metrics among them, one
                        transfer from the device. At the end of the run: up to `timeout_s`
    state               none
    needs               apprise: `pip install 'training-eventbus[notify]'`
    band, errors        REPORT; isolated; rank 0 sends
    ==================  =====================================================================

    Parameters
    ----------
    urls
        Where to, one or several, as apprise takes them.
    on
        The signals that give a message each: `"stop_requested"` for early stopping; as a mapping,
        each with a filter of its own: `{"run_failed": None, "epoch_finished": every(10)}`.
    when
        A filter on all of them.
    title, body
        Templates in place of what is usual for a signal: `"{run}: {metrics[val_loss]:.3f}"`. They
        may name the signal's fields, the run's context (`run`, `run_id`), and `event` (the
        signal's name), `sender`, `where` (epoch and step), `facts` (all fields that are numbers or
        text), and for failures `place` and `traceback`. What an emission has not becomes a dash;
        a line with nothing else in it is left out.
    limit, per_s
        At most so many messages of one signal in any so many seconds. The next that is sent says
        how many were held back.
    timeout_s
        How long the end of a run may wait for messages under way, in seconds.
    monotonic
        The clock of the limit, in seconds.

    Attributes
    ----------
    held_back : collections.Counter
        How many messages of each signal the limit kept from being sent, in all.

    Raises
    ------
    ImportError
        apprise is not installed.
    ValueError
        A URL that apprise does not take, a template with a field that no signal has.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import Notify
    >>> bus = EventBus()
    >>> notify = Notify("mailto://me:secret@example.org", on=["run_failed", "stop_requested"])
    >>> notify
    <Notify to URL 1 (mailto)>
    >>> handle = bus.attach(notify)
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        on: OnEach = ("run_finished", "run_failed"),
        *,
        when: When | None = None,
        title: str | None = None,
        body: str | None = None,
        limit: int = 5,
        per_s: float = 60.0,
        timeout_s: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        due = schedule(on, when)
        for template in (title, body):
            if template is not None:
                check_template(template, list(due))
        _check(limit, per_s, timeout_s)
        self._services = _services(urls)
        self._tells_of_ends = "run_closed" not in due and not _ENDS.isdisjoint(due)
        self._has_failed = False
        self._title, self._body = title, body
        self._limit, self._per_s = limit, per_s
        self._timeout_s, self._monotonic = timeout_s, monotonic
        self._sent_at: dict[str, deque[float]] = {}
        self._not_told: Counter[str] = Counter()
        self.held_back: Counter[str] = Counter()
        for signal, filter_ in due.items():
            mark = handles(signal, when=filter_, priority=Priority.REPORT, on_error="isolate")
            self.send = mark(self.send)  # type: ignore[method-assign]  # marked with what was asked for

    def send(self, event: Event) -> None:
        """Send a message about an emission, unless there were too many of its signal."""
        if not self._is_allowed(event.name):
            self.held_back[event.name] += 1
            self._not_told[event.name] += 1
            return
        held_back = self._not_told.pop(event.name, 0)
        self._put(compose(event, self._title, self._body, held_back))

    @hears_always("run_failed", when=on_rank(0), priority=Priority.REPORT, on_error="isolate")
    def note_failure(self) -> None:
        """Note that the failure is told of, where that is asked for."""
        self._has_failed = True

    @hears_always("run_closed", when=on_rank(0), priority=Priority.REPORT - 1, on_error="isolate")
    def close(self, event: Event, outcome: str) -> None:
        """Tell of a failure that nothing told of, and wait for messages under way."""
        is_told, self._has_failed = self._has_failed, False
        if outcome == "failed" and self._tells_of_ends and not is_told:
            self._put(compose_failure(event, self._title, self._body))
        self._wait()

    def _put(self, message: Message) -> None:
        for service in self._services:
            service.put(message)

    def _wait(self) -> None:
        """Wait for messages under way, for so long and no longer; raise what went wrong."""
        deadline = time.monotonic() + self._timeout_s
        failed = [
            reason
            for service in self._services
            for reason in service.close(max(0.0, deadline - time.monotonic()))
        ]
        if failed:
            raise DeliveryError(f"not delivered: {'; '.join(dict.fromkeys(failed))}")

    def _is_allowed(self, signal: str) -> bool:
        now = self._monotonic()
        sent_at = self._sent_at.setdefault(signal, deque(maxlen=self._limit))
        if len(sent_at) == self._limit and now - sent_at[0] < self._per_s:
            return False
        sent_at.append(now)
        return True

    def __repr__(self) -> str:
        return f"<Notify to {', '.join(service.label for service in self._services)}>"


def _check(limit: int, per_s: float, timeout_s: float) -> None:
    count_given("Notify", "limit", limit, least=1)
    for name, seconds in (("per_s", per_s), ("timeout_s", timeout_s)):
        number_given("Notify", name, seconds)
        if not seconds > 0:
            raise ValueError(f"Notify: {name} is a positive number of seconds, got {seconds!r}")


def _services(urls: str | Iterable[str]) -> list[Service]:
    given = [urls] if isinstance(urls, str) or not isinstance(urls, Iterable) else list(urls)
    for each in given:
        if not isinstance(each, str):  # not shown: it may hold a secret
            raise TypeError(f"Notify takes a URL, a string, or several; got {type(each).__name__}")
    if not given:
        raise ValueError("Notify: urls= names at least one service; got none")
    return [Service(url, number) for number, url in enumerate(given, start=1)]
