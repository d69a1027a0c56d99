"""What a handler keeps is of one run: with another it begins anew."""

from __future__ import annotations

from abc import ABC, abstractmethod

from eventbus import Event, EventBus

__all__ = ["OfOneRun"]


class OfOneRun(ABC):
    """A handler whose state is of one run.

    It begins anew with a run that does not resume; with one that resumes from a state without a
    part for it; and where it is attached to a run under way that is another than the one that it
    was in. Detached and attached again within a run it goes on, and so it does with a run that is
    resumed without any state on the bus (Keras's `initial_epoch`): nobody says otherwise there.

    A subclass calls `_begin_run` on `run_started`, and `_note_given` in `load_state_dict`.
    """

    _runs: frozenset[str | None] = frozenset()  # where it was last; a run and those that it is in
    _is_given = False  # its state was given to it, for the run that begins next
    _given_in: frozenset[str | None] = frozenset()  # or for these, where it was attached later

    @abstractmethod
    def _start_over(self) -> None:
        """Forget all of an earlier run."""

    def on_attach(self, bus: EventBus) -> None:
        """Forget an earlier run, where another is under way here. Called by `attach`."""
        here = frozenset(emitter.run_id for emitter in bus.open_runs)
        if not here:
            return
        if self._is_given and not self._given_in:
            self._given_in = here  # just now
        elif self._runs and here.isdisjoint(self._runs):
            self._is_given, self._given_in = False, frozenset()
            self._start_over()
        self._runs = here

    def _begin_run(self, event: Event) -> None:
        """Forget an earlier run, unless this one goes on with the state that is here."""
        run = event.context.get("run_id")
        is_given = self._is_given and (not self._given_in or run in self._given_in)
        self._is_given, self._given_in = False, frozenset()
        self._runs = frozenset({run})
        resumes = event.fields.get("resumed_from") is not None
        if not resumes or (event.bus.restored_state and not is_given):
            self._start_over()

    def _note_given(self) -> None:
        """Note that the state is what the run that begins next was saved with."""
        self._is_given, self._given_in = True, frozenset()
