"""What the recipes of 063, 107 and 141 do, on tabular policies where it can be computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.curating.goals import aimed, goals, relabelled
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.evaluation import Yardstick
from prefine.judging.base import Scored
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, scores
from prefine.systems.data.rationale_po import rationale_po
from prefine.systems.data.reward_augmented import reward_augmented
from prefine.systems.objectives.mrpo import mrpo

SETTINGS = TrainSettings(lr=0.5, epochs=3, batch_size=64, schedule="constant", warmup=0.0, optimizer="sgd")
PROMPTS, ACTIONS = ["x", "y", "z"], ["a", "b", "c"]
SCORES = np.array([[1.0, 4.0, 10.0], [10.0, 4.0, 1.0], [4.0, 10.0, 1.0]])
PUT = goals(text="{goal}")


def table(policy: PolicyHandle) -> torch.Tensor:
    return policy.load().logp_PA().detach()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def bandit(tmp_path: Path) -> tuple[Run, PolicyHandle, Contrasts]:
    """Three prompts with three scored actions each, also under every goal, and all pairs."""
    asked = [*PROMPTS, *(f"{goal}\n\n{p}" for p in PROMPTS for goal in (1, 4, 10))]
    logits = np.random.default_rng(3).normal(size=(len(asked), 3))
    Tabular(asked, ACTIONS, logits).save(tmp_path / "base")
    Tabular(asked, ACTIONS, logits[::-1].copy()).save(tmp_path / "other")
    run = Run(tmp_path / "run", settings=SETTINGS)
    three = tuple(map(Candidate, ACTIONS))
    slates = [Slate(p, three, {"score": scores(list(v))}, {"id": p}) for p, v in zip(PROMPTS, SCORES, strict=True)]
    return run, run.policy(tmp_path / "base"), run.curate(run.slates(slates), curating.all_pairs())


# -- 141


def test_reward_augmented_is_dpo_on_the_relabelled_pairs(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    want = run.train(start, run.curate(pairs, relabelled(PUT)), objective=objectives.dpo(0.3))
    assert reward_augmented(run, start, pairs, objective="dpo(beta=0.3)", text="{goal}").key == want.key


def test_each_goal_gets_its_own_response(bandit) -> None:  # type: ignore[no-untyped-def]
    """What DPO's pairs cannot say: under the goal 4 the response with the score 4 becomes the likeliest."""
    run, start, pairs = bandit
    trained = reward_augmented(run, start, pairs, objective="dpo(beta=1.0)", text="{goal}")
    gained = (table(trained) - table(start)).numpy()[3:].reshape(3, 3, 3)  # prompt, goal, action
    for p in range(3):
        for g, goal in enumerate((1.0, 4.0, 10.0)):
            assert gained[p, g].argmax() == int(np.flatnonzero(SCORES[p] == goal)[0])


def test_own_samples_are_scored_and_the_yardstick_asks_for_the_best(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    judge = Scored(
        lambda slate: [float(SCORES["xyz".index(str(slate.prompt)), "abc".index(c.text)]) for c in slate.candidates]
    )
    held = run.slates([Slate(p, meta={"id": p}) for p in PROMPTS])
    run.yardstick = Yardstick(start, held, judge, pairs)
    prompts = run.slates(Slate(p, meta={"id": f"{p}{i}"}) for p in PROMPTS for i in range(8))
    trained = reward_augmented(
        run, start, None, prompts, judge, learn_from="samples", objective="dpo(beta=0.3)", text="{goal}", n=4
    )
    assert [s.prompt for s in run.yardstick.prompts] == [f"10\n\n{p}" for p in PROMPTS]
    figures = run.watch(trained)  # the judge would not know the prompts with goals
    assert 1.0 <= figures["reward"] <= 10.0 and "win_rate" in figures
    assert 0.0 <= figures["pair_accuracy"] <= 1.0
    assert [c.prompt(0) for c in run.yardstick.pairs][:1] == [aimed(PUT).slates([held[0]]).__next__().prompt]


@pytest.mark.parametrize(
    "options",
    [{"text": "x"}, {"scale": (3.0, 3.0)}, {"objective": "dop"}, {"by": ("height",)}, {"learn_from": "demos"}],
)
def test_reward_augmented_checks_first(bandit, options) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    with pytest.raises(InputError):
        reward_augmented(run, start, pairs, **options)


def test_it_says_which_inputs_it_lacks(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, _ = bandit
    with pytest.raises(InputError, match="prompts and a judge"):
        reward_augmented(run, start, None, learn_from="samples")
    with pytest.raises(InputError, match="needs pairs"):
        reward_augmented(run, start, None)


# -- 107


def test_mrpo_with_no_room_beside_the_start_is_dpo(bandit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    plain = run.train(start, pairs, objective=objectives.dpo(0.3))
    for combine in ("references", "losses"):
        ours = mrpo(run, start, pairs, references=(str(tmp_path / "other"),), beta=0.3, eps=0.0, combine=combine)
        torch.testing.assert_close(table(ours), table(plain), rtol=0, atol=1e-12)


def test_mrpo_with_all_weight_on_another_reference_is_dpo_against_it(bandit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    other = run.policy(tmp_path / "other")
    want = run.train(start, pairs, objective=objectives.dpo(0.3), reference=other)
    names = (str(start.path), str(other.path))
    got = mrpo(run, start, pairs, references=names, beta=0.3, eps=None, alpha=(0.0, 0.0, 1.0))
    torch.testing.assert_close(table(got), table(want), rtol=0, atol=1e-9)


def test_the_minimiser_tilts_the_harmonic_mean(bandit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Soft labels sigma(r_i - r_j) on every pair of actions, both orders: pi ~ harmonic mean * exp(r/beta)."""
    run, start, _ = bandit
    beta, gold = 0.5, np.random.default_rng(0).normal(size=(3, 3))
    rows = []
    for p, prompt in enumerate(PROMPTS):
        for i in range(3):
            for j in range(i):
                chance = 1 / (1 + np.exp(-(gold[p, i] - gold[p, j])))
                two = (Candidate(ACTIONS[i]), Candidate(ACTIONS[j]))
                table_ = {"preference": curating_table(chance)}
                rows.append(Slate(prompt, two, table_, {"id": f"{prompt}{i}{j}"}))
    found = run.curate(run.slates(rows), with_preference)
    other = run.policy(tmp_path / "other")
    found = run.curate((found, run.logps(other, found)), curating.with_logps("second"))
    loss = objectives.soft_labels(objectives.mrpo(beta, "second", (1.0, 3.0), None))
    settings = {"epochs": 800, "lr": 0.1, "optimizer": "adam", "schedule": "cosine"}
    trained = table(run.train(start, found, objective=loss, **settings))[:3].exp().numpy()
    first, second = (table(p)[:3].exp().numpy() for p in (start, other))
    want = 1 / (0.25 / first + 0.75 / second) * np.exp(gold / beta)
    np.testing.assert_allclose(trained, want / want.sum(1, keepdims=True), atol=2e-4)


def curating_table(chance: float):  # type: ignore[no-untyped-def]
    from prefine.slate import table as made

    return made([[0.5, chance], [1 - chance, 0.5]])


def with_preference(slates, rng):  # type: ignore[no-untyped-def]
    from prefine.slate import pair

    return (pair(s, 0, 1, preference=s.column("preference")[0][1]) for s in slates)


def test_a_reference_can_be_made_of_the_same_pairs(bandit) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    supervised = run.train(start, pairs, objective=objectives.sft())
    found = run.curate((pairs, run.logps(supervised, pairs)), curating.with_logps("reference_2"))
    want = run.train(start, found, objective=objectives.mrpo(0.3, ("reference_2",), eps=0.2))
    assert mrpo(run, start, pairs, beta=0.3, eps=0.2).key == want.key


@pytest.mark.parametrize(
    "options", [{"references": ()}, {"references": ("/nowhere",)}, {"alpha": (1.0,)}, {"eps": 2.0}, {"weights": "mine"}]
)
def test_mrpo_checks_first(bandit, options) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = bandit
    with pytest.raises(InputError):
        mrpo(run, start, pairs, **options)


# -- 063


@pytest.fixture
def explained(tmp_path: Path) -> tuple[Run, PolicyHandle, Contrasts]:
    """One prompt, two answers, and two rationales after both of them."""
    Tabular(["x", "x|a|b"], [["a", "b"], ["because", "why not"]]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=SETTINGS)
    slate = Slate("x", (Candidate("a"), Candidate("b")), {"score": scores([1.0, 0.0])}, {"rationale": "because"})
    return run, run.policy(tmp_path / "base"), run.curate(run.slates([slate]), curating.all_pairs())


ASKED = "{prompt}|{above}|{below}"


def test_the_rationale_is_learnt_beside_the_pair_and_changes_nothing_of_it(explained) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = explained
    ours = rationale_po(run, start, pairs, objective="rationale-dpo(beta=0.3,gamma=0.5)", ask=ASKED)
    plain = run.train(start, pairs, objective=objectives.dpo(0.3), clip=None)
    free = rationale_po(run, start, pairs, objective="rationale-dpo(beta=0.3,gamma=0.0)", ask=ASKED)
    assert table(ours)[1, 0] > table(start)[1, 0] + 0.02
    torch.testing.assert_close(table(free), table(plain), rtol=0, atol=1e-9)


def test_rationales_of_the_policy_itself(explained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = explained
    from prefine.curating.rationales import requests

    asked = [slate.prompt for slate in requests(pairs)]
    Tabular(asked, ["because"]).save(tmp_path / "writer")
    options = {"objective": "rationale-dpo(gamma=0.5)", "ask": ASKED}
    written = rationale_po(run, start, pairs, rationales="written", writer=str(tmp_path / "writer"), **options)
    torch.testing.assert_close(table(written), table(rationale_po(run, start, pairs, **options)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"objective": "dpo"}, {"rationales": "none"}, {"rationales": "aspects"}, {"column": "reason"}, {"kind": "long"},
     {"ask": "why?"}, {"rationales": "written", "writer": "/nowhere"}],
)  # fmt: skip
def test_rationale_po_checks_first(explained, options) -> None:  # type: ignore[no-untyped-def]
    run, start, pairs = explained
    with pytest.raises(InputError):
        rationale_po(run, start, pairs, **options)
