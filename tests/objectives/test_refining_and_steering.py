"""002 EVOLVE and 041 SSO: losses over pairs under several prompts, against the equations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.scores import Scores
from prefine.objectives.steering import Likely, in_slot
from prefine.policies.tabular import Tabular

torch.set_num_threads(1)
BETA = 0.4


def log_sigma(x: torch.Tensor) -> torch.Tensor:
    return -torch.log1p(torch.exp(-x))


# -- 002


def triples(n: int = 5) -> Scores:
    """n pairs, each plain, under (x, y_l) and under (x, y_w), as ``curating.with_refinements`` gives them."""
    rng = np.random.default_rng(0)
    w, l, rw, rl = (torch.tensor(-rng.uniform(1, 6, size=3 * n)) for _ in range(4))
    kind = torch.tensor([0.0, 1.0, 1.0]).repeat(n).double()
    return Scores.of_pairs(w, l, rw, rl, refinement=kind, weight=torch.full((3 * n,), 3.0).double())


def gaps(s: Scores) -> torch.Tensor:
    """(n, 3) log-ratio gaps: of the plain pair, under y_l, under y_w."""
    ratio = (s.logp_NT - s.references["reference"]).sum(-1).reshape(-1, 3, 2)
    return ratio[..., 0] - ratio[..., 1]


@pytest.mark.parametrize("form", ["squared", "logistic"])
def test_002_value_and_gradient_are_those_of_the_equation(form: str) -> None:
    s, a = triples(), 0.3
    x = s.logp_NT.clone().requires_grad_(True)
    s = replace(s, logp_NT=x)
    d, by_l, by_w = gaps(s).unbind(1)
    direct = -log_sigma(BETA * d)
    if form == "squared":  # the second square as the paper's objective gives it: y_2 = y_l beats y_1 = y_w
        refining = (0.5 - BETA * by_l) ** 2 + (0.5 + BETA * (-by_w)) ** 2
    else:
        refining = -log_sigma(BETA * by_l) - log_sigma(BETA * by_w)
    expected = ((1 - a) * direct + a * refining).mean()
    ours = o.evolve(BETA, a, form)(s).mean(s)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    (one,), (two,) = (torch.autograd.grad(v, x, retain_graph=True) for v in (ours, expected))
    assert torch.allclose(one, two, atol=1e-12)


def test_002_without_refining_it_is_dpo() -> None:
    s = triples()
    plain = Scores.of_pairs(
        s.logp_NT[0::6].flatten(), s.logp_NT[1::6].flatten(), s.references["reference"][0::6].flatten(),
        s.references["reference"][1::6].flatten(),
    )  # fmt: skip
    assert float(o.evolve(BETA, 0.0)(s).mean(s)) == pytest.approx(float(o.dpo(BETA)(plain).mean(plain)), abs=1e-12)
    assert torch.allclose(o.evolve(BETA, 0.0)(plain).per_contrast, o.dpo(BETA)(plain).per_contrast)


def test_002_the_optimum_of_the_refining_objective_has_no_gradient() -> None:
    """max E[P(y_2 beats y_1)] - beta KL: pi(y_2 | y_1) ~ ref(y_2 | y_1) exp( P(y_2 > y_1)/beta ), P(y > y) = 1/2."""
    rng = np.random.default_rng(1)
    K = 4
    strength = rng.normal(size=K)
    P = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
    ref = rng.normal(size=(K, K))  # logits of y_2 (columns) by the y_1 that is shown (rows)
    best = ref + P.T / BETA
    table = Tabular([f"x|{i}" for i in range(K)], [str(i) for i in range(K)], ref)
    optimum = Tabular([f"x|{i}" for i in range(K)], [str(i) for i in range(K)], best)
    h = optimum.logp_PA().detach().numpy() - table.logp_PA().detach().numpy()
    for y1 in range(K):
        for y2 in range(K):
            assert P[y2, y1] - 0.5 == pytest.approx(BETA * (h[y1, y2] - h[y1, y1]), abs=1e-12)
    shown, w, l = np.array(
        [(y, a, b) for a in range(K) for b in range(K) if a != b for y in (b, a)]
    ).T  # every pair, shown its loser and its winner

    def gradient(soft: bool) -> torch.Tensor:
        logp = optimum.logp_PA()
        scores = Scores.of_pairs(
            logp[shown, w], logp[shown, l], table.logp_PA().detach()[shown, w], table.logp_PA().detach()[shown, l],
            refinement=torch.ones(len(w)).double(), preference=torch.tensor(P[w, l]),
        )  # fmt: skip
        loss = o.evolve(BETA, 0.5, soft=soft)(scores).mean(scores)
        return torch.autograd.grad(loss, list(optimum.module.parameters()))[0]

    assert float(gradient(True).abs().max()) < 1e-12
    assert float(gradient(False).abs().max()) > 1e-3, "with hard labels it is another optimum"


# -- 041


def items(n: int = 4) -> Scores:
    """n contrasts of three pairs in slots, of unlike lengths."""
    rng = np.random.default_rng(2)
    N = 6 * n
    lengths = torch.tensor(rng.integers(1, 5, size=N))
    mask = (torch.arange(4)[None] < lengths[:, None]).double()
    return Scores(
        torch.tensor(-rng.uniform(0.1, 2, size=(N, 4))) * mask,
        mask,
        torch.tensor([1, -1]).repeat(3 * n),
        torch.arange(n).repeat_interleave(6),
        {"reference": torch.tensor(-rng.uniform(0.1, 2, size=(N, 4))) * mask},
        {"slot": torch.tensor([0.0, 0, 1, 1, 2, 2]).double().repeat(n)},
    )


def by_hand(s: Scores, g: float, alpha: float, beta: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(L_0, W, L_1 + L_2) from the six rows of every contrast."""
    logp = s.logp_NT * s.mask_NT
    sums = ((logp - s.references["reference"]).sum(-1)).reshape(-1, 3, 2)
    losses = -log_sigma(beta * (sums[..., 0] - sums[..., 1]))
    means = (logp.sum(-1) / s.mask_NT.sum(-1)).reshape(-1, 3, 2)[:, 0]
    W = torch.sigmoid(-(alpha * means[:, 0] + (1 - alpha) * means[:, 1]))
    return losses[:, 0], W, losses[:, 1] + losses[:, 2]


def test_041_value_and_gradient_are_those_of_the_equation() -> None:
    s = items()
    x = s.logp_NT.clone().requires_grad_(True)
    s = replace(s, logp_NT=x)
    main, W, beside = by_hand(s, 0.1, 0.66, 0.2)
    expected = (main + W * 0.1 * beside).mean()
    ours = o.sso()(s).mean(s)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    (one,), (two,) = (torch.autograd.grad(v, x, retain_graph=True) for v in (ours, expected))
    assert torch.allclose(one, two, atol=1e-12), "W has its gradient"
    (still,) = torch.autograd.grad(o.steered(o.dpo(0.2), detach=True)(s).mean(s), x, retain_graph=True)
    (held,) = torch.autograd.grad((main + W.detach() * 0.1 * beside).mean(), x)
    assert torch.allclose(still, held, atol=1e-12) and not torch.allclose(still, one, atol=1e-6)


def test_041_the_loss_grows_with_g_by_w_times_the_pairs_beside() -> None:
    s = items()
    _, W, beside = by_hand(s, 0.1, 0.66, 0.2)
    at = [o.sso(g=g)(s).per_contrast for g in (0.1, 0.2)]
    assert torch.allclose((at[1] - at[0]) / 0.1, W * beside, atol=1e-10)


def test_041_without_g_it_is_dpo_of_the_plain_pair() -> None:
    s = items()
    x = s.logp_NT.clone().requires_grad_(True)
    s = replace(s, logp_NT=x)
    plain = in_slot(s, 0)
    for loss in (o.sso(g=0.0), o.steered(o.dpo(0.2), g=0.0, weigh="none")):
        (one,) = torch.autograd.grad(loss(s).mean(s), x, retain_graph=True)
        (two,) = torch.autograd.grad(o.dpo(0.2)(plain).mean(plain), x, retain_graph=True)
        assert torch.allclose(loss(s).per_contrast, o.dpo(0.2)(plain).per_contrast) and torch.allclose(one, two)


def test_041_where_the_weight_goes() -> None:
    s = items()
    main, W, beside = by_hand(s, 0.1, 0.66, 0.2)
    assert torch.allclose(o.steered(o.dpo(0.2), weigh="pair")(s).per_contrast, W * main)
    assert torch.allclose(o.steered(o.dpo(0.2), weigh="none")(s).per_contrast, main + 0.1 * beside)
    hand = Scores.of_pairs([-2.0], [-3.0], chosen_length=[4], rejected_length=[2])
    assert float(Likely(0.66)(hand)) == pytest.approx(1 / (1 + np.exp(-(0.66 * 0.5 + 0.34 * 1.5))))


def test_041_likelihood_is_of_the_chosen_of_every_slot() -> None:
    s = items()
    means = (s.logp_NT.sum(-1) / s.mask_NT.sum(-1)).reshape(-1, 3, 2)[..., 0]
    added = o.sso(ftx=0.5)(s).per_contrast - o.sso()(s).per_contrast
    assert torch.allclose(added, -0.5 * (means[:, 0] + 0.1 * means[:, 1] + 0.1 * means[:, 2]))


def test_041_goes_around_any_pair_loss_that_is_one_value_a_contrast() -> None:
    s = items()
    assert o.read("steered(g=0.2):simpo")(s).per_contrast.shape == (4,)
    with pytest.raises(ValueError, match="one value a contrast"):
        o.steered(o.sft())(s)
    with pytest.raises(InputError):
        o.steered(o.dpo(), alpha=1.5)
