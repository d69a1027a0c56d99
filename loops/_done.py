"""What is done of the loops in a body, which a resumed run passes over.

A loop body is code, which no checkpoint holds: a resumed run enters the body of the epoch at its
top, and the Run passes over the loops in it that were done. Into the body of a step it goes only at
the top, too, so what was not done there before the step counted as finished is never come back to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

__all__ = ["Done"]

log = logging.getLogger("eventbus.loops")

BATCHES = "batches"
"""In the list of what is done, one pass over training data; a validation is `validation <name>`."""


class Done:
    """The passes and validations in the body of the epoch under way; outside of epochs, of the run.

    Parameters
    ----------
    before
        What was done in an earlier life, in order.
    after
        How many of it came after the training of a run that came to its end: they are passed over
        only by who comes to that training, too. Who validates at once wants it done.

    Attributes
    ----------
    undone : list of str
        Names of the validations in the body of a finished step that have not been done.
    """

    def __init__(self, before: Iterable[str] = (), after: int = 0) -> None:
        self._behind = list(before)  # and not yet passed over
        self._after = self._at_the_end = after
        self._trained = 0  # how many came before the end of the last loop that trains
        self._has_ended = False
        self._done: list[str] = []
        self._done_in_step: list[str] = []
        self.undone: list[str] = []
        self._undone_in_step: list[str] = []

    def state(self, *, with_pass: bool) -> list[str]:
        """Return what a resumed run is to pass over, the pass under way too if it is at its end."""
        done = [*self._done, *self._behind, *self._done_in_step]
        return [*done, BATCHES] if with_pass else done

    @property
    def has_some_behind(self) -> bool:
        """True while something is left that was done in an earlier life, and is passed over."""
        return bool(self._behind)

    @property
    def after(self) -> int:
        """How many validations came after the training of a run that is at its end."""
        return len(self._done) - self._trained if self._has_ended else self._after

    # -- what happens in the body

    @property
    def is_told(self) -> bool:
        """True where all that is left was done after the training, and told, by a finished run."""
        return len(self._behind) < self._at_the_end

    def meet_training(self) -> None:
        """A loop that trains is come to: one over epochs or steps, or a pass over data."""
        self._after, self._trained = 0, len(self._done)

    def end_step(self) -> None:
        """A step is finished: a resumed run goes on after it."""
        self._done_in_step = []
        if self._undone_in_step:
            self.undone += self._undone_in_step
            self._undone_in_step = []
        self._behind = []  # what was done within this step, and did not come again

    def end_pass(self) -> int:
        """A pass is over; return how many there were."""
        self._done.append(BATCHES)
        self.meet_training()
        return self.passes

    @property
    def passes(self) -> int:
        """Passes over training data that are done of this body, in this life or passed over."""
        return self._done.count(BATCHES)

    def note_due(self, name: str, in_step: bool) -> None:
        """A validation in the body of a step begins; it is undone until `settle`."""
        (self._undone_in_step if in_step else self.undone).append(name)

    @property
    def has_undone(self) -> bool:
        """True from the beginning of a validation in the body of a step until it is done."""
        return bool(self.undone or self._undone_in_step)

    def end_body(self) -> None:
        """The body of a step has come to its end: what it has not done it will not do."""
        self.undone, self._undone_in_step = [], []

    def settle(self, name: str) -> None:
        """A validation is done."""
        for undone in (self._undone_in_step, self.undone):
            if name in undone:
                undone.remove(name)

    def note_validation(self, name: str, in_step: bool) -> None:
        """A validation is done that a resumed run would come to again."""
        (self._done_in_step if in_step else self._done).append(f"validation {name}")

    def end_run(self) -> None:
        """The run has come to its end."""
        self._has_ended = True
        self._behind, self._done_in_step = [], []

    # -- what a resumed run passes over

    def passes_over_batches(self, in_pass: bool) -> bool:
        """Tell whether the next pass over data was done before the checkpoint."""
        # A validation within the step that is done again comes after its batches.
        is_next = bool(self._behind) and self._behind[0] == BATCHES
        if is_next:
            self._pass_over(in_pass)
            self.meet_training()
        return is_next

    def passes_over_validation(self, name: str, in_pass: bool) -> bool:
        """Tell whether the next validation was done before the checkpoint."""
        is_behind = len(self._behind) > self._after and self._is_next(f"validation {name}")
        if is_behind:
            self._pass_over(in_pass)
            self.settle(name)
        return is_behind

    def _is_next(self, what: str) -> bool:
        if self._behind[0] != what:
            log.warning(
                "the resumed epoch comes to %s where %s was done before the checkpoint: "
                "nothing more is passed over",
                what,
                self._behind[0],
            )
            self._behind = []
            return False
        return True

    def _pass_over(self, in_pass: bool) -> None:
        (self._done_in_step if in_pass else self._done).append(self._behind.pop(0))
