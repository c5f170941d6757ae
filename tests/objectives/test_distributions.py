"""059 EXO: the reverse KL over candidates, against its equation, its limits and the gradient of the true objective."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.objectives.scores import Scores

torch.set_num_threads(1)
F64 = torch.float64


def groups(seed: int, sizes: tuple[int, ...], T: int = 4) -> tuple[Scores, list[np.ndarray], list[np.ndarray]]:
    """Ragged groups; the log-ratios (token sums) and the scores of every group beside."""
    g = torch.Generator().manual_seed(seed)
    N = sum(sizes)
    lengths = torch.randint(1, T + 1, (N,), generator=g)
    mask = (torch.arange(T)[None] < lengths[:, None]).double()
    logp, ref = (-torch.rand(N, T, generator=g, dtype=F64) * mask for _ in range(2))
    reward = torch.randn(N, generator=g, dtype=F64)
    group_N = torch.tensor([k for k, size in enumerate(sizes) for _ in range(size)])
    role_N = torch.tensor([r for size in sizes for r in (1, *[0] * (size - 2), -1)])
    scores = Scores(logp.requires_grad_(), mask, role_N, group_N, {"reference": ref}, {"score": reward})
    ratio = ((logp - ref) * mask).sum(-1).detach().numpy()
    split = np.cumsum(sizes)[:-1]
    return scores, np.split(ratio, split), np.split(reward.numpy(), split)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_of_any_size_follow_the_equation(divergence: str, seed: int) -> None:
    beta, beta_r = 0.7, 0.4
    scores, ratios, rewards = groups(seed, (2, 5, 3))

    def equation(ratios: list[np.ndarray]) -> float:
        values = []
        for ratio, reward in zip(ratios, rewards, strict=True):
            f, p = log_softmax(beta * ratio), log_softmax(reward / beta_r)
            values.append((np.exp(f) * (f - p)).sum() if divergence == "reverse" else -(np.exp(p) * f).sum())
        return float(np.mean(values))

    loss = o.exo_rewards(beta, beta_r, divergence)(scores).mean(scores)
    assert loss.item() == pytest.approx(equation(ratios), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    row, h = 0, 1e-6
    for k, ratio in enumerate(ratios):
        for i in range(len(ratio)):
            around = []
            for step in (h, -h):
                moved = [r.copy() for r in ratios]
                moved[k][i] += step
                around.append(equation(moved))
            want = (around[0] - around[1]) / (2 * h)
            length = int(scores.length_N[row])
            assert gradient[row].tolist() == pytest.approx([want] * length + [0.0] * (4 - length), abs=1e-8)
            row += 1


@pytest.mark.parametrize("eps", [1e-3, 0.1])
def test_the_pair_form_is_its_equation_and_the_general_loss(eps: float) -> None:
    """(i) and the released target: log p = (0, -10) unnormalised differs by a constant alone."""
    z = np.linspace(-8, 8, 33)
    zeros = torch.zeros(len(z), dtype=F64)
    chosen = torch.tensor(z / 0.5, requires_grad=True)
    pairs = Scores.of_pairs(chosen, zeros, zeros, zeros)
    f, b = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    want = f * (np.log(f) - math.log(1 - eps)) + b * (np.log(b) - math.log(eps))
    assert o.exo(0.5, eps)(pairs).per_contrast.detach().numpy() == pytest.approx(want, abs=1e-12)
    rewards = torch.tensor([[math.log(1 - eps), math.log(eps)]] * len(z), dtype=F64)
    general = Scores.of_pairs(chosen, zeros, zeros, zeros, score=rewards)
    assert torch.allclose(
        o.exo_rewards(0.5, 1.0)(general).per_contrast, o.exo(0.5, eps)(pairs).per_contrast, atol=1e-12
    )
    released = f * np.log(f) + b * (np.log(b) + 10)
    own = o.exo(0.5, math.exp(-10) / (1 + math.exp(-10)))(pairs).per_contrast.detach().numpy()
    assert own - released == pytest.approx(math.log1p(math.exp(-10)), abs=1e-12)


@pytest.mark.parametrize("eps", [1e-3, 0.05, 0.3])
def test_pairs_have_a_finite_fixed_point(eps: float) -> None:
    """(ii) the minimiser of the pair loss is z = log((1 - eps)/eps)."""
    want = math.log((1 - eps) / eps)
    z = torch.tensor([want, want - 0.3, want + 0.3], dtype=F64, requires_grad=True)
    zeros = torch.zeros(3, dtype=F64)
    scores = Scores.of_pairs(z, zeros, zeros, zeros)
    (slope,) = torch.autograd.grad(o.exo(1.0, eps)(scores).mean(scores), z)
    assert slope[0].item() == pytest.approx(0, abs=1e-12) and slope[1] < 0 < slope[2]


def test_the_forward_form_on_a_sure_pair_is_dpo() -> None:
    scores, _, _ = groups(3, (2, 2, 2))
    sure = torch.tensor([0.0, -1000.0] * 3, dtype=F64)
    scores = Scores(**{**vars(scores), "values": {"score": sure}})
    ours, dpo = o.exo_rewards(0.3, 1.0, "forward")(scores).mean(scores), o.dpo(0.3)(scores).mean(scores)
    assert ours.item() == pytest.approx(dpo.item(), abs=1e-14)
    (a,), (b,) = (torch.autograd.grad(x, scores.logp_NT) for x in (ours, dpo))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_the_target_has_no_gradient_and_the_policy_has_it_twice() -> None:
    """d/ds_i of sum f (log f - log p) is f_i (log f_i - log p_i - L); without the gradient through f the slope of the
    rest is zero (sum_i f_i d log f_i = 0), and it would not learn."""
    scores, ratios, rewards = groups(0, (4,))
    scores.values["score"].requires_grad_()
    loss = o.exo_rewards(1.0, 1.0)(scores).mean(scores)
    gradient, none = torch.autograd.grad(loss, [scores.logp_NT, scores.values["score"]], allow_unused=True)
    assert none is None
    f, p = log_softmax(ratios[0]), log_softmax(rewards[0])
    want = np.exp(f) * (f - p - (np.exp(f) * (f - p)).sum())
    assert gradient[:, 0].numpy() == pytest.approx(want, abs=1e-12) and np.abs(want).max() > 0.01


def test_many_candidates_give_the_gradient_of_the_alignment_objective() -> None:
    """(iii) 8 arms, beta 1, candidates from the reference: the cosine with grad KL(pi || pi*) is above 0.999."""
    rng = np.random.default_rng(0)
    reference = torch.tensor(rng.normal(size=8)).log_softmax(0)
    reward, beta_r = torch.tensor(rng.normal(size=8)), 0.5
    theta = torch.tensor(rng.normal(size=8), requires_grad=True)
    logp = theta.log_softmax(0)
    optimum = (reference + reward / beta_r).log_softmax(0)
    (want,) = torch.autograd.grad((logp.exp() * (logp - optimum)).sum(), theta, retain_graph=True)
    K, G = 4096, 16
    drawn = torch.tensor(rng.choice(8, size=K * G, p=reference.exp().numpy()))
    scores = Scores(
        logp[drawn][:, None], torch.ones(K * G, 1, dtype=F64), torch.zeros(K * G), torch.arange(G).repeat_interleave(K),
        {"reference": reference[drawn][:, None]}, {"score": reward[drawn]},
    )  # fmt: skip
    (found,) = torch.autograd.grad(o.exo_rewards(1.0, beta_r)(scores).mean(scores), theta)
    assert torch.nn.functional.cosine_similarity(found, want, dim=0) > 0.999


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_both_forms_have_the_tilted_optimum(divergence: str) -> None:
    """beta log pi/ref = r/beta_r + const makes the slope zero: over all actions once, each a candidate."""
    beta, beta_r = 0.6, 0.3
    scores, _, rewards = groups(1, (6,), T=1)
    ref = scores.references["reference"]
    logp = (ref[:, 0] + torch.tensor(rewards[0]) / (beta_r * beta) + 1.7)[:, None].requires_grad_()
    at = Scores(**{**vars(scores), "logp_NT": logp})
    (slope,) = torch.autograd.grad(o.exo_rewards(beta, beta_r, divergence)(at).mean(at), logp)
    assert slope.abs().max() < 1e-12


def test_lists_need_a_score_for_every_response() -> None:
    zeros = torch.zeros(2, dtype=F64)
    scores = Scores.of_pairs(zeros, zeros, zeros, zeros, score=[1.0, 2.0])
    with pytest.raises(ValueError, match="for every response"):
        o.exo_rewards()(scores)
