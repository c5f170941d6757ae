"""Objectives by name, and as parts of an artifact's key."""

from __future__ import annotations

import inspect

import pytest

from prefine import objectives
from prefine.errors import InputError
from prefine.fingerprint import key_of
from prefine.objectives.scores import Objective


@pytest.mark.parametrize("name", objectives.FACTORIES)
def test_every_name_makes_an_objective_with_its_defaults(name: str) -> None:
    factory = objectives.find(name)
    assert isinstance(objectives.make(name), type(factory()))
    assert "arXiv" in (inspect.getdoc(factory) or "") or name in ("likelihood", "sft", "binary-cross-entropy")
    assert ">>>" in (inspect.getdoc(factory) or ""), "every objective shows a number"


def test_names_with_underscores_and_capitals_are_the_same() -> None:
    assert objectives.find("Length_Regularised") is objectives.length_regularised


def test_a_name_that_is_nearly_right_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="there is no objective 'simp'") as error:
        objectives.find("simp")
    assert "did you mean 'simpo'" in error.value.remedy


def test_options_are_checked_against_the_signature() -> None:
    assert objectives.make("dpo", beta=0.5) == objectives.dpo(0.5)
    with pytest.raises(InputError, match="has no option 'bta'") as error:
        objectives.make("dpo", bta=0.5)
    assert "beta" in error.value.remedy


@pytest.mark.parametrize(
    ("name", "options"),
    [("simpo", {"gamma": "much"}), ("dpo", {"beta": "x"}), ("sft", {"prompt_in_nll": 1}), ("ipo", {"mean": "no"})],
)
def test_options_of_the_wrong_kind_are_input_errors(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="is not a"):
        objectives.make(name, **options)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (objectives.dpo(0.1), objectives.dpo(0.2)),
        (objectives.dpo(0.1), objectives.dpo(0.1, label_smoothing=0.1)),
        (objectives.dpo(0.1), objectives.length_regularised(0.1, 0.1)),
        (objectives.length_regularised(0.1, 0.1), objectives.length_regularised(0.1, 0.2)),
        (objectives.ipo(0.1), objectives.ipo(0.1, mean=False)),
        (objectives.likelihood(), objectives.likelihood(mean=True)),
        (objectives.likelihood(), objectives.likelihood(side="rejected")),
        (objectives.add(objectives.dpo(), objectives.sft()), objectives.add(objectives.dpo())),
        (objectives.kto(0.1), objectives.kto(0.1, reference_point="zero")),
    ],
)
def test_objectives_that_differ_have_other_keys(a: Objective, b: Objective) -> None:
    """Else a run would take one's weights for the other's."""
    assert key_of(objective=a) != key_of(objective=b)


@pytest.mark.parametrize("name", objectives.FACTORIES)
def test_the_same_objective_has_the_same_key(name: str) -> None:
    assert key_of(objective=objectives.make(name)) == key_of(objective=objectives.make(name))
