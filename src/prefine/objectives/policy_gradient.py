"""Policy gradients on the policy's own samples: a clipped surrogate, advantages for it, and a value model's loss.

    rho_t = pi(y_t)/old(y_t),   L = mean_t max( -A_t rho_t, -A_t clip(rho_t, 1 - c, 1 + c) )

Members of a contrast are samples of one prompt with the value "reward", their roles do not matter. The reference
named "old" is the policy that drew them, so its log-probabilities are stored once and the ratio begins at 1. An
advantage is a function ``Scores -> (N, T)`` of what is stored alone, and is never differentiated:

    Generalised    per-token rewards with a KL penalty, discounted, less a value model's predictions (PPO)
    AgainstGroup   the reward less the mean of the group's, over their deviation (GRPO)

A value model is a policy whose "log-probability" of a token is what it expects from there on
(``policies.value_model``): its stored numbers are the reference named "value", and it learns by the ordinary trainer
with ``ppo_value``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prefine.objectives.combine import Scaled, Sum, add, scale
from prefine.objectives.scores import Loss, Scores
from prefine.registry import at_least, between, one_of, positive

MOST = 20.0
"""Largest log-ratio: past it every clip has bound already, and its exponential stays a number."""


class OfTokens(Protocol):
    """(N, T) numbers of the response tokens, from what is stored; needs as an objective's."""

    @property
    def references(self) -> tuple[str, ...]: ...
    @property
    def whole_batch(self) -> bool: ...
    def __call__(self, scores: Scores) -> Tensor: ...


def reward_of(scores: Scores, by: str = "reward") -> Tensor:
    """(N,) the rewards of the responses."""
    reward_N = scores.value(by)
    if len(reward_N) != len(scores.role_N):
        raise ValueError(f"the value {by!r} is needed for every response, and there is one a contrast")
    return reward_N


def generalised(reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, gamma: float, lam: float) -> Tensor:
    """(N, T) A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t, V = 0 after the last token.

    Tokens that do not count (tool output) are as if they were not there.

    >>> generalised(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.5]]), torch.ones(1, 3), 1.0, 0.5)
    tensor([[0.1250, 0.2500, 0.5000]])
    """
    ahead_N, next_N = torch.zeros_like(value_NT[:, 0]), torch.zeros_like(value_NT[:, 0])
    found: list[Tensor] = []
    for t in reversed(range(mask_NT.shape[1])):
        counts_N = mask_NT[:, t] > 0
        here_N = reward_NT[:, t] + gamma * next_N - value_NT[:, t] + gamma * lam * ahead_N
        ahead_N = torch.where(counts_N, here_N, ahead_N)
        next_N = torch.where(counts_N, value_NT[:, t], next_N)
        found.append(here_N * counts_N)
    return torch.stack(found[::-1], 1)


# -- advantages


@dataclass(frozen=True)
class TokenRewards:
    """(N, T) -kl_coef (log old - log ref)_t, and the response's reward on its last token."""

    kl_coef: float = 0.05
    by: str = "reward"
    reference: str = "reference"
    old: str = "old"
    whole_batch: bool = False

    @property
    def references(self) -> tuple[str, ...]:
        return (self.old, self.reference) if self.kl_coef else ()

    def __call__(self, scores: Scores) -> Tensor:
        left_NT = scores.mask_NT.flip(-1).cumsum(-1).flip(-1)
        last_NT = (scores.mask_NT > 0) & (left_NT == scores.mask_NT)
        reward_NT = last_NT * reward_of(scores, self.by)[:, None]
        if self.kl_coef:
            gap_NT = scores.references[self.old] - scores.references[self.reference]
            reward_NT = reward_NT - self.kl_coef * gap_NT * scores.mask_NT
        return reward_NT.detach()


@dataclass(frozen=True)
class Whitened:
    """Numbers of tokens less their mean over their deviation, (x - m) / sqrt(v + eps), v with Bessel's correction.

    ``moments``: None takes m and v over the tokens of the optimiser step, which is then not cut into micro-batches;
    a name takes them from the contrasts' values NAME_mean and NAME_variance, measured beforehand over more than a
    step (``curating.with_moments``). ``shift=False`` puts the mean back afterwards.
    """

    of: OfTokens
    moments: str | None = None
    shift: bool = True
    eps: float = 1e-6

    @property
    def references(self) -> tuple[str, ...]:
        return self.of.references

    @property
    def whole_batch(self) -> bool:
        return self.moments is None or self.of.whole_batch

    def __call__(self, scores: Scores) -> Tensor:
        x_NT = self.of(scores)
        mean_N1, variance_N1 = self._moments(x_NT, scores)
        white_NT = (x_NT - mean_N1) * (variance_N1 + self.eps).rsqrt()
        return (white_NT if self.shift else white_NT + mean_N1) * scores.mask_NT

    def _moments(self, x_NT: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        if self.moments is not None:
            mean, variance = (scores.value(f"{self.moments}_{which}") for which in ("mean", "variance"))
            return mean[scores.group_N, None], variance[scores.group_N, None]
        counts = scores.mask_NT.sum()
        mean = (x_NT * scores.mask_NT).sum() / counts.clamp(min=1)
        variance = ((x_NT - mean).square() * scores.mask_NT).sum() / (counts - 1).clamp(min=1)
        return mean, variance


@dataclass(frozen=True)
class Generalised:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438) over per-token rewards.

    ``value``: the reference with the value model's predictions when the samples were drawn; None: no baseline.
    lam = 1: what is still to come less the prediction; lam = 0: one step's surprise.
    """

    rewards: OfTokens
    gamma: float = 1.0
    lam: float = 0.95
    value: str | None = None

    @property
    def references(self) -> tuple[str, ...]:
        return (*self.rewards.references, *(() if self.value is None else (self.value,)))

    @property
    def whole_batch(self) -> bool:
        return self.rewards.whole_batch

    def predicted(self, scores: Scores) -> Tensor:
        """(N, T) V_t as it was stored."""
        if self.value is None:
            return torch.zeros_like(scores.mask_NT)
        return scores.references[self.value] * scores.mask_NT

    def __call__(self, scores: Scores) -> Tensor:
        return generalised(self.rewards(scores), self.predicted(scores), scores.mask_NT, self.gamma, self.lam)


@dataclass(frozen=True)
class AgainstGroup:
    """(N, T) (r_i - mean r) / (std r + eps), the same for every token of a response; std with Bessel's correction.

    A group whose rewards are all alike has no advantage. ``deviation=False``: not divided.

    >>> s = Scores.of_pairs([-1.0], [-1.0], reward=torch.tensor([[1.0, 0.0]]))
    >>> AgainstGroup(deviation=False)(s).tolist()
    [[0.5], [-0.5]]
    """

    deviation: bool = True
    by: str = "reward"
    eps: float = 1e-6
    references: tuple[str, ...] = ()
    whole_batch: bool = False

    def __call__(self, scores: Scores) -> Tensor:
        r_N = reward_of(scores, self.by)
        k_N = scores.over_group(torch.ones_like(r_N))[scores.group_N]
        A_N = r_N - scores.over_group(r_N)[scores.group_N] / k_N
        if self.deviation:
            variance_N = scores.over_group(A_N.square())[scores.group_N] / (k_N - 1).clamp(min=1)
            A_N = A_N / (variance_N.sqrt() + self.eps)
        return A_N.detach()[:, None] * scores.mask_NT


# -- losses


def averaged(x_NT: Tensor, scores: Scores, per: str) -> Loss:
    """The mean over the tokens of the step ("token"), or over its responses of their token means ("response")."""
    return Loss.of(scores.over_group(scores.sum(x_NT) if per == "token" else scores.mean(x_NT)), per)


@dataclass(frozen=True)
class Surrogate:
    """max( -A rho, -A clip(rho, 1 - low, 1 + high) ), rho = pi(y_t)/old(y_t), the mean over tokens or responses.

    At rho = 1 the value is -mean A and the gradient that of -mean A log pi. Where A > 0 and rho > 1 + high, or A < 0
    and rho < 1 - low, there is no gradient.
    """

    advantage: OfTokens
    low: float = 0.2
    high: float = 0.2
    old: str = "old"
    per: str = "token"

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.old, *self.advantage.references)))

    @property
    def whole_batch(self) -> bool:
        return self.advantage.whole_batch

    def __call__(self, scores: Scores) -> Loss:
        A_NT = self.advantage(scores).detach()
        rho_NT = scores.ratio_NT(self.old).clamp(max=MOST).exp()
        near_NT = rho_NT.clamp(1 - self.low, 1 + self.high)
        return averaged(torch.maximum(-A_NT * rho_NT, -A_NT * near_NT), scores, self.per)


@dataclass(frozen=True)
class Nearby:
    """exp(d) - d - 1, d = log ref(y_t) - log pi(y_t): never below 0.

    On samples of pi its value is unbiased for KL(pi || ref); its gradient is that of KL(ref || pi).
    """

    reference: str = "reference"
    per: str = "token"

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,)

    def __call__(self, scores: Scores) -> Loss:
        d_NT = (-scores.ratio_NT(self.reference)).clamp(max=MOST)
        return averaged(d_NT.exp() - d_NT - 1, scores, self.per)


@dataclass(frozen=True)
class ValueFit:
    """1/2 max( (V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2 ), the mean over tokens; R = A + V_old, fixed.

    V is what the value model in training says where a policy has its log-probabilities. ``clip=None``: 1/2 (V - R)^2.
    """

    advantage: Generalised
    clip: float | None = 0.2

    @property
    def references(self) -> tuple[str, ...]:
        return self.advantage.references

    @property
    def whole_batch(self) -> bool:
        return self.advantage.whole_batch

    def __call__(self, scores: Scores) -> Loss:
        V_NT, before_NT = scores.logp_NT, self.advantage.predicted(scores)
        return_NT = (self.advantage(scores) + before_NT).detach()
        error_NT = (V_NT - return_NT).square()
        if self.clip is not None:
            near_NT = before_NT + (V_NT - before_NT).clamp(-self.clip, self.clip)
            error_NT = torch.maximum(error_NT, (near_NT - return_NT).square())
        return averaged(error_NT / 2, scores, "token")


# -- by name

WHITENING: Mapping[str, str | None] = {"step": None, "given": "advantage", "none": None}


def advantage(
    kl_coef: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    critic: bool = False,
    whiten_rewards: str = "none",
    reference: str = "reference",
    old: str = "old",
) -> Generalised:
    """PPO's advantage, not whitened: what ``ppo`` and ``ppo_value`` share. ``critic``: less the reference "value"."""
    at_least(0, kl_coef=kl_coef, gamma=gamma, lam=lam)
    moments = one_of("whiten_rewards", whiten_rewards, {**WHITENING, "given": "token_reward"})
    rewards: OfTokens = TokenRewards(kl_coef, reference=reference, old=old)
    rewards = rewards if whiten_rewards == "none" else Whitened(rewards, moments, shift=False)
    return Generalised(rewards, gamma, lam, "value" if critic else None)


def ppo(
    clip: float = 0.2,
    kl_coef: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    critic: bool = False,
    whiten: str = "step",
    whiten_rewards: str = "none",
    reference: str = "reference",
    old: str = "old",
) -> Surrogate:
    """Proximal policy optimisation (arXiv 1707.06347) of a language model, as in arXiv 2406.09279: the policy's loss.

    r_t = -kl_coef (log old - log ref)_t, plus the value "reward" on the last token; A = GAE(gamma, lam) of them and of
    the reference "value" (``critic``; without, V = 0 and one wants lam = 1); whitened over the tokens of the "step",
    by moments "given" with the contrasts, or not ("none"); L = mean_t max(-A rho, -A clip(rho, 1 - clip, 1 + clip)),
    rho = pi/old.

    >>> s = Scores.of_pairs([-1.0], [-1.0], [-1.0], [-1.0], reward=torch.tensor([[1.0, 0.0]]))
    >>> s = Scores(**{**vars(s), "references": {**s.references, "old": s.logp_NT - 1.0}})  # rho = e
    >>> round(float(ppo(kl_coef=0.0, whiten="none")(s).mean(s)), 6)  # -(1.2 * 1 + e * 0) / 2
    -0.6
    """
    between(0, 1, clip=clip)
    moments = one_of("whiten", whiten, WHITENING)
    plain = advantage(kl_coef, gamma, lam, critic, whiten_rewards, reference, old)
    return Surrogate(plain if whiten == "none" else Whitened(plain, moments), clip, clip, old)


def ppo_value(
    clip: float | None = 0.2,
    kl_coef: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    vf_coef: float = 0.1,
    whiten_rewards: str = "none",
    reference: str = "reference",
    old: str = "old",
) -> Scaled:
    """PPO's loss of the value model: vf_coef/2 mean_t max( (V - R)^2, (V_clip - R)^2 ), R = A + V_old not whitened.

    The value model is what is trained; the policy that sampled and its reference are the references "old" and
    "reference", the value model as it was when the samples were drawn is "value".

    >>> s = Scores.of_pairs([0.5], [0.0], [0.0], [0.0], reward=torch.tensor([[1.0, 0.0]]))  # V = 1/2 and 0
    >>> zero = torch.zeros_like(s.logp_NT)
    >>> s = Scores(**{**vars(s), "references": {"reference": zero, "old": zero, "value": zero}})
    >>> round(float(ppo_value(vf_coef=1.0)(s).mean(s)), 6)  # (0.2 - 1)^2 / 2 / 2: the clip binds
    0.16
    """
    positive(vf_coef=vf_coef, **({} if clip is None else {"clip": clip}))
    return scale(vf_coef, ValueFit(advantage(kl_coef, gamma, lam, True, whiten_rewards, reference, old), clip))


def grpo(
    clip: float = 0.2,
    beta: float = 0.04,
    deviation: bool = True,
    per: str = "response",
    clip_high: float | None = None,
    reference: str = "reference",
    old: str = "old",
) -> Sum:
    """Group relative policy optimisation (DeepSeekMath, arXiv 2402.03300): the group's mean in place of a value model.

    L = mean_i 1/|y_i| sum_t [ max(-A_i rho_t, -A_i clip(rho_t, 1 - clip, 1 + clip)) + beta k3_t ],
    A_i = (r_i - mean r) / std r over a contrast's members, k3 = ref/pi - log ref/pi - 1 with its gradient.
    ``clip_high``: another upper edge. ``per="token"``: long responses count for their tokens. ``deviation=False``: not
    divided by the deviation (the two are arXiv 2503.20783's corrections).

    >>> s = Scores.of_pairs([-1.0], [-1.0], [-1.0], [-1.0], reward=torch.tensor([[1.0, 0.0]]))
    >>> s = Scores(**{**vars(s), "references": {**s.references, "old": s.logp_NT - 1.0}})  # rho = e, A = 1/2, -1/2
    >>> round(float(grpo(deviation=False)(s).mean(s)), 6)  # (-1.2 / 2 + e / 2) / 2
    0.37957
    """
    between(0, 1, clip=clip)
    at_least(0, beta=beta, **({} if clip_high is None else {"clip_high": clip_high}))
    one_of("per", per, dict.fromkeys(("response", "token")))
    surrogate = Surrogate(AgainstGroup(deviation), clip, clip if clip_high is None else clip_high, old, per)
    return add(surrogate, scale(beta, Nearby(reference, per))) if beta else add(surrogate)
