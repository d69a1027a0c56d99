"""Values that do not change.

In the place of frozen dataclasses: each of those is compiled as its module is imported, which took
a quarter of `import eventbus`.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, Self

__all__ = ["Frozen"]


class Frozen:
    """A value that is what its fields are; a class sets them once, in its `__init__`.

    Examples
    --------
    >>> from eventbus.frozen import Frozen
    >>> class Point(Frozen):
    ...     def __init__(self, x, y): self._set(x=x, y=y)
    >>> Point(1, 2), Point(1, 2) == Point(1, 2), Point(1, 2).but(y=3)
    (Point(x=1, y=2), True, Point(x=1, y=3))
    """

    _ASIDE: ClassVar[frozenset[str]] = frozenset()
    """Fields that two equal values may differ in."""

    def _set(self, **fields: Any) -> None:
        vars(self).update(fields)

    def but(self, **fields: Any) -> Self:
        """Return the same value with some fields replaced; they are not checked."""
        new = object.__new__(type(self))
        new._set(**{**vars(self), **fields})
        return new

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} does not change: make another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} does not change: make another one")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frozen) or type(self) is not type(other):
            return NotImplemented
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((type(self), *self._compared()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__qualname__}({fields})"

    def _compared(self) -> tuple[Any, ...]:
        return tuple(value for name, value in vars(self).items() if name not in self._ASIDE)
