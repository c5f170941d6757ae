"""158 TRPA: all pairs across levels with a trust region, against the equation in numpy, and its exact checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.objectives.levels import TrustRegion
from prefine.objectives.scores import Scores, across_levels, traits

torch.set_num_threads(1)
F64 = torch.float64


def batch(seed: int, levels: list[list[float]], T: int = 4, apart: float = 1.0) -> Scores:
    g = torch.Generator().manual_seed(seed)
    flat = [level for group in levels for level in group]
    lengths = torch.randint(1, T + 1, (len(flat),), generator=g)
    mask = (torch.arange(T)[None] < lengths[:, None]).double()
    logp, ref, shift = (-torch.rand(len(flat), T, generator=g, dtype=F64) * mask for _ in range(3))
    return Scores(
        logp.requires_grad_(), mask, torch.tensor([1 if level == 1 else -1 for level in flat]),
        torch.tensor([k for k, group in enumerate(levels) for _ in group]),
        {"reference": ref, "old": logp.detach() + apart * shift}, {"level": torch.tensor(flat, dtype=F64)},
    )  # fmt: skip


def rows_of(scores: Scores) -> list[tuple[int, float, np.ndarray, np.ndarray, np.ndarray]]:
    """(group, level, token log-probabilities, those of the reference, those of the old policy)"""
    found = []
    for n in range(len(scores.role_N)):
        T = int(scores.length_N[n])
        arrays = [x[n, :T].detach().numpy().copy() for x in (scores.logp_NT, *scores.references.values())]
        found.append((int(scores.group_N[n]), float(scores.values["level"][n]), *arrays))
    return found  # type: ignore[return-value]


def equation(rows: list, beta: float, kappa: float, c: float, root: bool = False) -> float:  # type: ignore[type-arg]
    rho = [float(np.mean(lp - rp)) for _, _, lp, rp, _ in rows]
    losses = [
        np.log1p(np.exp(-(kappa if rows[i][1] == 1 else 1.0) * beta * (rho[i] - rho[j])))
        for i in range(len(rows)) for j in range(len(rows))
        if rows[i][0] == rows[j][0] and rows[i][1] < rows[j][1]
    ]  # fmt: skip
    if not losses:
        losses = [np.log1p(np.exp(-(1 if row[1] == 1 else -1) * r)) for row, r in zip(rows, rho, strict=True)]
    d = np.concatenate([op - lp for _, _, lp, _, op in rows])
    kl = np.clip(np.exp(d) - d - 1, -10, 10).mean()
    return float(np.mean(losses) + c * (np.sqrt(kl + 0.25) if root else kl))


CASES = {
    "pairs": [[1, 2, 2, 4], [3, 1], [1, 1]],
    "without right answers": [[2, 3, 4], [2, 2]],
    "no pair at all": [[1, 1], [2, 2, 2]],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("root", [False, True])
def test_value_and_gradient_follow_the_equation(case: str, root: bool) -> None:
    scores = batch(1, CASES[case])
    objective = o.trpa(0.4, 2.5, 0.3, root)
    loss = objective(scores).mean(scores)
    rows = rows_of(scores)
    assert loss.item() == pytest.approx(equation(rows, 0.4, 2.5, 0.3, root), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    for n, row in enumerate(rows):
        for t in range(len(row[2])):
            around = []
            for step in (1e-6, -1e-6):
                row[2][t] += step
                around.append(equation(rows, 0.4, 2.5, 0.3, root))
                row[2][t] -= step
            assert gradient[n, t].item() == pytest.approx((around[0] - around[1]) / 2e-6, abs=1e-8)


def test_two_answers_of_equal_length_are_dpo_with_beta_over_length() -> None:
    """(a) levels 1 and 2, kappa 1, T tokens each; near the old policy the trust region adds nothing."""
    T = 5
    leaves = [torch.tensor([x], dtype=F64, requires_grad=True) for x in (-3.0, -4.0, -2.5, -4.5)]
    pair = Scores.of_pairs(*leaves, chosen_length=[T], rejected_length=[T], level=torch.tensor([[1.0, 2.0]]))  # type: ignore[arg-type]
    pair = Scores(**{**vars(pair), "references": {**pair.references, "old": pair.logp_NT.detach()}})
    ours, dpo = o.trpa(0.3, 1.0)(pair).mean(pair), o.dpo(0.3 / T)(pair).mean(pair)
    assert ours.item() == pytest.approx(dpo.item(), abs=1e-14)
    assert torch.autograd.grad(ours, leaves[0], retain_graph=True)[0].item() == pytest.approx(
        torch.autograd.grad(dpo, leaves[0])[0].item(), abs=1e-14
    )


def test_a_group_of_four_has_five_pairs_three_of_them_with_a_right_answer() -> None:
    """(b) levels (1, 2, 2, 4)."""
    scores = batch(0, [[1, 2, 2, 4]])
    i, j = across_levels(scores)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    assert int((scores.values["level"][i] == 1).sum()) == 3


def test_at_the_old_policy_the_trust_region_is_flat() -> None:
    """(c) value and gradient are 0."""
    scores = batch(0, [[1, 2], [2, 2]], apart=0.0)
    loss = TrustRegion()(scores).mean(scores)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    assert loss.item() == 0 and gradient.abs().max() == 0


def test_a_token_far_from_the_old_policy_is_cut_and_stays_a_number() -> None:
    scores = batch(0, [[1, 2]], T=1)
    far = Scores(**{**vars(scores), "references": {**scores.references, "old": scores.logp_NT.detach() + 200}})
    loss = TrustRegion()(far).mean(far)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    assert loss.item() == 10 and gradient.abs().max() == 0


def test_reference_and_old_policy_are_both_asked_for() -> None:
    assert traits(o.trpa()) == (("reference", "old"), False, False)
    assert traits(o.trpa(root=True))[2], "a square root of a mean needs the whole step"


@pytest.mark.parametrize("case", CASES)
def test_cut_into_micro_batches_the_gradient_is_the_same(case: str) -> None:
    """The mean is over the pairs of the step, wherever they are; whether there is any is a question of the step too."""
    scores = batch(2, CASES[case])
    objective = o.trpa(0.4, 2.0, 0.5)
    objective(scores).mean(scores).backward()
    totals = {unit: scores.count(unit) for unit in ("level_pair", "response", "token", "contrast")}
    for k in range(scores.groups):
        here = scores.group_N == k
        leaf = scores.logp_NT.detach()[here].requires_grad_()
        part = Scores(
            leaf, scores.mask_NT[here], scores.role_N[here], torch.zeros(int(here.sum()), dtype=torch.long),
            {n: x[here] for n, x in scores.references.items()}, {n: x[here] for n, x in scores.values.items()},
            totals=totals,
        )  # fmt: skip
        objective(part).mean(part).backward()
        assert leaf.grad is not None and scores.logp_NT.grad is not None
        torch.testing.assert_close(leaf.grad, scores.logp_NT.grad[here], rtol=0, atol=1e-15)


def test_only_the_order_of_levels_matters_below_the_first() -> None:
    """(d) 2, 3, 4 may be any increasing numbers above 1."""
    scores = batch(3, [[1, 2, 3, 4], [2, 4]])
    other = Scores(**{**vars(scores), "values": {"level": torch.tensor([1, 1.5, 7, 90, 1.5, 90], dtype=F64)}})
    assert o.trpa()(scores).mean(scores).item() == o.trpa()(other).mean(other).item()
