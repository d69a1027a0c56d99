"""The manifest: exact to the byte, or refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.handlers._checkpoint_manifest import Manifest, Sum, decode, encode

NUMBERS = st.floats(allow_nan=False, allow_infinity=True) | st.integers(-(2**63), 2**63).map(float)


def manifest(**changes: object) -> Manifest:
    facts: dict[str, object] = {
        "id": "ab12",
        "epoch": 3,
        "step": 120,
        "metrics": {"loss": 0.5},
        "run_id": "run-1",
        "run": "train",
        "saved_at": "2026-01-01T00:00:00+00:00",
        "versions": {"torch": "2.13"},
        "files": {"state.pt": Sum(10, "0" * 64)},
    }
    return Manifest(**{**facts, **changes})  # type: ignore[arg-type]  # a test may give nonsense


def changed(**changes: object) -> bytes:
    content = {**json.loads(encode(manifest())), **changes}
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def test_manifest_round_trips() -> None:
    assert decode(encode(manifest())) == manifest()


@given(st.dictionaries(st.text(max_size=5), NUMBERS, max_size=4))
def test_manifest_keeps_every_number_exactly(metrics: dict[str, float]) -> None:
    assert decode(encode(manifest(metrics=metrics))).metrics == metrics


def test_manifest_is_strict_json_whatever_the_metrics() -> None:
    data = encode(manifest(metrics={"a": math.nan, "b": math.inf, "c": -math.inf}))
    json.loads(data, parse_constant=pytest.fail)
    read = decode(data).metrics
    assert math.isnan(read["a"])
    assert (read["b"], read["c"]) == (math.inf, -math.inf)


def test_manifest_may_tell_neither_epoch_nor_step() -> None:
    assert decode(encode(manifest(epoch=None, step=None))).step is None


@given(st.data())
def test_no_flipped_bit_passes(data: st.DataObject) -> None:
    written = bytearray(encode(manifest()))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="manifest"):
        decode(bytes(written))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"<html>",
        b"\xff\xfe",
        b"[" * 100_000,
        encode(manifest())[:-1],
        encode(manifest()) + b" ",
        encode(manifest()).replace(b'"step": 120', b'"step": 1, "step": 120'),
    ],
)
def test_damaged_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="manifest"):
        decode(data)


@pytest.mark.parametrize("name", ["../state.pt", "/etc/passwd", "a\\b", "c:state", "..", ""])
def test_manifest_names_only_files_beside_it(name: str) -> None:
    with pytest.raises(ValueError, match="may not be named"):
        decode(encode(manifest(files={name: Sum(1, "0" * 64)})))


def test_other_format_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match="format 2, and this version reads 1"):
        decode(encode(manifest(format=2)))


@pytest.mark.parametrize("changes", [{"step": 121}, {"metrics": {"loss": 0.1}}, {"more": 1}])
def test_manifest_edited_by_hand_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(changed(**changes))


@pytest.mark.parametrize("changes", [{"metrics": None}, {"files": []}, {"files": {"a": 1}}])
def test_manifest_of_other_types_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(changed(**changes))
