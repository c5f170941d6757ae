"""Dropout judges: BALD against its definition, thinned networks that repeat, and who has no dropout to give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefine import judging
from prefine.errors import InputError
from prefine.judging.dropout import BOTH, bald, both, compared, linear_layers, mean, thinned, votes
from prefine.policies import CausalLM, RewardModel, Tabular, load_policy
from prefine.policies.base import Limits
from prefine.policies.lora import LoraSettings
from prefine.policies.transformers_policy import with_lora
from prefine.slate import Candidate, Slate
from prefine.worlds import spelling
from prefine.worlds.pretrain import Settings, pretrained

torch.set_num_threads(1)


def entropy(p: np.ndarray) -> np.ndarray:
    q = np.stack([p, 1 - p])
    return -np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0).sum(0)


def test_bald_is_the_entropy_of_the_mean_less_the_mean_entropy() -> None:
    p = np.random.default_rng(0).random((10, 3, 3))
    assert np.allclose(bald(p), entropy(p.mean(0)) - entropy(p).mean(0), atol=1e-12)


def test_bald_at_its_ends() -> None:
    assert bald(np.array([1.0] * 5 + [0.0] * 5)) == pytest.approx(math.log(2), abs=1e-12)
    odd = np.full((10, 2), 1 / 3)
    odd[:, 1] = 0.1 + 0.2
    assert bald(odd).tolist() == [0.0, 0.0], "exactly, also where a sum of ten is not ten times one"
    assert bald(np.array([0.5] * 4)) == 0 and mean(odd).tolist() == [1 / 3, 0.1 + 0.2]
    assert votes(np.array([0.5, 0.5, 0.9, 0.2])) == 0.5


# -- a fake model whose passes are set by hand


@dataclass
class Passes:
    """Rewards by pass and response; what a pass reads is remembered."""

    rewards: Any
    kind: str = "by hand"

    def __post_init__(self) -> None:
        self.t = -1
        self.module = torch.nn.Linear(1, 1)
        self.read: list[list[str]] = []

    def sample(self) -> None: ...

    def reward(self, slates: Sequence[Slate], limits: Limits) -> list[list[float]]:
        self.t += 1
        self.read = [[s.response(i) for i in range(len(s))] for s in slates]
        return [[self.rewards[self.t][text] for text in row] for row in self.read]


def slate(*texts: str) -> Slate:
    return Slate("p", tuple(map(Candidate, texts)))


def test_a_scalar_model_gives_means_spreads_and_comparisons() -> None:
    rewards = [{"a": 1.0, "b": 0.0}, {"a": 3.0, "b": 1.0}, {"a": -1.0, "b": 2.0}]
    columns = judging.dropout(Passes(rewards), passes=3)([slate("a", "b")])[0]
    assert columns["score"].values == pytest.approx((1.0, 1.0))
    assert columns["score_spread"].values == pytest.approx((np.std([1, 3, -1]), np.std([0, 1, 2])))
    p = 1 / (1 + np.exp(-np.array([1.0, 2.0, -3.0])))
    assert columns["preference"].values[0][1] == pytest.approx(p.mean())
    assert columns["preference_votes"].values[0][1] == pytest.approx(2 / 3)
    assert columns["preference_bald"].values[1][0] == pytest.approx(entropy(p.mean()) - entropy(p).mean())
    assert columns["preference"].values[0][0] == 0.5 and columns["preference_bald"].values[0][0] == 0


def test_a_pairwise_model_is_asked_in_both_orders() -> None:
    """A model that likes the first place by c gives no preference; what is left is its view of the two."""
    template, c, d = "{first}|{second}", 1.3, [0.7, -0.2]
    rewards = [{"a|b": c + x, "b|a": c - x} for x in d]
    model = Passes(rewards)
    columns = judging.dropout(model, passes=2, template=template)([slate("a", "b")])[0]
    assert model.read == [["a|b", "b|a"]] and list(columns) == ["preference", "preference_votes", "preference_bald"]
    sides = [[1 / (1 + math.exp(-c - x)), 1 / (1 + math.exp(-c + x))] for x in d]
    p = np.array([(one + 1 - other) / 2 for one, other in sides])
    table = np.array(columns["preference"].values)
    assert table[0, 1] == pytest.approx(p.mean()) and np.allclose(table + table.T, 1)
    assert columns["preference_votes"].values[0][1] == 0.5
    even = judging.dropout(Passes([{"a|b": c, "b|a": c}] * 2), passes=2, template=template)([slate("a", "b")])[0]
    assert even["preference"].values[0][1] == pytest.approx(0.5), "the pull of the place is gone"


def test_texts_are_put_to_the_letter() -> None:
    assert both(slate("{second}", "{first}"), 0, 1).text == BOTH.replace("{first}", "\0").replace(
        "{second}", "{first}"
    ).replace("\0", "{second}")
    three = compared(slate("a", "b", "c"), "{first}{second}")
    assert [c.text for c in three.candidates] == ["".join(p) for p in permutations("abc", 2)]
    with pytest.raises(InputError, match="does not show both"):
        judging.dropout(None, template="{second} {first}")


def test_who_cannot_be_asked() -> None:
    with pytest.raises(InputError, match="gives no rewards"):
        judging.dropout(Tabular.uniform(["p"], ["a"]))([slate("a")])
    bare = Passes([{}])
    bare.module = torch.nn.Module()
    with pytest.raises(InputError, match="no linear layers"):
        judging.dropout(bare)([slate("a")])


# -- a real network


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = Settings(steps=4, rows=4, width=16, layers=2, heads=2, context=96)
    return pretrained(tmp_path_factory.mktemp("base"), "tiny", spelling.write, small)


@pytest.fixture
def model(base: Path) -> RewardModel:
    language = load_policy(base)
    assert isinstance(language, CausalLM)
    model = RewardModel.from_policy(language)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.model.score.weight)
    return model


ROWS = [
    Slate("Spell A B:", (Candidate(" alpha bravo"), Candidate(" alfo"))),
    Slate("Spell K:", tuple(map(Candidate, (" kilo", " kelo kelo kelo kelo", " echo")))),
]


def test_the_numbers_do_not_depend_on_company_and_come_again(model: RewardModel) -> None:
    judge = judging.dropout(model, passes=3, rate=0.2)
    together = judge(ROWS)
    assert together == judge(ROWS) and [judge([row])[0] for row in ROWS] == together
    assert judging.dropout(model, passes=3, rate=0.2, seed=1)(ROWS) != together
    bald_ = np.array(together[1]["preference_bald"].values)
    assert (bald_[~np.eye(3, dtype=bool)] > 0).all() and np.allclose(bald_, bald_.T)


def test_padding_does_not_change_a_pass(model: RewardModel) -> None:
    """A mask a layer, whatever the places: a response alone and beside a longer one has the same reward."""
    with thinned(model, 0.3, 7), torch.no_grad():
        alone = model.reward([Slate("Spell K:", (Candidate(" kilo"),))])[0][0]
        beside = model.reward([ROWS[1]])[0][0]
    assert alone == pytest.approx(beside, abs=1e-5)


def test_without_dropout_all_passes_agree_and_afterwards_the_model_is_whole(model: RewardModel) -> None:
    plain = model.reward(ROWS)
    columns = judging.dropout(model, passes=4, rate=0.0)(ROWS)
    assert all(np.allclose(c["score"].values, r, atol=1e-5) for c, r in zip(columns, plain, strict=True))
    assert all(np.all(np.array(c["preference_bald"].values) == 0) for c in columns)
    assert all(set(c["score_spread"].values) == {0.0} for c in columns)
    with pytest.raises(RuntimeError), thinned(model, 0.5, 0):
        raise RuntimeError
    assert model.reward(ROWS) == plain


def test_dropping_keeps_the_mean_of_a_linear_layer() -> None:
    layer = torch.nn.Linear(5, 2, bias=False)
    policy = type("P", (), {"module": layer})()
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, total = layer(x), torch.zeros(3, 2)
        for seed in range(3000):
            with thinned(policy, 0.4, seed):
                total += layer(x)
    assert torch.allclose(total / 3000, whole, atol=0.12)


def test_with_an_adapter_its_inputs_alone_are_thinned(model: RewardModel) -> None:
    pytest.importorskip("peft")
    adapted = with_lora(model, LoraSettings(rank=2))
    places = linear_layers(adapted.model)
    assert places and all(part.out_features == 2 for part, _ in places)  # type: ignore[attr-defined]
    with thinned(adapted, 0.5, 3), torch.no_grad():
        thin = adapted.reward(ROWS)
    assert thin == adapted.reward(ROWS), "its second factor is 0 at first"
