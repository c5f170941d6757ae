"""Settings that depend on the system: how the command line is cut, and whose each name is."""

from __future__ import annotations

import pytest

from prefine.cli.settings import sort_out, split
from prefine.errors import InputError
from prefine.options import Option

OWN = {"--seed": True, "--out": True, "--fresh": False}


def test_what_the_command_knows_stays_and_the_rest_is_named() -> None:
    words = ["sppo", "--seed", "1", "--eta", "20", "--fresh", "--lr=1e-4", "--average", "--no-shuffle"]
    mine, others = split(words, OWN)
    assert mine == ["sppo", "--seed", "1", "--fresh"]
    assert others == {"eta": "20", "lr": "1e-4", "average": "true", "shuffle": "false"}


def test_dashes_and_underscores_are_one() -> None:
    assert split(["--label-smoothing", "0.1"], OWN)[1] == split(["--label_smoothing", "0.1"], OWN)[1]


def test_negative_numbers_are_values() -> None:
    assert split(["--gamma", "-1.5"], OWN)[1] == {"gamma": "-1.5"}


def test_a_value_of_a_known_flag_is_never_a_setting() -> None:
    assert split(["--out", "--strange", "x"], OWN) == (["--out", "--strange", "x"], {})


def options(**defaults: object) -> dict[str, Option]:
    return {name: Option(name, type(default), default) for name, default in defaults.items()}


def test_a_name_that_several_have_belongs_to_the_recipe() -> None:
    recipe = options(epochs=3, temperature=0.7)
    train, sampling = options(epochs=1.0, lr=1e-5), options(temperature=1.0, max_tokens=256)
    texts = {"epochs": "2", "temperature": "0.5", "lr": "1e-3", "max_tokens": "8"}
    groups = sort_out(texts, recipe, train, sampling, "some-system")
    assert groups == {
        "options": {"epochs": 2, "temperature": 0.5},
        "train": {"lr": 1e-3},
        "sampling": {"max_tokens": 8},
    }


def test_near_misses_are_suggested_among_all_names() -> None:
    with pytest.raises(InputError) as caught:
        sort_out({"batchsize": "3"}, options(beta=0.1), options(batch_size=32), {}, "dpo")
    assert "did you mean --batch-size?" in caught.value.remedy
    assert "its own options are: --beta" in caught.value.remedy
