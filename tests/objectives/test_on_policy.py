"""086 WPO: weights of pairs from the policy's own distribution, against the equations."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.nn import functional as F

from prefine import objectives as o
from prefine.engine.batch import collate_contrasts, encode_contrasts
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.objectives.on_policy import OnPolicy
from prefine.objectives.readings import collision, over_vocabulary
from prefine.objectives.scores import Scores
from prefine.policies.base import Limits
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Slate, pair

torch.set_num_threads(1)


def batch(seed: int, calibration: str) -> tuple[Scores, list[dict[str, list[list[float]]]]]:
    """Three pairs of unlike lengths as scores, and the same numbers by pair and side in plain lists."""
    rng = random.Random(seed)
    lengths = [(3, 2), (1, 4), (2, 2)]
    plain, rows = [], []
    for lw, ll in lengths:
        sides = {
            name: [[rng.uniform(-2, -0.05) for _ in range(n)] for n in (lw, ll)] for name in ("logp", "reference", "c")
        }
        plain.append(sides)
        rows += [(sides["logp"][s], sides["reference"][s], sides["c"][s]) for s in (0, 1)]
    width = 4

    def padded(k: int) -> torch.Tensor:
        return torch.tensor([[*row[k], *[0.0] * (width - len(row[k]))] for row in rows], dtype=torch.float64)

    mask = torch.tensor([[1.0] * len(row[0]) + [0.0] * (width - len(row[0])) for row in rows], dtype=torch.float64)
    name = {"sampled": "collision", "greedy": "peak", "none": None}[calibration]
    scores = Scores(
        logp_NT=padded(0).requires_grad_(), mask_NT=mask, role_N=torch.tensor([1, -1] * 3),
        group_N=torch.tensor([0, 0, 1, 1, 2, 2]), references={"reference": padded(1)},
        readings={} if name is None else {name: padded(2)},
    )  # fmt: skip
    return scores, plain


def weight(sides: dict[str, list[list[float]]], calibrated: bool, clip: bool) -> float:
    """min( w(y_w) w(y_l), 1 ), w(y) = exp( 1/T sum_t [log pi(y_t) - c_t] )."""
    total = 1.0
    for logp, c in zip(sides["logp"], sides["c"], strict=True):
        total *= math.exp(sum(x - (y if calibrated else 0.0) for x, y in zip(logp, c, strict=True)) / len(logp))
    return min(total, 1.0) if clip else total


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("calibration", ["sampled", "greedy", "none"])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_value_and_gradient_are_those_of_the_weighted_loss(calibration: str, clip: bool, eps: float) -> None:
    beta = 0.7
    scores, plain = batch(3, calibration)
    loss = o.wpo(beta, eps, calibration, clip)(scores).mean(scores)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    total, slopes = 0.0, []
    for sides in plain:
        W = weight(sides, calibration != "none", clip)
        gap = [sum(x) - sum(y) for x, y in zip(sides["logp"], sides["reference"], strict=True)]
        h = beta * (gap[0] - gap[1])
        total += W * ((1 - eps) * math.log1p(math.exp(-h)) + eps * math.log1p(math.exp(h))) / 3
        # d/dh of the smoothed loss, times W, which has no slope of its own
        slope = W * beta * (-(1 - eps) / (1 + math.exp(h)) + eps / (1 + math.exp(-h))) / 3
        slopes += [slope, -slope]
    assert float(loss) == pytest.approx(total, abs=1e-12)
    want = torch.tensor(slopes, dtype=torch.float64)[:, None] * scores.mask_NT
    assert torch.allclose(gradient, want, atol=1e-12)


def test_a_weight_with_a_gradient_would_be_seen() -> None:
    """The same loss with the weight left attached has another gradient: so the test above holds the detach."""
    scores, _ = batch(3, "none")
    chosen, rejected = scores.sides(scores.mean())
    loss = ((chosen + rejected).exp().clamp(max=1.0) * o.dpo(0.7)(scores).per_contrast).mean()
    right = o.wpo(0.7, calibration="none")(scores).mean(scores)
    assert float(loss) == pytest.approx(float(right), abs=1e-12)
    a, b = (torch.autograd.grad(x, scores.logp_NT)[0] for x in (loss, right))
    assert not torch.allclose(a, b, atol=1e-3)


def test_weights_of_one_are_dpo_bit_for_bit() -> None:
    scores, _ = batch(5, "none")
    certain = Scores(**{**vars(scores), "readings": {"collision": scores.logp_NT.detach() - 0.1}})  # w = e^0.1 > 1, cut
    a = o.wpo(0.3)(certain).mean(certain)
    b = o.dpo(0.3)(scores).mean(scores)
    assert float(a) == float(b)
    assert all(torch.equal(*pair) for pair in zip(
        torch.autograd.grad(a, scores.logp_NT), torch.autograd.grad(b, scores.logp_NT), strict=True
    ))  # fmt: skip


def test_weights_are_not_renormalised_within_the_batch() -> None:
    scores, _ = batch(5, "none")
    halved = Scores(**{**vars(scores), "readings": {"collision": scores.logp_NT.detach() * 0 + math.log(2) / 2}})
    one = o.wpo(0.3, calibration="none", clip=False)(scores).mean(scores)
    two = o.wpo(0.3, clip=False)(halved).mean(halved)
    assert float(two) == pytest.approx(float(one) / 2, abs=1e-12)


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0, 0.0], [60.0, 0.0, 0.0, 0.0]])
def test_uniform_and_certain_policies_weigh_what_they_say_as_one(logits: list[float]) -> None:
    """Sheet 086 (a): c_t = log sum p^2 is log p of every token that can be drawn, so w(y) is 1 exactly."""
    policy = Tabular(["x"], list("abcd"), [logits])
    slate = Slate("x", tuple(map(Candidate, "abcd")))
    contrasts = [pair(slate, 0, 0)]  # what the policy can emit: any action, or the only one
    rows = collate_contrasts(contrasts, encode_contrasts(policy, contrasts, Limits()), dtype=torch.float64)
    view = policy.view(rows)
    scores = Scores(
        view.logp(), rows.mask_NT, rows.role_N, rows.group_N, readings={"collision": over_vocabulary(collision, view)}
    )
    w = OnPolicy((("collision", None),), None)(scores)  # type: ignore[arg-type]
    assert float(w) == pytest.approx(1.0, abs=1e-12)


def test_the_trainer_reads_the_weight_anew_at_every_step() -> None:
    """Three SGD steps on a table, against the same written out with exact sums."""
    start = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64)
    policy = Tabular(["x"], list("abc"), start[None])
    slate = Slate("x", tuple(map(Candidate, "abc")))
    settings = TrainSettings(
        lr=2.0, max_steps=3, batch_size=2, optimizer="sgd", schedule="constant", warmup=0.0, clip=None
    )
    contrasts = [pair(slate, 0, 1), pair(slate, 2, 1)]
    train(policy, contrasts, o.wpo(0.5), references={"reference": policy.copy()}, settings=settings)
    logits, ref = start.clone().requires_grad_(), start.log_softmax(0)
    for _ in range(3):
        logp = logits.log_softmax(0)
        c = (logp.exp() ** 2).sum().log()
        terms = []
        for w, l in ((0, 1), (2, 1)):
            W = min(float((logp[w] + logp[l] - 2 * c).exp()), 1.0)
            terms.append(W * -F.logsigmoid(0.5 * (logp[w] - ref[w] - logp[l] + ref[l])))
        (step,) = torch.autograd.grad(torch.stack(terms).mean(), logits)
        logits = (logits - 2.0 * step).detach().requires_grad_()
    assert torch.allclose(policy.logp_PA()[0], logits.log_softmax(0), atol=1e-12)


def test_the_wrapper_goes_over_any_pair_loss() -> None:
    scores, plain = batch(7, "sampled")
    W = [weight(sides, True, True) for sides in plain]
    for inner in (o.ipo(0.2), o.simpo(), o.robust(o.dpo(), 0.1)):
        want = [w * float(v) for w, v in zip(W, inner(scores).per_contrast, strict=True)]
        assert o.on_policy(inner)(scores).per_contrast.tolist() == pytest.approx(want, abs=1e-12)
