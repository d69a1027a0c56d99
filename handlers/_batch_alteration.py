"""Handlers that change batches by chance, the same way each time a run is repeated or resumed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventbus import Event, Priority, handles

from ._arguments import When, whole_given
from ._one_run import OfOneRun

if TYPE_CHECKING:
    import torch

__all__ = ["BatchAlteration"]


class BatchAlteration(OfOneRun):
    """Replaces batches on `batch_loaded`, with a random generator of its own.

    The generator is on the CPU. It begins anew, from its seed, with a run that does not resume; a
    resumed one goes on where the checkpoint was made. Nothing else draws from it, and it draws from
    no other, so attaching one changes no other random number of the run.

    Parameters
    ----------
    seed
        Of the generator.
    when
        A filter on the batches.
    """

    def __init__(self, seed: int, when: When | None) -> None:
        import torch

        self.seed = _seed_given(type(self).__name__, seed)
        self.generator: torch.Generator = torch.Generator().manual_seed(self.seed)
        marked = handles("batch_loaded", when=when, priority=Priority.ALTER, background=False)
        self.alter = marked(self.alter)  # type: ignore[method-assign]  # marked with what was asked for

    def alter(self, batch: Any) -> Any:
        """Return the batch that takes the place of `batch`."""
        return self._altered(batch)

    @abstractmethod
    def _altered(self, batch: Any) -> Any:
        """Make the new batch; the old one is not changed."""

    @handles("run_started", priority=Priority.ALTER)
    def start(self, event: Event) -> None:
        """Begin with the seed again, unless the run resumes."""
        self._begin_run(event)

    def _start_over(self) -> None:
        self.generator.manual_seed(self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Return where the generator is."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the random numbers from there."""
        self._note_given()
        self.generator.set_state(state["generator"].cpu())


def _seed_given(owner: str, seed: object) -> int:
    number = whole_given(owner, "seed", seed)
    if not -(2**63) <= number < 2**64:  # what torch takes
        raise ValueError(f"{owner}: seed is from -2**63 to below 2**64, got {seed!r}")
    return number
