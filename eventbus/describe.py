"""A bus as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus.signal_names import covers

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.event_signal import EventSignal
    from eventbus.subscription import Receiver, Subscription


def describe(bus: EventBus, *, never_ran: bool) -> str:
    """Return each signal that somebody hears, with its handlers in the order they run.

    Patterns that cover no signal so far come last: their handlers may be waiting for a misspelt
    one.
    """
    blocks = [_block(bus, signal, never_ran) for signal in bus.signals]
    blocks = [block for block in (*blocks, *_idle_patterns(bus)) if block]
    if not blocks:
        return "every subscription ran" if never_ran else "nobody is subscribed"
    return "\n".join(blocks)


def _block(bus: EventBus, signal: EventSignal[...], never_ran: bool) -> str:
    rows = [
        _row(bus, receiver.subscription, signal.name)
        for receiver in sorted(signal.own_receivers(), key=_order)
        if not receiver.subscription.options.everywhere and not (never_ran and receiver.ran)
    ]
    plain = 0 if never_ran else len(signal.receivers) - len(signal.own_receivers())
    if plain:
        rows.append(("0", f"{plain} plain blinker receiver{'s' if plain > 1 else ''}"))
    return "\n".join([signal.name, *_aligned(rows)]) if rows else ""


def _idle_patterns(bus: EventBus) -> list[str]:
    idle: dict[str, list[tuple[str, ...]]] = {}
    for subscription in sorted(bus.subscriptions, key=lambda one: -one.priority):
        for pattern in subscription.patterns:
            if not any(covers(pattern, signal) for signal in subscription.signals):
                row = _row(bus, subscription, pattern)
                idle.setdefault(pattern, []).append(row)
    return [
        "\n".join([f"{pattern}  (covers no signal so far)", *_aligned(rows)])
        for pattern, rows in idle.items()
    ]


def _order(receiver: Receiver) -> tuple[int, int]:
    return -receiver.subscription.priority, receiver.subscription.sequence


def _row(bus: EventBus, subscription: Subscription, heard: str) -> tuple[str, ...]:
    notes = [
        repr(subscription.when) if subscription.when is not None else "",
        f"sender {subscription.sender}" if subscription.sender else "",
        "isolated" if subscription.isolated else "",
        "once" if subscription.options.once else "",
        *_background(subscription),
        "switched off" if subscription.switched_off else "",
    ]
    about = ", ".join(note for note in notes if note)
    row = (str(subscription.priority), subscription.label, about)
    if bus.timing is None:
        return row
    cost = bus.timing.row(subscription, heard)
    calls, duration_s = (cost.calls, cost.duration_s) if cost is not None else (0, 0.0)
    return (*row, f"{calls} call{'' if calls == 1 else 's'}", f"{1000 * duration_s:.2f} ms")


def _background(subscription: Subscription) -> tuple[str, ...]:
    if subscription.worker is None:
        return ()
    dropped = subscription.worker.dropped
    return ("background", f"{dropped} dropped") if dropped else ("background",)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    columns = max((len(row) for row in rows), default=0)
    padded = [(*row, *[""] * (columns - len(row))) for row in rows]
    widths = [max(len(row[column]) for row in padded) for column in range(columns)]
    lines = []
    for priority, *cells in padded:
        text = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append(f"{priority:>6}  {text}".rstrip())
    return lines
