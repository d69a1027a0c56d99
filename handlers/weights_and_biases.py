"""The run in Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any

from eventbus import Priority, handles, on_rank
from eventbus.failures import describe_error
from eventbus.handlers._arguments import When, number_given
from eventbus.handlers._configs import settings_of
from eventbus.handlers._paths import RunNames
from eventbus.handlers._requires import require
from eventbus.handlers._rows import plain
from eventbus.handlers._tracker import Tracker
from eventbus.handlers._wandb_session import Session

__all__ = ["WandB"]

_told = partial(handles, when=on_rank(0), priority=Priority.REPORT, on_error="isolate")


def _library() -> Any:
    return require("wandb", extra="wandb", wanted_by="WandB")


class WandB(Tracker):
    """Files the run with the wandb client: config, curves, pictures, texts, and how it ended.

    Curves are over optimizer steps: `step/loss`, `epoch/loss`, `validation/val_loss`,
    `learning_rate/<group>`, and `measured/<name>` for what other handlers measure: tensors within a
    step (the gradient norm of `GradientClipping`) where that step is due, all else always. What
    comes from another sender than the run's own has its label in front: `generator/step/loss`. The
    summary holds the last value of each metric under its own name, `outcome`, `reason`, and
    `exception` of a run that failed, which W&B then shows as failed.

    The client works in the background, on a thread of the handler's own; the loop never waits for
    it, but at the end of the run, and there no longer than `timeout_s`. Its errors are raised at
    the next occasion, and isolated like any of an observer. Without a connection, `mode="offline"`
    or the environment's `WANDB_MODE=offline` keeps all on the disk for `wandb sync`.

    A resumed run goes on under its id. W&B keeps what it has: steps that are done again after a
    checkpoint are not filed twice.

    ==================  =====================================================================
    signals consumed    `batch_finished`, `batch_skipped`, `epoch_finished`, `validation_done`,
                        `metrics_measured`, `learning_rate_changed`, `figure_drawn`,
                        `text_written`, `run_opened`, `run_started`, `run_finished`,
                        `run_failed`, `run_closed`
    values produced     a run of W&B; `run`, the client's
    cost                a step that is due, an epoch, a validation, what is measured outside of
                        steps, or by the loop: reading its metrics, one transfer from the device.
                        At the end of the run: up to `timeout_s`. Other steps: nothing
    state               the id of W&B's run, and the last step
    needs               wandb: `pip install 'training-eventbus[wandb]'`
    band, errors        REPORT; isolated; rank 0 files
    ==================  =====================================================================

    Parameters
    ----------
    project
        W&B's project; the client's default, unless given.
    when
        A filter on `batch_finished`: which steps' metrics are filed, and tensors measured in them;
        every 50th, unless given.
    timeout_s
        How long the end of a run may wait for the client, in seconds.
    init
        More for `wandb.init`: `name=`, `entity=`, `tags=`, `mode=`, `dir=`, `settings=` and so on.
        What is printed is not captured, unless `settings={"console": "auto"}` asks for it.

    Raises
    ------
    ImportError
        wandb is not installed.

    Examples
    --------
    >>> from eventbus import EventBus, every
    >>> from eventbus.handlers import WandB
    >>> bus = EventBus()
    >>> handle = bus.attach(WandB("digits", when=every(100), mode="offline", tags=["baseline"]))
    """

    def __init__(
        self,
        project: str | None = None,
        *,
        when: When | None = None,
        timeout_s: float = 60.0,
        **init: Any,
    ) -> None:
        _library()
        number_given("WandB", "timeout_s", timeout_s)
        if not timeout_s > 0:
            raise ValueError(f"WandB: timeout_s is a positive number of seconds, got {timeout_s!r}")
        super().__init__(when)
        self._timeout_s = timeout_s
        self._init = {"project": project, "reinit": "create_new", **init}
        self._id: str | None = None
        self._resumes = False
        self._session: Session | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_session": None}  # a run of the client is of its process and thread

    @property
    def run(self) -> Any:
        """The client's run; None until it has begun, which it does in the background."""
        return self._session.run if self._session is not None else None

    def state_dict(self) -> dict[str, Any]:
        """Return the id of W&B's run, as plain Python."""
        return {"id": self._id, "last_step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a run of W&B."""
        self._note_given()
        self._leave()
        self._id, self._step = state["id"], state["last_step"]
        self._resumes = self._id is not None

    # -- how it ended

    @_told("run_finished")
    def summarize(self, reason: str, metrics: Mapping[str, Any] | None = None) -> None:
        """File the last metrics. Reading them synchronises with their device."""
        self._open().summarize({**(plain(metrics) if metrics else {}), "reason": reason})

    @_told("run_failed")
    def summarize_failure(self, exception: BaseException) -> None:
        """File the exception."""
        self._open().summarize({"exception": describe_error(exception)})

    # -- what a tracker does with it

    def _renew(self) -> None:
        self._leave()
        self._id, self._resumes = None, False

    def _begin(self, names: RunNames, config: Any) -> None:
        self._open(config)

    def _end(self, names: RunNames, outcome: str) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._resumes = True  # what comes after it belongs to it
            session.summarize({"outcome": outcome})
            session.finish(exit_code=1 if outcome == "failed" else 0, timeout_s=self._timeout_s)

    def _write_scalars(self, names: RunNames, scalars: Mapping[str, float], step: int) -> None:
        self._open().log(scalars, step)

    def _write_picture(self, names: RunNames, tag: str, png: bytes, step: int) -> None:
        self._open().log_picture(tag, png, step)

    def _write_text(self, names: RunNames, tag: str, text: str, step: int) -> None:
        self._open().log_text(tag, text, step)

    # -- the client's run

    def _open(self, config: Any = None) -> Session:
        if self._session is None:
            self._id = self._init.get("id") or self._id or secrets.token_hex(4)
            options = {**self._init, "id": self._id, "settings": self._settings()}
            if self._resumes:
                options.setdefault("resume", "allow")
            if config is not None:
                options["config"] = {**settings_of(config), **settings_of(self._init.get("config"))}
            self._session = Session(_library(), options)
        return self._session

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:  # nobody told how that run ended
            session.end(exit_code=1)

    def _settings(self) -> Any:
        given = self._init.get("settings")
        if given is not None and not isinstance(given, Mapping):
            return given
        kinds = _library().Settings
        ours: dict[str, Any] = {"console": "off"}
        if "finish_timeout" in getattr(kinds, "model_fields", {}):
            ours["finish_timeout"] = self._timeout_s  # bounds what it waits for at exit, too
        return kinds(**{**ours, **(given or {})})
