"""When a copy from a device has arrived: as soon as it is made, or later, behind the host's back.

Nothing here imports torch: whoever has a tensor has done so.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["arrival", "arrives_late"]

LATE = frozenset({"cuda"})
"""Types of devices that are copied to and from pinned memory while the host goes on.

Not MPS: its copies that nobody waits for go to any memory, and read before they are there.
"""


def arrives_late(device: Any) -> bool:
    """Tell whether a copy between a device and pinned memory may go on behind the host's back.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from eventbus.arrival import arrives_late
    >>> [arrives_late(SimpleNamespace(type=name)) for name in ("cpu", "cuda", "mps")]
    [False, True, False]
    """
    return getattr(device, "type", None) in LATE


def arrival(device: Any) -> Any:
    """Return an event: what is queued now on the current stream of a device is done.

    The stream is that of this device, whichever is the current one, and of the calling thread.
    """
    module = getattr(sys.modules["torch"], device.type)
    return module.current_stream(device).record_event()
