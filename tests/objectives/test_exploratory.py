"""VPO, XPO, SPAC, HyPO and RSO against their equations, in float64, and in the limits where they are something else.

The equations are written here in numpy from the papers; gradients are compared with central differences of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.calibrated import Expected, Marked, Side
from prefine.objectives.critic import Excess
from prefine.objectives.hinged import LOSSES
from prefine.objectives.measures import Reward
from prefine.objectives.scores import Loss, Objective, Scores, traits
from prefine.policies.tabular import Tabular

torch.set_num_threads(1)
F64 = torch.float64


# -- a batch of contrasts with a pair, a calibration mark on one of its members, and own samples of unlike number

ROLES = [[1, -1, 0, 0], [-1, 1, 0], [1, 0, -1, 0, 0]]
MARKS = [[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]


def batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logp, reference, mask), (N, T) each, with padding and with tokens inside that do not count."""
    rng = np.random.default_rng(seed)
    N, T = sum(map(len, ROLES)), 5
    mask = (rng.random((N, T)) < 0.8).astype(float)
    mask[:, 0] = 1.0
    return -rng.random((N, T)) * 2 * mask, -rng.random((N, T)) * 2 * mask, mask


def scores_of(logp: Tensor, reference: np.ndarray, mask: np.ndarray, **more: np.ndarray) -> Scores:
    return Scores(
        logp_NT=logp,
        mask_NT=torch.as_tensor(mask),
        role_N=torch.tensor([r for roles in ROLES for r in roles]),
        group_N=torch.tensor([g for g, roles in enumerate(ROLES) for _ in roles]),
        references={"reference": torch.as_tensor(reference), **{k: torch.as_tensor(v) for k, v in more.items()}},
        values={"calibration": torch.tensor([m for marks in MARKS for m in marks], dtype=F64)},
    )


def contrasts(logp: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> list[list[tuple[int, float, float, float]]]:
    """contrast -> (role, mark, log pi(y), log ref(y)) of its members."""
    rows = iter(zip((logp * mask).sum(1), (reference * mask).sum(1), strict=True))
    return [
        [(role, mark, *next(rows)) for role, mark in zip(roles, marks, strict=True)]
        for roles, marks in zip(ROLES, MARKS, strict=True)
    ]


Equation = Callable[[list[tuple[int, float, float, float]]], float]


def log_sigma(z: float) -> float:
    return -math.log1p(math.exp(-z))


def ratio(members: list[tuple[int, float, float, float]], role: int) -> float:
    return next(lp - rp for r, _, lp, rp in members if r == role)


def gap(members: list[tuple[int, float, float, float]]) -> float:
    return ratio(members, 1) - ratio(members, -1)


def mean_ratio(members: list[tuple[int, float, float, float]], role: int) -> float:
    return float(np.mean([lp - rp for r, _, lp, rp in members if r == role]))


def vpo_online(m: list[tuple[int, float, float, float]]) -> float:
    return -log_sigma(0.3 * gap(m)) + 0.7 * 0.3 * mean_ratio(m, 0)


def vpo_offline(m: list[tuple[int, float, float, float]]) -> float:
    return -log_sigma(0.3 * gap(m)) - 0.7 * 0.3 * ratio(m, 1)


def vpo_rejected(m: list[tuple[int, float, float, float]]) -> float:
    return -log_sigma(0.3 * gap(m)) + 0.7 * 0.3 * ratio(m, -1)


def xpo(m: list[tuple[int, float, float, float]]) -> float:
    return -log_sigma(0.3 * gap(m)) + 0.05 * sum(mark * lp for _, mark, lp, _ in m)


def xpo_ipo(m: list[tuple[int, float, float, float]]) -> float:
    return (gap(m) - 1 / (2 * 0.3)) ** 2 + 0.05 * sum(mark * lp for _, mark, lp, _ in m)


def spac_excesses(m: list[tuple[int, float, float, float]], beta: float) -> list[float]:
    centre = beta / 2 * (ratio(m, 1) + ratio(m, -1))
    return [beta * (lp - rp) - centre for role, _, lp, rp in m if role == 0]


def spac_linear(m: list[tuple[int, float, float, float]]) -> float:
    return 1.7 * -log_sigma(0.3 * gap(m)) + float(np.mean(spac_excesses(m, 0.3)))


def spac_smooth(m: list[tuple[int, float, float, float]]) -> float:
    return 1.7 * -log_sigma(0.3 * gap(m)) + float(np.mean([-log_sigma(-z) for z in spac_excesses(m, 0.3)]))


def rso_hinge_norm(m: list[tuple[int, float, float, float]]) -> float:
    return max(0.0, 1 - 0.4 * gap(m))


def rso_hinge(m: list[tuple[int, float, float, float]]) -> float:
    chosen, rejected = (next(lp for r, _, lp, _ in m if r == role) for role in (1, -1))
    return max(0.0, 1 - 0.4 * (chosen - rejected))


def rso_sigmoid(m: list[tuple[int, float, float, float]]) -> float:
    return -log_sigma(0.4 * gap(m))


CASES: list[tuple[Objective, Equation]] = [
    (o.vpo(0.3, 0.7, "online"), vpo_online),
    (o.vpo(0.3, 0.7, "offline"), vpo_offline),
    (o.vpo(0.3, 0.7, "online", "rejected"), vpo_rejected),
    (o.xpo(0.3, 0.05), xpo),
    (o.xpo(0.3, 0.05, "ipo"), xpo_ipo),
    (o.spac(0.3, 1.7, "linear"), spac_linear),
    (o.spac(0.3, 1.7, "smooth"), spac_smooth),
    (o.rso(0.4, "sigmoid-norm"), rso_sigmoid),
    (o.rso(0.4, "hinge-norm"), rso_hinge_norm),
    (o.rso(0.4, "hinge"), rso_hinge),
]
NAMES = [equation.__name__ for _, equation in CASES]


@pytest.mark.parametrize(("objective", "equation"), CASES, ids=NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_are_the_equation_s(objective: Objective, equation: Equation, seed: int) -> None:
    logp, reference, mask = batch(seed)

    def value(at: np.ndarray) -> float:
        return float(np.mean([equation(members) for members in contrasts(at, reference, mask)]))

    theta = torch.tensor(logp, requires_grad=True)
    scores = scores_of(theta, reference, mask)
    loss = objective(scores).mean(scores)
    assert loss.item() == pytest.approx(value(logp), rel=1e-12)
    (found,) = torch.autograd.grad(loss, theta)
    step = 1e-6
    for n, t in itertools.product(*map(range, logp.shape)):
        moved = np.zeros_like(logp)
        moved[n, t] = step
        slope = (value(logp + moved) - value(logp - moved)) / (2 * step)
        assert found[n, t].item() == pytest.approx(slope, abs=1e-8), (n, t)


# -- 099 VPO


def test_a_calibrated_reward_s_value_is_a_likelihood() -> None:
    """beta log sum ref exp(r/beta) = -beta E_cal[log pi_r - log ref] for every r with E_cal[r] = 0; by the library."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        ref, cal, beta = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6)), float(rng.uniform(0.05, 2))
        r = rng.normal(size=6)
        r -= cal @ r
        start = Tabular.of(["x"], list("abcdef"), ref[None])
        pi = start.tilted(r[None], beta)
        rows = Scores(
            pi.logp_PA()[0][:, None], torch.ones(6, 1, dtype=F64), torch.zeros(6), torch.zeros(6, dtype=torch.long),
            {"reference": start.logp_PA()[0][:, None]}, {"calibration": torch.as_tensor(cal)},
        )  # fmt: skip
        value = beta * math.log(float(ref @ np.exp(r / beta)))
        assert -beta * Expected(Marked())(rows).per_contrast.item() == pytest.approx(value, abs=1e-12)


def test_offline_vpo_on_the_chosen_has_the_gradient_of_the_adversarial_regulariser() -> None:
    logp, reference, mask = batch()
    theta = torch.tensor(logp, requires_grad=True)
    scores = scores_of(theta, reference, mask)
    ours, theirs = (obj(scores).mean(scores) for obj in (o.vpo(0.2, 0.6), o.regularised(0.2, 0.6)))
    for a, b in zip(*(torch.autograd.grad(loss, theta) for loss in (ours, theirs)), strict=True):
        assert torch.allclose(a, b, atol=1e-15)
    constant = 0.6 * 0.2 * scores.sum(scores.references["reference"])[scores.role_N == 1].mean()
    assert (ours - theirs).item() == pytest.approx(constant.item(), abs=1e-12)


@pytest.mark.parametrize("objective", [o.vpo(0.2, 0.0), o.vpo(0.2, 0.0, "online"), o.xpo(0.2, 0.0), o.hypo(0.2, 0.0)])
def test_without_its_term_it_is_dpo(objective: Objective) -> None:
    logp, reference, mask = batch()
    found = {}
    for name, objective_ in {"ours": objective, "dpo": o.dpo(0.2)}.items():
        theta = torch.tensor(logp, requires_grad=True)
        scores = scores_of(theta, reference, mask)
        loss = objective_(scores).mean(scores)
        found[name] = (loss.detach(), *torch.autograd.grad(loss, theta))
    assert all(torch.equal(a, b) for a, b in zip(found["ours"], found["dpo"], strict=True))


def test_optimism_lowers_and_pessimism_raises_the_calibration_responses() -> None:
    logp, reference, mask = batch()
    slopes = {}
    for mode in ("online", "offline"):
        theta = torch.tensor(logp, requires_grad=True)
        scores = scores_of(theta, reference, mask)
        o.vpo(0.1, 1.0, mode, "other")(scores).mean(scores).backward()
        slopes[mode] = theta.grad[scores.role_N == 0].sum().item()  # type: ignore[index]
    assert slopes["online"] > 0 > slopes["offline"]


def test_a_contrast_without_calibration_response_is_refused() -> None:
    scores = Scores.of_pairs([-1.0], [-2.0], [-1.0], [-1.0])
    with pytest.raises(ValueError, match="calibration response"):
        o.vpo(mode="online")(scores)
    with pytest.raises(KeyError, match="calibration"):
        o.xpo()(scores)


# -- 068 XPO


def test_the_exploration_term_s_gradient_is_alpha_on_the_reference_s_response_alone() -> None:
    logp, reference, mask = batch()
    theta = torch.tensor(logp, requires_grad=True)
    scores = scores_of(theta, reference, mask)
    with_term, without = (obj(scores).mean(scores) for obj in (o.xpo(0.1, 0.03), o.dpo(0.1)))
    extra = torch.autograd.grad(with_term, theta)[0] - torch.autograd.grad(without, theta)[0]
    marked = scores.values["calibration"][:, None]
    assert torch.allclose(extra, 0.03 * marked * torch.as_tensor(mask) / len(ROLES), atol=1e-15)


def test_xpo_is_online_vpo_with_weight_alpha_over_beta() -> None:
    logp, reference, mask = batch()
    gradients = []
    for objective in (o.xpo(0.2, 0.03), o.vpo(0.2, 0.03 / 0.2, "online", "marked")):
        theta = torch.tensor(logp, requires_grad=True)
        scores = scores_of(theta, reference, mask)
        gradients += torch.autograd.grad(objective(scores).mean(scores), theta)
    assert torch.allclose(*gradients, atol=1e-15)


def test_below_the_floor_the_term_is_a_constant() -> None:
    logp = torch.tensor([[-1.0], [-5.0], [-9.0]], dtype=F64, requires_grad=True)
    scores = Scores(
        logp, torch.ones(3, 1, dtype=F64), torch.tensor([1, -1, -1]), torch.tensor([0, 0, 1]),
        {"reference": torch.full((3, 1), -4.0, dtype=F64)}, {"calibration": torch.tensor([0.0, 1.0, 1.0], dtype=F64)},
    )  # fmt: skip
    loss = o.explored(floor=-3.0)(scores)
    assert loss.per_contrast.tolist() == [-5.0, -7.0]  # log-ratios -1, kept, and -5, held at -3: log pi = -4 - 3
    loss.per_contrast.sum().backward()
    assert logp.grad.flatten().tolist() == [0.0, 1.0, 0.0]  # type: ignore[union-attr]
    assert traits(o.explored())[0] == () and traits(o.explored(-3.0))[0] == ("reference",)


# -- 061 SPAC


def test_spac_without_its_critic_is_dpo_and_so_it_is_in_the_limit() -> None:
    logp, reference, mask = batch()
    theta = torch.tensor(logp, requires_grad=True)
    scores = scores_of(theta, reference, mask)
    pairs, critic = o.spac(0.2, 1.0, "linear").objectives
    assert abs(pairs(scores).mean(scores) - o.dpo(0.2)(scores).mean(scores)).item() < 1e-12
    (dpo,) = torch.autograd.grad(o.dpo(0.2)(scores).mean(scores), theta, retain_graph=True)
    (much,) = torch.autograd.grad(o.spac(0.2, 1e9, "smooth")(scores).mean(scores) / 1e9, theta)
    assert torch.allclose(dpo, much, atol=1e-9)
    assert isinstance(critic, Excess)


@pytest.mark.parametrize("form", ["linear", "smooth"])
def test_without_data_the_own_samples_go_down_and_both_data_responses_up(form: str) -> None:
    logp, reference, mask = batch()
    theta = torch.tensor(logp, requires_grad=True)
    scores = scores_of(theta, reference, mask)
    o.spac(0.2, 0.0, form)(scores).mean(scores).backward()
    slope_N = (theta.grad * torch.as_tensor(mask)).sum(1)  # type: ignore[operator]
    assert (slope_N[scores.role_N == 0] > 0).all() and (slope_N[scores.role_N != 0] < 0).all()


@pytest.mark.parametrize("form", ["linear", "smooth"])
def test_a_shift_by_a_constant_of_the_prompt_changes_nothing(form: str) -> None:
    """... so a log-ratio can stand for a reward: f = beta q + c(x)."""
    logp, reference, mask = batch()
    objective = o.spac(0.2, 1.3, form, Reward())
    ratios = torch.as_tensor(((logp - reference) * mask).sum(1))[:, None]
    scores = replace(scores_of(ratios, 0 * ratios.numpy(), np.ones((len(ratios), 1))), references={})
    shift_G = torch.tensor([5.0, -3.0, 0.5], dtype=F64)
    shifted = replace(scores, logp_NT=ratios + shift_G[scores.group_N][:, None])
    assert torch.allclose(objective(scores).per_contrast, objective(shifted).per_contrast, atol=1e-12)


def test_the_smooth_critic_is_bounded_below_and_the_linear_one_is_not() -> None:
    def critic(q: float, form: str) -> float:
        one = torch.ones(3, 1, dtype=F64)
        scores = Scores(
            torch.tensor([[0.0], [0.0], [q]], dtype=F64), one, torch.tensor([1, -1, 0]), torch.tensor([0, 0, 0]),
            {"reference": 0 * one},
        )  # fmt: skip
        return o.spac(1.0, 0.0, form)(scores).per_contrast.item()

    assert 0 <= critic(-1e3, "smooth") < 1e-12 and critic(-1e3, "linear") == -1e3
    assert critic(1e3, "smooth") == pytest.approx(critic(1e3, "linear"))


def minimised(loss: Callable[[Tensor], Tensor], size: int) -> Tensor:
    theta = torch.zeros(size, dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=400, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(theta)
        value.backward()
        return value

    for _ in range(5):
        optimiser.step(closure)  # type: ignore[arg-type]
    return theta.detach()


def test_the_mirror_step_on_the_critic_is_the_minimiser_of_the_policy_s_loss() -> None:
    """SPAC-T: f_t = w . phi minimises the critic's loss, pi_{t+1} ~ pi_t exp(f_t/beta); the same loss over pi_t
    exp(theta . phi) has its minimum there, and log pi_{t+1} - log pi_t - f_t/beta is one constant."""
    beta, lam, rng = 0.5, 3.0, np.random.default_rng(2)
    phi = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0], [0.5, 0.5]], dtype=F64)
    start = Tabular(["x"], list("abcd"), [rng.normal(size=4).tolist()])
    now = start.logp_PA().detach()[0]
    pairs, weights = [(0, 1), (1, 0)], torch.tensor([0.8, 0.2], dtype=F64)

    def total(objective: Objective, value_A: Tensor, reference_A: Tensor) -> Tensor:
        """E over the pairs and over y' ~ pi_t, written out: one contrast for every pair and action."""
        lessons = [(w, l, y) for w, l in pairs for y in range(4)]
        at = torch.tensor(lessons).flatten()
        scores = Scores(
            value_A[at][:, None], torch.ones(len(at), 1, dtype=F64), torch.tensor([1, -1, 0]).repeat(len(lessons)),
            torch.arange(len(lessons)).repeat_interleave(3), {"reference": reference_A[at][:, None]},
        )  # fmt: skip
        seen = (weights[:, None] * now.exp()[None]).flatten()
        return (seen * objective(scores).per_contrast).sum()

    # a direction along which nothing is compared is free: phi (1, 1) moves a and b alike, so pin it by a little weight
    ridge = 1e-3
    f = phi @ minimised(
        lambda w: total(o.spac(1.0, lam, "linear", Reward()), phi @ w, 0 * now) + ridge * (w @ w) / beta**2, 2
    )
    theta = minimised(
        lambda t: total(o.spac(beta, lam, "linear"), (now + phi @ t).log_softmax(0), now) + ridge * (t @ t), 2
    )
    mirror = start.tilted(f[None], beta)
    step = mirror.logp_PA().detach()[0] - now - f / beta
    assert (step - step[0]).abs().max() < 1e-12
    assert torch.allclose((now + phi @ theta).softmax(0), mirror.probabilities("x"), atol=1e-8)


def test_spac_needs_own_samples() -> None:
    with pytest.raises(ValueError, match="role 0"):
        o.spac()(Scores.of_pairs([-1.0], [-2.0], [-1.0], [-1.0]))


# -- 079 HyPO


def kl_gradient(logits: Tensor, reference: Tensor) -> Tensor:
    theta = logits.clone().requires_grad_()
    logp = theta.log_softmax(0)
    return torch.autograd.grad((logp.exp() * (logp - reference.log())).sum(), theta)[0]


def expected_gradient(
    objective: Objective, logits: Tensor, drawn: Tensor, k: int, references: dict[str, Tensor]
) -> Tensor:
    """E over all k-tuples of independent draws, of the gradient of one contrast's loss; written out."""
    theta = logits.clone().requires_grad_()
    logp = theta.log_softmax(0)
    tuples = list(itertools.product(range(len(logits)), repeat=k))
    at = torch.tensor(tuples).flatten()
    scores = Scores(
        logp[at][:, None], torch.ones(len(at), 1, dtype=F64), torch.zeros(len(at)),
        torch.arange(len(tuples)).repeat_interleave(k), {n: r[at][:, None] for n, r in references.items()},
    )  # fmt: skip
    chances = torch.stack([drawn[list(t)].prod() for t in tuples])
    return torch.autograd.grad((chances * objective(scores).per_contrast).sum(), theta)[0]


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("per_token", [False, True])
def test_the_score_function_has_the_gradient_of_the_kl(k: int, per_token: bool) -> None:
    """Leave-one-out baselines included: they change nothing in expectation."""
    rng = np.random.default_rng(k)
    logits = torch.as_tensor(rng.normal(size=4))
    reference = torch.as_tensor(rng.dirichlet(np.ones(4)))
    found = expected_gradient(
        o.ReverseKL(per_token=per_token), logits, logits.softmax(0), k, {"reference": reference.log()}
    )
    assert torch.allclose(found, kl_gradient(logits, reference), atol=1e-12)


def test_a_constant_of_the_prompt_in_the_log_ratio_changes_nothing_in_expectation() -> None:
    rng = np.random.default_rng(5)
    logits = torch.as_tensor(rng.normal(size=4))
    reference = torch.as_tensor(rng.dirichlet(np.ones(4)))
    for k in (1, 2):
        found = expected_gradient(o.ReverseKL(), logits, logits.softmax(0), k, {"reference": reference.log() - 7.0})
        assert torch.allclose(found, kl_gradient(logits, reference), atol=1e-12)


@pytest.mark.parametrize("k", [1, 2])
def test_samples_of_an_earlier_policy_are_weighted_right(k: int) -> None:
    rng = np.random.default_rng(7)
    logits, older = torch.as_tensor(rng.normal(size=4)), torch.as_tensor(rng.normal(size=4))
    reference = torch.as_tensor(rng.dirichlet(np.ones(4)))
    references = {"reference": reference.log(), "sampler": older.log_softmax(0)}
    drawn = older.softmax(0)
    exact = kl_gradient(logits, reference)
    right = expected_gradient(o.ReverseKL(sampler="sampler", most=1e9), logits, drawn, k, references)
    wrong = expected_gradient(o.ReverseKL(), logits, drawn, k, references)
    assert torch.allclose(right, exact, atol=1e-12) and not torch.allclose(wrong, exact, atol=1e-2)


@pytest.mark.parametrize("per_token", [False, True])
def test_on_responses_of_several_tokens(per_token: bool) -> None:
    """Two tokens of three kinds: pi(a) pi(b|a), all nine responses written out."""
    rng = np.random.default_rng(3)
    first, second = torch.as_tensor(rng.normal(size=3)), torch.as_tensor(rng.normal(size=(3, 3)))
    ref = [torch.as_tensor(rng.normal(size=3)).log_softmax(0), torch.as_tensor(rng.normal(size=(3, 3))).log_softmax(1)]
    theta = [first.requires_grad_(), second.requires_grad_()]
    one, two = theta[0].log_softmax(0), theta[1].log_softmax(1)
    all_of_them = list(itertools.product(range(3), repeat=2))
    logp = torch.stack([torch.stack([one[a], two[a, b]]) for a, b in all_of_them])
    base = torch.stack([torch.stack([ref[0][a], ref[1][a, b]]) for a, b in all_of_them])
    scores = Scores(logp, torch.ones(9, 2, dtype=F64), torch.zeros(9), torch.arange(9), {"reference": base})
    chance = logp.sum(1).exp()
    loss = (chance.detach() * o.ReverseKL(per_token=per_token)(scores).per_contrast).sum()
    exact = (chance * (logp - base).sum(1)).sum()
    for a, b in zip(
        torch.autograd.grad(loss, theta, retain_graph=True), torch.autograd.grad(exact, theta), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-12)


def test_only_the_score_has_gradient() -> None:
    """The gradient is the detached credit and nothing else: with a gradient through R it would be twice that less b.

    k = 2: credits R_1 - R_2 and R_2 - R_1, halved; the pair's members have none."""
    logp = torch.tensor([[-1.0], [-2.0], [-0.5], [-3.0]], dtype=F64, requires_grad=True)
    reference = torch.tensor([[-1.0], [-1.0], [-2.0], [-1.0]], dtype=F64)
    scores = Scores(
        logp, torch.ones(4, 1, dtype=F64), torch.tensor([1, -1, 0, 0]), torch.zeros(4, dtype=torch.long),
        {"reference": reference, "sampler": reference},
    )  # fmt: skip
    R1, R2 = 1.5, -2.0
    o.ReverseKL()(scores).per_contrast.sum().backward()
    assert logp.grad.flatten().tolist() == pytest.approx([0, 0, (R1 - R2) / 2, (R2 - R1) / 2])  # type: ignore[union-attr]
    logp.grad = None
    o.ReverseKL(sampler="sampler", most=3.0)(scores).per_contrast.sum().backward()
    weights = min(math.exp(R1), 3.0), math.exp(R2)
    want = [0, 0, weights[0] * (R1 - R2) / 2, weights[1] * (R2 - R1) / 2]
    assert logp.grad.flatten().tolist() == pytest.approx(want)  # type: ignore[union-attr]


def test_a_collapsed_policy_has_nothing_to_say() -> None:
    """k equal samples leave no difference to the others: lam must act before the collapse."""
    logp = torch.tensor([[-0.01], [-0.01]], dtype=F64, requires_grad=True)
    scores = Scores(
        logp, torch.ones(2, 1, dtype=F64), torch.zeros(2), torch.zeros(2, dtype=torch.long),
        {"reference": torch.full((2, 1), -5.0, dtype=F64)},
    )  # fmt: skip
    o.ReverseKL()(scores).per_contrast.sum().backward()
    assert logp.grad.abs().max() == 0  # type: ignore[union-attr]


def test_hypo_is_its_two_parts() -> None:
    logp, reference, mask = batch()
    theta = torch.tensor(logp, requires_grad=True)
    scores = scores_of(theta, reference, mask, sampler=reference + 0.1)
    whole = o.hypo(0.2, 0.3, "sampler")(scores).mean(scores)
    parts: Loss = o.dpo(0.2)(scores) + 0.3 * o.ReverseKL(sampler="sampler")(scores)
    assert whole.item() == pytest.approx(parts.mean(scores).item(), abs=1e-14)
    assert traits(o.hypo(sampler="sampler"))[0] == ("reference", "sampler") and traits(o.hypo())[0] == ("reference",)


# -- 117 RSO


def test_rso_s_logistic_loss_is_dpo_s_and_the_plain_hinge_reads_no_reference() -> None:
    assert o.rso(0.05) == o.dpo(0.05)
    assert traits(o.rso(0.05, "hinge"))[0] == () and traits(o.rso(0.05, "hinge-norm"))[0] == ("reference",)
    assert set(LOSSES) == {"sigmoid-norm", "hinge-norm", "hinge"}


def test_beyond_a_gap_of_one_over_gamma_the_hinge_is_flat() -> None:
    for gap_, slope in ((19.9, -0.05), (20.1, 0.0)):
        h = torch.tensor([gap_], dtype=F64, requires_grad=True)
        zero = torch.zeros(1, dtype=F64)
        o.rso(0.05, "hinge-norm")(Scores.of_pairs(h, zero, zero, zero)).per_contrast.sum().backward()
        assert h.grad.item() == pytest.approx(slope)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vpo", {"alpha": -0.1}), ("vpo", {"mode": "both"}), ("vpo", {"calibration": "best"}), ("xpo", {"loss": "kl"}),
        ("xpo", {"beta": 0.0}), ("spac", {"form": "hard"}), ("spac", {"lam": -1.0}), ("hypo", {"lam": -1.0}),
        ("rso", {"gamma": 0.0}), ("rso", {"loss": "exp"}),
    ],
)  # fmt: skip
def test_wrong_options_are_input_errors(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        o.make(name, **options)


def test_sides_are_means_over_a_role() -> None:
    scores = scores_of(torch.zeros(12, 5, dtype=F64), np.zeros((12, 5)), np.ones((12, 5)))
    assert Side(0)(scores).tolist() == [0, 0, 0.5, 0.5, 0, 0, 1, 0, 1 / 3, 0, 1 / 3, 1 / 3]
