"""What a notification says: templates over an emission's fields, safe to send anywhere."""

from __future__ import annotations

import re
import string
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import eventbus
from eventbus import Event
from eventbus.declaration import CONTEXT
from eventbus.errors import did_you_mean
from eventbus.failures import describe_error
from eventbus.handlers._rows import facts
from eventbus.signals import STANDARD

_TITLE_LENGTH, _BODY_LENGTH = 150, 10_000  # characters
_TRACEBACK_LINES = 30
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]+")
_OURS = (str(Path(eventbus.__file__).parent), sysconfig.get_paths()["stdlib"])
_EXTRAS = ("event", "sender", "where", "place", "traceback", "facts")


@dataclass(frozen=True)
class Message:
    """What is sent: one line, a text, and one of "info", "success", "warning", "failure"."""

    title: str
    body: str
    kind: str


class _Default(NamedTuple):
    title: str
    body: str
    kind: str


_DEFAULTS = {
    "run_finished": _Default("{run}: finished", "{reason}\n{where}\n{metrics}", "success"),
    "run_failed": _Default(
        "{run}: failed: {exception}", "{exception}\nat {place}\n{where}", "failure"
    ),
    "stop_requested": _Default("{run}: stopping", "{reason}\nby {handler}\n{where}", "warning"),
    "handler_failed": _Default(
        "{run}: {handler} failed", "{exception}\nat {place}\non {signal}\n{where}", "warning"
    ),
}
_UNTOLD = _Default(
    "{run}: failed", "it failed as it ended, or without run_failed: its log says why", "failure"
)
_OTHER = _Default("{run}: {event}", "{where}\n{facts}", "info")


def compose(
    event: Event, title: str | None = None, body: str | None = None, held_back: int = 0
) -> Message:
    """Write the message of an emission, by templates or as is usual for its signal.

    It says how many before it were held back. Reads the fields that the templates name; where these
    are metrics on a device, this synchronises with it.
    """
    usual = _DEFAULTS.get(event.name, _OTHER)
    fill = _Filling(event)
    line = _one_line(fill.text(usual.title if title is None else title))
    text = _CONTROL.sub(" ", fill.text(usual.body if body is None else body))[:_BODY_LENGTH]
    if held_back:
        text += f"\n({held_back} earlier messages like this were held back)"
    return Message(line, _encodable(text) or line, usual.kind)


def compose_failure(event: Event, title: str | None = None, body: str | None = None) -> Message:
    """Write the message of a run that is closed as failed, where `run_failed` told nothing.

    By the templates, as far as `run_closed` has the fields that they name.
    """
    title = title if title is not None and _fits(title, event) else _UNTOLD.title
    body = body if body is not None and _fits(body, event) else _UNTOLD.body
    return replace(compose(event, title, body), kind=_UNTOLD.kind)


def _fits(template: str, event: Event) -> bool:
    try:
        check_template(template, [event.name])
    except ValueError:
        return False
    return True


def check_template(template: str, signals: Iterable[str]) -> None:
    """Refuse what cannot be filled in.

    Raises
    ------
    ValueError
        Braces that do not match, a field without a name, or one that none of the signals has.
    """
    names = list(_names_in(template))
    fields = [STANDARD[name].fields if name in STANDARD else None for name in signals]
    known = {*CONTEXT, *_EXTRAS}.union(*(each or () for each in fields))
    for name in names:
        if not name or name.isdigit():
            raise ValueError(f"a template names its fields: '{{loss}}'; got {template!r}")
        if name not in known and None not in fields:
            hint = did_you_mean(name, known)
            raise ValueError(f"no signal of on= has a field {name!r}{hint}; got {template!r}")


def _names_in(template: str) -> Iterable[str]:
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"not a template: {error}; got {template!r}") from error
    return (re.split(r"[.\[]", name, maxsplit=1)[0] for name in found)


class _Numbers(dict[str, Any]):
    """Metrics that print as people write them."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {_spell(value)}" for name, value in self.items())

    def __format__(self, spec: str) -> str:
        return str(self)


class _Absent:
    """What the emission has not; filled in as a dash."""

    def __format__(self, spec: str) -> str:
        return "–"


class _Filling(string.Formatter):
    """Fills templates in from one emission; a line with no field that it has is left out."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._present = self._absent = 0

    def text(self, template: str) -> str:
        lines = (self._line(line) for line in template.split("\n"))
        return "\n".join(line for line in lines if line is not None)

    def _line(self, template: str) -> str | None:
        self._present = self._absent = 0
        line = self.vformat(template, (), {})
        return None if self._absent and not self._present else line

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        try:
            value, used = super().get_field(field_name, args, kwargs)
        except (KeyError, IndexError, AttributeError, TypeError):
            value, used = _Absent(), field_name
        if isinstance(value, _Absent):
            self._absent += 1
        else:
            self._present += 1
        return value, used

    def get_value(self, key: int | str, args: Any, kwargs: Any) -> Any:
        name = str(key)
        value = self._event.fields.get(name)
        if value is not None:
            return _told(name, value)
        value = self._extra(name) if name in _EXTRAS else self._event.context.get(name)
        return _Absent() if value is None or value == "" else value

    def format_field(self, value: Any, format_spec: str) -> str:
        try:
            return str(super().format_field(value, format_spec))
        except (TypeError, ValueError):  # a format for numbers, and it is none
            return str(value)

    def _extra(self, name: str) -> Any:
        exception = self._event.fields.get("exception")
        if name in ("place", "traceback"):
            return _EXCEPTIONS[name](exception) if exception is not None else None
        return {"event": self._event.name, "sender": self._event.sender}.get(
            name, _where(self._event) if name == "where" else _facts(self._event)
        )


def _told(name: str, value: Any) -> Any:
    if isinstance(value, BaseException):
        return describe_error(value)
    value = dict(facts({name: value})).get(name, _Absent())
    return _Numbers(value) if isinstance(value, Mapping) else value


def _where(event: Event) -> str:
    counts = ((name, event.fields.get(name)) for name in ("epoch", "step"))
    return ", ".join(f"{name} {count}" for name, count in counts if count is not None)


def _facts(event: Event) -> str:
    rest = {name: event.fields[name] for name in event.fields if name not in ("epoch", "step")}
    return "\n".join(f"{name}: {_spell(_told(name, rest[name]))}" for name, _ in facts(rest))


def _place(exception: BaseException) -> str | None:
    """Return where it was raised: the innermost line that is not a library's."""
    found = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(exception.__traceback__)
    ]
    if not found:
        return None
    own = [each for each in found if not _is_library(each[0])]
    file, line, function = (own or found)[-1]
    return f"{file}:{line}, in {function}"


def _is_library(file: str) -> bool:
    installed = "site-packages" in file or "dist-packages" in file
    return installed or file.startswith(("<frozen", *_OURS))


def _traceback(exception: BaseException) -> str:
    lines = "".join(traceback.format_exception(exception)).rstrip().split("\n")
    return "\n".join(lines[-_TRACEBACK_LINES:])


_EXCEPTIONS = {"place": _place, "traceback": _traceback}


def _spell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _one_line(text: str) -> str:
    """Make a title of a text: a line break in a mail's subject would begin a header."""
    return _encodable(_BLANK.sub(" ", text).strip()[:_TITLE_LENGTH])


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
