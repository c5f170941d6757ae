"""126 PPO and GRPO: the clipped surrogate, advantages and the value loss, against their equations in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.objectives.policy_gradient import AgainstGroup, Generalised, Surrogate, TokenRewards, Whitened, advantage
from prefine.objectives.scores import Scores, traits

torch.set_num_threads(1)
F64 = torch.float64
SIZES = (3, 1, 2)


def batch(seed: int = 0, T: int = 5, apart: float = 0.6, sizes: tuple[int, ...] = SIZES) -> Scores:
    """Groups of samples of unequal length; one token in the middle of the first does not count."""
    g = torch.Generator().manual_seed(seed)
    N = sum(sizes)
    lengths = torch.randint(2, T + 1, (N,), generator=g)
    lengths[0] = T
    mask = (torch.arange(T)[None] < lengths[:, None]).double()
    mask[0, 2] = 0.0
    old, ref, value, shift = (torch.randn(N, T, generator=g, dtype=F64) for _ in range(4))
    logp = (old + apart * shift) * mask
    return Scores(
        logp.requires_grad_(), mask, torch.zeros(N, dtype=torch.long),
        torch.tensor([k for k, size in enumerate(sizes) for _ in range(size)]),
        {"reference": ref * mask, "old": old * mask, "value": value * mask},
        {"reward": torch.randn(N, generator=g, dtype=F64)},
    )  # fmt: skip


def rows_of(scores: Scores) -> list[dict[str, Any]]:
    """Every response's tokens that count, as plain arrays."""
    found = []
    for n in range(len(scores.role_N)):
        here = scores.mask_NT[n].numpy() > 0
        arrays = {name: x[n].numpy()[here] for name, x in scores.references.items()}
        new = scores.logp_NT[n].detach().numpy()[here].copy()
        reward = float(scores.values["reward"][n])
        found.append({"new": new, "reward": reward, "group": int(scores.group_N[n]), **arrays})
    return found


def gae(row: dict[str, Any], kl_coef: float, gamma: float, lam: float) -> np.ndarray:
    """The double sum of the definition."""
    T = len(row["old"])
    r = -kl_coef * (row["old"] - row["reference"])
    r[-1] += row["reward"]
    V = np.append(row["value"], 0.0)
    delta = np.array([r[t] + gamma * V[t + 1] - V[t] for t in range(T)])
    return np.array([sum((gamma * lam) ** k * delta[t + k] for k in range(T - t)) for t in range(T)])


def ppo_equation(rows: list[dict[str, Any]], clip: float, kl_coef: float, gamma: float, lam: float) -> float:
    A = [gae(row, kl_coef, gamma, lam) for row in rows]
    flat = np.concatenate(A)
    white = [(a - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-6) for a in A]
    losses = []
    for row, a in zip(rows, white, strict=True):
        rho = np.exp(row["new"] - row["old"])
        losses.append(np.maximum(-a * rho, -a * np.clip(rho, 1 - clip, 1 + clip)))
    return float(np.concatenate(losses).mean())


def value_equation(rows: list[dict[str, Any]], clip: float, kl_coef: float, gamma: float, lam: float) -> float:
    losses = []
    for row in rows:
        returns, V = gae(row, kl_coef, gamma, lam) + row["value"], row["new"]
        near = row["value"] + np.clip(V - row["value"], -clip, clip)
        losses.append(0.5 * np.maximum((V - returns) ** 2, (near - returns) ** 2))
    return float(0.1 * np.concatenate(losses).mean())


def grpo_equation(rows: list[dict[str, Any]], clip: float, beta: float) -> float:
    losses = []
    for row in rows:
        rewards = np.array([other["reward"] for other in rows if other["group"] == row["group"]])
        a = (row["reward"] - rewards.mean()) / (rewards.std(ddof=1) + 1e-6) if len(rewards) > 1 else 0.0
        rho, back = np.exp(row["new"] - row["old"]), row["reference"] - row["new"]
        surrogate = np.minimum(a * rho, a * np.clip(rho, 1 - clip, 1 + clip))
        losses.append(np.mean(-surrogate + beta * (np.exp(back) - back - 1)))
    return float(np.mean(losses))


ABOUT = (0.3, 0.97, 0.9)
CASES: dict[str, Any] = {
    "ppo": (o.ppo(0.2, *ABOUT, critic=True), lambda rows: ppo_equation(rows, 0.2, *ABOUT)),
    "ppo_value": (o.ppo_value(0.2, *ABOUT), lambda rows: value_equation(rows, 0.2, *ABOUT)),
    "grpo": (o.grpo(0.2, 0.3), lambda rows: grpo_equation(rows, 0.2, 0.3)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_follow_the_equation(name: str, seed: int) -> None:
    objective, equation = CASES[name]
    scores = batch(seed)
    loss = objective(scores).mean(scores)
    rows = rows_of(scores)
    assert loss.item() == pytest.approx(equation(rows), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    assert torch.all(gradient[scores.mask_NT == 0] == 0)
    for n, row in enumerate(rows):
        slots = np.flatnonzero(scores.mask_NT[n].numpy())
        for t, slot in enumerate(slots):
            around = []
            for step in (1e-6, -1e-6):
                row["new"][t] += step
                around.append(equation(rows))
                row["new"][t] -= step
            assert gradient[n, slot].item() == pytest.approx((around[0] - around[1]) / 2e-6, abs=1e-7), (n, t)


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_add_up(name: str) -> None:
    """Given moments; of the step they need the whole of it, and say so."""
    objective, _ = CASES[name]
    assert traits(o.ppo())[2] and not traits(o.ppo(whiten="given"))[2] and not traits(o.grpo())[2]
    if name == "ppo":
        objective = o.ppo(0.2, *ABOUT, critic=True, whiten="given")
    whole = batch(3)
    extra = {"advantage_mean": torch.full((3,), 0.1, dtype=F64), "advantage_variance": torch.full((3,), 2.0, dtype=F64)}
    whole = replace(whole, values={**whole.values, **extra})
    total = objective(whole).mean(whole)
    totals = {unit: whole.count(unit) for unit in ("token", "response", "contrast")}
    parts, first = torch.zeros((), dtype=F64), 0
    for g, size in enumerate(SIZES):
        here = slice(first, first + size)
        part = replace(
            whole, logp_NT=whole.logp_NT[here], mask_NT=whole.mask_NT[here], role_N=whole.role_N[here],
            group_N=whole.group_N[here] - g, references={k: v[here] for k, v in whole.references.items()},
            values={k: v[here] if len(v) == sum(SIZES) else v[g : g + 1] for k, v in whole.values.items()},
            totals=totals,
        )  # fmt: skip
        parts, first = parts + objective(part).mean(part), first + size
    assert parts.item() == pytest.approx(total.item(), abs=1e-12)


# -- the advantage


def test_lambda_one_is_return_to_go_less_value() -> None:
    scores = batch(1)
    found = advantage(0.3, 1.0, 1.0, critic=True)(scores)
    for n, row in enumerate(rows_of(scores)):
        r = -0.3 * (row["old"] - row["reference"])
        r[-1] += row["reward"]
        to_go = np.array([r[t:].sum() for t in range(len(r))])
        here = scores.mask_NT[n].numpy() > 0
        np.testing.assert_allclose(found[n].numpy()[here], to_go - row["value"], atol=1e-12)
        assert np.all(found[n].numpy()[~here] == 0)


def test_lambda_zero_is_one_steps_surprise() -> None:
    scores = batch(2)
    found = advantage(0.3, 0.9, 0.0, critic=True)(scores)
    for n, row in enumerate(rows_of(scores)):
        r = -0.3 * (row["old"] - row["reference"])
        r[-1] += row["reward"]
        delta = r + 0.9 * np.append(row["value"][1:], 0.0) - row["value"]
        np.testing.assert_allclose(found[n].numpy()[scores.mask_NT[n].numpy() > 0], delta, atol=1e-12)


def test_gae_by_hand() -> None:
    """r = (0, 0, 1), V = 1/2: delta = (0, 0, 1/2); gamma 1, lam 1/2: A = (1/8, 1/4, 1/2)."""
    s = Scores.of_pairs([0.0], [0.0], chosen_length=[3], rejected_length=[1], reward=torch.tensor([[1.0, 0.0]]))
    s = replace(s, references={"value": 0.5 * s.mask_NT})
    assert Generalised(TokenRewards(0.0), 1.0, 0.5, "value")(s)[0].tolist() == [0.125, 0.25, 0.5]


def test_the_kl_part_of_the_rewards_is_the_sequence_log_ratio() -> None:
    scores = batch(4)
    total = TokenRewards(0.25)(scores).sum(-1)
    ratio = ((scores.references["old"] - scores.references["reference"]) * scores.mask_NT).sum(-1)
    torch.testing.assert_close(total, scores.values["reward"] - 0.25 * ratio)


def test_whitening_has_mean_zero_and_variance_one_and_can_keep_the_mean() -> None:
    scores = batch(5)
    plain = advantage(0.3, 1.0, 0.95, critic=True)
    x, kept = plain(scores)[scores.mask_NT > 0], Whitened(plain, shift=False)(scores)[scores.mask_NT > 0]
    white = Whitened(plain)(scores)[scores.mask_NT > 0]
    assert white.mean().item() == pytest.approx(0, abs=1e-12)
    assert white.var(unbiased=True).item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(kept - white, x.mean().expand_as(x))


def test_group_advantages_by_hand() -> None:
    """Rewards 1, 0, 0, 1: mean 1/2, deviation sqrt(1/3): +-sqrt(3)/2. All alike, or alone: none."""
    scores = batch(0, sizes=(4, 2, 1))
    scores = replace(scores, values={"reward": torch.tensor([1, 0, 0, 1, 0.7, 0.7, 3.0], dtype=F64)})
    A = AgainstGroup(eps=0.0 + 1e-12)(scores)
    want = np.array([1, -1, -1, 1]) * np.sqrt(3) / 2
    for n, a in enumerate([*want, 0, 0, 0]):
        assert np.allclose(A[n][scores.mask_NT[n] > 0].numpy(), a, atol=1e-9)
    assert AgainstGroup(deviation=False)(scores)[0, 0].item() == 0.5


def test_a_reward_a_contrast_is_refused() -> None:
    scores = batch(0)
    with pytest.raises(ValueError, match="every response"):
        o.grpo()(replace(scores, values={"reward": torch.zeros(3, dtype=F64)}))


# -- the surrogate


def given(A: list[float], log_rho: list[float]) -> Scores:
    n = len(A)
    return Scores(
        torch.tensor(log_rho, dtype=F64)[:, None].requires_grad_(), torch.ones(n, 1, dtype=F64),
        torch.zeros(n, dtype=torch.long), torch.arange(n),
        {"old": torch.zeros(n, 1, dtype=F64)}, {"reward": torch.tensor(A, dtype=F64)},
    )  # fmt: skip


def test_no_gradient_where_the_clip_binds_and_only_there() -> None:
    """A > 0 above 1 + c and A < 0 below 1 - c: none. The other two ways back: -A rho / N."""
    edge = [np.log(r) for r in (1.3, 0.7, 1.3, 0.7, 1.1, 0.9)]
    A = [1.0, -2.0, -1.0, 2.0, 1.0, -1.0]
    scores = given(A, edge)
    loss = Surrogate(Generalised(TokenRewards(0.0)), 0.2, 0.2)(scores).mean(scores)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    want = [0.0, 0.0, 1.3 / 6, -2 * 0.7 / 6, -1.1 / 6, 0.9 / 6]
    np.testing.assert_allclose(gradient[:, 0].numpy(), want, atol=1e-12)
    assert loss.item() == pytest.approx((-1.2 + 2 * 0.8 + 1.3 - 1.4 - 1.1 + 0.9) / 6)


@pytest.mark.parametrize("log_rho", [200.0, -200.0])
@pytest.mark.parametrize("A", [1.0, -1.0])
def test_far_away_the_gradient_stays_a_number(A: float, log_rho: float) -> None:
    scores = replace(given([A], [log_rho]), logp_NT=torch.tensor([[log_rho]], requires_grad=True))
    loss = o.ppo(kl_coef=0.0, whiten="none")(scores).mean(scores)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, scores.logp_NT)[0]).all()


def test_at_ratio_one_the_loss_is_minus_the_whitened_mean_and_the_gradient_the_policy_gradients() -> None:
    scores = batch(6, apart=0.0)
    objective = o.ppo(0.2, *ABOUT, critic=True)
    loss = objective(scores).mean(scores)
    assert loss.item() == pytest.approx(0.0, abs=1e-12), "the mean of whitened advantages is 0"
    A = objective.advantage(scores)
    reinforce = -(A * scores.logp_NT * scores.mask_NT).sum() / scores.mask_NT.sum()
    torch.testing.assert_close(*(torch.autograd.grad(x, scores.logp_NT)[0] for x in (loss, reinforce)))
    plain = o.ppo(0.2, *ABOUT, critic=True, whiten="none")
    x = plain.advantage(scores)[scores.mask_NT > 0]
    assert plain(scores).mean(scores).item() == pytest.approx(-x.mean().item(), abs=1e-12)


def test_advantages_and_returns_are_not_differentiated() -> None:
    """The value model's stored numbers, and a gradient through a shared tensor, must not leak."""
    scores = batch(7)
    leaky = {name: x.clone().requires_grad_() for name, x in scores.references.items()}
    for objective in (o.ppo(critic=True), o.ppo_value(clip=None)):
        loss = objective(replace(scores, references=leaky)).mean(scores)
        own = torch.autograd.grad(loss, leaky["reference"], allow_unused=True)[0]
        assert own is None or torch.all(own == 0), "the reference moves advantages only"
    fit = o.ppo_value(clip=None)
    loss = fit(scores).mean(scores)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    back = advantage(critic=True)(scores) + scores.references["value"]
    want = 0.1 * (scores.logp_NT.detach() - back) * scores.mask_NT / scores.mask_NT.sum()
    torch.testing.assert_close(gradient, want)


def test_the_value_clip_keeps_a_model_that_has_gone_far_enough() -> None:
    """V moved past the clip towards the return, which is still further: no gradient from the clipped part, and the
    larger of the two errors is that one."""
    s = Scores.of_pairs([0.5], [0.1], [0.0], [0.0], reward=torch.tensor([[1.0, 1.0]]))
    zero = torch.zeros_like(s.logp_NT)
    s = replace(s, references={"reference": zero, "old": zero, "value": zero}, logp_NT=s.logp_NT.requires_grad_())
    (gradient,) = torch.autograd.grad(o.ppo_value(vf_coef=1.0)(s).mean(s), s.logp_NT)
    assert gradient[0].item() == 0 and gradient[1].item() == pytest.approx((0.1 - 1) / 2)


def test_grpo_without_kl_at_ratio_one_is_the_group_policy_gradient() -> None:
    scores = batch(8, apart=0.0)
    loss = o.grpo(beta=0.0)(scores).mean(scores)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    A = AgainstGroup()(scores)
    want = -A / scores.length_N[:, None] / len(scores.role_N) * scores.mask_NT
    torch.testing.assert_close(gradient, want)


def test_the_upper_edge_can_be_another_and_tokens_can_count_alike() -> None:
    scores = batch(9)
    apart = o.grpo(0.2, 0.0, clip_high=0.4)(scores).mean(scores)
    assert apart.item() != o.grpo(0.2, 0.0)(scores).mean(scores).item()
    rows, losses = rows_of(scores), []
    for row in rows:
        r = np.array([other["reward"] for other in rows if other["group"] == row["group"]])
        a, rho = row["reward"] - r.mean(), np.exp(row["new"] - row["old"])
        losses.append(np.maximum(-a * rho, -a * np.clip(rho, 0.8, 1.4)))
    loss = o.grpo(0.2, 0.0, deviation=False, per="token", clip_high=0.4)(scores).mean(scores)
    assert loss.item() == pytest.approx(np.concatenate(losses).mean(), abs=1e-12)


# -- where they come to rest, on a table: samples in exact proportion


def on_a_table(ref: list[float], reward: list[float]) -> tuple[torch.Tensor, Scores]:
    """pi = (1/2, 1/4, 1/4), as four samples of one prompt in these proportions."""
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=F64).log().requires_grad_()
    drawn = torch.tensor([0, 0, 1, 2])
    logp = logits.log_softmax(-1)[drawn][:, None]
    references = {"old": logp.detach(), "reference": torch.tensor(ref, dtype=F64).log()[drawn][:, None]}
    rewards = torch.tensor(reward, dtype=F64)[drawn]
    return logits, Scores(
        logp, torch.ones(4, 1, dtype=F64), torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long),
        references, {"reward": rewards},
    )  # fmt: skip


def test_ppo_rests_at_the_tilted_reference() -> None:
    """max E[r] - c KL(pi || ref) has pi = ref exp(r/c)/Z: there r - c log pi/ref is the same for all, no gradient."""
    ref, c = np.array([0.2, 0.3, 0.5]), 0.4
    logits, scores = on_a_table(ref.tolist(), (c * np.log(np.array([0.5, 0.25, 0.25]) / ref) + 0.7).tolist())
    loss = o.ppo(kl_coef=c, lam=1.0, whiten="none")(scores).mean(scores)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros(3, dtype=F64), atol=1e-12, rtol=0)


def test_grpos_penalty_pulls_as_kl_of_the_reference_to_the_policy() -> None:
    """sum over samples of pi of (1 - ref/pi) grad log pi = pi - ref in the logits: KL(ref || pi)'s gradient."""
    ref = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    logits, scores = on_a_table(ref.tolist(), [0.0, 0.0, 0.0])
    (gradient,) = torch.autograd.grad(o.grpo(beta=1.0)(scores).mean(scores), logits)
    torch.testing.assert_close(gradient, torch.tensor([0.5, 0.25, 0.25], dtype=F64) - ref)


def test_grpo_rests_where_its_equation_says() -> None:
    """pi(a) (r(a) - V) = beta (pi(a) - ref(a)), V = E r: rewards chosen so. Undivided advantages of four samples."""
    pi, ref, beta = np.array([0.5, 0.25, 0.25]), np.array([0.2, 0.3, 0.5]), 0.3
    logits, scores = on_a_table(ref.tolist(), (beta * (pi - ref) / pi).tolist())
    loss = o.grpo(beta=beta, deviation=False)(scores).mean(scores)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros(3, dtype=F64), atol=1e-12, rtol=0)
