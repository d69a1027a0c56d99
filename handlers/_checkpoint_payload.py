"""The state itself: refused where it would not load again, summed while it is written."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from ._checkpoint_manifest import Sum

if TYPE_CHECKING:
    from ._files import Files

__all__ = ["SummingWriter", "offender", "read_payload", "summed", "write_payload"]

_CHUNK = 1024 * 1024  # bytes
_WIDEST_INT = 2031  # bits; pickle's long form beyond that is refused by the safe loader
_LEAVES = frozenset({type(None), bool, float, complex, str, bytes, bytearray})
_MAPPINGS = frozenset({dict, OrderedDict, Counter})
_SEQUENCES = frozenset({list, tuple, set})
_NUMBERS = _LEAVES | {int}


def offender(state: Mapping[str, Any]) -> str | None:
    """Name the first thing that ``torch.load(weights_only=True)`` would refuse, by dotted path.

    Returns
    -------
    str or None
        ``"EarlyStopping.best is a numpy.float64"``; None where all of it would load.
    """
    for path, value in _walk(state):
        if not _loads(value):
            kind = type(value)
            place = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
            return f"{path or 'the state'} is a {place}{kind.__qualname__}"
    return None


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield everything inside, each object once, with its path; loops are allowed, as in pickle."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        inner = [] if id(value) in seen else list(_inside(path, value))
        seen.add(id(value))
        waiting.extend(reversed(inner))


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    prefix = f"{path}." if path else ""
    kind = type(value)
    if kind in _MAPPINGS:
        for key, part in value.items():
            if type(key) is not str:
                yield f"{prefix}<key {key!r}>", key
            if type(part) not in _LEAVES:  # most are, and would load
                yield f"{prefix}{key}", part
    elif kind in _SEQUENCES and not _are_leaves(value):
        for index, part in enumerate(value):
            yield f"{prefix}{index}", part
    if kind is OrderedDict or _is_tensor(value):
        # Their attributes are pickled too (`_metadata` of a module's state).
        for name, part in vars(value).items():
            yield f"{prefix}{name}", part


def _are_leaves(values: Iterable[Any]) -> bool:
    """Tell whether all would load and hold nothing: long lists of numbers are not walked."""
    kinds = set(map(type, values))
    if not kinds <= _NUMBERS:
        return False
    return int not in kinds or all(_is_narrow(one) for one in values if type(one) is int)


def _is_narrow(number: int) -> bool:
    return number.bit_length() <= _WIDEST_INT


def _loads(value: Any) -> bool:
    kind = type(value)  # exactly: a subclass is pickled by its name, and no name is ever imported
    if kind is int:
        return _is_narrow(value)
    return kind in _LEAVES or kind in _MAPPINGS or kind in _SEQUENCES or _is_torch(value)


def _is_tensor(value: Any) -> bool:
    import torch

    return type(value) in (torch.Tensor, torch.nn.Parameter)


def _is_torch(value: Any) -> bool:
    import torch

    return _is_tensor(value) or type(value) in (torch.Size, torch.dtype, torch.device)


class SummingWriter:
    """A file to `torch.save` into, that sums what passes and remembers why writing failed.

    What is short is held until there is enough of it: `torch.save` writes a small state in more
    than a hundred pieces, and each that goes to the disk lets another thread come between.

    Attributes
    ----------
    error : BaseException or None
        What the first failing write raised; `torch.save` itself reports something else.
    """

    def __init__(self, files: Files, file: BinaryIO) -> None:
        self._files, self._file = files, file
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._held = bytearray()
        self.error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write and sum; the signature is that of any file."""
        size = len(data)
        if size < _CHUNK:
            self._held += data
        if size >= _CHUNK or len(self._held) >= _CHUNK:
            self.pass_on()
        if size >= _CHUNK:
            self._put(data)
        return size

    def pass_on(self) -> None:
        """Write what is held."""
        held, self._held = self._held, bytearray()
        if held:
            self._put(memoryview(held))

    def _put(self, data: bytes | memoryview) -> None:
        try:
            self._files.write(self._file, data)
        except BaseException as error:
            self.error = self.error or error
            raise
        self._hash.update(data)
        self._bytes += len(data)

    def flush(self) -> None:
        """Do nothing: whoever opened the file brings it to the disk."""

    def sum(self) -> Sum:
        """Return the size and the SHA-256 of all that was written."""
        return Sum(self._bytes, self._hash.hexdigest())


def write_payload(files: Files, file: BinaryIO, state: Mapping[str, Any]) -> Sum:
    """Serialise the state into an open file.

    Raises
    ------
    OSError
        Writing failed, for the reason that the operating system gave.
    """
    import torch

    writer = SummingWriter(files, file)
    try:
        torch.save(dict(state), cast("IO[bytes]", writer))  # it calls write and flush alone
        writer.pass_on()
    except BaseException as error:
        if writer.error is not None and writer.error is not error:
            raise writer.error from None  # torch.save hides the cause behind "unexpected pos"
        raise
    return writer.sum()


def summed(file: BinaryIO) -> Sum:
    """Return the size and the SHA-256 of what is left to read in a file."""
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return Sum(size, digest.hexdigest())


def read_payload(file: BinaryIO) -> dict[str, Any]:
    """Load the state with ``weights_only=True``, on the CPU; nothing named in it is imported."""
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"the payload holds a {type(state).__name__}, not parts of state by name")
    return state
