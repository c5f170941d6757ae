"""What the recipes of 080, 105, 113, 116 and 143 do, on tabular policies where it can be computed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.curating.bridging import edit_requests
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.evaluation import every_candidate
from prefine.judging.base import Scored
from prefine.policies.q_values import q_values
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, group, pair, scores
from prefine.systems.objectives.bmc import bmc
from prefine.systems.objectives.cpo_constrained import cpo_constrained, deltas
from prefine.systems.objectives.pre_dpo import pre_dpo, starting_weights
from prefine.systems.objectives.rpo_reward_aware import rpo_reward_aware
from prefine.systems.objectives.sft_implicit_reward import sft_implicit_reward

SETTINGS = TrainSettings(lr=0.1, epochs=3, batch_size=64, schedule="constant", warmup=0.0)


REWARDS = np.random.default_rng(5).normal(size=(3, 4))


def scored() -> list[Slate]:
    """Three prompts with four scored actions each."""
    four = tuple(map(Candidate, "abcd"))
    return [Slate(n, four, {"score": scores(list(row))}, {"id": n}) for n, row in zip("xyz", REWARDS, strict=True)]


@pytest.fixture
def bandit(tmp_path: Path) -> tuple[Run, PolicyHandle, Contrasts]:
    Tabular(list("xyz"), list("abcd"), np.random.default_rng(3).normal(size=(3, 4))).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=SETTINGS)
    return run, run.policy(tmp_path / "base"), run.curate(run.slates(scored()), curating.all_pairs())


def table(policy: PolicyHandle) -> torch.Tensor:
    return policy.load().logp_PA().detach()  # type: ignore[attr-defined, no-any-return]


def test_pre_dpo_restarts_from_the_start_with_the_guide_as_reference(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    guide = run.train(start, pairs, objective=objectives.dpo(0.3))
    want = run.train(start, pairs, objective=objectives.dpo(0.3), reference=guide)
    got = pre_dpo(run, start, pairs, beta=0.3)
    assert got.key == want.key
    assert not torch.equal(table(got), table(run.train(guide, pairs, objective=objectives.dpo(0.3))))


def test_with_the_start_as_guide_it_is_dpo(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    plain = run.train(start, pairs, objective=objectives.dpo(0.3))
    assert torch.equal(table(run.train(start, pairs, objective=objectives.dpo(0.3), reference=start)), table(plain))


def test_the_first_weights_are_the_scale_of_the_first_gradients(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    beta, guide = 0.3, run.train(start, pairs, objective=objectives.simpo())
    weights = starting_weights(run, start, guide, pairs, beta)
    base, other = np.asarray(run.logps(start, pairs).sums()), np.asarray(run.logps(guide, pairs).sums())
    policy = torch.tensor(base, requires_grad=True)
    reference = torch.tensor(other)
    s = objectives.Scores.of_pairs(policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1])
    (slope,) = torch.autograd.grad(objectives.dpo(beta)(s).mean(s) * len(pairs), policy)
    np.testing.assert_allclose(-slope[:, 0].numpy() / beta, weights, atol=1e-12)
    np.testing.assert_allclose(starting_weights(run, start, start, pairs, beta), 0.5, atol=0)


@pytest.mark.parametrize("options", [{"guide": "kto"}, {"beta": 0.0}])
def test_pre_dpo_checks_its_options_first(bandit, options) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    with pytest.raises(InputError):
        pre_dpo(run, start, pairs, **options)


def test_constrained_notes_where_the_pairs_stand(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    trained = cpo_constrained(run, start, pairs, beta=0.5, gamma=0.2)
    noted = json.loads((run.dir / "notes.jsonl").read_text().splitlines()[-1])
    now, before = deltas(run, trained, pairs), deltas(run, start, pairs)
    assert noted["preferred"] == pytest.approx(float((now > 0).mean()))
    assert noted["escaped"] == pytest.approx(float((now[before <= 0] > 0).mean()))


def test_an_editor_takes_the_place_of_the_chosen(bandit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The editor answers every request with "d": pairs whose rejected is "d" already teach nothing and go."""
    run, start, pairs = bandit
    prompts = [slate.prompt for slate in edit_requests(pairs)]
    Tabular(prompts, ["d"]).save(tmp_path / "editor")
    trained = bmc(run, start, pairs, editor=str(tmp_path / "editor"), delta=0.0, beta=0.3)
    left = run.curate(pairs, to_d)
    want = run.train(start, left, objective=objectives.dpo(0.3))
    torch.testing.assert_close(table(trained), table(want), rtol=0, atol=1e-12)


def to_d(contrasts: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
    """The same by hand."""
    for c in contrasts:
        if c.response(1) != "d":
            yield pair(Slate(c.slate.prompt, (Candidate("d"), Candidate(c.response(1))), {}, c.slate.meta), 0, 1)


def test_reward_aware_from_scored_pairs_and_from_own_responses(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    offline = rpo_reward_aware(run, start, pairs, distance="squared", beta=1.0)
    want = run.train(
        start, run.curate(pairs, curating.with_scores()), objective=objectives.reward_aware("squared", 1.0)
    )
    assert offline.key == want.key
    with pytest.raises(InputError, match="sampled and judged"):
        rpo_reward_aware(run, start, pairs, mode="online")
    prompts = run.slates(Slate(n, meta={"id": f"{n}{i}"}) for n in "xyz" for i in range(24))
    judge = Scored(lambda slate: [float("abcd".index(c.text)) for c in slate.candidates])
    online = rpo_reward_aware(run, start, pairs, prompts, judge, mode="online", rounds=2, beta=0.5)
    reward = np.tile(np.arange(4.0), (3, 1))
    gained = online.load().expected(reward) - start.load().expected(reward)  # type: ignore[attr-defined]
    assert bool((gained > 0).all()) and float(gained.mean()) > 0.3


def test_squared_reaches_the_tilted_base(bandit) -> None:  # type: ignore[no-untyped-def]
    """pi ~ ref exp(r/beta), by the trainer, from whole groups."""
    run, start, _ = bandit
    settings = {"epochs": 1500, "lr": 0.02, "optimizer": "adam", "schedule": "cosine"}
    groups = run.curate(run.slates(scored()), as_groups)
    long = run.train(start, groups, objective=objectives.reward_aware("squared", 0.8), **settings)
    want = start.load().tilted(REWARDS, 0.8).logp_PA().detach()
    torch.testing.assert_close(table(long).exp(), want.exp(), rtol=0, atol=1e-4)


def as_groups(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """Every slate as one group, its responses in the order they are in."""
    for slate in slates:
        yield group(slate, range(4), (1, 0, 0, -1), score=tuple(slate.column("score")))


def test_the_supervised_stage_has_its_own_rate_and_dpo_its_result_as_reference(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    demos = run.curate(run.slates([Slate("x", (Candidate("a"),)), Slate("y", (Candidate("b"),))]), every_candidate)
    tuned = run.train(start, demos, objective=objectives.matching("pearson", 0.5), lr=0.03, epochs=2.0)
    want = run.train(tuned, pairs, objective=objectives.dpo(0.2), reference=tuned)
    got = sft_implicit_reward(
        run, start, demos, pairs, divergence="pearson", sft_lr=0.03, sft_epochs=2.0, sft_beta=0.5, beta=0.2
    )
    assert got.key == want.key


def test_values_of_states_and_rewards_of_tokens() -> None:
    """r_t = beta logit(a_t) - V(s_{t+1}); the rewards of a response add up to its log-probability and end values."""
    g = torch.Generator().manual_seed(0)
    logits, ids, beta = torch.randn(4, 6, generator=g).double(), torch.tensor([2, 0, 5]), 0.7
    value, reward = q_values(logits, ids, beta)
    np.testing.assert_allclose(value.numpy(), beta * np.log(np.exp(logits.numpy()).sum(-1)), rtol=1e-6)
    logp = logits.log_softmax(-1)[:3].gather(-1, ids[:, None]).sum()
    assert float(reward.sum()) == pytest.approx(float(beta * logp + value[0] - value[-1]), abs=1e-5)
