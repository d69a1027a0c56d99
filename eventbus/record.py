"""Immutable values: what `dataclass(frozen=True)` gives, at a fraction of its cost at import.

`dataclasses` writes and compiles the methods of each class when the class is made. That was a third
of `import eventbus`; so the few classes here write their `__init__` out, and share the rest.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

__all__ = ["Record"]


class Record:
    """Compared, hashed and shown by its fields, which cannot be assigned to.

    A subclass names its fields and sets them in its `__init__`, by `_set`.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    _compared: ClassVar[tuple[str, ...] | None] = None
    """The fields by which two are equal; None for all."""

    def _set(self, **values: Any) -> None:
        vars(self).update(values)

    def _with(self, **values: Any) -> Self:
        new = object.__new__(type(self))
        vars(new).update(vars(self), **values)
        return new

    def _key(self) -> tuple[Any, ...]:
        names = self.__match_args__ if self._compared is None else self._compared
        return tuple(getattr(self, name) for name in names)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot assign to {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot delete {name!r}")

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__qualname__}({fields})"
