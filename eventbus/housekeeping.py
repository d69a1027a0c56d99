"""What the bus itself does about signals, as an ordinary subscriber to them.

When a run is closed it waits for background handlers and sums up failures; it keeps restored state
for handlers attached later, and puts the counts of filters into checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventbus.answers import State
from eventbus.log import log
from eventbus.state import RestoredState, as_restored
from eventbus.subscription import Options
from eventbus.tally import Tally
from eventbus.worker import close

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.event import Event
    from eventbus.subscription import Receiver

__all__ = ["Housekeeping"]


COUNTS = "filters"
"""The key of the counts of filters on signals without a clock."""

LAST = -(10**9)


class Housekeeping:
    """The bus's own subscriptions; they reach inner runs too and are not shown by `describe`."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.restored = RestoredState()
        self.counts: dict[str, int] = {}
        for handler, signal in (
            (self.give_counts, "state_requested"),
            (self.keep, "state_restored"),
            (self.drain, "run_closed"),
            (self.close, "run_closed"),
        ):
            label = f"eventbus.{handler.__name__}"
            options = Options(priority=LAST, everywhere=True, label=label)
            bus.registry.subscribe(handler, (signal,), "eventbus", options)

    def give_counts(self) -> State | None:
        """Answer with the counts that filters read, where there are any."""
        counts = {key: tally.drawn for key, (_, tally) in self._counting().items()}
        return State(COUNTS, counts) if counts else None

    def keep(self, state: Any) -> None:
        """Keep what nobody took, take the counts, and say what the state lacks."""
        self.restored = as_restored(state)
        self.counts = dict(self.restored.take(COUNTS, {}))
        self.take_counts()
        self._warn_of_lacking()

    def _warn_of_lacking(self) -> None:
        """Name the attached things that begin anew in the middle of a run.

        A state without a part of any of them is something else, such as weights alone.
        """
        lacking = self.restored.lacking
        if lacking and any(name in self.restored for name in self.bus.registry.state_names()):
            log().warning(
                "attached things that the restored state has no part of, and that begin anew: %s",
                ", ".join(lacking),
            )

    def take_counts(self) -> None:
        """Put restored counts into the filters that read them; the rest waits for later ones."""
        if self.counts:
            for key, (receiver, _) in self._counting().items():
                if key in self.counts:
                    receiver.tally = Tally(self.counts.pop(key))

    def drain(self, event: Event) -> None:
        """Wait for background handlers, as long as each allows; raise what they raised."""
        close(self.bus, event.emitter)

    def close(self, event: Event) -> None:
        """Report what failed; once the outermost run closes, the state that nobody took."""
        self.bus.failures.sum_up()
        if event.emitter.inner:
            return
        untaken = self.restored.untaken
        self.restored = RestoredState()
        if untaken:
            log().warning("restored state that nothing attached took: %s", ", ".join(untaken))

    def _counting(self) -> dict[str, tuple[Receiver, Tally]]:
        counting: dict[str, tuple[Receiver, Tally]] = {}
        for subscription in self.bus.subscriptions:
            for name, receiver in subscription.receivers.items():
                if receiver.tally is not None:
                    key = f"{subscription.label} on {name}"
                    while key in counting:  # the same function twice: told apart by order
                        key += "'"
                    counting[key] = receiver, receiver.tally
        return counting
