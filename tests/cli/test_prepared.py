"""What is found out before anything is computed: names that recipes and training share, and policies that do not fit."""

from __future__ import annotations

import pytest

from prefine.binding.rehearsal import rehearse
from prefine.catalogue import find
from prefine.errors import InputError
from prefine.launch import prepare
from prefine.options import of_function
from prefine.slate import Candidate, Slate, pair


@pytest.mark.parametrize("clip", [True, False])
def test_an_option_with_a_settings_name_and_another_type_is_the_recipes_own(clip: bool) -> None:
    """WPO's clip is a yes or no; the trainer's is a norm."""
    prepared = prepare({"system": "wpo", "inputs": {"world": "assistant"}, "options": {"clip": clip}}, look=False)
    assert prepared.config.options["clip"] is clip and prepared.settings.clip == 1.0
    prepared = prepare({"system": "wpo", "inputs": {"world": "assistant"}, "train": {"clip": 0.5}}, look=False)
    assert prepared.config.options["clip"] is True and prepared.settings.clip == 0.5


def test_a_recipes_momentum_leaves_the_optimisers_alone() -> None:
    prepared = prepare({"system": "lcpo", "inputs": {"world": "assistant"}, "options": {"momentum": 0.3}}, look=False)
    assert prepared.config.options["momentum"] == 0.3 and prepared.settings.momentum == 0.0


def test_settings_that_a_recipe_passes_on_are_still_checked() -> None:
    with pytest.raises(InputError, match="warmup"):
        prepare({"system": "trpa", "inputs": {"world": "arithmetic"}, "options": {"warmup": 2.0}}, look=False)


def test_a_table_has_no_value_model_and_that_is_said_before_anything_is_sampled() -> None:
    with pytest.raises(InputError, match="tabular") as error:
        prepare({"system": "ppo", "inputs": {"world": "games"}})
    assert "value model" in (error.value.remedy or "")
    assert prepare({"system": "grpo", "inputs": {"world": "games"}}, look=False)


def test_betas_of_two_losses_are_not_confused() -> None:
    with pytest.raises(InputError, match=r"beta=0\.5 would be DPO's"):
        prepare(
            {"system": "rdpo", "inputs": {"world": "assistant"}, "options": {"over": "simpo", "beta": 0.5}}, look=False
        )
    assert find("rdpo").options["beta"].default is None
    prepare({"system": "rdpo", "inputs": {"world": "assistant"}, "options": {"beta": 0.5}}, look=False)


def test_a_missing_column_is_asked_for_by_the_flag_that_names_it() -> None:
    rows = [pair(Slate("q", (Candidate("a"), Candidate("b"))), 0, 1)]
    defaults = {name: option.default for name, option in of_function(find("rdpo").recipe).items()}
    with pytest.raises(InputError) as error:
        rehearse(find("rdpo"), {**defaults, "by": "doubt"}, given={"pairs": rows})
    assert "--by COLUMN" in (error.value.remedy or "") and "--values" not in (error.value.remedy or "")


@pytest.mark.parametrize("system", ["exo", "mappo", "reward-augmented"])
def test_what_samples_are_made_of_is_said(system: str) -> None:
    defaults = {name: option.default for name, option in of_function(find(system).recipe).items()}
    with pytest.raises(InputError, match="learn_from=samples needs prompts and a judge"):
        rehearse(find(system), {**defaults, "learn_from": "samples"}, without=frozenset({"judge"}))
    with pytest.raises(InputError, match="learn_from=pairs needs pairs"):
        rehearse(find(system), {**defaults, "learn_from": "pairs"}, without=frozenset({"pairs"}))
