"""Stop a run in good order when the system wants its machine back."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from eventbus import EventBus, Priority, Stop, handles

__all__ = ["Preemption", "ignore_in_worker"]

logger = logging.getLogger("eventbus.handlers.preemption")

_SIGNALS = ("SIGTERM", "SIGUSR1")
_NOT_TO_CATCH = ("SIGKILL", "SIGSTOP")
_ECHO_S = 0.5  # torchrun forwards, within milliseconds, what its whole process group got


class Preemption:
    """Stop all runs at the next safe point, also of a validation, when a signal asks for it.

    ==================  =====================================================================
    signals consumed    `run_opened`, `run_started`, `run_closed`
    values produced     the answer `Stop`, for this run and for later ones on the bus
    cost                each step: nothing
    state               none
    band, errors        DECIDE, so that it listens while others resume; it ceases after PERSIST;
                        raised; each rank listens
    ==================  =====================================================================

    What the operating system calls a signal is listened to only while a run is open, and only in
    the main thread; in another one a warning says that nothing is listened to. When the outermost
    run that it hears is closed, or this handler is detached, whatever was in place before is put
    back, unless someone else has taken the place since. Between two runs a signal does what it does
    without this handler.

    The signal itself only gives the `Stop`, and then calls what was in place before: a function is
    called, `SIG_IGN` and `SIG_DFL` are not acted on, and neither is Python's own for Ctrl-C. A
    `Run` then ends as after any `Stop`, so whoever saves on `epoch_interrupted` or `run_finished`
    saves, and leaves with the exit code after `run_closed`. Give the platform enough time for
    that: with torchrun it is 30 s, shared by all ranks of a node
    (`TORCH_ELASTIC_SHUTDOWN_TIMEOUT`, from torch 2.15).

    A second signal of the same kind ends the process at once, without closing anything: what is on
    the disk by then is what there is. A second Ctrl-C raises `KeyboardInterrupt`, as ever. What
    comes within half a second of the first is taken for the same one, since launchers forward a
    signal that the whole process group has had.

    Where the whole group is signalled, the workers of a DataLoader get it too, and the loop fails
    with them: give it ``worker_init_fn=ignore_in_worker``, of this module.

    Parameters
    ----------
    signals
        Names of signals of the operating system. Of the default ones, those that it has.
    interrupt
        Stop in this way on Ctrl-C (SIGINT) too.
    exit_code
        Where SIGTERM leads: what schedulers expect of it is 143. Another signal leads to 128 plus
        its number.
    monotonic
        A clock, in seconds.

    Examples
    --------
    >>> import signal
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import Preemption
    >>> bus = EventBus()
    >>> with bus.attach(Preemption()):
    ...     loop = bus.bind(sender="train")
    ...     _ = loop.emit("run_opened")
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop = loop.emit("batch_finished", epoch=1, step=7).stop
    ...     _ = loop.emit("run_closed", outcome="stopped")
    >>> stop.reason, stop.by, stop.exit_code
    ('SIGTERM', 'Preemption', 143)
    """

    def __init__(
        self,
        signals: Sequence[str] = _SIGNALS,
        interrupt: bool = False,
        exit_code: int = 143,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        names = (*_checked(signals), "SIGINT") if interrupt else _checked(signals)
        self.signals = tuple(dict.fromkeys(names))
        self.exit_code = exit_code
        self._monotonic = monotonic
        self._run_id: str | None = None
        self._bus: EventBus | None = None
        self._listeners: list[_Listener] = []

    @handles("run_opened", "run_started", priority=Priority.DECIDE, background=False)
    def listen(self, bus: EventBus, run_id: str) -> None:
        """Listen from here on; at `run_started` for who was attached when the run was open."""
        if self._run_id is not None:
            return
        self._run_id, self._bus = run_id, bus
        if threading.current_thread() is not threading.main_thread():
            logger.warning(
                "Preemption listens to no signal: Python allows that in the main thread only, "
                "and run %s is in %s",
                run_id,
                threading.current_thread().name,
            )
            return
        for name in self.signals:
            self._listen_to(name, bus)

    def _listen_to(self, name: str, bus: EventBus) -> None:
        number = signal.Signals[name]
        if signal.getsignal(number) is None:
            logger.warning("Preemption leaves %s: what is in place there is not Python's", name)
            return
        code = self.exit_code if name == "SIGTERM" else 128 + number
        listener = _Listener(number, bus, code, self._monotonic)
        self._listeners.append(listener)
        listener.begin()

    @handles("run_closed", priority=Priority.PERSIST - 100)
    def cease(self, run_id: str) -> None:
        """Put back what was in place before."""
        if run_id == self._run_id:  # else a run inside of it
            self._cease()

    def on_detach(self, bus: EventBus) -> None:
        """Put it back now: what closes the run does not come here any more."""
        if bus is self._bus:
            self._cease()

    def _cease(self) -> None:
        self._run_id = self._bus = None
        while self._listeners:
            self._listeners.pop().cease()


class _Listener:
    """What the operating system calls for one signal while a run is open."""

    def __init__(
        self, number: signal.Signals, bus: EventBus, exit_code: int, monotonic: Callable[[], float]
    ) -> None:
        self.number = number
        self._bus: EventBus | None = bus
        self._stop = Stop(number.name, exit_code=exit_code)
        self._exit_code = exit_code
        self._monotonic = monotonic
        self._heard_at: float | None = None
        self._pid = os.getpid()
        self._in_place_before = signal.getsignal(number)

    @property
    def _before(self) -> Any:
        """What was in place before; another of these that has ceased since is passed over."""
        before = self._in_place_before
        while isinstance(before, _Listener) and before._bus is None:
            before = before._in_place_before
        return before

    def begin(self) -> None:
        signal.signal(self.number, self)

    def cease(self) -> None:
        self._bus = None
        # Elsewhere Python does not let it: then the signal itself finds that it has ceased.
        if self._is_in_place() and threading.current_thread() is threading.main_thread():
            signal.signal(self.number, self._before)

    def _is_in_place(self) -> bool:
        return signal.getsignal(self.number) is self

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Give the answer and pass the signal on; this runs between any two bytecodes."""
        if os.getpid() != self._pid or (self._bus is None and self._is_in_place()):
            self._act_as_before(frame)
            return
        if self._bus is not None:
            self._hear(self._bus)
        self._pass_on(frame)

    def _hear(self, bus: EventBus) -> None:
        if self._heard_at is None:
            self._heard_at = self._monotonic()
            bus.answer(self._stop, runs="all", by="Preemption")
        elif self._monotonic() - self._heard_at > _ECHO_S:
            self._leave()

    def _leave(self) -> None:
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        with suppress(OSError):  # nobody may be there to read it
            os.write(2, f"Preemption: a second {self.number.name}, leaving at once\n".encode())
        os._exit(self._exit_code)

    def _pass_on(self, frame: FrameType | None) -> None:
        if callable(self._before) and self._before is not signal.default_int_handler:
            self._before(self.number, frame)

    def _act_as_before(self, frame: FrameType | None) -> None:
        # A forked child inherits this; whoever terminates the child must not wait in vain.
        if callable(self._before):
            self._before(self.number, frame)
        elif self._before == signal.SIG_DFL:
            signal.signal(self.number, signal.SIG_DFL)
            signal.raise_signal(self.number)


def ignore_in_worker(worker_id: int = 0, signals: Sequence[str] = (*_SIGNALS, "SIGINT")) -> None:
    """Keep from a DataLoader's worker what is for the training process to act on.

    To be given as ``worker_init_fn=ignore_in_worker``; with other signals, or an init function of
    your own, call it there. A worker ends when its DataLoader or its parent does. A signal that
    comes before a worker has got here still ends it: ``persistent_workers=True`` starts them once.

    SIGTERM is also what Python ends a worker by, and then it waits for that without a limit. So it
    is not ignored: the worker leaves the session, and with it the process group, of the training
    process, and hears nothing of what they are sent. What is sent to each process by its number,
    as systemd does without ``KillMode=mixed``, reaches it all the same. With the start method
    "forkserver", Python 3.14's on Linux, the server hears the group, and its workers end with it:
    give the DataLoader ``multiprocessing_context="spawn"`` or "fork".

    Parameters
    ----------
    worker_id
        What the DataLoader gives; not used.
    signals
        Names of signals. Those that the operating system does not have are passed over.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> loader = DataLoader([1, 2, 3], num_workers=2, worker_init_fn=ignore_in_worker)
    """
    for name in signals:
        if name == "SIGTERM":
            _leave_session()
        elif name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], signal.SIG_IGN)


def _leave_session() -> None:
    if hasattr(os, "setsid"):
        with suppress(PermissionError):  # it has one of its own already
            os.setsid()


def _checked(signals: Sequence[str]) -> tuple[str, ...]:
    if isinstance(signals, str) or not isinstance(signals, Iterable):
        raise TypeError(f"Preemption: signals is a sequence of names; got {signals!r}")
    known = set(signal.Signals.__members__)
    names = tuple(signals)
    if names == _SIGNALS:
        return tuple(name for name in names if name in known)
    for name in names:
        if name not in known or name in _NOT_TO_CATCH:
            raise ValueError(f"Preemption: no signal that can be caught is named {name!r}")
    return names
