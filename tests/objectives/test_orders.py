"""130 PAD: distributions over orders, against the equation counted out by hand, and its limits."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.scores import Scores

torch.set_num_threads(1)
F64 = torch.float64


def lists(seed: int, sizes: tuple[int, ...], T: int = 4) -> tuple[Scores, list[np.ndarray], list[np.ndarray]]:
    """Lists of these sizes; their mean token log-probabilities and the teacher's scores beside."""
    g = torch.Generator().manual_seed(seed)
    N = sum(sizes)
    lengths = torch.randint(1, T + 1, (N,), generator=g)
    mask = (torch.arange(T)[None] < lengths[:, None]).double()
    logp = -torch.rand(N, T, generator=g, dtype=F64) * mask
    taught = torch.randn(N, generator=g, dtype=F64)
    group_N = torch.tensor([k for k, size in enumerate(sizes) for _ in range(size)])
    scores = Scores(logp.requires_grad_(), mask, torch.zeros(N, dtype=torch.long), group_N, {}, {"score": taught})
    means = (logp.sum(-1) / lengths).detach().numpy()
    split = np.cumsum(sizes)[:-1]
    return scores, np.split(means, split), np.split(taught.numpy(), split)


def luce(x: np.ndarray) -> np.ndarray:
    """P of every order: at each place, the share of one among those that are left."""
    found = []
    for order in permutations(range(len(x))):
        left, p = list(order), 1.0
        for k in order:
            p *= math.exp(x[k]) / sum(math.exp(x[j]) for j in left)
            left.remove(k)
        found.append(p)
    return np.array(found)


def jsd(p: np.ndarray, q: np.ndarray) -> float:
    m = (p + q) / 2
    return float(0.5 * (p * np.log(p / m)).sum() + 0.5 * (q * np.log(q / m)).sum())


DISTANCE = {
    "jensen-shannon": jsd,
    "forward": lambda p, q: float((q * np.log(q / p)).sum()),
    "reverse": lambda p, q: float((p * np.log(p / q)).sum()),
}


@pytest.mark.parametrize("divergence", DISTANCE)
def test_value_and_slope_follow_the_equation_for_lists_of_any_size(divergence: str) -> None:
    """Prompt by prompt, also with several in a batch: the release mixes over the batch and is right for one alone."""
    beta, sizes = 1.7, (2, 4, 3, 4)
    scores, means, taught = lists(0, sizes)

    def equation(means: list[np.ndarray]) -> float:
        pairs = zip(means, taught, strict=True)
        return float(np.mean([DISTANCE[divergence](luce(beta * s), luce(beta * t)) for s, t in pairs]))

    loss = o.pad(beta, divergence)(scores).mean(scores)
    assert loss.item() == pytest.approx(equation(means), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    row, h = 0, 1e-6
    for k, own in enumerate(means):
        for i in range(len(own)):
            around = []
            for step in (h, -h):
                moved = [m.copy() for m in means]
                moved[k][i] += step
                around.append(equation(moved))
            length = int(scores.length_N[row])
            want = (around[0] - around[1]) / (2 * h) / length
            assert gradient[row, :length].tolist() == pytest.approx([want] * length, abs=1e-8)
            row += 1


def test_orders_sum_to_one_and_two_responses_are_a_logistic() -> None:
    for K in (2, 3, 4, 5):
        x = torch.randn(3, K, dtype=F64, generator=torch.Generator().manual_seed(K))
        assert o.over_orders(x).exp().sum(-1).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    two = torch.tensor([[0.3, -1.1]], dtype=F64)
    assert o.over_orders(two).exp()[0, 0].item() == pytest.approx(1 / (1 + math.exp(-1.4)), abs=1e-12)


def test_only_differences_count_and_agreement_costs_nothing() -> None:
    scores, _, _ = lists(1, (4, 3))
    pad = o.pad(0.9)
    moved = replace(scores, values={"score": scores.values["score"] + torch.tensor([5.0] * 4 + [-3.0] * 3)})
    assert pad(moved).mean(moved).item() == pytest.approx(pad(scores).mean(scores).item(), abs=1e-12)
    own = replace(scores, logp_NT=scores.values["score"][:, None] - 7.0, mask_NT=torch.ones(7, 1, dtype=F64))
    assert pad(own).mean(own).item() == pytest.approx(0.0, abs=1e-12)
    assert pad(scores).mean(scores).item() > 1e-3


def test_a_teacher_on_another_scale_has_a_beta_of_its_own() -> None:
    scores, _, _ = lists(1, (4, 3))
    wide = replace(scores, values={"score": 8 * scores.values["score"]})
    same = o.pad(2.0, beta_t=0.25)(wide).per_contrast
    assert same.tolist() == pytest.approx(o.pad(2.0)(scores).per_contrast.tolist(), abs=1e-12)


def test_the_loss_is_bounded_by_log_two_and_the_divergences_are_not() -> None:
    far = Scores.of_pairs(torch.tensor([-1.0], dtype=F64), torch.tensor([-60.0], dtype=F64), score=[[0.0, 60.0]])
    assert o.pad(10.0)(far).mean(far).item() == pytest.approx(math.log(2), abs=1e-9)
    assert o.pad(10.0, "forward")(far).mean(far).item() > 100
    for seed in range(5):
        scores, _, _ = lists(seed, (4, 2, 3))
        values = o.pad(10.0)(scores).per_contrast
        assert bool((values >= 0).all()) and bool((values <= math.log(2) + 1e-12).all())


def test_the_teacher_is_not_differentiated() -> None:
    scores, _, _ = lists(2, (3,))
    scores.values["score"].requires_grad_()
    for objective in (o.pad(), o.ranked_by()):
        loss = objective(scores).mean(scores)
        own, none = torch.autograd.grad(loss, [scores.logp_NT, scores.values["score"]], allow_unused=True)
        assert none is None and own.abs().max() > 0


def test_the_teachers_order_alone_is_plackett_luce_and_for_two_a_logistic_without_reference() -> None:
    beta = 1.3
    scores, means, taught = lists(3, (2, 4, 3))
    want = []
    for s, t in zip(means, taught, strict=True):
        order = tuple(np.argsort(-t))
        want.append(-math.log(luce(beta * s)[list(permutations(range(len(s)))).index(order)]))
    assert o.ranked_by(beta)(scores).per_contrast.tolist() == pytest.approx(want, abs=1e-12)
    (slope,) = torch.autograd.grad(o.ranked_by(beta)(scores).mean(scores), scores.logp_NT)
    assert bool(slope.isfinite().all())
    pair = Scores.of_pairs([-2.0], [-9.0], chosen_length=[2], rejected_length=[3], score=[[1.0, 0.0]])
    assert o.ranked_by(beta)(pair).mean(pair).item() == pytest.approx(o.simpo(beta, 0.0)(pair).mean(pair).item())


def test_near_ties_of_the_teacher_stay_near_one_half_where_a_pair_loss_pulls_them_apart() -> None:
    """At the student's tie: pad's slope is (nearly) nothing, the slope of -log sigma(beta h) is -beta/2."""
    slopes = {}
    for name, objective in {"ours": o.pad(10.0), "pairs": o.simpo(10.0, 0.0)}.items():
        chosen = torch.zeros(1, dtype=F64, requires_grad=True)
        tie = Scores.of_pairs(chosen, torch.zeros(1, dtype=F64), score=torch.tensor([[1e-3, 0.0]], dtype=F64))
        slopes[name] = torch.autograd.grad(objective(tie).mean(tie), chosen)[0].item()
    assert abs(slopes["ours"]) < 0.02 and slopes["pairs"] == pytest.approx(-5.0)


def test_too_many_responses_are_refused_with_the_number_that_is_not() -> None:
    scores, _, _ = lists(0, (7,))
    with pytest.raises(InputError, match="7 responses"):
        o.pad()(scores)
    with pytest.raises(InputError, match="divergence"):
        o.pad(divergence="sideways")
