"""A mapping as handlers are shown it: to read, not to change what others see."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import Any

__all__ = ["DICTS", "Shown"]

DICTS = frozenset({dict, OrderedDict, defaultdict, Counter})
"""What a copy is shown of. A dict of somebody's own may be one that is not to be read yet."""


class Shown(dict[str, Any]):
    """A copy of a dict that refuses to be written to; copies of it do not, unpickled ones either.

    A copy, because a view of a `defaultdict` would have keys added to it by reading.

    Examples
    --------
    >>> from eventbus.shown import Shown
    >>> metrics = Shown({"loss": 0.5})
    >>> metrics["loss"], {**metrics, "more": 1}
    (0.5, {'loss': 0.5, 'more': 1})
    >>> metrics["loss"] = 0
    Traceback (most recent call last):
    ...
    TypeError: this is only to be read: take a copy, dict(...)
    """

    __slots__ = ()

    def _refuse(self, *args: Any, **keywords: Any) -> Any:
        raise TypeError("this is only to be read: take a copy, dict(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = _refuse
    setdefault: Any = _refuse  # whichever of its forms
    update: Any = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (dict(self),)  # which `torch.load` takes; a dict it would not
