"""SCIR's loss and LDL-GRPO's against their equations in numpy; masks, swaps, limits and stop-gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prefine import objectives
from prefine.errors import InputError
from prefine.objectives import Scores
from prefine.objectives.agreeing import consensus, inconsistency

PAIRS = 5


def batch(seed: int = 0, judges: int = 2, flip: bool = False) -> tuple[Scores, torch.Tensor]:
    """Pairs with two judges' verdicts in both orders; with ``flip`` first and second change places."""
    rng = np.random.default_rng(seed)
    rows, judge, order, says = 2 + 4 * judges, [0.0, 0.0], [0.0, 0.0], [1.0, -1.0]
    for j in range(1, judges + 1):
        judge += [float(j)] * 4
        order += [0.0, 0.0, 1.0, 1.0]
        says += [1.0, -1.0, -1.0, 1.0]
    logp = torch.tensor(rng.normal(-2, 1, size=rows * PAIRS), requires_grad=True)
    references = {n: torch.tensor(rng.normal(-2, 1, size=(rows * PAIRS, 1))) for n in ("reference", "scoring")}
    sign = -1.0 if flip else 1.0
    values = {"judge": judge * PAIRS, "order": order * PAIRS, "says": [sign * s for s in says * PAIRS]}
    scores = Scores(
        logp[:, None], torch.ones(rows * PAIRS, 1, dtype=torch.float64), torch.zeros(rows * PAIRS, dtype=torch.long),
        torch.arange(PAIRS).repeat_interleave(rows), references,
        {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()},
    )  # fmt: skip
    return scores, logp


def sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def probabilities(x: np.ndarray, scoring: np.ndarray, beta: float, judges: int = 2) -> list[float]:
    """[implicit, generative 1, ...] of one pair, from its rows."""
    told = [sigma(beta * ((x[0] - scoring[0]) - (x[1] - scoring[1])))]
    for j in range(judges):
        a1, b1, a2, b2 = x[2 + 4 * j : 6 + 4 * j]
        first = math.exp(a1) / (math.exp(a1) + math.exp(b1))  # the first response is A
        second = math.exp(a2) / (math.exp(a2) + math.exp(b2))  # the second one is
        told.append((first + 1 - second) / 2)
    return told


def equation(
    x: np.ndarray, scores: Scores, beta: float, lam: float, w: float, sides: list[float] | None = None
) -> float:
    rows, total = len(x) // PAIRS, 0.0
    for g in range(PAIRS):
        here = slice(g * rows, (g + 1) * rows)
        P = probabilities(x[here], scores.references["scoring"][here, 0].numpy(), beta)
        ref = scores.references["reference"][here, 0].numpy()
        h = (x[here][0] - ref[0]) - (x[here][1] - ref[1])
        s = (1.0 if min(P) > 0.5 else -1.0 if max(P) < 0.5 else 0.0) if sides is None else sides[g]
        kl = lambda p, q: p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))  # noqa: E731
        couples = [(kl(P[j], P[k]) + kl(P[k], P[j])) / 2 for j in range(3) for k in range(j)]
        H = np.mean([-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in P])
        total += abs(s) * -math.log(sigma(s * beta * h)) + lam * (np.mean(couples) + w * H)
    return total / PAIRS


def test_scir_s_value_and_gradient_are_the_equation_s() -> None:
    scores, logp = batch()
    loss = objectives.scir(0.7, 0.4, 0.3)(scores).mean(scores)
    x = logp.detach().numpy()
    assert loss.item() == pytest.approx(equation(x, scores, 0.7, 0.4, 0.3), rel=1e-12)
    (slope,) = torch.autograd.grad(loss, logp)
    sides = consensus(objectives.scir(0.7).judges(scores)).tolist()  # type: ignore[attr-defined]
    assert 0 < sum(map(abs, sides)) < PAIRS, "some pairs are agreed on and some are not"
    for i in range(len(x)):
        moved = [equation(x + d * np.eye(len(x))[i], scores, 0.7, 0.4, 0.3, sides) for d in (1e-6, -1e-6)]
        assert float(slope[i]) == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-8)


def test_swapping_the_responses_changes_neither_loss_nor_mask() -> None:
    (scores, _), (swapped, _) = batch(), batch(flip=True)
    objective = objectives.scir(0.7, 0.4, 0.3, margin=0.05)
    assert torch.allclose(objective(scores).per_contrast, objective(swapped).per_contrast)
    ours, theirs = (consensus(objective.judges(s), 0.05) for s in (scores, swapped))
    assert torch.equal(ours, -theirs)


def bernoulli(*p: float) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.tensor(p, dtype=torch.float64)
    return x.log(), (1 - x).log()


def test_the_penalty_is_zero_only_where_all_judges_say_the_same() -> None:
    same, other = bernoulli(0.3, 0.8), bernoulli(0.3, 0.7)
    assert inconsistency([same, same, same]).tolist() == [0.0, 0.0]
    found = inconsistency([same, other, same])
    assert float(found[0]) == 0 and float(found[1]) > 0


def test_all_must_be_on_one_side_by_the_margin() -> None:
    told = [bernoulli(0.9, 0.9, 0.2, 0.55), bernoulli(0.6, 0.4, 0.4, 0.9)]
    assert consensus(told).tolist() == [1.0, 0.0, -1.0, 1.0]
    assert consensus(told, 0.08).tolist() == [1.0, 0.0, -1.0, 0.0]


@pytest.mark.parametrize("judge", ["implicit", "generative"])
def test_without_the_penalty_one_judge_s_labels_are_plain_dpo(judge: str) -> None:
    scores, logp = batch(judges=1)
    loss = objectives.scir(0.3, lam=0.0, label_by=judge)(scores)
    told = objectives.scir(0.3).judges(scores)[judge == "generative"]  # type: ignore[attr-defined]
    first = (told[0] > told[1]).tolist()
    rows = 6
    w, l = ([g * rows + (0 if first[g] == top else 1) for g in range(PAIRS)] for top in (True, False))
    ref = scores.references["reference"][:, 0]
    pairs = Scores.of_pairs(logp[w], logp[l], ref[w], ref[l])
    assert torch.allclose(loss.per_contrast, objectives.dpo(0.3)(pairs).per_contrast)
    (ours,), (theirs,) = (
        torch.autograd.grad(x.per_contrast.sum(), logp, retain_graph=True) for x in (loss, objectives.dpo(0.3)(pairs))
    )
    assert torch.allclose(ours, theirs), "no gradient goes through the label"


def test_still_targets_have_no_gradient() -> None:
    z = torch.tensor([0.8, -0.3], dtype=torch.float64, requires_grad=True)
    told = [
        (torch.nn.functional.logsigmoid(z[i : i + 1]), torch.nn.functional.logsigmoid(-z[i : i + 1])) for i in (0, 1)
    ]
    P, Q = sigma(0.8), sigma(-0.3)
    (still,) = torch.autograd.grad(inconsistency(told, still_targets=True).sum(), z, retain_graph=True)
    assert still.tolist() == pytest.approx([(P - Q) / 2, (Q - P) / 2])  # d/dz_q KL(p || q) = q - p
    (both,) = torch.autograd.grad(inconsistency(told).sum(), z)
    assert float(both[0]) == pytest.approx((P - Q + P * (1 - P) * 1.1) / 2)


def test_a_missing_verdict_is_refused() -> None:
    scores, _ = batch()
    values = {**scores.values, "judge": torch.where(scores.values["judge"] == 2, 1.0, scores.values["judge"])}
    broken = Scores(scores.logp_NT, scores.mask_NT, scores.role_N, scores.group_N, scores.references, values)
    with pytest.raises(ValueError, match="every judge's verdict"):
        objectives.scir()(broken)
    with pytest.raises(InputError, match="label_by"):
        objectives.scir(label_by="nobody")


# -- LDL-GRPO


def group(logp: torch.Tensor, lengths: list[int], ref: list[float], reward: list[float]) -> Scores:
    width = max(lengths)
    mask = torch.tensor([[float(t < n) for t in range(width)] for n in lengths], dtype=torch.float64)
    spread = torch.tensor(lengths, dtype=torch.float64)
    return Scores(
        (logp / spread)[:, None] * mask, mask, torch.zeros(len(lengths), dtype=torch.long),
        torch.zeros(len(lengths), dtype=torch.long),
        {"reference": (torch.tensor(ref, dtype=torch.float64) / spread)[:, None] * mask},
        {"reward": torch.tensor(reward, dtype=torch.float64)},
    )  # fmt: skip


LENGTHS, REF, REWARD = [2, 1, 3], [-2.0, -1.5, -4.0], [0.9, 0.1, 0.4]


def test_label_distribution_is_the_equation_and_pulls_by_q_minus_d() -> None:
    x = np.array([-1.0, -2.5, -3.0])
    logp = torch.tensor(x, requires_grad=True)
    scores = group(logp, LENGTHS, REF, REWARD)
    beta, tau, kl_coef = 0.8, 0.3, 0.05
    ratio = (x - np.array(REF)) / np.array(LENGTHS)
    q, d = (np.exp(v) / np.exp(v).sum() for v in (beta * ratio, np.array(REWARD) / tau))
    near = np.mean(np.exp(-ratio) + ratio - 1)  # every token of a response has the same ratio here
    loss = objectives.label_distribution(beta, tau, kl_coef)(scores).mean(scores)
    assert loss.item() == pytest.approx(-(d * np.log(q)).sum() + kl_coef * near, rel=1e-12)
    plain = objectives.label_distribution(beta, tau, 0.0)(scores).mean(scores)
    (slope,) = torch.autograd.grad(plain, logp)
    assert slope.tolist() == pytest.approx(list(beta / np.array(LENGTHS) * (q - d)))


def test_at_the_reference_the_pull_is_the_advantage_and_equal_scores_have_none() -> None:
    start = torch.tensor(REF, dtype=torch.float64, requires_grad=True)
    for reward in (REWARD, [0.5, 0.5, 0.5]):
        scores = group(start, [1, 1, 1], REF, reward)
        (slope,) = torch.autograd.grad(objectives.label_distribution(1.0, 0.3)(scores).mean(scores), start)
        d = np.exp(np.array(reward) / 0.3) / np.exp(np.array(reward) / 0.3).sum()
        assert slope.tolist() == pytest.approx(list(1 / 3 - d), abs=1e-12)


def test_two_samples_and_a_small_tau_are_dpo_on_token_means() -> None:
    scores = group(torch.tensor([-1.0, -3.0]).double(), [2, 1], [-2.0, -2.0], [0.8, 0.2])
    loss = objectives.label_distribution(0.5, 1e-3, 0.0)(scores).mean(scores)
    margin = 0.5 * ((-1 + 2) / 2 - (-3 + 2) / 1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-margin)), rel=1e-9)


def test_its_least_value_is_the_entropy_of_the_labels() -> None:
    d = np.exp(np.array(REWARD) / 0.3) / np.exp(np.array(REWARD) / 0.3).sum()
    best = torch.tensor(np.log(d) * np.array(LENGTHS) + np.array(REF))
    at_best = objectives.label_distribution(1.0, 0.3, 0.0)(group(best, LENGTHS, REF, REWARD))
    assert at_best.per_contrast.item() == pytest.approx(-(d * np.log(d)).sum())
    moved = objectives.label_distribution(1.0, 0.3, 0.0)(group(best + torch.tensor([0.3, 0, 0]), LENGTHS, REF, REWARD))
    assert moved.per_contrast.item() > at_best.per_contrast.item()
