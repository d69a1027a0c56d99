"""The standard vocabulary: each signal declared, exported, documented; each field explained."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any, get_args, get_origin

import pytest

from eventbus import fields as glossary
from eventbus import signals
from eventbus.cli.vocabulary import FieldFacts, signal_facts
from eventbus.declaration import Declaration, Field
from eventbus.signals import STANDARD

PARTICIPLES = ("ed", "done", "drawn", "written")
COUNTS = ("epoch", "step", "round", "batch_index")

each_signal = pytest.mark.parametrize("declaration", STANDARD.values(), ids=str)


def all_fields() -> dict[str, list[FieldFacts]]:
    found: dict[str, list[FieldFacts]] = {}
    for declaration in STANDARD.values():
        for field in signal_facts(declaration).fields:
            found.setdefault(field.name, []).append(field)
    return found


def test_the_vocabulary_is_the_one_that_the_design_lists() -> None:
    assert " ".join(STANDARD) == (
        "run_opened state_restored run_started epoch_started loader_opened batch_loaded "
        "batch_started backward_finished batch_finished batch_skipped learning_rate_changed "
        "validation_started validation_batch_finished validation_done validation_interrupted "
        "epoch_finished epoch_interrupted metrics_measured figure_drawn text_written "
        "state_requested checkpoint_saved stop_requested handler_failed "
        "run_finished run_failed run_closed"
    )


def test_every_declared_signal_is_standard_and_exported() -> None:
    declared = {name for name, one in vars(signals).items() if isinstance(one, Declaration)}
    assert declared == set(STANDARD) == set(signals.__all__) - {"STANDARD"}


def test_the_standard_mapping_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        STANDARD["extra"] = signals.run_opened  # type: ignore[index]  # that is the test


@each_signal
def test_a_signal_is_called_a_noun_and_a_past_participle(declaration: Declaration[Any]) -> None:
    noun, _, participle = declaration.name.rpartition("_")
    assert noun
    assert participle.endswith(PARTICIPLES)


@each_signal
def test_a_signal_says_when_and_how_often_it_fires(declaration: Declaration[Any]) -> None:
    facts = signal_facts(declaration)
    assert facts.when.endswith(".")
    assert facts.often.endswith(".")
    assert facts.often.startswith(("Once", "Whenever", "In place of", "Only"))


@each_signal
def test_the_fields_of_a_signal_are_named_but_for_the_value(declaration: Declaration[Any]) -> None:
    kinds = [(one.name, one.kind) for one in declaration.fields.values()]
    if declaration.value is not None:
        first, *kinds = kinds
        assert first[0] == declaration.value
        assert first[1].name == "POSITIONAL_OR_KEYWORD"
    assert all(kind.name == "KEYWORD_ONLY" for _, kind in kinds)


@each_signal
def test_an_optional_field_defaults_to_none(declaration: Declaration[Any]) -> None:
    for field in declaration.fields.values():
        is_optional = field.default is not field.empty
        assert is_optional == str(field.annotation).endswith(" | None"), field
        assert not is_optional or field.default is None


@each_signal
def test_a_clock_is_a_count_that_is_always_sent(declaration: Declaration[Any]) -> None:
    if declaration.clock is not None:
        clock = declaration.fields[declaration.clock]
        assert clock.name in COUNTS
        assert clock.default is clock.empty


def test_the_clock_follows_from_the_first_word_of_the_name() -> None:
    clocks = {"epoch": "epoch", "loader": "epoch", "batch": "step", "backward": "step"}
    clocks |= {"validation": "round", "learning": "step"}
    expected = {name: clocks.get(name.split("_")[0]) for name in STANDARD} | {"batch_loaded": None}
    assert {name: one.clock for name, one in STANDARD.items()} == expected


def test_two_signals_are_transforms() -> None:
    values = {name: one.value for name, one in STANDARD.items() if one.value is not None}
    assert values == {"loader_opened": "loader", "batch_loaded": "batch"}


def test_every_field_has_a_meaning() -> None:
    for name, found in all_fields().items():
        assert all(len(field.meaning) > 10 for field in found), name


def test_every_number_has_a_unit() -> None:
    for name, found in all_fields().items():
        for field in found:
            is_number = field.type in {"int", "float"} or field.type.endswith("float]")
            of_metrics = name == "metrics"  # each key has its own
            assert bool(field.unit) or not is_number or of_metrics, name


def test_every_count_says_where_it_starts() -> None:
    found = all_fields()
    for name in COUNTS:
        assert all("from 1" in field.unit for field in found[name])


def test_a_unit_in_a_name_is_the_unit_of_the_field() -> None:
    seconds = {name for name, found in all_fields().items() if found[0].unit == "s"}
    assert seconds == {name for name in all_fields() if name.endswith("_s")}
    assert seconds


def test_a_field_has_one_type_in_all_signals() -> None:
    for name, found in all_fields().items():
        assert len({field.type for field in found}) == 1, name


def test_every_entry_of_the_glossary_is_described_exported_and_used() -> None:
    entries = {name for name, one in vars(glossary).items() if get_origin(one) is Annotated}
    assert entries == set(glossary.__all__)
    assert all(isinstance(get_args(getattr(glossary, name))[1], Field) for name in entries)
    used = {
        str(field.annotation).removesuffix(" | None")
        for declaration in STANDARD.values()
        for field in declaration.fields.values()
    }
    assert used == entries


def test_the_vocabulary_imports_no_torch() -> None:
    script = "import eventbus.signals, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
