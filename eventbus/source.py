"""The source of a compiled emission: one call after the other, the filters written out as tests.

All names in it that are not fields begin with `_eb_`; what they stand for is in `Writer.names` and
in `compiled`, where the source is described.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from eventbus.calling import REQUIRED, Want
from eventbus.declaration import CONTEXT
from eventbus.event import MAPPINGS
from eventbus.frames import SENT
from eventbus.subscription import Receiver
from eventbus.windows import Windows

if TYPE_CHECKING:
    from eventbus.due import Filter
    from eventbus.plan import Plan, PlannedCall
    from eventbus.port import Port

__all__ = ["FEW", "PREFIX", "UNROLLED", "Writer"]

UNROLLED = 256
"""More handlers than this are interpreted when one is due: to compile them all takes seconds."""

FEW = 8
"""From so many handlers with filters on, a window of clocks is kept at which none is due."""

PREFIX = "_eb_"
"""No field may begin like this."""


class Writer:
    """Writes the source for one plan, and collects what its own names stand for.

    Parameters
    ----------
    shape
        Write a function for emissions by name with just these fields, which takes them as one dict.
        Without, write one that takes all the signal's fields as parameters.

    Attributes
    ----------
    names : dict
        Handlers, receivers and constants, by their names in the source.
    handler_lines : dict
        The lines that call a handler, counted from 1, and its index in the plan: so a failure is
        blamed without noting before each call who is next.
    """

    def __init__(self, port: Port[...], plan: Plan, shape: tuple[str, ...] | None = None) -> None:
        self.port = port
        self.plan = plan
        self.shape = shape
        declaration = port.signal.declaration
        assert declaration is not None, "see can_compile"
        self.fields = list(declaration.fields)
        self.clock = declaration.clock
        self.names: dict[str, Any] = {}
        self.lines: list[str] = []
        self.handler_lines: dict[int, int] = {}  # of the source, to the index in the plan

    @property
    def fits(self) -> bool:
        """Tell whether the shape has all that the function is sure to read, and fields alone."""
        shape = set(self.fields if self.shape is None else self.shape)
        return set(self._required()) <= shape <= set(self.fields)

    def write(self) -> str:
        """Return the source of a function `emit`."""
        if self.shape is None:
            self._head()
        else:
            self._head_by_name(self.shape)
        if self.plan:
            self._body()
        else:
            self._settle(1)
        return "\n".join(self.lines) + "\n"

    def _put(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def _head(self) -> None:
        # All have a default: what is not sent the interpreter fills in, or words the failure. To
        # take them by keyword alone would cost more than the one that stands in front of them.
        fields = [f"{name}=..." for name in self.fields]
        self._put(0, f"def emit({', '.join(['_eb_first=...', *fields])}):")
        looked_at = {self.clock} if self._is_filtered else set()  # by `_check_clock`
        asked = [name for name in self._required() if name not in looked_at]
        unsent = [f"{name} is ..." for name in asked]
        tests = ["_eb_underway.busy", "_eb_first is not ...", *unsent]
        self._put(1, f"if {' or '.join(tests)}:")
        self._put(2, f"return _eb_slow({self._sent()}, _eb_first)")

    def _head_by_name(self, shape: tuple[str, ...]) -> None:
        # One dict, as `emit(name, **fields)` has it: to spread it over parameters costs more.
        self._put(0, f"def emit({SENT}):")
        absent = [] if self.plan else [f"{name!r} not in {SENT}" for name in shape]
        self._put(1, f"if {' or '.join([f'_eb_len({SENT}) != {len(shape)}', *absent])}:")
        self._put(2, "return None")
        if shape and self.plan:
            self._put(1, "try:")
            self._put(2, "; ".join(f"{name} = {SENT}[{name!r}]" for name in shape))
            self._put(1, "except _eb_KeyError:")
            self._put(2, "return None")
        tests = ["_eb_underway.busy"]
        if self.port.signal.begins:  # what is pending may be of the span before
            tests.append("not _eb_pending.quiet")
        self._put(1, f"if {' or '.join(tests)}:")
        self._put(2, f"return {self._slow()}")

    def _slow(self) -> str:
        is_transform = self.port.signal.value is not None  # it declines: who asked interprets
        return "None" if is_transform else f"_eb_slow({self._sent()})"

    @property
    def _is_filtered(self) -> bool:
        return any(_filtered(planned) for planned in self.plan)

    def _is_never_sent(self, name: str) -> bool:
        return self.shape is not None and name not in self.shape

    def _sent(self) -> str:
        if self.shape is not None:
            return SENT
        items = ", ".join(f"{name!r}: {name}" for name in self.fields)
        return f"_eb_sent({{{items}}})"

    def _settle(self, depth: int) -> None:
        self._put(depth, f"return _eb_none if _eb_pending.quiet else _eb_settle({self._sent()})")

    def _body(self) -> None:
        self._check_clock()
        always = [i for i, planned in enumerate(self.plan) if not _filtered(planned)]
        windowed = self._window()
        if windowed:
            self._put(1, "global _eb_window")
        if windowed and not always:
            self._return_early()
        if any(self._needs_event(planned) for planned in self.plan):
            self._put(1, "_eb_e = None  # one event for all that ask, made when the first is due")
        self._put(1, "_eb_underway.busy = True")
        self._put(1, "try:")
        self._show_mappings(2)  # a call: before the flag is set another thread could come between
        depth = 2
        if windowed and always:
            self._put(2, "_eb_from, _eb_to = _eb_window")
            self._put(2, f"if _eb_from <= {self.clock} < _eb_to:")
            self._calls(3, always)
            self._put(2, "else:")
            depth = 3
        if windowed:
            self._put(depth, f"_eb_window = _eb_after({self.clock})")
        self._all(depth)
        self._tail()

    def _return_early(self) -> None:
        self._put(1, "_eb_from, _eb_to = _eb_window")
        self._put(1, f"if _eb_from <= {self.clock} < _eb_to:")
        self._settle(2)

    def _all(self, depth: int) -> None:
        if len(self.plan) > UNROLLED:
            self._put(depth, f"return _eb_whole({self._sent()})")
            return
        self._calls(depth, range(len(self.plan)))

    def _calls(self, depth: int, indices: Iterable[int]) -> None:
        before: str | None = None
        for index in indices:
            test = self._test(self.plan[index])
            if test is not None and test != before:  # one look for neighbours with one filter
                self._put(depth, f"if {test}:")
            self._call(depth + (test is not None), index)
            before = test

    def _tail(self) -> None:
        self._put(1, "except _eb_Exception as _eb_raised:")
        self._put(2, "_eb_error = _eb_raised")
        self._put(1, "else:")
        self._settle(2)
        self._put(1, "finally:")
        self._put(2, "_eb_underway.busy = _eb_interpreted")
        self._put(1, "try:")
        self._put(2, f"return _eb_failed(_eb_error, {self._sent()})")
        self._put(1, "finally:")
        self._put(2, "del _eb_error  # its frames would keep the loss alive")

    def _required(self) -> list[str]:
        asked = {name for planned in self.plan for name in self._always_asked(planned)}
        if self._is_filtered:
            asked.add(self.clock or "")
        return [name for name in self.fields if name in asked]

    def _show_mappings(self, depth: int) -> None:
        for name in MAPPINGS:
            if not any(self._may_show(planned, name) for planned in self.plan):
                continue
            is_sent = name in (self.fields if self.shape is None else self.shape)
            if is_sent and name != self.port.signal.value:
                also = "" if self.shape is None else f" = {SENT}[{name!r}]"
                was_sent = "" if self.shape is not None else f"{name} is not ... and "
                self._put(depth, f"if {was_sent}{name}.__class__ in _eb_dicts:")
                self._put(depth + 1, f"{name}{also} = _eb_shown({name})")

    def _may_show(self, planned: PlannedCall, name: str) -> bool:
        if self._needs_event(planned):
            return True
        assert planned.receiver is not None, "a plain receiver takes all"
        return any(want.name == name for want in planned.receiver.subscription.wants.each)

    def _check_clock(self) -> None:
        if self.clock is not None and self._is_filtered:
            self._put(1, f"if {self.clock}.__class__ is not _eb_int:")
            self._put(2, f"return {self._slow()}")

    def _window(self) -> bool:
        filtered = [planned for planned in self.plan if _filtered(planned)]
        always = len(self.plan) - len(filtered)
        if self.clock is None or len(filtered) < FEW or always > UNROLLED:
            return False
        self.names["_eb_after"] = Windows(filtered).after
        return True

    # -- one handler

    def _call(self, depth: int, index: int) -> None:
        planned = self.plan[index]
        with_event = self._needs_event(planned)
        if with_event:
            self._call_with_event(depth, index, planned)
        else:
            self._call_directly(depth, index, planned)
        if planned.isolated:
            self._succeeded(depth, index, planned, "_eb_r is None and " if with_event else "")

    def _succeeded(self, depth: int, index: int, planned: PlannedCall, called: str) -> None:
        assert planned.receiver is not None, "plain receivers are not isolated"
        self.names[f"_eb_s{index}"] = planned.receiver.subscription
        self._put(depth, f"if {called}_eb_s{index}.failures_in_a_row:")
        self._put(depth + 1, f"_eb_s{index}.failures_in_a_row = 0")

    def _test(self, planned: PlannedCall) -> str | None:
        if not _filtered(planned) or self.clock is None:
            return None
        return _filter(planned).precondition(self.clock)

    def _is_exact(self, planned: PlannedCall) -> bool:
        return self.clock is not None and _filter(planned).expression(self.clock) is not None

    def _needs_event(self, planned: PlannedCall) -> bool:
        if self._arguments(planned) is None:
            return True
        return _filtered(planned) and not self._is_exact(planned)

    def _call_directly(self, depth: int, index: int, planned: PlannedCall) -> None:
        receiver, arguments = planned.receiver, self._arguments(planned)
        assert receiver is not None, "a plain receiver is called with an event"
        self.names[f"_eb_h{index}"] = receiver.subscription.wants.target
        if receiver.due is not None:
            self.names[f"_eb_r{index}"] = receiver
            self._put(depth, f"_eb_r{index}.ran = True")
            self._refuse_unsent(depth, index, receiver)
        self._handler(depth, index, f"_eb_r = _eb_h{index}({arguments})")
        self._put(depth, "if _eb_r is not None:")
        self._put(depth + 1, f"return _eb_take_over({index}, _eb_r, {self._sent()})")

    def _refuse_unsent(self, depth: int, index: int, receiver: Receiver) -> None:
        for want in receiver.subscription.wants.each:
            if want.default is REQUIRED and want.name in self.fields and want.name != self.clock:
                never = self._is_never_sent(want.name)
                test = "" if never else f"if {want.name} is ...: "
                self._handler(depth, index, f"{test}raise _eb_not_sent")

    def _call_with_event(self, depth: int, index: int, planned: PlannedCall) -> None:
        self.names[f"_eb_t{index}"] = planned.take
        event = f"_eb_e := _eb_e or _eb_event({self._sent()})"
        self._handler(depth, index, f"_eb_r = _eb_t{index}({event})")
        self._put(depth, "if _eb_r is not None and _eb_r is not _eb_not_due:")
        self._put(depth + 1, f"return _eb_take_over({index}, _eb_r, {self._sent()})")

    def _handler(self, depth: int, index: int, line: str) -> None:
        self._put(depth, line)
        self.handler_lines[len(self.lines)] = index

    # -- its arguments

    def _always_asked(self, planned: PlannedCall) -> list[str]:
        receiver = planned.receiver
        if receiver is None or receiver.due is not None:
            return []  # one that is not due may ask for what was not sent
        wants = receiver.subscription.wants.each
        return [w.name for w in wants if w.default is REQUIRED and w.name in self.fields]

    def _arguments(self, planned: PlannedCall) -> str | None:
        receiver = planned.receiver
        if receiver is None or receiver.subscription.wants.takes_rest:
            return None
        if receiver.subscription.worker is not None:
            return None  # it is not called here
        texts = [self._argument(receiver, want) for want in receiver.subscription.wants.each]
        return None if None in texts else ", ".join(map(str, texts))

    def _argument(self, receiver: Receiver, want: Want) -> str | None:
        text = self._value(receiver, want)
        return text and (f"{want.name}={text}" if want.by_keyword else text)

    def _value(self, receiver: Receiver, want: Want) -> str | None:
        if want.name in self.fields:
            return self._field(receiver, want)
        context = self.port.emitter.context
        if want.name == "event":
            return None
        if want.name in CONTEXT and want.name not in context:
            return None if want.default is REQUIRED else self._constant(want.default)
        if want.name in CONTEXT:
            return self._constant(context[want.name])
        known = {"bus": self.port.emitter.bus, "sender": self.port.emitter.sender}
        return self._constant(known.get(want.name, want.default))

    def _field(self, receiver: Receiver, want: Want) -> str | None:
        if want.default is REQUIRED:
            return want.name
        default = self._constant(want.default)
        if self._is_never_sent(want.name):
            return default
        return f"({default} if {want.name} is ... else {want.name})"

    def _constant(self, value: Any) -> str:
        name = f"_eb_c{len(self.names)}"
        self.names[name] = value
        return name


def _filtered(planned: PlannedCall) -> bool:
    return planned.receiver is not None and planned.receiver.due is not None


def _filter(planned: PlannedCall) -> Filter:
    assert planned.receiver is not None
    when = planned.receiver.subscription.when
    assert when is not None, "only asked of those that have one"
    return when
