"""Where in the data an epoch is, in a form that a checkpoint keeps and a resumed run goes on from.

The place is always one between two steps: what a loader has read ahead, and what a step under way
has taken of it, is read again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import ref

from eventbus.loops._done import Done
from eventbus.loops._draws import Draws
from eventbus.loops._loader import Reader, tell_samplers, within_bar
from eventbus.loops._loaders import Loaders
from eventbus.loops._manner import Manner, manner_of
from eventbus.loops._opening import (
    Start,
    carry_on,
    check_manner,
    keeps_its_place,
    opened,
    warn_of_accelerates,
    warn_of_unseen,
)
from eventbus.loops._own_generators import OwnGenerator, own_generators

__all__ = ["Place"]

log = logging.getLogger("eventbus.loops")


class Place:
    """How far the epoch under way has come; outside of epochs, the run.

    Attributes
    ----------
    batch_index : int
        Micro-batches of the epoch, in all passes, that finished steps have used up.
    read : int
        Micro-batches of the pass under way that came out of the loader.
    done : Done
        What is done of the loops in the body.
    draws : Draws
        The generators with which the body of the epoch goes through what is outside of them.
    have_given : set of int
        The `id` of each loader that a batch came out of: held, an iterator would keep its workers.
    loaders : Loaders
        What the loaders keep from pass to pass.
    """

    def __init__(self) -> None:
        self.have_given: set[int] = set()
        self.loaders = Loaders()
        self.draws = Draws()
        self._pass = ""  # which of the body: the place where its loader is known
        self._is_open = False
        self._is_first = True  # of its epoch; outside of epochs, each is
        self._ended: Any = None  # a loader with a state that goes from pass to pass
        self._carried: Mapping[str, Any] | None = None  # restored, for the next pass
        self._manners: dict[str, Manner] = {}  # of the last loader of each pass
        self._is_restored = False
        self.begin()

    def begin(self) -> None:
        """Be at the top of an epoch."""
        self.batch_index = 0
        self.done = Done()
        self.draws.forget()
        self._start: Start | None = None
        self._close()

    def _close(self) -> None:
        if self._is_open:
            self.loaders.end(self._pass)
        self._used = self.read = 0
        self._is_open = self._goes_on = False
        self._loader: Any = None
        self._reader: ref[Reader] | None = None
        self._opening: dict[str, Any] = {}
        self._own: list[OwnGenerator] = []

    # -- what happens in the epoch

    def passes_over(self, loader: Iterable[Any], in_epoch: bool) -> bool:
        """Tell whether the pass that is about to begin was done before the checkpoint."""
        name = self._name_of_pass(in_epoch)
        is_behind = self.done.passes_over_batches(in_pass=self._is_open)
        if is_behind:
            self.loaders.pass_over(name, within_bar(loader))
            self.draws.pass_over()
        return is_behind

    def _name_of_pass(self, in_epoch: bool) -> str:
        return f"batches {self.done.passes if in_epoch else 0}"

    def open(self, loader: Iterable[Any], epoch: int) -> Reader:
        """Begin a pass over `loader`, or go on with the one that was under way.

        Its samplers are told the `epoch`, from 1; 0 where there is none.
        """
        source = within_bar(loader)
        tell_samplers(source, epoch)
        start, self._start = self._start, None
        self.draws.begin_loop(is_within=start is not None)
        self._is_first = epoch == 0 or self.done.passes == 0
        carried = self._carried if self._is_first else None
        self._pass = self._name_of_pass(in_epoch=epoch > 0)
        check_manner(source, start, carried, self._manners.get(self._pass, {}))
        self._manners[self._pass] = manner_of(source)
        if self._is_restored:
            warn_of_accelerates(source)
            if start is None and epoch > 1:
                warn_of_unseen(source)
            self._is_restored = False
        if start is None and carried is not None:
            carry_on(source, carried)
            tell_samplers(source, epoch)  # the state has brought back the epoch before
        has_state = start is not None and start.loader is not None and keeps_its_place(source)
        self.loaders.begin(self._pass, source, is_within=start is not None, has_state=has_state)
        reader, self._opening = opened(loader, start)
        self._is_open = True
        self._goes_on = start is not None
        self._used = self.read = 0 if start is None else start.used
        self._loader = source if keeps_its_place(source) else None
        self._reader = ref(reader)
        self._own = own_generators(source)
        return reader

    @property
    def is_open(self) -> bool:
        """True from the beginning of a pass over batches to its end."""
        return self._is_open

    @property
    def is_used_up(self) -> bool:
        """True where a finished or a skipped step has used all that was read in this pass."""
        return self._used == self.read

    @property
    def has_some_behind(self) -> bool:
        """True in a resumed run that has not yet come to where it goes on in the body."""
        return self.start > 0 or self.done.has_some_behind

    @property
    def start(self) -> int:
        """Batches of the next pass that an earlier life has used up."""
        return 0 if self._start is None else self._start.used

    def end_step(self, batch_index: int) -> None:
        """All batches read so far are used up."""
        self.batch_index = batch_index
        self._used = self.read
        if self._ended is not None and self._has_drawn and self._is_first:
            self._ended = None  # with the workers that it may have
        self.done.end_step()

    def end_pass(self, in_epoch: bool = True, at_end: bool = False) -> None:
        """The pass is over: its data has ended, or the loop was left.

        A loader with a state goes on from here in the next pass; with epochs, where an epoch has
        several passes, only that of the first one does, in the next epoch.
        """
        if self._is_open:
            passes = self.done.end_pass()
            if not (in_epoch and passes > 1):
                self._ended, self._carried = self._loader if at_end else None, None
        self._close()

    # -- state

    @property
    def _has_drawn(self) -> bool:
        """True once an iterator of the loader was made, which draws a seed."""
        return self._is_open and (self._goes_on or self.read > 0)

    def state(self, is_left: bool = False) -> dict[str, Any]:
        """Return it in tensors and plain Python.

        Parameters
        ----------
        is_left
            The pass under way is as good as over: no other batch of it begins.
        """
        at_end = self._is_at_end or (is_left and self._is_open)
        state: dict[str, Any] = {
            "batch_index": self.batch_index,
            "done": self.done.state(with_pass=at_end),
            "used": 0 if at_end else self._used,
        }
        if loaders := self.loaders.state(ended=self._pass if at_end else None):
            state["loaders"] = loaders
        if manners := {name: dict(one) for name, one in self._manners.items() if one}:
            state["manners"] = manners
        if (carried := self._carried_on()) is not None:
            state["carried"] = carried
        if draws := self.draws.state(at_end=at_end):
            state["draws"] = draws
        if self.done.after:
            state["after"] = self.done.after
        if self.done.undone:
            state["undone"] = list(self.done.undone)
        return state if at_end else {**state, **self._state_of_pass()}

    @property
    def _is_at_end(self) -> bool:
        """True where nothing is left of the pass.

        One over a loader with a state, or with generators of its own, is read on: the end is read,
        too, where torch's `RandomSampler` draws once more.
        """
        reader = None if self._reader is None else self._reader()
        is_used_up = self._loader is None and not self._own and self.is_used_up
        return is_used_up and reader is not None and reader.is_at_its_end()

    def _state_of_pass(self) -> dict[str, Any]:
        if self._start is not None:
            return self._start.state()  # restored, and not come to yet
        state: dict[str, Any] = {"opening": self._opening} if self._has_drawn else {}
        if self._loader is not None and self._used == self.read > 0:
            state["loader"] = self._loader.state_dict()
        if self._own and self.is_used_up:
            state["own"] = [one.get_state() for one in self._own]
        return state

    def _carried_on(self) -> Mapping[str, Any] | None:
        """Return the state that the loader of the next pass is to have, until it has begun."""
        if self._has_drawn and self._is_first:
            return None
        return self._carried if self._ended is None else self._ended.state_dict()

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Be where `state` was taken, after `step`; tell once of what is not come back to."""
        self.begin()
        self.done = Done(state.get("done", ()), state.get("after", 0))
        self.batch_index = state["batch_index"]
        self._carried = state.get("carried")
        self._manners = dict(state.get("manners", {}))
        self._is_restored = True
        self.loaders.restore(state.get("loaders", {}))
        self.draws.restore(state.get("draws", {}))
        used = state.get("used", self.batch_index)
        if used or "opening" in state:
            self._start = Start(used, state.get("opening"), state.get("loader"), state.get("own"))
        if undone := state.get("undone"):
            log.warning(
                "the checkpoint was saved within the body of step %d, before validation %s in it "
                "was done; a resumed run goes on after that step and leaves it out (one at the top "
                "of the body would be done again: see Run.validate)",
                step,
                " and ".join(map(repr, undone)),
            )
