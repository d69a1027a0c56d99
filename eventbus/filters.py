"""When a subscription is due: on counts, on time, on rank.

Filters combine with `&`, `|` and `~`, with each other and with any callable that names fields (see
`due`). Those on counts read the signal's clock and keep no state; on a signal without a clock they
read the number of its emissions since the subscription. All of them pickle; a callable as far as it
does itself.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eventbus.due import Due, Filter, Site
from eventbus.errors import FieldError

if TYPE_CHECKING:
    from eventbus.event import Event

__all__ = ["Filter", "at", "at_most_every", "every", "from_", "on_rank", "until"]


class OnCount(Filter):
    """A test of the clock alone; pickled as how it was written, and made again from that.

    Parameters
    ----------
    made_by, numbers
        How it was written: the function, and what it was given.
    test
        The test itself.
    source
        The same in Python, with `{c}` for the clock.
    bound
        A lower bound of the next clock at which it is due.
    """

    def __init__(
        self,
        made_by: Callable[..., Filter],
        numbers: tuple[int, ...],
        test: Callable[[int], bool],
        source: str,
        bound: Callable[[int], float],
    ) -> None:
        self.made_by, self.numbers = made_by, numbers
        self.test = test
        self.source = source
        self.bound = bound

    def bind(self, site: Site) -> Due:
        test, clock = self.test, site.clock()

        def due(event: Event) -> bool:
            now = clock(event)
            try:
                return test(now)
            except TypeError:
                raise _no_count(self, event, now) from None

        return due

    def on_clock(self, site: Site) -> Due | None:
        return self.bind(site)

    def expression(self, clock: str) -> str | None:
        return self.source.format(c=clock)

    def next_due(self, clock: int) -> float:
        return self.bound(clock)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made_by, self.numbers

    def __repr__(self) -> str:
        return f"{self.made_by.__name__}({', '.join(map(str, self.numbers))})"


class AtMostEvery(Filter):
    """A least time between two calls of the handler."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def bind(self, site: Site) -> Due:
        since_called = site.since_called()
        return lambda event: since_called() >= self.seconds

    def __repr__(self) -> str:
        return f"at_most_every({self.seconds:g})"


class OnRank(Filter):
    """True on the given ranks of a distributed run."""

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks

    def bind(self, site: Site) -> Due:
        return lambda event: current_rank() in self.ranks

    def guard(self) -> Filter | None:
        return self

    def __repr__(self) -> str:
        return f"on_rank({', '.join(map(str, self.ranks))})"


def every(n: int) -> Filter:
    """Be due when the clock is a multiple of `n`: exactly when `clock > 0 and clock % n == 0`.

    Examples
    --------
    >>> from eventbus import EventBus, every
    >>> bus = EventBus()
    >>> @bus.on("batch_finished", when=every(2))
    ... def log(step): print(step)
    >>> for step in range(5): _ = bus.emit("batch_finished", epoch=1, step=step)
    2
    4
    """
    _check_count("every", n, least=1)
    return OnCount(
        every,
        (n,),
        lambda clock: clock > 0 and clock % n == 0,
        f"({{c}} > 0 and not {{c}} % {n})",
        lambda clock: max(n, clock - clock % n + n),
    )


def at(*numbers: int) -> Filter:
    """Be due when the clock is one of `numbers`.

    Examples
    --------
    >>> from eventbus import at
    >>> at(1, 10, 100)
    at(1, 10, 100)
    """
    if not numbers:
        raise ValueError("at() takes one or more whole numbers: at(1, 10, 100)")
    for number in numbers:
        _check_count("at", number)
    wanted, text = frozenset(numbers), ", ".join(map(str, numbers))
    return OnCount(
        at,
        numbers,
        # What is no number is refused, as by the others; a tensor is not found in a set.
        lambda clock: any(+clock == number for number in numbers),
        f"({{c}} in {{{{{text}}}}})",
        lambda clock: min((number for number in wanted if number > clock), default=math.inf),
    )


def from_(n: int) -> Filter:
    """Be due from `n` on, `n` included.

    Examples
    --------
    >>> from eventbus import every, from_
    >>> every(5) & from_(100)
    every(5) & from_(100)
    """
    _check_count("from_", n)
    return OnCount(
        from_,
        (n,),
        lambda clock: clock >= n,
        f"({{c}} >= {n})",
        lambda clock: max(n, clock + 1),
    )


def until(n: int) -> Filter:
    """Be due until `n`, `n` included.

    Examples
    --------
    >>> from eventbus import every, until
    >>> until(10) | every(100)
    until(10) | every(100)
    """
    _check_count("until", n)
    return OnCount(
        until,
        (n,),
        lambda clock: clock <= n,
        f"({{c}} <= {n})",
        lambda clock: clock + 1 if clock < n else math.inf,
    )


def at_most_every(seconds: float) -> Filter:
    """Be due when `seconds` have passed since the handler was last called, on a monotonic clock.

    Called on any of its signals, where it has several. The first emission is due. The time is not
    part of a checkpoint.

    Examples
    --------
    >>> from eventbus import at_most_every, every
    >>> every(10) & at_most_every(0.5)
    every(10) & at_most_every(0.5)
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise ValueError(f"at_most_every(seconds) takes a positive number, got {seconds!r}")
    return AtMostEvery(float(seconds))


def on_rank(*ranks: int) -> Filter:
    """Be due on these ranks of a distributed run; a run that is not distributed is rank 0.

    Examples
    --------
    >>> from eventbus import every, on_rank
    >>> every(10) & on_rank(0)
    every(10) & on_rank(0)
    """
    if not ranks:
        raise ValueError("on_rank() takes one or more ranks: on_rank(0)")
    for rank in ranks:
        _check_count("on_rank", rank)
    return OnRank(ranks)


def current_rank() -> int:
    """Return this process's rank: torch.distributed's where it is in use, else torchrun's RANK."""
    distributed = sys.modules.get("torch.distributed")  # looked up, never imported
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return int(os.environ.get("RANK", "0"))


def _no_count(when: Filter, event: Event, now: Any) -> FieldError:
    declaration = event.signal.declaration
    assert declaration is not None, "without one, it is the emissions that are counted"
    clock = declaration.clock
    return FieldError(
        f"the filter {when!r} counts by {clock!r}, a whole number; {event.sender or 'the loop'!r} "
        f"sent {clock}={now!r} with signal {event.name!r}",
        signal=event.name,
        field=clock,
    )


def _check_count(name: str, number: Any, least: int = 0) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"{name}() takes whole numbers from {least} on, got {number!r}")
