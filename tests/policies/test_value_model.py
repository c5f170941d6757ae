"""ValueModel: a number before every response token, stored and fitted by the ordinary verbs."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prefine import objectives
from prefine.engine.batch import collate
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.errors import InputError
from prefine.policies import CausalLM, RewardModel, ValueModel, kind_of, load_policy
from prefine.policies.base import Limits, Row
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, group

torch.set_num_threads(1)
make_model: Callable[..., Path] = runpy.run_path(str(Path(__file__).parents[1] / "cli" / "tiny.py"))["make_model"]
ROWS = (
    Row((5, 6, 7), (8, 9, 10, 1), (1.0,) * 4),
    Row((5,), (11, 1), (1.0, 1.0)),
    Row((6, 7), (8, 9, 10), (1.0, 0.0, 1.0)),
)


@pytest.fixture
def reward_model(tmp_path: Path) -> RewardModel:
    model = RewardModel.from_policy(CausalLM.load(make_model(tmp_path / "lm", num_hidden_layers=2)))
    with torch.no_grad():
        model.model.score.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model


def batch(rows: tuple[Row, ...] = ROWS) -> Any:
    return collate([[row] for row in rows], [[0] for _ in rows])


def test_a_value_is_read_where_the_token_is_predicted(reward_model: RewardModel) -> None:
    """Row by row, unpadded, through transformers' own backbone: the head at the last place before each token."""
    values = ValueModel.of(reward_model).logp(batch())[0]
    assert values.shape == (3, 4)
    for n, row in enumerate(ROWS):
        hidden = reward_model.model.base_model(torch.tensor([row.prompt + row.response])).last_hidden_state
        plain = reward_model.model.score(hidden)[0, :, 0]
        for t, counts in enumerate(row.mask):
            want = plain[len(row.prompt) - 1 + t].item() if counts else 0.0
            assert values[n, t].item() == pytest.approx(want, abs=1e-5)
        assert torch.all(values[n, len(row.mask) :] == 0)


def test_a_value_has_not_seen_its_token(reward_model: RewardModel) -> None:
    model = ValueModel.of(reward_model)
    other = (Row((5, 6, 7), (8, 30, 31, 32), (1.0,) * 4),)
    a, b = (model.logp(batch(rows))[0][0] for rows in (ROWS[:1], other))
    torch.testing.assert_close(a[:2], b[:2])
    assert abs(a[2] - b[2]) > 1e-6


def test_it_is_saved_as_what_it_is_and_read_by_transformers(reward_model: RewardModel, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = ValueModel.of(reward_model)
    model.save(tmp_path / "value")
    assert kind_of(tmp_path / "value") == "value-model"
    again = load_policy(tmp_path / "value")
    torch.testing.assert_close(again.logp(batch())[0], model.logp(batch())[0])
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "value")


def test_it_starts_at_zero_without_a_reward_model_and_needs_a_backbone(tmp_path: Path) -> None:
    policy = CausalLM.load(make_model(tmp_path / "lm"))
    assert torch.all(ValueModel.of(policy).logp(batch())[0] == 0)
    with pytest.raises(InputError, match="no backbone"):
        ValueModel.of(Tabular.uniform(["x"], ["a"]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="gives no rewards"):
        ValueModel.of(policy).reward([])


def test_fitted_it_predicts_the_rewards(tmp_path: Path) -> None:
    """One prompt whose samples have rewards 1 and 0, lam = 1: the values become the mean reward before they part,
    and the own reward after."""
    policy = CausalLM.load(make_model(tmp_path / "lm"))
    slate = Slate("say", (Candidate(" yes please"), Candidate(" no thanks")))
    groups = [group(slate, (0, 1), (0, 0), reward=(1.0, 0.0))] * 4
    model = ValueModel.of(policy)
    rows = model.encode(groups[0], Limits())
    zero = [[torch.zeros(len(row.mask)).numpy() for row in rows]] * 4
    settings = TrainSettings(lr=1e-2, batch_size=4, max_steps=150, schedule="constant", warmup=0.0)
    fit = objectives.ppo_value(None, 0.0, 1.0, 1.0, vf_coef=1.0)
    train(model, groups, fit, references={"value": zero}, settings=settings)
    values = model.logp(collate([list(rows)], [[0, 0]]))[0]
    assert values[:, 0].tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    ends = [values[n, len(row.mask) - 1].item() for n, row in enumerate(rows)]
    assert ends == pytest.approx([1.0, 0.0], abs=0.05)


@pytest.mark.parametrize(("depth", "kept"), [(1.0, 4), (0.5, 2), (0.1, 1)])
def test_a_reward_model_can_have_fewer_layers(depth: float, kept: int, tmp_path: Path) -> None:
    policy = CausalLM.load(make_model(tmp_path / "lm", num_hidden_layers=4))
    model = RewardModel.from_policy(policy, depth)
    assert model.model.config.num_hidden_layers == kept and policy.model.config.num_hidden_layers == 4
    ours, theirs = model.model.base_model.state_dict(), policy.model.base_model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    model.save(tmp_path / "rm")
    slate = Slate("say", (Candidate(" yes"),))
    assert load_policy(tmp_path / "rm").reward([slate]) == model.reward([slate])


def test_the_verb_makes_one_and_stores_its_values(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    policy = run.policy(make_model(tmp_path / "lm"))
    critic = run.critic(policy)
    assert kind_of(critic.path) == "value-model" and run.critic(policy) == critic
    slates = run.slates([Slate("say", (Candidate(" yes please"),))])
    contrasts = run.curate(slates, lambda rows, rng: [group(s, (0,), (0,), reward=(1.0,)) for s in rows])
    stored, own = run.logps(critic, contrasts), run.logps(policy, contrasts)
    assert len(stored[0][0]) == len(own[0][0]) and not stored[0][0].any()
