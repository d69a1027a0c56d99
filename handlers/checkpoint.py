"""Save the state of a run, keep the last few and the best, and go on from where a run was cut."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from eventbus import Event, EventBus, Priority, Restored, RestoredState, every, handles
from eventbus.filters import current_rank
from eventbus.marks import hears_always

from ._arguments import On, When, signals_given
from ._checkpoint_arguments import RESUME_WORDS, check_arguments, check_clock, check_signals
from ._checkpoint_facts import draft_of, has_other_ranks, run_name, stop_reason
from ._checkpoint_files import Folder, SavedCheckpoint, logger
from ._checkpoint_later import Later
from ._checkpoint_loading import CheckpointError, check_loadable
from ._checkpoint_manifest import Manifest
from ._checkpoint_measured import Measured
from ._checkpoint_offers import Offer
from ._checkpoint_resume import Resume
from ._checkpoint_shelf import Shelf
from ._checkpoint_without_bus import WithoutBus
from ._checkpoint_writer import Writer
from ._files import Files
from ._monitor import Mode, Monitor
from ._paths import RunNames, check_folder, folder_given, path_of_run
from ._waits_for_epochs import WaitsForEpochs

__all__ = ["Checkpoint", "CheckpointError", "SavedCheckpoint"]

_EVERY_TIME = every(1)
_ENDS = ("epoch_interrupted", "run_finished")
_LAST_WEIGHTS = Priority.ALTER + 50  # before those that put back the best
_FAILED = "saving a checkpoint failed"
_FAILED_AFTER_FAILURE = "after the run had failed, saving a checkpoint failed too"
_WHOLE = ("epoch_finished", *_ENDS)  # a save on these holds all that was done up to its step


class Checkpoint(WithoutBus):
    """Save all state that hangs on the bus; keep the last `keep` and the best; resume.

    ==================  =====================================================================
    signals consumed    those of `on`; `run_opened`, `epoch_interrupted`, `run_finished`,
                        `run_failed`, `run_closed`; if asynchronous `batch_finished`,
                        `validation_batch_finished`; while a save is put off those that end a
                        step, an epoch, a validation or the run
    values produced     a directory for each save; `state_requested`, `checkpoint_saved`,
                        `state_offered` (its own), `state_restored`, the answer `Restored`
    cost                each step: nothing; with `on` of steps and a `best` a look at the metrics'
                        names. Each save: the whole state is gathered, written, summed
                        and brought to the disk on the loop's thread; if asynchronous, gathered and
                        copied there, from CUDA without waiting, but for metrics that nobody has
                        read. That takes memory for a copy of all tensors
    state               which checkpoints are its own to delete
    needs               for `export` safetensors: `pip install 'training-eventbus[safetensors]'`
    band, errors        PERSIST; at the run's end before ALTER, and where a `Stop` has cut an epoch
                        just before DECIDE; raised; rank 0 writes, every rank is asked for its state
    ==================  =====================================================================

    Every save is a directory of its own, ``step-<step>-<number of the save>``, with the state as
    `state.pt` and sizes and SHA-256 sums in `manifest.json`. It appears under its name only when
    all of it is on the disk; only then are older ones deleted. A save that fails raises
    `CheckpointError` and leaves the others as they were. State that could not be loaded again,
    which is anything but tensors and plain Python, is refused before anything is written.

    Parameters
    ----------
    directory
        Where; made at the first save. ``{run_id}`` and ``{run}`` become the id and the name of the
        run, so that runs that follow each other on a bus keep apart.
    on
        The signal, or signals, on which to save. Where the loop answers that it could not go on
        exactly from there, as when the optimizer has stepped and the step is not finished, on the
        first one after it where it can; what may be the best is saved at once, and then again.
    when
        A filter on those; with several ranks not one by time, which is due on each at another.
    keep
        How many of the last to keep, at least 1; None for all. Only checkpoints that this run,
        or the one that it goes on from, has saved through this handler are ever deleted. One that
        was moved elsewhere, with a symbolic link of its name in its place, is kept and counted.
    best
        The metric whose best checkpoint is kept besides; None for none. Where the signal does not
        carry it, that checkpoint is no candidate; NaN and the infinities never are. One that is
        saved at the end is one only where the metric came at that very step, on a signal of `on`
        that `when` left out, or, with "epoch_finished" or "validation_done" in `on`, on the other
        of the two: the metric that the run ends with may be of older weights. Under
        ``EMA(validate=True)`` it is a metric of the averaged weights, which are in the part `EMA`;
        the part `model` holds the trained ones, to go on from (`EMA` says how to load the others).
    mode
        "min" where lower is better, "max" where higher is.
    keep_best
        How many of the best to keep, at least 1.
    at_end
        Save at the end of the run too, completed or stopped, unless that step was saved already: so
        a run that is stopped, preempted for example, can go on where it was. It holds the state
        before handlers put back the best weights for use, and before those that you subscribe to
        `run_finished`. Only where the loop tells its step. It holds what there is: weights that are
        NaN, too, where the run was stopped for that (`NonFiniteGuard` says what to do then).
    on_failure
        Save when the run fails or is interrupted by Ctrl-C; the step that failed may be half in it.
        What goes wrong is logged and noted on the run's own exception. In a single process only:
        a rank that fails alone cannot ask the others.
    asynchronous
        Write on another thread; the loop waits only while the state is copied, and not even that
        for what is on a CUDA device; the signal's metrics are read, if nobody has. One save is
        under way at a time: the next one, and the end of the run, wait for it, up to 10 minutes,
        then fail. `checkpoint_saved` is emitted at the first step after it is on the disk, and a
        failure is raised there; at the latest by the next save or at the end.
    resume
        "never", the default, so that a run never goes on from another one's checkpoint unless
        told. "auto" goes on from the newest checkpoint in `directory` that verifies, saved by a
        run of the same name; each damaged one is passed over with a warning and renamed to
        ``<name>.damaged``; with none, the run starts afresh. One that is there and cannot be read
        is an error: it may be sound. A run that has come to its end on this bus is not gone on
        from. A path, of a checkpoint or of a directory of them, goes on from that, and it is an
        error if it cannot. Another word is an error at once, unless it is the name of a directory.
        Where several handlers are to resume a run, it goes on from what any of them saved last,
        or from the path that one was given. Attach the handler before the run is opened:
        afterwards it is too late to go on from anything, and saving is refused.

    Attributes
    ----------
    last_path, best_path : pathlib.Path or None
        The newest and the best checkpoint of this run, after each save.
    files : Files
        The file system; a test may put another in its place.

    Notes
    -----
    For a script that trains several runs and is to be resumed as a whole (k-fold), give the runs
    names and put ``{run}`` into `directory`: else the first run would find the last one's.
    With ``{run_id}`` there, "auto" finds what was saved only where the `Run` is given its `run_id`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from eventbus import EventBus, State
    >>> from eventbus.handlers import Checkpoint
    >>> bus, model = EventBus(), torch.nn.Linear(2, 1)
    >>> checkpoint = Checkpoint(tempfile.mkdtemp(), keep=1)
    >>> _ = bus.attach(checkpoint)
    >>> @bus.on("state_requested")
    ... def weights(model): return State("model", model.state_dict())
    >>> loop = bus.bind(sender="train", model=model)
    >>> for epoch, loss in enumerate([0.5, 0.7, 0.6], start=1):
    ...     _ = loop.emit("epoch_finished", epoch=epoch, step=10 * epoch,
    ...                   metrics={"val_loss": loss})
    >>> checkpoint.best_path.name, checkpoint.last_path.name
    ('step-00000010-0001', 'step-00000030-0003')
    >>> sorted(Checkpoint.load(checkpoint.last_path)["model"])
    ['bias', 'weight']
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        on: On = "epoch_finished",
        when: When | None = _EVERY_TIME,
        keep: int | None = 3,
        best: str | None = "val_loss",
        mode: Mode = "min",
        keep_best: int = 1,
        at_end: bool = True,
        on_failure: bool = False,
        asynchronous: bool = False,
        resume: str | os.PathLike[str] = "never",
    ) -> None:
        check_arguments(keep, keep_best, resume)
        self.directory = folder_given("Checkpoint", directory)
        self.files = Files()
        self._when = when
        self.on_failure = on_failure
        signals = signals_given(on)
        check_signals(signals)
        monitor = None if best is None else Monitor("Checkpoint", best, mode, on=signals)
        self._shelf = Shelf(keep, keep_best, monitor)
        self._measured = Measured(monitor, signals)
        wish = os.fspath(resume)
        is_word = wish in RESUME_WORDS
        self._resume = Resume(wish if is_word else Path(wish).absolute(), self.directory)
        self._offer = Offer(told=not is_word)
        self._writer = Writer() if asynchronous else None
        self._later = Later(self._save_late)
        self._run_id: str | None = None
        self._saved_whole: int | None = None  # the step of the last save, where all of it is in
        self._waits = WaitsForEpochs("Checkpoint", signals, 'on="batch_finished", when=every(1000)')
        self._ends = {
            end for end in _ENDS if at_end and not any(fnmatchcase(end, one) for one in signals)
        }
        if monitor is not None and at_end:
            hear = hears_always(*self._measured.signals, priority=Priority.PERSIST + 1)
            self.hear_measured = hear(self.hear_measured)  # type: ignore[method-assign]  # as below
        marked = handles(*signals, when=when, priority=Priority.PERSIST, background=False)
        self.save = marked(self.save)  # type: ignore[method-assign]  # stands in for it, for `attach` to find
        if asynchronous:
            steps = ("batch_finished", "validation_batch_finished")
            self.settle = handles(*steps, priority=Priority.PERSIST)(self.settle)  # type: ignore[method-assign]  # as above

    @property
    def last_path(self) -> Path | None:
        """The newest checkpoint of this run."""
        return self._shelf.last_path

    @property
    def best_path(self) -> Path | None:
        """The best checkpoint of this run."""
        return self._shelf.best_path

    # -- saving

    def save(self, event: Event) -> None:
        """Save, at once or at the next exact place; called on the signals of `on`."""
        self._save(event)

    def _save(self, event: Event) -> None:
        self._resume.check_opened(event, self._folder(event))
        self._settle(event.bus, wait=True)
        self._adopt(event.context.get("run_id"))
        shelf = self._shelf
        is_of_its_own = self._measured.read(event)
        draft = draft_of(event, shelf.monitor, shelf.series, is_stale=not is_of_its_own)
        writes = current_rank() == 0
        if writes:
            shelf.own.append(draft.id)  # before the state is asked for, which holds it
        answers = event.bus.emit("state_requested")  # on every rank: it may be collective
        if answers.exact or not self._later.may_wait(event):
            self._later.cease()
        else:
            self._later.wait(event)
            if not shelf.may_be_best(draft):  # one that may is of the weights that were measured
                shelf.own = [own for own in shelf.own if own != draft.id]
                return
        if writes:
            self._write(event, draft, answers.state)
        self._saved_whole = draft.step if event.name in _WHOLE else None

    def _save_late(self, event: Event) -> None:
        """Make up for a save that was put off."""
        if event.name == "epoch_interrupted" and stop_reason(event) is None:
            return  # a failure: the checkpoint before is one to go on from
        self._save(event)

    def hear_measured(self, event: Event) -> None:
        """Note a metric as it comes: the end may be saved with the same weights."""
        self._measured.hear(event)

    def on_detach(self, bus: EventBus) -> None:
        """Give up a save that was put off on this bus."""
        self._later.leave(bus)

    def _write(self, event: Event, draft: Manifest, state: Mapping[str, Any]) -> None:
        folder = self._folder(event)
        check_loadable(state, folder.path)
        # On the loop's thread: the newest is what was to be saved last, whichever is written first.
        put = functools.partial(self._shelf.put, folder, draft, folder.draw_number())
        if self._writer is None:
            self._tell(event.bus, put(state))
        else:
            self._writer.start(state, put)

    def settle(self, bus: EventBus) -> None:
        """Tell what another thread has saved meanwhile, or raise what kept it from that."""
        self._settle(bus, wait=False)

    @handles("run_finished", priority=_LAST_WEIGHTS)
    @handles("epoch_interrupted", priority=Priority.DECIDE + 1)
    def save_at_end(self, event: Event, step: int | None = None) -> None:
        """Save where a `Stop` has cut the epoch, and where the run ends."""
        is_due = event.name in self._ends and step and step != self._saved_whole
        if is_due and (event.name == "run_finished" or stop_reason(event) is not None):
            self.save(event)

    @handles("run_failed", priority=Priority.PERSIST)
    def save_after_failure(self, event: Event, exception: BaseException) -> None:
        """Save if told to; nothing that goes wrong here hides why the run failed."""
        is_told = self._has_given_up
        try:
            self._settle(event.bus, wait=not is_told)
            if self.on_failure and not has_other_ranks():
                self.save(event)
                self._settle(event.bus, wait=True)
        except Exception as error:  # noqa: BLE001 - the run's own failure is the one to raise
            text = _FAILED_AFTER_FAILURE if self.on_failure else _FAILED
            exception.add_note(f"{text}: {error}")
            if not is_told:
                logger.error(text, exc_info=error)

    @property
    def _has_given_up(self) -> bool:
        """Whether a save has been waited for in vain, and whoever waited has heard of it."""
        return self._writer is not None and self._writer.has_given_up

    def _settle(self, bus: EventBus, *, wait: bool) -> None:
        if self._writer is not None:
            saved = self._writer.settle(self.directory, wait=wait)
            if saved is not None:
                self._tell(bus, saved)

    def _adopt(self, run_id: str | None) -> None:
        """Let go of an earlier run's checkpoints, unless this run was restored from one of them."""
        if self._run_id is not None and run_id != self._run_id:
            self._shelf.forget()
            self._measured.forget()
        self._run_id = run_id
        self._shelf.begin()

    def _folder(self, event: Event) -> Folder:
        path = path_of_run("Checkpoint", self.directory, RunNames.of(event))
        try:
            return Folder(check_folder("Checkpoint", path), self.files)
        except FileExistsError as error:
            raise CheckpointError(str(error), path=path) from error

    def _tell(self, bus: EventBus, saved: SavedCheckpoint) -> None:
        manifest = saved.manifest
        places = {"epoch": manifest.epoch, "step": manifest.step}
        known = {name: count for name, count in places.items() if count is not None}
        bus.emit("checkpoint_saved", path=str(saved.path), metrics=dict(manifest.metrics), **known)

    # -- resuming

    @handles("run_opened", priority=Priority.PERSIST + 1)
    def seek(self, event: Event) -> None:
        """Look for what the run goes on from, where this was asked for."""
        check_clock(self._when)
        folder = self._folder(event)  # a name that cannot be used shows now, not at the first save
        self._saved_whole = None
        self._measured.forget()
        self._adopt(event.context.get("run_id"))
        found = self._resume.find(event, folder)
        if found is not None:
            self._offer.make(event, found)

    @handles("run_opened", priority=Priority.PERSIST)
    def restore(self, event: Event) -> Restored | None:
        """Put the state of a checkpoint back, if no other handler has found a newer one."""
        found = self._offer.take()
        self._waits.start(None if found is None else str(found[0].path))
        if found is None:
            return None
        saved, state = found
        logger.info("the run goes on from %s", saved.path)
        self._give_back(event.bus, saved, state)
        if self._resume.wish != "auto":
            self._shelf.before = ()  # what came after the one that was named is left alone
        self._shelf.survey(self._folder(event))
        self._saved_whole = saved.manifest.step if saved.manifest.whole else None
        return Restored(str(saved.path))

    def _give_back(self, bus: EventBus, saved: SavedCheckpoint, state: Mapping[str, Any]) -> None:
        try:
            bus.emit("state_restored", state=RestoredState(state), path=str(saved.path))
        except Exception as error:
            error.add_note(
                f"the run goes on from the checkpoint {saved.path}, saved at "
                f"{saved.manifest.saved_at}, for resume={str(self._resume.wish)!r}"
            )
            raise

    @handles("run_finished", priority=Priority.PERSIST)
    def finish(self, event: Event) -> None:
        """Wait for what is being written; warn of a signal, or a metric, that never came."""
        self._settle(event.bus, wait=True)
        if self._waits.warn(event.fields.get("epoch"), event.fields.get("step")):
            return  # nor could a metric come with it
        saved_here = self.last_path is not None and event.context.get("run_id") == self._run_id
        monitor = self._shelf.monitor
        is_missed = monitor is not None and not monitor.seen and self.best_path is None
        if monitor is not None and is_missed and saved_here:
            monitor.warn_never_seen("no best checkpoint is kept (best=None says so at once)", event)

    @handles("run_closed", priority=Priority.PERSIST)
    def close(self, event: Event, outcome: str) -> None:
        """Wait for what is being written, and give the memory back."""
        try:
            self._settle(event.bus, wait=outcome != "failed" or not self._has_given_up)
        except Exception as error:
            if outcome != "failed":
                raise
            logger.error(_FAILED, exc_info=error)
        finally:
            self._later.cease()
            self._offer.take()
            self._shelf.end()
            if self._writer is not None:
                self._writer.close()
        self._resume.note_close(event)
        if outcome != "failed":
            self._resume.note_end(self._folder(event), run_name(event))

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoints are this handler's own."""
        return self._shelf.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the checkpoints of the run that this one goes on from."""
        self._shelf.take_over(state)
        self._run_id = None
