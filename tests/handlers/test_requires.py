"""What a handler says when the library that it needs is not there, or is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventbus.handlers._requires import require


def test_a_library_that_is_there_is_returned() -> None:
    assert require("json.decoder", extra="json", wanted_by="Example").__name__ == "json.decoder"


def test_a_missing_library_is_one_line_that_names_who_what_and_the_extra() -> None:
    with pytest.raises(ImportError) as caught:
        require("no_such_thing.part", extra="moon", wanted_by="Example")
    line = "Example needs no_such_thing: pip install 'training-eventbus[moon]'"
    assert str(caught.value) == line
    assert caught.value.name == "no_such_thing"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_library_that_is_broken_says_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_there.py").write_text("import no_such_thing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_thing'"):
        require("half_there", extra="moon", wanted_by="Example")
