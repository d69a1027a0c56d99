"""When a subscription is due: filters on counts, on time, on rank, and any callable.

Filters combine with `&`, `|` and `~`. Those on counts read the signal's clock and keep no state;
on a signal without a clock they read the number of its emissions since the subscription.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from eventbus.errors import HandlerError

if TYPE_CHECKING:
    from eventbus.event import Event

__all__ = ["Filter", "at", "at_most_every", "every", "from_", "on_rank", "until"]

Due = Callable[["Event"], bool]


class Site(Protocol):
    """Where a filter is put to use: one subscription on one signal."""

    monotonic: Callable[[], float]

    def clock(self) -> Callable[[Event], int]:
        """Return what reads the clock of an event."""
        ...

    def predicate(self, target: Callable[..., Any]) -> Callable[[Event], Any]:
        """Return what calls a predicate with the fields that it names."""
        ...

    def when_called(self, tell: Callable[[], None]) -> None:
        """Have `tell` called each time that the handler is."""


class Filter:
    """Says when a subscription is due. Made by `every` and its like; combines with `& | ~`.

    Examples
    --------
    >>> from eventbus import every, from_
    >>> every(10) & ~from_(100)
    every(10) & ~from_(100)
    """

    def bind(self, site: Site) -> Due:
        """Make the test for one subscription on one signal; state lives there, never here."""
        raise NotImplementedError

    def expression(self, clock: str) -> str | None:
        """Return the test as source over the clock, or None where it reads more than that."""
        return None

    def precondition(self, clock: str) -> str | None:
        """Return source that is true wherever the filter may be; None where there is none."""
        return self.expression(clock)

    def next_due(self, clock: int) -> float:
        """Return a lower bound of the next clock after `clock` at which it may be due."""
        return clock + 1

    def __bool__(self) -> bool:
        raise TypeError("combine filters with &, | and ~, not with and, or, not")

    def __and__(self, other: Any) -> Filter:
        return Both(self, as_filter(other))

    def __rand__(self, other: Any) -> Filter:
        return Both(as_filter(other), self)

    def __or__(self, other: Any) -> Filter:
        return Either(self, as_filter(other))

    def __ror__(self, other: Any) -> Filter:
        return Either(as_filter(other), self)

    def __invert__(self) -> Filter:
        return Not(self)


class OnCount(Filter):
    """A test of the clock alone.

    Parameters
    ----------
    text
        How it was written.
    test
        The test itself.
    source
        The same in Python, with `{c}` for the clock.
    bound
        A lower bound of the next clock at which it is due.
    """

    def __init__(
        self,
        text: str,
        test: Callable[[int], bool],
        source: str,
        bound: Callable[[int], float],
    ) -> None:
        self.text = text
        self.test = test
        self.source = source
        self.bound = bound

    def bind(self, site: Site) -> Due:
        test, clock = self.test, site.clock()
        return lambda event: test(clock(event))

    def expression(self, clock: str) -> str | None:
        return self.source.format(c=clock)

    def next_due(self, clock: int) -> float:
        return self.bound(clock)

    def __repr__(self) -> str:
        return self.text


class AtMostEvery(Filter):
    """A least time between two calls of the handler."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def bind(self, site: Site) -> Due:
        called_at: float | None = None

        def tell() -> None:
            nonlocal called_at
            called_at = site.monotonic()

        site.when_called(tell)
        return lambda event: called_at is None or site.monotonic() - called_at >= self.seconds

    def __repr__(self) -> str:
        return f"at_most_every({self.seconds:g})"


class OnRank(Filter):
    """True on the given ranks of a distributed run."""

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks

    def bind(self, site: Site) -> Due:
        return lambda event: current_rank() in self.ranks

    def __repr__(self) -> str:
        return f"on_rank({', '.join(map(str, self.ranks))})"


class Predicate(Filter):
    """Any callable that names fields, as a handler does."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target

    def bind(self, site: Site) -> Due:
        return site.predicate(self.target)

    def __repr__(self) -> str:
        return getattr(self.target, "__name__", repr(self.target))


class Both(Filter):
    """True where both are; the right one is not asked where the left one is false."""

    def __init__(self, left: Filter, right: Filter) -> None:
        self.left, self.right = left, right

    def bind(self, site: Site) -> Due:
        left, right = self.left.bind(site), self.right.bind(site)
        return lambda event: left(event) and right(event)

    def expression(self, clock: str) -> str | None:
        return _joined("and", self.left.expression(clock), self.right.expression(clock))

    def precondition(self, clock: str) -> str | None:
        left, right = self.left.precondition(clock), self.right.precondition(clock)
        return _joined("and", left, right) or left or right

    def next_due(self, clock: int) -> float:
        return max(self.left.next_due(clock), self.right.next_due(clock))

    def __repr__(self) -> str:
        return f"{_bracket(self.left, Either)} & {_bracket(self.right, Either)}"


class Either(Filter):
    """True where one is; the right one is not asked where the left one is true."""

    def __init__(self, left: Filter, right: Filter) -> None:
        self.left, self.right = left, right

    def bind(self, site: Site) -> Due:
        left, right = self.left.bind(site), self.right.bind(site)
        return lambda event: left(event) or right(event)

    def expression(self, clock: str) -> str | None:
        return _joined("or", self.left.expression(clock), self.right.expression(clock))

    def precondition(self, clock: str) -> str | None:
        return _joined("or", self.left.precondition(clock), self.right.precondition(clock))

    def next_due(self, clock: int) -> float:
        return min(self.left.next_due(clock), self.right.next_due(clock))

    def __repr__(self) -> str:
        return f"{self.left!r} | {self.right!r}"


class Not(Filter):
    """True where the other is not."""

    def __init__(self, inner: Filter) -> None:
        self.inner = inner

    def bind(self, site: Site) -> Due:
        inner = self.inner.bind(site)
        return lambda event: not inner(event)

    def expression(self, clock: str) -> str | None:
        inner = self.inner.expression(clock)
        return inner and f"(not {inner})"

    # The inner precondition says nothing about where the inner filter is false, so this has none.
    def precondition(self, clock: str) -> str | None:
        return self.expression(clock)

    def __repr__(self) -> str:
        return f"~{_bracket(self.inner, Both, Either)}"


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
        f"every({n})",
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
        f"at({text})",
        lambda clock: clock in wanted,
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
        f"from_({n})",
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
        f"until({n})",
        lambda clock: clock <= n,
        f"({{c}} <= {n})",
        lambda clock: clock + 1 if clock < n else math.inf,
    )


def at_most_every(seconds: float) -> Filter:
    """Be due when `seconds` have passed since the handler was last called, on a monotonic clock.

    The first emission is due. The time is not part of a checkpoint.

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


def as_filter(when: Any) -> Filter:
    """Take a filter or a callable that names fields; refuse anything else."""
    if isinstance(when, Filter):
        return when
    if callable(when):
        return Predicate(when)
    raise HandlerError(
        f"when= takes a filter such as every(10), or a callable that names fields; got {when!r}"
    )


def current_rank() -> int:
    """Return this process's rank: torch.distributed's where it is in use, else torchrun's RANK."""
    distributed = sys.modules.get("torch.distributed")  # looked up, never imported
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return int(os.environ.get("RANK", "0"))


def _check_count(name: str, number: Any, least: int = 0) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"{name}() takes whole numbers from {least} on, got {number!r}")


def _joined(word: str, left: str | None, right: str | None) -> str | None:
    return f"({left} {word} {right})" if left and right else None


def _bracket(inner: Filter, *kinds: type[Filter]) -> str:
    return f"({inner!r})" if isinstance(inner, kinds) else repr(inner)
