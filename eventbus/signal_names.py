"""The names of signals: patterns, and slips of the declared ones."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from eventbus.errors import SignalError, nearest
from eventbus.signals import STANDARD

__all__ = ["check_name", "check_pattern", "covers", "is_pattern", "near_declared"]

NEVER_IN_PATTERNS = ("handler_failed", "state_requested", "state_restored", "state_offered")
"""Machinery that a handler on `"*"` is not meant to see; it can be subscribed to by name."""

NEAR = 0.8
"""From this likeness on (0 to 1, difflib's ratio), a name is taken for a slip of a declared one."""

SHORTEST = 4
"""Of fewer letters a word is not looked at for slips: `x_done` is not `xs_done`."""

NEAR_IN_PATTERNS = 0.85
"""The same for a part of a name: a few letters are soon alike, as in `test_` and `text_`."""

_WORDS = {
    "begin": "started",
    "began": "started",
    "start": "started",
    "end": "finished",
    "ended": "finished",
    "done": "finished",
    "completed": "finished",
    "after": "finished",
    "before": "started",
    "val": "validation",
    "validate": "validation",
    "eval": "validation",
    "evaluate": "validation",
    "evaluation": "validation",
    "step": "batch",
    "iteration": "batch",
}
"""What other frameworks call it, word by word."""

_ELSEWHERE = {
    "started": "run_started",
    "completed": "run_finished",
    "exception_raised": "run_failed",
    "on_exception": "run_failed",
    "get_batch_completed": "batch_loaded",
    "before_step": "backward_finished",
    "on_before_optimizer_step": "backward_finished",
    "on_pre_optimizer_step": "backward_finished",
    "on_optimizer_step": "batch_finished",
    "on_test_start": "validation_started",
    "on_test_batch_end": "validation_batch_finished",
    "on_test_end": "validation_done",
    "lr_changed": "learning_rate_changed",
    "on_save": "checkpoint_saved",
    "on_save_checkpoint": "state_requested",
    "on_load_checkpoint": "state_restored",
}
"""The names as a whole that mean another thing than their words, in lower case."""

_TRAINING = ("train", "training", "fit")
_SPANS = ("epoch", "batch", "validation", "backward")


def _plain(name: str) -> str:
    """Return a name in our words: `on_train_epoch_end` is `epoch_finished`, `after_fit` a run's."""
    words = name.lower().removeprefix("on_").split("_")
    if words[0] in ("after", "before"):
        words = [*words[1:], words[0]]
    if words[0] in _TRAINING and len(words) > 1:
        words = words[1:] if len(words) > 2 else ["run", words[1]]
    words = [_WORDS.get(word, word) for word in words]
    if words[:2] == ["validation", "epoch"]:
        words = ["validation", *words[2:]]
    return "_".join(words)


_OTHER_WORDS = {_plain(name): name for name in STANDARD}


def is_pattern(name: str) -> bool:
    """Tell whether a name stands for several signals."""
    return any(sign in name for sign in "*?[")


def covers(pattern: str, name: str) -> bool:
    """Tell whether a pattern covers a signal."""
    return name not in NEVER_IN_PATTERNS and fnmatchcase(name, pattern)


def check_name(name: Any, own: Iterable[str] = (), *, strict: bool) -> None:
    """Refuse a pattern, an undeclared name near a declared one, and any where `strict`.

    Parameters
    ----------
    own
        The names that are declared beside the standard ones.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"a signal is named by a string or its declaration, got {name!r}")
    if is_pattern(name):
        message = f"{name!r} is a pattern: it may be subscribed to, but names no one signal"
        raise SignalError(message, signal=name)
    near = near_declared(name, own)
    hint = f": did you mean {near!r}?" if near else ""
    if strict:
        message = f"unknown signal {name!r}{hint or ':'} a strict bus knows only declared signals"
    elif near:
        message = (
            f"unknown signal {name!r}{hint} "
            "To use a name of your own that is this near, declare it with @bus.declare"
        )
    else:
        return
    raise SignalError(message, signal=name)


def check_pattern(pattern: str, *, strict: bool) -> str:
    """Say what is odd about a pattern that covers no signal so far; where `strict`, refuse it.

    Nothing is where it may well be meant so: signals that it covers may come later.
    """
    left_out = [repr(name) for name in NEVER_IN_PATTERNS if fnmatchcase(name, pattern)]
    near = _near_pattern(pattern)
    odd = ""
    if left_out:
        odd = f"no pattern covers {', '.join(left_out)}, which can be subscribed to by name"
    elif near:
        odd = f"did you mean {near!r}?"
    if strict and odd:
        raise SignalError(f"pattern {pattern!r} covers no signal: {odd}", signal=pattern)
    return odd


def _near_pattern(pattern: str) -> str | None:
    parts = [name.partition("_") for name in STANDARD]
    if pattern.endswith("*"):
        heads = [head for first, _, _ in parts for head in (first, f"{first}_")]
        near = _near_part(pattern.removesuffix("*"), [*STANDARD, *heads])
        return near and f"{near}*"
    tails = [tail for _, _, rest in parts for tail in (rest, f"_{rest}")]
    near = _near_part(pattern.removeprefix("*"), tails)
    return near and f"*{near}"


def _near_part(part: str, known: list[str]) -> str | None:
    plain = _plain(part)
    return plain if plain in known else nearest(plain, known, cutoff=NEAR_IN_PATTERNS)


def near_declared(name: str, own: Iterable[str] = ()) -> str | None:
    """Return the standard name, or the one of `own`, that `name` looks like a slip of, or None."""
    plain = _plain(name)
    other = _OTHER_WORDS.get(f"{plain}_finished" if plain in _SPANS else plain)
    other = _ELSEWHERE.get(name.lower(), other)
    if other is not None:
        return other
    from difflib import SequenceMatcher  # needed only for names that are none of ours

    scored = [
        (SequenceMatcher(None, name.lower(), known).ratio(), known)
        for known in STANDARD
        if abs(len(known) - len(name)) <= 3
    ]
    ratio, near = max(scored, default=(0.0, ""))
    if ratio >= NEAR:
        return near
    return next((known for known in own if _is_slip(name.lower(), known)), None)


def _is_slip(name: str, known: str) -> bool:
    """Tell whether one word has two letters swapped, or one more or less, and all others are it.

    One's own names have their like on purpose: `layer_1_done` and `layer_2_done`, `loss_a` and
    `loss_b`, `rollout_started` and `rollout_stored` are no slips of each other.
    """
    pairs = [
        pair for pair in zip(name.split("_"), known.split("_"), strict=False) if len(set(pair)) > 1
    ]
    if name.count("_") != known.count("_") or len(pairs) != 1:
        return False
    short, long = sorted(pairs[0], key=len)
    if len(short) < SHORTEST:
        return False
    if len(short) == len(long):
        swapped = (
            short[:i] + short[i + 1] + short[i] + short[i + 2 :] for i in range(len(short) - 1)
        )
        return long in swapped
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))
