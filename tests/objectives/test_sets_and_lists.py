"""043, 046, 077, 104, 121: sets, rankings, matrices and differences of differences against their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.scores import Scores
from prefine.policies.tabular import Tabular

torch.set_num_threads(1)
F64 = torch.float64


def made(seed: int, roles: list[list[int]], T: int = 3) -> tuple[Scores, np.ndarray, np.ndarray]:
    """Ragged contrasts; (N,) log-ratios and scores beside."""
    g = torch.Generator().manual_seed(seed)
    N = sum(map(len, roles))
    lengths = torch.randint(1, T + 1, (N,), generator=g)
    mask = (torch.arange(T)[None] < lengths[:, None]).double()
    logp, ref = (-torch.rand(N, T, generator=g, dtype=F64) * mask for _ in range(2))
    reward = torch.randn(N, generator=g, dtype=F64)
    group = torch.tensor([k for k, each in enumerate(roles) for _ in each])
    role = torch.tensor([r for each in roles for r in each])
    scores = Scores(logp.requires_grad_(), mask, role, group, {"reference": ref}, {"score": reward})
    return scores, (logp - ref).sum(1).detach().numpy(), reward.numpy()


def parts(values: np.ndarray, roles: list[list[int]]) -> list[np.ndarray]:
    return np.split(values, np.cumsum([len(r) for r in roles])[:-1])


ROLES = [[1, 1, -1], [1, -1, -1, -1, 0], [-1, 1]]


# -- 046 MPO


@pytest.mark.parametrize(
    ("alpha", "power", "signed"), [(0.0, 1, False), (0.7, 1, False), (0.4, 2, False), (0.5, 1, True)]
)
def test_mpo_and_its_gradient_follow_the_equation(alpha: float, power: int, signed: bool) -> None:
    """Value, and dL/ds_i = -beta (Q_i - P_i); members with role 0 take no part."""
    beta = 0.6
    scores, s, r = made(0, ROLES)
    want, slopes = [], []
    for s_k, r_k, role in zip(parts(s, ROLES), parts(r, ROLES), ROLES, strict=True):
        side = np.array(role)
        mean = r_k[side != 0].mean()
        w = np.exp(alpha * (r_k - mean)) if signed else np.exp(alpha * np.abs(r_k - mean) ** power)
        mass = w * np.exp(beta * s_k) * (side != 0)
        P, Q = mass / mass.sum(), mass * (side > 0) / mass[side > 0].sum()
        want.append(-math.log(mass[side > 0].sum() / mass.sum()))
        slopes.append(-beta * (Q - P))
        assert (Q - P).sum() == pytest.approx(0, abs=1e-12)
    scores.values["score"].requires_grad_()
    loss = o.mpo_set(beta, alpha, power, signed)(scores)
    assert loss.per_contrast.tolist() == pytest.approx(want, abs=1e-12)
    gradient, none = torch.autograd.grad(
        loss.per_contrast.sum(), [scores.logp_NT, scores.values["score"]], allow_unused=True
    )
    assert none is None  # the weights are constants
    assert gradient[:, 0].numpy() == pytest.approx(np.concatenate(slopes), abs=1e-12)


def test_one_against_one_is_dpo_and_weights_are_a_margin() -> None:
    scores, s, r = made(1, [[1, -1]] * 4)
    ours, dpo = o.mpo_set(0.3, 0.0)(scores).mean(scores), o.dpo(0.3)(scores).mean(scores)
    (a,), (b,) = (torch.autograd.grad(x, scores.logp_NT) for x in (ours, dpo))
    assert ours.item() == pytest.approx(dpo.item(), abs=1e-12) and torch.allclose(a, b, rtol=0, atol=1e-12)
    gap, up = (s[::2] - s[1::2]), r[::2] - r[1::2]
    signed = np.log1p(np.exp(-(0.3 * gap + 0.8 * up)))  # log w_+ / w_- = alpha (r_+ - r_-)
    assert o.mpo_set(0.3, 0.8, signed=True)(scores).per_contrast.detach().numpy() == pytest.approx(signed, abs=1e-12)


def test_a_constant_added_to_all_rewards_changes_nothing() -> None:
    scores, _, _ = made(2, ROLES)
    moved = Scores(**{**vars(scores), "values": {"score": scores.values["score"] + 7.0}})
    a, b = (o.mpo_set(0.5, 0.9)(x).per_contrast.detach() for x in (scores, moved))
    assert torch.allclose(a, b, atol=1e-12)


def test_a_contrast_without_an_accepted_response_is_refused() -> None:
    scores, _, _ = made(2, [[-1, -1]])
    with pytest.raises(ValueError, match="accepted"):
        o.mpo_set()(scores)


# -- 043 PMPO


def table_scores(logits: torch.Tensor, ref: torch.Tensor, roles: list[int]) -> Scores:
    """Every action once in one contrast, with the closed-form KL as the reading."""
    logp, ref_logp = logits.log_softmax(0), ref.log()
    kl = (ref * (ref_logp - logp)).sum().expand(len(ref))[:, None]
    return Scores(
        logp[:, None], torch.ones(len(ref), 1, dtype=F64), torch.tensor(roles), torch.zeros(len(ref), dtype=torch.long),
        {"reference": ref_logp[:, None]}, readings={"kl of reference": kl},
    )  # fmt: skip


def test_pmpo_is_its_equation() -> None:
    scores, _, _ = made(3, ROLES)
    lp = scores.logp_NT.detach().numpy().sum(1)
    want = []
    for lp_k, role in zip(parts(lp, ROLES), ROLES, strict=True):
        side = np.array(role)
        want.append(-0.3 * lp_k[side > 0].mean() + 0.7 * lp_k[side < 0].mean())
    assert o.pmpo(0.3, 0.0)(scores).per_contrast.tolist() == pytest.approx(want, abs=1e-12)
    kl = torch.rand(scores.logp_NT.shape, dtype=F64)
    read = Scores(**{**vars(scores), "readings": {"kl of reference": kl}})
    held = (kl * scores.mask_NT).sum(1).numpy()
    for drawn, means in {
        "all": [k.mean() for k in parts(held, ROLES)],
        "other": [
            k[np.array(r) == 0].mean() if 0 in r else 0.0 for k, r in zip(parts(held, ROLES), ROLES, strict=True)
        ],
    }.items():
        ours = o.pmpo(0.3, 2.0, drawn)(read).per_contrast.detach().numpy()
        assert ours == pytest.approx(np.array(want) + 2.0 * np.array(means), abs=1e-12), drawn


def test_gradient_descent_reaches_the_optimum_of_the_sheet() -> None:
    """6 actions, 1-3 accepted and 4-6 rejected with the reference's own shares, alpha 0.6, beta 3."""
    ref = torch.from_numpy(np.random.default_rng(4).dirichlet(np.ones(6) * 2))
    accepted, rejected = torch.zeros(6, dtype=F64), torch.zeros(6, dtype=F64)
    accepted[:3], rejected[3:] = ref[:3] / ref[:3].sum(), ref[3:] / ref[3:].sum()
    w = 0.6 * accepted - 0.4 * rejected + 3 * ref
    want = w / (2 * 0.6 - 1 + 3)
    assert torch.allclose(o.pmpo_optimum(accepted, rejected, ref, 0.6, 3.0), want, atol=1e-14)
    theta = ref.log().clone().requires_grad_()
    fit = torch.optim.LBFGS(
        [theta], max_iter=500, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        """The population form of the three terms, with the objective's own closed-form KL."""
        fit.zero_grad()
        scores = table_scores(theta, ref, [1] * 3 + [-1] * 3)
        logp = scores.logp_NT[:, 0]
        value = -0.6 * (accepted * logp).sum() + 0.4 * (rejected * logp).sum()
        value = value + 3 * o.ReferenceKL()(scores).per_contrast.sum()
        value.backward()
        return value

    fit.step(loss)  # type: ignore[arg-type]
    assert torch.allclose(theta.detach().softmax(0), want, atol=1e-8)


def test_rejected_alone_needs_enough_of_the_reference() -> None:
    """alpha = 0: bounded just where beta ref >= p_r; the error names the beta."""
    ref = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    none, rejected = torch.zeros(3, dtype=F64), torch.tensor([0.0, 0.6, 0.4], dtype=F64)
    needed = 0.6 / 0.3
    with pytest.raises(InputError, match="no optimum") as error:
        o.pmpo_optimum(none, rejected, ref, 0.0, needed - 0.1)
    assert "2" in error.value.remedy
    assert bool((o.pmpo_optimum(none, rejected, ref, 0.0, needed + 0.1) > 0).all())
    lowest = []
    for beta in (needed - 0.5, needed + 0.5):
        theta = ref.log().clone().requires_grad_()
        fit = torch.optim.SGD([theta], lr=0.5)
        for _ in range(3000):
            logp = theta.log_softmax(0)
            loss = (rejected * logp).sum() + beta * (ref * (ref.log() - logp)).sum()
            fit.zero_grad()
            loss.backward()
            fit.step()
        lowest.append(float(theta.detach().softmax(0).min()))
    assert lowest[0] < 1e-6 < 0.01 < lowest[1]


def test_the_closed_form_kl_is_read_off_policies_and_has_gradient() -> None:
    from prefine.objectives.readings import gathered

    (reading,) = gathered(o.pmpo()).values()
    policy, reference = Tabular(["x"], list("abc"), [[0.3, 0.1, -0.4]]), Tabular.uniform(["x"], list("abc"))
    p, q = (t.logp_PA() for t in (reference, policy))
    found = reading.function(p, q)  # type: ignore[attr-defined]
    assert found.requires_grad and float(found) == pytest.approx(float(reference.kl(policy)[0]), abs=1e-14)


# -- 104 PRO


def pro_equation(p: np.ndarray, r: np.ndarray | None, floor: float) -> float:
    n, total = len(p), 0.0
    for k in range(n - 1):
        t = {i: 1.0 if r is None else r[k] - r[i] for i in range(k + 1, n)}
        own = max(t.values())
        total += math.log(floor + math.exp(own * p[k]) + sum(math.exp(t[i] * p[i]) for i in t)) - own * p[k]
    return total


@pytest.mark.parametrize("gaps", [True, False])
def test_pro_follows_the_released_loss(gaps: bool) -> None:
    roles = [[1, 0, 0, -1], [1, -1], [1, 0, -1]]
    scores, _, r = made(5, roles)
    order = np.concatenate([np.sort(k)[::-1] for k in parts(r, roles)])
    scores = Scores(**{**vars(scores), "values": {"score": torch.from_numpy(order.copy())}})
    lp, length = scores.logp_NT.detach().numpy().sum(1), scores.length_N.numpy()
    want = [
        pro_equation(p, r_k if gaps else None, 1e-10) - 0.05 * (len(p) - 1) ** 2 * first[0]
        for p, r_k, first in zip(parts(lp / length, roles), parts(order, roles), parts(lp, roles), strict=True)
    ]
    scores.values["score"].requires_grad_()
    loss = o.pro(0.05, gaps)(scores)
    assert loss.per_contrast.tolist() == pytest.approx(want, abs=1e-12)
    gradient, none = torch.autograd.grad(
        loss.per_contrast.sum(), [scores.logp_NT, scores.values["score"]], allow_unused=True
    )
    assert none is None and bool(gradient.isfinite().all())
    h = 1e-6  # against the equation, for the second member of the first list
    moved = []
    for step in (h, -h):
        p = (lp / length)[:4].copy()
        p[1] += step / length[1]
        moved.append(pro_equation(p, order[:4] if gaps else None, 1e-10))
    assert gradient[1, 0].item() == pytest.approx((moved[0] - moved[1]) / (2 * h), abs=1e-7)


def test_pro_of_two_is_a_scaled_logistic_and_dpo_with_a_uniform_reference() -> None:
    scores = Scores.of_pairs([-2.0], [-5.0], [-3.0], [-3.0], chosen_length=[4], rejected_length=[4], score=[[1.5, 0.0]])
    gap = 1.5 * (-2 + 5) / 4
    assert o.pro(0.0)(scores).per_contrast.item() == pytest.approx(math.log1p(math.exp(-gap)), abs=1e-6)
    one = Scores(**{**vars(scores), "values": {"score": torch.tensor([1.0, 0.0])}})
    assert o.pro(0.0)(one).per_contrast.item() == pytest.approx(o.dpo(1 / 4)(one).per_contrast.item(), abs=1e-6)


def test_without_gaps_the_ranks_are_plackett_luce_and_lists_are_sorted_by_score() -> None:
    scores, _, _ = made(6, [[1, 0, -1]])
    p = (scores.logp_NT.sum(1) / scores.length_N).detach().numpy()
    want = -sum(p[k] - math.log(np.exp(p[k:]).sum()) for k in range(2))
    assert o.plackett_luce()(scores).per_contrast.item() == pytest.approx(want, abs=1e-12)
    r = torch.tensor([0.1, 2.0, 1.0], dtype=F64)
    shuffled = Scores(**{**vars(scores), "values": {"score": r}})
    by = [1, 2, 0]
    assert o.pro(0.0)(shuffled).per_contrast.item() == pytest.approx(
        pro_equation(p[by], r.numpy()[by], 1e-10), abs=1e-12
    )


def test_equal_rewards_teach_nothing() -> None:
    scores = Scores.of_pairs(torch.tensor([-2.0], requires_grad=True), [-5.0], score=[[1.0, 1.0]])
    assert o.pro(0.0)(scores).per_contrast.item() == pytest.approx(math.log(2), abs=1e-6)


# -- 077 RPO


def crossed(seed: int, roles: list[list[int]], D: int = 3) -> tuple[Scores, np.ndarray, np.ndarray]:
    scores, s, _ = made(seed, roles)
    e = np.random.default_rng(seed).normal(size=(len(roles), D))
    values = {f"embedding.{d}": torch.from_numpy(e[:, d].copy()) for d in range(D)}
    return Scores(**{**vars(scores), "values": values}), s, e / np.linalg.norm(e, axis=1, keepdims=True)


@pytest.mark.parametrize("roles", [[[1, -1]] * 4, [[1], [-1], [-1], [1], [-1]]])
def test_relative_contrasts_follow_the_equation(roles: list[list[int]]) -> None:
    """Pairs, and unpaired labels: M chosen by R rejected; weights are constants."""
    beta, tau = 0.7, 0.4
    scores, s, e = crossed(7, roles)
    role, group = scores.role_N.numpy(), scores.group_N.numpy()
    total, slope = 0.0, np.zeros(len(s))
    chosen, rejected = np.flatnonzero(role > 0), np.flatnonzero(role < 0)
    for i in chosen:
        d = np.array([1 - e[group[i]] @ e[group[j]] for j in rejected])
        w = np.exp(-d / tau) / np.exp(-d / tau).sum()
        for w_ij, j in zip(w, rejected, strict=True):
            z = beta * w_ij * (s[i] - s[j])
            total += math.log1p(math.exp(-z)) / len(chosen) / len(rejected)
            push = -beta * w_ij / (1 + math.exp(z)) / len(chosen) / len(rejected)
            slope[i] += push
            slope[j] -= push
    loss = o.rpo_relative(beta, tau)(scores).mean(scores)
    assert loss.item() == pytest.approx(total, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    assert gradient[:, 0].numpy() == pytest.approx(slope, abs=1e-12)


def test_limits_of_the_relative_contrast() -> None:
    N, beta = 4, 0.5
    scores, s, _ = crossed(8, [[1, -1]] * N)
    dpo = o.dpo(beta)(scores).mean(scores)
    sharp = o.rpo_relative(beta, 1e-4)(scores).mean(scores)
    assert sharp.item() == pytest.approx((dpo.item() + (N - 1) * math.log(2)) / N, abs=1e-12)
    (a,), (b,) = (torch.autograd.grad(x, scores.logp_NT, retain_graph=True) for x in (sharp, dpo))
    assert torch.allclose(a, b / N, atol=1e-12)
    even = o.rpo_relative(beta, 1e9)(scores).mean(scores)
    margins = beta / N * (s[::2][:, None] - s[1::2][None])
    assert even.item() == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-8)
    uniform = o.rpo_relative(beta, contrast="uniform")(scores).mean(scores)
    assert uniform.item() == pytest.approx(np.log1p(np.exp(-N * margins)).mean(), abs=1e-12)
    assert o.rpo_relative(beta, contrast="diagonal", diagonal=1.0)(scores).mean(scores).item() == pytest.approx(
        dpo.item()
    )
    one, _, _ = crossed(9, [[1, -1]])
    for contrast in ("similar", "uniform", "diagonal"):
        assert o.rpo_relative(beta, contrast=contrast)(one).mean(one).item() == pytest.approx(
            o.dpo(beta)(one).mean(one).item()
        )


def test_the_diagonal_variant_and_a_batch_of_one_kind() -> None:
    scores, s, _ = crossed(10, [[1, -1]] * 3)
    cell = np.log1p(np.exp(-0.5 * (s[::2][:, None] - s[1::2][None])))
    own = np.diag(cell)
    want = 0.8 * own + 0.2 * (cell.sum(1) - own) / 2
    assert o.rpo_relative(0.5, contrast="diagonal")(scores).mean(scores).item() == pytest.approx(want.mean(), abs=1e-12)
    good, _, _ = crossed(10, [[1], [1]])
    loss = o.rpo_relative()(good).mean(good)
    assert loss.item() == 0 and not torch.autograd.grad(loss, good.logp_NT)[0].any()


# -- 121 MAPL


def test_levels_are_signed_sums_with_weights() -> None:
    roles = [[1, -1], [1, -1], [1, -1, -1, 1]]
    scores, s, _ = made(11, roles)
    values = {"level": torch.tensor([0.0, 1.0, 2.0]), "weight": torch.tensor([1.5, 3.0, 3.0], dtype=F64)}
    scores = Scores(**{**vars(scores), "values": values})
    z = [(np.array(r) * s_k).sum() for r, s_k in zip(roles, parts(s, roles), strict=True)]
    want = np.array([1.5, 3.0 * 0.5, 3.0 * 2.0]) * np.log1p(np.exp(-0.3 * np.array(z)))
    assert o.mapl(0.3, 0.5, 2.0)(scores).per_contrast.detach().numpy() == pytest.approx(want, abs=1e-12)


def test_equal_prompts_or_equal_gaps_give_log_two_and_no_gradient() -> None:
    """With x_w = x_l both rows are one and the same function of the parameters."""
    x = torch.tensor(-1.3, dtype=F64, requires_grad=True)
    for roles in ([1, -1], [1, -1, -1, 1]):
        n = len(roles)
        scores = Scores(
            (x * torch.ones(n, 1, dtype=F64)), torch.ones(n, 1, dtype=F64), torch.tensor(roles),
            torch.zeros(n, dtype=torch.long), {"reference": torch.zeros(n, 1, dtype=F64)},
        )  # fmt: skip
        loss = o.SignedSum()(scores).mean(scores)
        assert loss.item() == pytest.approx(math.log(2), abs=1e-12)
        assert torch.autograd.grad(loss, x)[0].item() == 0


def test_mapl_on_plain_pairs_is_dpo_and_bradley_terry() -> None:
    scores, _, _ = made(12, [[1, -1]] * 3)
    assert torch.equal(o.mapl(0.2)(scores).per_contrast, o.dpo(0.2)(scores).per_contrast)
    assert torch.equal(o.mapl_reward()(scores).per_contrast, o.bradley_terry()(scores).per_contrast)
    with pytest.raises(ValueError, match="as many chosen as rejected"):
        o.mapl()(made(12, [[1, -1, -1]])[0])


def test_a_list_is_two_sets_to_an_objective_over_sets() -> None:
    from prefine.objectives.needs import needs

    assert needs(o.mpo_set()).sets and needs(o.pmpo()).sets and needs(o.add(o.pmpo(), o.dpo())).sets
    assert not needs(o.dpo()).sets
