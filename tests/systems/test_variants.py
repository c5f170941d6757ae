"""The variants the sheets name beside the default: that they are there, and that they are what is said."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import curating, judging
from prefine.artifacts import PolicyHandle
from prefine.curating.elliptical import Covariance, maximum_likelihood, pessimistic
from prefine.judging.base import Compared
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair, scores
from prefine.systems.iteration.apo_accelerated import apo_accelerated
from prefine.systems.iteration.dice import dice
from prefine.systems.nash.sppo import sppo
from prefine.systems.objectives.ipo import ipo
from prefine.systems.reasoning.scpo import scpo
from prefine.worlds.games import CYCLE, exploitability, von_neumann_winner

ACTIONS = ["rock", "paper", "scissors"]
GAME = np.asarray(CYCLE)


def start(tmp_path: Path, **settings: object) -> tuple[Run, PolicyHandle]:
    """A run on one prompt with three actions, near uniform."""
    from prefine.engine.settings import TrainSettings

    torch.set_num_threads(1)
    plain = {"lr": 0.05, "schedule": "constant", "warmup": 0.0, "clip": None, "batch_size": 64, "save_every": 10_000}
    Tabular(["play"], ACTIONS, [[0.1, 0.0, -0.1]]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({**plain, **settings}))
    return run, run.policy(tmp_path / "base")


def logp(policy: PolicyHandle) -> np.ndarray:
    return policy.load().logp_PA().detach().numpy()[0]  # type: ignore[attr-defined]


def compared(slate: Slate) -> list[list[float]]:
    at = [ACTIONS.index(c.text) for c in slate.candidates]
    return GAME[np.ix_(at, at)].tolist()


# -- 018 SPPO: the game


def exact_rounds(P: np.ndarray, rounds: int, eta: float) -> tuple[np.ndarray, list[float]]:
    """(average policy, exploitability by round) of pi_{t+1} ~ pi_t exp(eta P pi_t), from near uniform."""
    pi, total, course = np.array([0.34, 0.33, 0.33]), np.zeros(3), []
    for _ in range(rounds):
        total += pi
        course.append(exploitability(P, pi))
        pi = pi * np.exp(eta * P @ pi)
        pi /= pi.sum()
    return total / rounds, course


def test_sppo_on_the_cycle_averages_to_the_winner_and_never_settles() -> None:
    average, course = exact_rounds(GAME, 4000, 0.1)
    assert exploitability(GAME, average) < 0.005
    assert average == pytest.approx(von_neumann_winner(GAME), abs=0.02)
    assert np.mean(course[-500:]) > 0.05


def test_a_bradley_terry_reward_cannot_play_the_cycle() -> None:
    """The reward of highest likelihood under P has some best action, and every action is beaten by 0.2 or more."""
    eye = np.eye(3)
    seen = [eye[i] - eye[j] for i in range(3) for j in range(3) for _ in range(round(10 * GAME[i, j])) if i != j]
    reward = maximum_likelihood(np.array(seen), lam=1e-6)
    assert exploitability(GAME, eye[reward.argmax()]) >= 0.2 - 1e-12


@pytest.mark.parametrize("single", [False, True])
def test_an_sppo_round_fits_the_targets_of_its_variant(tmp_path: Path, single: bool) -> None:
    """Two actions, so the fitted policy is one number p: the least squares of both log-ratios to +-t, where t is
    eta (win - 1/2) = eta 0.2 (the win rate has the diagonal in it), or eta (P(w > l) - 1/2) = eta 0.4."""
    run, _ = start(tmp_path, lr=0.03, epochs=100)
    Tabular(["play"], ["good", "bad"]).save(tmp_path / "base")
    prompts = run.slates([Slate("play", meta={"id": str(i)}) for i in range(24)])
    eta = 1.0

    def judged(slate: Slate) -> list[list[float]]:
        good = [c.text == "good" for c in slate.candidates]
        return [[0.5 if a == b else (0.9 if a else 0.1) for b in good] for a in good]

    done = sppo(
        run, run.policy(tmp_path / "base"), prompts, Compared(judged),
        rounds=1, n=2, eta=eta, temperature=1.0, top_p=1.0, single=single, optimizer="adamw", schedule="constant",
    )  # fmt: skip
    t = eta * (0.4 if single else 0.2)
    p = np.linspace(0.3, 0.9, 60_001)
    want = p[((np.log(p / 0.5) - t) ** 2 + (np.log((1 - p) / 0.5) + t) ** 2).argmin()]
    assert np.exp(logp(done)[0]) == pytest.approx(want, abs=1e-3)


def test_scores_alone_become_bradley_terry_win_rates() -> None:
    slate = Slate("play", tuple(map(Candidate, "ab"))).with_feedback("score", scores([np.log(3.0), 0.0]))
    (found,) = curating.win_rate_pairs()([slate], random.Random(0))
    assert found.members == (0, 1) and found.values["preference"] == pytest.approx(0.75)
    assert found.values["win"] == pytest.approx(((0.5 + 0.75) / 2, (0.25 + 0.5) / 2))


# -- 114 IPO: the recipe itself reaches the closed form


def test_the_ipo_recipe_reaches_its_population_optimum(tmp_path: Path) -> None:
    """pi_ref exp(p(y > mu)/tau)/Z with mu uniform, from win rates on the pairs (target="win")."""
    run, policy = start(tmp_path, lr=0.1, epochs=250, schedule="cosine")
    everything = Slate("play", tuple(map(Candidate, ACTIONS)))
    win = GAME.mean(1)
    found = [pair(everything, i, j, win=(float(win[i]), float(win[j]))) for i in range(3) for j in range(3) if i < j]
    pairs = run.curate(run.slates([everything]), lambda rows, rng: found)
    tau = 0.4
    trained = ipo(run, policy, pairs, tau=tau, mean=False, target="win")
    want = torch.as_tensor(logp(policy) + win / tau).softmax(0).numpy()
    assert np.exp(logp(trained)) == pytest.approx(want, abs=1e-4)


# -- 005 accelerated PO


@pytest.mark.parametrize("inner", ["dpo", "sppo"])
def test_without_momentum_the_last_extrapolation_is_the_trained_policy(tmp_path: Path, inner: str) -> None:
    run, policy = start(tmp_path)
    prompts = run.slates([Slate("play", meta={"id": str(i)}) for i in range(12)])

    def go(alpha: float, final: str) -> np.ndarray:
        options = {"rounds": 2, "n": 4, "alpha": alpha, "beta": 0.5, "inner": inner, "final": final}
        return logp(apo_accelerated(run, policy, prompts, Compared(compared), **options))  # type: ignore[arg-type]

    assert go(0.0, "extrapolated") == pytest.approx(go(0.0, "trained"), abs=1e-12)
    assert abs(go(0.5, "extrapolated") - go(0.5, "trained")).max() > 1e-3


# -- 069 ScPO: gold answers where there are some


def answered(prompt: str, answers: list[str], gold: str | None) -> Slate:
    slate = Slate(prompt, tuple(Candidate(f"#### {a}") for a in answers), meta={"answer": gold} if gold else {})
    for judge in (judging.votes("####"), judging.verifier("####")):
        for name, column in judge([slate])[0].items():
            slate = slate.with_feedback(name, column)
    return slate


def test_checked_answers_take_the_place_of_votes() -> None:
    """The minority is right: y+ is right with w = 1. Without a gold answer: the majority, with its margin."""
    known, unknown = (answered("p", ["4", "4", "4", "5"], gold) for gold in ("5", None))
    first, second = curating.checked_else(curating.vote_pairs(0.5))([known, unknown], random.Random(0))
    assert first.members[0] == 3 and first.values == {"weight": 1.0}
    assert second.members[1] == 3 and second.values == {"weight": 0.5}


def test_a_known_answer_that_nobody_found_gives_no_pair_and_no_vote() -> None:
    slate = answered("p", ["4", "4", "4", "5"], "6")
    assert list(curating.checked_else(curating.vote_pairs(0.5))([slate], random.Random(0))) == []


@pytest.mark.parametrize("use_answers", [False, True])
def test_scpo_learns_from_gold_answers_only_when_told_to(tmp_path: Path, use_answers: bool) -> None:
    """The policy mostly answers 1; the gold answer is 2. The votes push to 1, the answers to 2."""
    torch.set_num_threads(1)
    Tabular(["p"], ["#### 1", "#### 2"], [[1.0, 0.0]]).save(tmp_path / "base")
    run = Run(tmp_path / "run")
    policy = run.policy(tmp_path / "base")
    prompts = run.slates([Slate("p", meta={"id": str(i), "answer": "2"}) for i in range(32)])
    done = scpo(run, policy, prompts, rounds=1, n=8, temperature=1.0, top_p=1.0, answer="####", use_answers=use_answers)
    assert bool(logp(done)[1] > logp(policy)[1]) == use_answers


def test_the_chosen_is_a_voter_even_when_an_extra_sample_agrees_with_it() -> None:
    slate = Slate(
        "p", tuple(Candidate(f"#### {a}", origin={"role": r}) for a, r in [("4", "voter")] * 3 + [("4", "extra")] * 5)
    )
    slate = Slate("p", (*slate.candidates, Candidate("#### 9", origin={"role": "extra"})))
    slate = slate.with_feedback("votes", judging.votes("####", "voter")([slate])[0]["votes"])
    for seed in range(20):
        (found,) = curating.vote_pairs(0.7, voters="voter")([slate], random.Random(seed))
        assert found.members[0] < 3 and found.members[1] == 8 and found.values == {"weight": 1.0}


# -- 085 DICE


def test_replayed_prompts_are_disjoint_by_what_they_say_and_not_by_id() -> None:
    def lesson(i: int, file: str) -> object:
        return pair(Slate(f"prompt {i}", (Candidate("a"), Candidate("b")), meta={"id": f"{file}-{i}"}), 0, 1)

    generated, offline = ([lesson(i, file) for i in range(20)] for file in ("generated", "offline"))
    mixed = curating.mix(generated, offline, 0.5, random.Random(0))  # type: ignore[arg-type]
    assert len(mixed) == 20 and len({c.slate.prompt for c in mixed}) == 20


def test_dice_pairs_are_the_extremes_of_the_implicit_reward(tmp_path: Path) -> None:
    """The start is the reference tilted by r, so the implicit reward is r: its best action is raised, its worst
    lowered, with no labels but the starting pair of policies."""
    torch.set_num_threads(1)
    reward = np.array([[0.0, 1.0, 0.4, -1.0]])
    before = Tabular(["p"], ["aaaa", "bbbb", "cccc", "dddd"])
    before.save(tmp_path / "sft")
    before.tilted(reward, 2.0).save(tmp_path / "dpo")
    run = Run(tmp_path / "run")
    policy = run.policy(tmp_path / "dpo")
    prompts = run.slates([Slate("p")])
    human = run.curate(prompts, lambda rows, rng: [pair(Slate("q", (Candidate("x"), Candidate("y"))), 0, 1)] * 4)
    done = dice(run, policy, prompts, human, rounds=1, n=32, gamma=0.0, trained_from=str(tmp_path / "sft"))
    moved = logp(done) - logp(policy)
    assert moved.argmax() == 1 and moved.argmin() == 3


# -- 016 iLR-DPO: what counts as length


def test_the_length_in_the_margin_has_the_end_token_in_it() -> None:
    """|y| of "a b c" is 4 with its end token, that of "a b", cut at the limit, is 2: whether the tokens are known
    from sampling or made from the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from prefine.objectives import length_regularised
    from prefine.objectives.scores import Scores
    from prefine.policies.base import Limits
    from prefine.policies.text import TextCodec

    raw = Tokenizer(models.WordLevel({"<eos>": 0, "p": 1, "a": 2, "b": 3, "c": 4}, unk_token="<eos>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    codec = TextCodec(PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>"))
    written = (Candidate("a b c"), Candidate("a b", stop="length"))
    drawn = (Candidate("a b c", tokens=(2, 3, 4, 0), stop="end"), Candidate("a b", tokens=(2, 3), stop="length"))
    for candidates in (written, drawn):
        rows = codec.rows(pair(Slate("p", candidates), 0, 1), Limits())
        lengths = [int(sum(row.mask)) for row in rows]
        assert lengths == [4, 2]
        flat = Scores.of_pairs([0.0], [0.0], [0.0], [0.0], chosen_length=[lengths[0]], rejected_length=[lengths[1]])
        loss = float(length_regularised(0.1, 0.5)(flat).mean(flat))
        assert loss == pytest.approx(np.log1p(np.exp(-0.5 * (4 - 2))), abs=1e-6)


# -- 028 DPO-VP: steps are learnt as they are judged


def test_steps_are_learnt_without_an_end_token_as_they_are_judged() -> None:
    slate = Slate("p", (Candidate("a\nb\nc"),)).with_feedback("verified", scores([1.0]))
    found = list(curating.step_points()([slate], random.Random(0)))
    assert [c.response(0) for c in found] == ["a\n", "a\nb\n", "a\nb\nc"]
    assert {c.slate.candidates[0].stop for c in found} == {"length"} and {c.roles for c in found} == {(1,)}


def test_of_a_wrong_answer_only_the_low_steps_are_bad() -> None:
    from prefine.slate import Feedback

    slate = Slate("p", (Candidate("a\nb\nc"),)).with_feedback("verified", scores([0.0]))
    slate = slate.with_feedback("steps", Feedback("steps", ((0.9, 0.2, 0.1),)))
    found = list(curating.step_points()([slate], random.Random(0)))
    assert [(c.response(0), c.roles) for c in found] == [("a\nb\n", (-1,)), ("a\nb\nc", (-1,))]


# -- 004: the linear theory


def test_the_pessimistic_gibbs_policy_avoids_what_the_labels_never_showed() -> None:
    """Features e1 (seen, good), e2 (seen, bad), e3 (never seen, and the fit says nothing of it)."""
    phi = np.eye(3)
    differences = np.array([phi[0] - phi[1]] * 18 + [phi[1] - phi[0]] * 2)
    theta = maximum_likelihood(differences, lam=1e-6)
    assert theta[0] - theta[1] == pytest.approx(np.log(9), abs=1e-3) and theta[2] == pytest.approx(0)
    reward = np.array([0.0, -2.0, 0.1]) + 0 * theta  # a fit that rates the unseen one a little higher
    seen = Covariance.ridge(3).add(differences)
    nu = phi[:2].mean(0)
    naive, careful = (
        Tabular(["x"], ["seen", "bad", "unseen"]).tilted([list(r)], 0.2).probabilities("x").numpy()
        for r in (reward, pessimistic(reward, phi, nu, seen, 1.0))
    )
    assert naive.argmax() == 2 and careful.argmax() == 0


def test_the_likelihood_fit_is_stationary_and_survives_separable_labels() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 4)) + 0.3
    theta = maximum_likelihood(z, lam=0.1)
    slope = (z / (1 + np.exp(z @ theta))[:, None]).sum(0) - 0.1 * theta
    assert np.abs(slope).max() < 1e-9
    assert np.isfinite(maximum_likelihood(np.ones((5, 1)))).all()
