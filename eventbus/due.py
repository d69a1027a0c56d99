"""What a filter is: how it is put to use at one place, and how filters combine.

A filter itself keeps no state; `bind` makes the test for one subscription on one signal, and what
it remembers lives there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from eventbus.errors import HandlerError

if TYPE_CHECKING:
    from eventbus.event import Event

__all__ = ["Due", "Filter", "Site", "as_filter", "bound", "in_place_of"]

Due = Callable[["Event"], bool]


class Site(Protocol):
    """Where a filter is put to use: one subscription on one signal."""

    def clock(self) -> Callable[[Event], int]:
        """Return what reads the clock of an event."""
        ...

    def predicate(self, target: Callable[..., Any]) -> Callable[[Event], Any]:
        """Return what calls a predicate with the fields that it names."""
        ...

    def since_called(self) -> Callable[[], float]:
        """Return what tells the seconds since the handler was called; infinite before that."""
        ...


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

    def on_clock(self, site: Site) -> Due | None:
        """Make a test of the clock that holds wherever this may; None where there is none."""
        return None

    def expression(self, clock: str) -> str | None:
        """Return the test as source over the clock, or None where it reads more than that."""
        return None

    def precondition(self, clock: str) -> str | None:
        """Return the test of `on_clock` as source."""
        return self.expression(clock)

    def next_due(self, clock: int) -> float:
        """Return a lower bound of the next clock after `clock` at which it may be due."""
        return clock + 1

    def guard(self) -> Filter | None:
        """Return the part about ranks that holds wherever it is due, None where there is none."""
        return None

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


class Predicate(Filter):
    """Any callable that names fields, as a handler does."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target

    def bind(self, site: Site) -> Due:
        return site.predicate(self.target)

    def __repr__(self) -> str:
        return getattr(self.target, "__name__", repr(self.target))


class Both(Filter):
    """True where both are; the right one is not asked where the left one is false.

    What reads more than the clock is not asked where the clock says no, on whichever side it is.
    """

    def __init__(self, left: Filter, right: Filter) -> None:
        self.left, self.right = left, right

    def bind(self, site: Site) -> Due:
        left, right = self.left.bind(site), self.right.bind(site)
        return lambda event: left(event) and right(event)

    def on_clock(self, site: Site) -> Due | None:
        left, right = self.left.on_clock(site), self.right.on_clock(site)
        if left is None or right is None:
            return left or right
        return lambda event: left(event) and right(event)

    def expression(self, clock: str) -> str | None:
        return _joined("and", self.left.expression(clock), self.right.expression(clock))

    def precondition(self, clock: str) -> str | None:
        left, right = self.left.precondition(clock), self.right.precondition(clock)
        return _joined("and", left, right) or left or right

    def next_due(self, clock: int) -> float:
        return max(self.left.next_due(clock), self.right.next_due(clock))

    def guard(self) -> Filter | None:
        left, right = self.left.guard(), self.right.guard()
        if left is None or right is None:
            return right if left is None else left
        return left & right

    def __repr__(self) -> str:
        return f"{_bracket(self.left, Either)} & {_bracket(self.right, Either)}"


class Either(Filter):
    """True where one is; the right one is not asked where the left one is true."""

    def __init__(self, left: Filter, right: Filter) -> None:
        self.left, self.right = left, right

    def bind(self, site: Site) -> Due:
        left, right = self.left.bind(site), self.right.bind(site)
        return lambda event: left(event) or right(event)

    def on_clock(self, site: Site) -> Due | None:
        left, right = self.left.on_clock(site), self.right.on_clock(site)
        if left is None or right is None:
            return None
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

    def on_clock(self, site: Site) -> Due | None:
        return None if self.expression("") is None else self.bind(site)

    def expression(self, clock: str) -> str | None:
        inner = self.inner.expression(clock)
        return inner and f"(not {inner})"

    # The inner precondition says nothing about where the inner filter is false, so this has none.
    def precondition(self, clock: str) -> str | None:
        return self.expression(clock)

    def __repr__(self) -> str:
        return f"~{_bracket(self.inner, Both, Either)}"


def bound(when: Filter, site: Site) -> Due:
    """Make the whole test of a filter for one subscription on one signal.

    The clock is read first, as compiled functions do it: so a predicate that remembers what it saw
    is asked the same number of times either way.
    """
    due = when.bind(site)
    may_be_due = None if when.expression("") is not None else when.on_clock(site)
    if may_be_due is None:
        return due
    return lambda event: may_be_due(event) and due(event)


def as_filter(when: Any) -> Filter:
    """Take a filter or a callable that names fields; refuse anything else."""
    if isinstance(when, Filter):
        return when
    if callable(when):
        return Predicate(when)
    raise HandlerError(
        f"when= takes a filter such as every(10), or a callable that names fields; got {when!r}"
    )


def in_place_of(marked: Any, when: Any) -> Filter:
    """Take another filter, with what `marked` says of ranks unless this one says that, too."""
    other = as_filter(when)
    guard = None if marked is None else as_filter(marked).guard()
    return other if guard is None or other.guard() is not None else guard & other


def _joined(word: str, left: str | None, right: str | None) -> str | None:
    return f"({left} {word} {right})" if left and right else None


def _bracket(inner: Filter, *kinds: type[Filter]) -> str:
    return f"({inner!r})" if isinstance(inner, kinds) else repr(inner)
