"""Several references (107): the equation in numpy, its limits, and what has no gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives import Scores
from prefine.objectives.several_references import WEIGHTS, References, VirtualRatio, own

G, T, EPS = 5, 4, 0.1


def made(others: int = 2, seed: int = 0) -> tuple[Scores, np.ndarray]:
    """Scores with references, and their (K, G, 2) sums."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, T + 1, size=2 * G)
    mask = (np.arange(T)[None] < lengths[:, None]).astype(float)
    logp, first = (-rng.uniform(0.5, 4, size=(2 * G, T)) * mask for _ in range(2))
    more = [first.sum(1) * rng.uniform(0.7, 1.4, size=2 * G) for _ in range(others)]
    values = {f"r{k}": torch.tensor(s) for k, s in enumerate(more)}
    scores = Scores(
        torch.tensor(logp, requires_grad=True), torch.tensor(mask), torch.tensor([1, -1] * G),
        torch.arange(G).repeat_interleave(2), {"reference": torch.tensor(first)}, values,
    )  # fmt: skip
    return scores, np.stack([first.sum(1), *more]).reshape(-1, G, 2)


def names(others: int = 2) -> str:
    return " ".join(f"r{k}" for k in range(others))


def shares(s: np.ndarray, weights: str) -> np.ndarray:
    """(K,) of one pair: alpha_k = |s_k(w) - s_k(l)| / sum_j, or the mean of what the others have."""
    clear = [abs(w - l) for w, l in s]
    a = np.array([c / sum(clear) for c in clear])
    return a if weights == "own" else np.array([sum(np.delete(a, k)) / (len(a) - 1) for k in range(len(a))])


def clipped(s: np.ndarray, eps: float, adaptive: bool) -> np.ndarray:
    """(K, 2) of one pair: s_k into [(1 + e_y) s_1, (1 - e_y) s_1]."""
    found = s.copy()
    b = [abs(s[:, side].mean()) for side in (0, 1)]
    for side in (0, 1):
        e = eps * b[side] / (b[0] + b[1]) if adaptive else eps
        low, high = (1 + e) * s[0, side], (1 - e) * s[0, side]
        for k in range(1, len(s)):
            found[k, side] = min(max(s[k, side], low), high)
    return found


def sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z))


@pytest.mark.parametrize("others", [1, 2, 3])
@pytest.mark.parametrize("weights", ["own", "code"])
@pytest.mark.parametrize(("eps", "band"), [(EPS, "adaptive"), (EPS, "fixed"), (None, "adaptive")])
def test_value_and_gradient_follow_the_equation(others: int, weights: str, eps: float | None, band: str) -> None:
    beta, (s, sums) = 0.3, made(others)
    loss = o.mrpo(beta, names(others), weights, eps, band)(s).mean(s)
    (gradient,) = torch.autograd.grad(loss, s.logp_NT)
    lp = s.sum().detach().numpy().reshape(G, 2)
    values, slopes = [], []
    for g in range(G):
        pair = sums[:, g]
        a = shares(pair, weights)
        near = pair if eps is None else clipped(pair, eps, band == "adaptive")
        virtual = [-math.log(sum(a[k] * math.exp(-near[k, side]) for k in range(len(a)))) for side in (0, 1)]
        margin = beta * ((lp[g, 0] - virtual[0]) - (lp[g, 1] - virtual[1]))
        values.append(-math.log(sigma(margin)))
        slopes.append(beta * sigma(-margin) / G)
    # own weights are even by 1e-6 at most where the equation divides by the sum alone
    assert loss.item() == pytest.approx(np.mean(values), abs=2e-6)
    want = np.array([[-slope, slope] for slope in slopes]).reshape(-1, 1) * s.mask_NT.numpy()
    np.testing.assert_allclose(gradient.numpy(), want, atol=1e-6)


def test_the_mean_of_losses_follows_the_equation() -> None:
    beta, (s, sums) = 0.3, made()
    lp = s.sum().detach().numpy().reshape(G, 2)
    total = 0.0
    for g in range(G):
        a, near = shares(sums[:, g], "own"), clipped(sums[:, g], EPS, True)
        total += sum(
            a[k] * -math.log(sigma(beta * ((lp[g, 0] - near[k, 0]) - (lp[g, 1] - near[k, 1])))) for k in range(len(a))
        )
    assert o.multi_dpo(beta, names())(s).mean(s).item() == pytest.approx(total / G, abs=1e-6)


def assert_same(a: o.Objective, b: o.Objective, s: Scores) -> None:
    x, y = a(s).mean(s), b(s).mean(s)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    grads = [torch.autograd.grad(loss, s.logp_NT, retain_graph=True)[0] for loss in (x, y)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weights", ["own", "code", "equal", (0.2, 0.5, 0.3)])
def test_identical_references_are_one(weights: str | tuple[float, ...]) -> None:
    s, _ = made()
    same = replace(s, values={name: s.sum(s.references["reference"]) for name in ("r0", "r1")})
    assert_same(o.mrpo(0.3, names(), weights, None), o.dpo(0.3), same)
    assert_same(o.multi_dpo(0.3, names(), weights, None), o.dpo(0.3), same)


def test_one_reference_is_dpo_and_so_is_no_room_beside_the_first() -> None:
    s, _ = made()
    for weights in WEIGHTS:
        assert_same(o.mrpo(0.3, (), weights), o.dpo(0.3), s)
        assert_same(o.mrpo(0.3, names(), weights, eps=0.0), o.dpo(0.3), s)
        assert_same(o.multi_dpo(0.3, names(), weights, eps=0.0), o.dpo(0.3), s)


def test_all_weight_on_one_is_dpo_against_it() -> None:
    s, sums = made()
    other = torch.tensor(sums[2].reshape(-1, 1)) / s.mask_NT.sum(-1, keepdim=True) * s.mask_NT
    against = replace(s, references={"reference": other})
    x = o.mrpo(0.3, names(), (0.0, 0.0, 1.0), None)(s).mean(s)
    y = o.dpo(0.3)(against).mean(s)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def test_the_virtual_reference_is_the_harmonic_mean_and_between_the_others() -> None:
    s, sums = made(3)
    of = References(("r0", "r1", "r2"), own, None)
    virtual = (s.sum() - VirtualRatio(of)(s)).detach().numpy().reshape(G, 2)
    a = np.stack([shares(sums[:, g], "own") for g in range(G)], 1)
    np.testing.assert_allclose(np.exp(virtual), 1 / (a[..., None] / np.exp(sums)).sum(0), rtol=1e-5)
    assert bool((virtual <= sums.max(0) + 1e-9).all() and (virtual >= sums.min(0) - 1e-9).all())


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_sum_to_one_and_are_equal_where_nothing_tells_the_two_apart(weights: str) -> None:
    margins = torch.tensor([[1.0, 0.0, -40.0], [3.0, 0.0, 1e-3], [0.0, 0.0, 2.0]], dtype=torch.float64)
    a = WEIGHTS[weights](margins)
    torch.testing.assert_close(a.sum(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(a[:, 1], torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-15)
    assert bool((a >= 0).all())


def test_with_two_the_code_exchanges_the_weights() -> None:
    margins = torch.tensor([[1.0], [-3.0]], dtype=torch.float64)
    torch.testing.assert_close(WEIGHTS["code"](margins), own(margins).flip(0), rtol=0, atol=1e-15)


def test_the_clip_holds_the_others_near_the_first_and_leaves_the_first() -> None:
    s, sums = made()
    near, _ = References(("r0", "r1"), own, EPS)(s)
    first = torch.tensor(sums[0].reshape(-1))
    torch.testing.assert_close(near[0], first, rtol=0, atol=1e-12)
    assert bool(((near - first).abs() <= EPS * first.abs() + 1e-12).all())
    wide, _ = References(("r0", "r1"), own, None)(s)
    assert bool(((wide - first).abs() > EPS * first.abs()).any()), "the test has something to clip"


def test_nothing_of_the_references_has_a_gradient() -> None:
    s, _ = made()
    first = s.references["reference"].clone().requires_grad_()
    values = {name: value.clone().requires_grad_() for name, value in s.values.items()}
    live = replace(s, references={"reference": first}, values=values)
    for objective in (o.mrpo(0.3, names()), o.multi_dpo(0.3, names())):
        loss = objective(live).mean(live)
        found = torch.autograd.grad(loss, [live.logp_NT, first, *values.values()], allow_unused=True)
        assert found[0] is not None and all(g is None for g in found[1:])


def test_the_likelihood_of_the_chosen_can_be_added() -> None:
    s, _ = made()
    more = o.mrpo(0.3, names(), eta=0.5)(s).mean(s) - o.mrpo(0.3, names())(s).mean(s)
    assert more.item() == pytest.approx(-0.5 * float(s.mean()[s.role_N > 0].mean()), abs=1e-12)


def test_a_value_of_the_pair_is_no_reference_of_its_members() -> None:
    s, _ = made(1)
    with pytest.raises(ValueError, match="each member"):
        o.mrpo(0.3, "r0")(replace(s, values={"r0": torch.zeros(G, dtype=torch.float64)}))


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.0}, {"eps": 1.0}, {"eps": -0.1}, {"weights": "mine"}, {"band": "wide"}, {"weights": (1.0,)},
     {"weights": (0.0, 0.0)}, {"weights": (-1.0, 2.0)}, {"eta": -1.0}],
)  # fmt: skip
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        o.mrpo(**options)  # type: ignore[arg-type]
