"""What a handle on subscriptions has in common: it can be ended, by hand or by a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Handle"]


class Handle(ABC):
    """Ends what it stands for when its `with` block does."""

    @abstractmethod
    def detach(self) -> None:
        """Take no more part, from the next emission on; once more does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()
