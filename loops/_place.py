"""Where in the data an epoch is, in a form that a checkpoint keeps and a resumed run goes on from.

The place is always one between two steps: what a loader has read ahead, and what a step under way
has taken of it, is read again. A loop body is code, which no checkpoint holds: a resumed run enters
the body of the epoch at its top, and the Run passes over the loops in it that were done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import ref

from eventbus.loops._loader import Reader, tell_samplers
from eventbus.loops._manner import manner_of
from eventbus.loops._opening import Start, carry_on, check_manner, keeps_its_place, opened

__all__ = ["Place"]

log = logging.getLogger("eventbus.loops")

BATCHES = "batches"
"""In the list of what is done, one pass over training data; a validation is `validation <name>`."""


class Place:
    """How far the epoch under way has come; outside of epochs, the run.

    Attributes
    ----------
    batch_index : int
        Micro-batches of the epoch, in all passes, that finished steps have used up.
    read : int
        Micro-batches of the pass under way that came out of the loader.
    undone : list of str
        Names of the validations in the body of a finished step that have not been done: a resumed
        run goes on after that step, and never comes back to them.
    """

    def __init__(self) -> None:
        self._ended: Any = None  # a loader with a state that goes from pass to pass
        self._carried: Mapping[str, Any] | None = None  # restored, for the next pass
        self._manner: Mapping[str, int] = {}  # of the last loader
        self.begin()

    def begin(self) -> None:
        """Be at the top of an epoch."""
        self.batch_index = 0
        self._behind: list[str] = []  # done in an earlier life, and not yet passed over
        self._done: list[str] = []
        self._done_in_step: list[str] = []
        self.undone: list[str] = []
        self._undone_in_step: list[str] = []
        self._start: Start | None = None
        self._close()

    def _close(self) -> None:
        self._used = self.read = 0
        self._is_open = self._goes_on = False
        self._loader: Any = None
        self._reader: ref[Reader] | None = None
        self._opening: dict[str, Any] = {}

    # -- what happens in the epoch

    def open(self, loader: Iterable[Any], epoch: int) -> Reader:
        """Begin a pass over `loader`, or go on with the one that was under way.

        Its samplers are told the `epoch`, from 1; 0 where there is none.
        """
        tell_samplers(loader, epoch)
        start, self._start = self._start, None
        carried = self._carried
        check_manner(loader, start, carried, self._manner)
        self._manner = manner_of(loader)
        if start is None and carried is not None:
            carry_on(loader, carried)
            tell_samplers(loader, epoch)  # the state has brought back the epoch before
        reader, self._opening = opened(loader, start)
        self._is_open = True
        self._goes_on = start is not None
        self._used = self.read = 0 if start is None else start.used
        self._loader = loader if keeps_its_place(loader) else None
        self._reader = ref(reader)
        return reader

    @property
    def is_open(self) -> bool:
        """True from the begin of a pass over batches to its end."""
        return self._is_open

    @property
    def is_used_up(self) -> bool:
        """True where a finished or a skipped step has used all that was read in this pass."""
        return self._used == self.read

    @property
    def start(self) -> int:
        """Batches of the next pass that an earlier life has used up."""
        return 0 if self._start is None else self._start.used

    def end_step(self, batch_index: int) -> None:
        """All batches read so far are used up."""
        self.batch_index = batch_index
        self._used = self.read
        if self._ended is not None and self._has_drawn:
            self._ended = None  # with the workers that it may have
        self._done_in_step = []
        if self._undone_in_step:
            self.undone += self._undone_in_step
            self._undone_in_step = []
        self._behind = []  # what was done within this step, and did not come again

    def end_pass(self, in_epoch: bool = True, at_end: bool = False) -> None:
        """The pass is over: its data has ended, or the loop was left.

        A loader with a state goes on from here in the next pass; with epochs, where an epoch has
        several passes, only that of the first one does, in the next epoch.
        """
        if self._is_open:
            self._done.append(BATCHES)
            is_to_go_on = at_end and not (in_epoch and self._done.count(BATCHES) > 1)
            self._ended, self._carried = self._loader if is_to_go_on else None, None
        self._close()

    def note_due(self, name: str, in_step: bool) -> None:
        """A validation in the body of a step begins; it is undone until `settle`."""
        (self._undone_in_step if in_step else self.undone).append(name)

    @property
    def has_undone(self) -> bool:
        """True from the begin of a validation in the body of a step until it is done."""
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
        """The run has come to its end: who goes on from there may validate what it has."""
        while self._done and self._done[-1] != BATCHES:
            self._done.pop()

    # -- what a resumed run passes over

    def passes_over_batches(self) -> bool:
        """Tell whether the next pass over data was done before the checkpoint."""
        return self._passes_over(BATCHES)

    def passes_over_validation(self, name: str) -> bool:
        """Tell whether the next validation was done before the checkpoint."""
        is_behind = self._passes_over(f"validation {name}")
        if is_behind:
            self.settle(name)
        return is_behind

    def _passes_over(self, what: str) -> bool:
        if not self._behind or (what == BATCHES and self._behind[0] != BATCHES):
            # A validation within the step that is done again comes after its batches.
            return False
        if self._behind[0] != what:
            log.warning(
                "the resumed epoch comes to %s where %s was done before the checkpoint: "
                "nothing more is passed over",
                what,
                self._behind[0],
            )
            self._behind = []
            return False
        (self._done_in_step if self._is_open else self._done).append(self._behind.pop(0))
        return True

    # -- state

    @property
    def _has_drawn(self) -> bool:
        """True once an iterator of the loader was made, which draws a seed."""
        return self._is_open and (self._goes_on or self.read > 0)

    def state(self) -> dict[str, Any]:
        """Return it in tensors and plain Python."""
        done, used = [*self._done, *self._behind, *self._done_in_step], self._used
        reader = None if self._reader is None else self._reader()
        has_used_all = (
            self._loader is None
            and used == self.read
            and reader is not None
            and reader.is_at_its_end()
        )
        state: dict[str, Any] = {"batch_index": self.batch_index, "done": done, "used": used}
        if self._manner:
            state["manner"] = dict(self._manner)
        if (carried := self._carried_on()) is not None:
            state["carried"] = carried
        if self.undone:
            state["undone"] = list(self.undone)
        if self._start is not None:
            return {**state, **self._start.state()}  # restored, and not come to yet
        if has_used_all:
            return {**state, "done": [*done, BATCHES], "used": 0}
        if self._has_drawn:
            state["opening"] = self._opening
        if self._loader is not None and used == self.read > 0:
            state["loader"] = self._loader.state_dict()
        return state

    def _carried_on(self) -> Mapping[str, Any] | None:
        """Return the state that the loader of the next pass is to have, until it has begun."""
        if self._has_drawn:
            return None
        return self._carried if self._ended is None else self._ended.state_dict()

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Be where `state` was taken, after `step`; tell once of what is not come back to."""
        self.begin()
        self.batch_index = state["batch_index"]
        self._carried = state.get("carried")
        self._manner = state.get("manner", {})
        self._behind = list(state.get("done", ()))
        used = state.get("used", self.batch_index)
        if used or "opening" in state:
            self._start = Start(used, state.get("opening"), state.get("loader"))
        if undone := state.get("undone"):
            log.warning(
                "the checkpoint was saved within the body of step %d, before validation %s in it "
                "was done; a resumed run goes on after that step and leaves it out (one at the top "
                "of the body would be done again: see Run.validate)",
                step,
                " and ".join(map(repr, undone)),
            )
