"""What the body of an epoch draws outside of its loops, which a resumed run is to draw again.

A resumed run enters the body at its top. The order of the data may be drawn there, or a rollout: so
the body finds the global generators as they were then. What was done is passed over, and the code
after it finds them as that had left them; those of the checkpoint go on in the loop that was under
way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eventbus.loops._generators import RandomGenerators

__all__ = ["Draws"]

_GENERATORS = RandomGenerators()  # with CUDA's: an order may be drawn on the device


@dataclass(frozen=True)
class Ahead:
    """What a resumed run has not come to yet.

    Attributes
    ----------
    kept : mapping
        What `Draws.state` has returned.
    generators : mapping
        The generators of the checkpoint.
    """

    kept: Mapping[str, Any]
    generators: dict[str, Any]

    @property
    def is_in_steps(self) -> bool:
        """True where a loop over steps was under way, which has no other place."""
        return bool(self.kept.get("in_steps", False))

    @property
    def gap(self) -> dict[str, Any]:
        """The generators as the last loop that was done has left them."""
        gap: dict[str, Any] = self.kept.get("gap", self.generators)
        return gap


class Draws:
    """The global generators as the body of the epoch under way finds them.

    Kept are those of its top and those of the last gap, where the body goes on after a loop in it.
    Without an epoch there are none.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The epoch is finished, or is to begin anew."""
        self._top: dict[str, Any] | None = None
        self._gap: dict[str, Any] | None = None
        self._is_in_steps = False
        self._ahead: Ahead | None = None

    # -- what happens in the body

    def begin_body(self) -> None:
        """The body is at its top."""
        if self._ahead is None:
            self._top = _GENERATORS.state_dict()
        else:
            _GENERATORS.load_state_dict(self._ahead.kept["top"])

    def begin_loop(self, *, is_within: bool = False) -> None:
        """A pass or a validation begins; or goes on in its middle, and the generators with it."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._top = ahead.kept["top"]
            if is_within:
                self._gap = ahead.kept.get("gap")
                _GENERATORS.load_state_dict(ahead.generators)

    def begin_steps(self, *, are_done: bool) -> None:
        """A loop over steps begins, or goes on; or has nothing to do."""
        ahead = self._ahead
        if not are_done:
            self.begin_loop(is_within=ahead is not None and ahead.is_in_steps)
        elif ahead is not None:
            self._go_on_from(ahead.generators if ahead.is_in_steps else ahead.gap)
        self._is_in_steps = True

    def settle(self) -> None:
        """A loop is over, which is to be told yet: whoever saves then has its generators."""
        self._gap, self._is_in_steps = None, False

    def end_loop(self) -> None:
        """A loop is over, and that is told: the body goes on."""
        self.settle()
        if self._top is not None:
            self._gap = _GENERATORS.state_dict()

    def pass_over(self) -> None:
        """A loop was done before the checkpoint."""
        if self._ahead is not None:
            self._go_on_from(self._ahead.gap)

    def _go_on_from(self, generators: dict[str, Any]) -> None:
        self._gap = generators
        _GENERATORS.load_state_dict(generators)

    # -- state

    @property
    def ahead(self) -> Mapping[str, Any]:
        """The generators of the checkpoint, until a loop begins that it does not have as done."""
        return {} if self._ahead is None else self._ahead.generators

    def state(self, *, at_end: bool) -> dict[str, Any]:
        """Return it in tensors and plain Python.

        Parameters
        ----------
        at_end
            The pass under way is as good as over: the generators are as it leaves them.
        """
        if self._ahead is not None:
            return dict(self._ahead.kept)
        if self._top is None:
            return {}
        state: dict[str, Any] = {"top": self._top}
        if self._gap is not None and not at_end:
            state["gap"] = self._gap
        return {**state, "in_steps": True} if self._is_in_steps else state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Have the body draw as `state` tells; the generators are those of the checkpoint."""
        self.forget()
        if state:
            self._ahead = Ahead(state, _GENERATORS.state_dict())
