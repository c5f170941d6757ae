"""PPO: a clipped policy gradient on the policy's own samples, with a value model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import system
from prefine.judging.base import Judge, asked_as, spoken_by
from prefine.objectives.policy_gradient import OfTokens, TokenRewards, advantage
from prefine.registry import positive
from prefine.run import Run

TINY = {
    "lr": 1e-3, "value_lr": 3e-3, "rounds": 6, "batch_size": 16, "temperature": 1.0, "unfinished": -1.0, "vf_coef": 1.0,
}  # fmt: skip


@system(
    None, "ppo", "Proximal policy optimisation, with a value model", family="iteration", paper="arXiv 1707.06347",
    on_worlds=TINY, question="online", data="rewards", learning="online", loss="policy-gradient",
)  # fmt: skip
def ppo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    rounds: int = 20,
    n: int = 1,
    temperature: float = 0.7,
    kl_coef: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    clip: float = 0.2,
    clip_value: float = 0.2,
    vf_coef: float = 0.1,
    whiten_rewards: bool = False,
    unfinished: float = -10.0,
    value: str = "",
    value_lr: float | None = None,
    epochs: float = 1.0,
) -> PolicyHandle:
    """Sample, score, and raise the probability of tokens that did better than the value model expected.

    r_t = -kl_coef (log old - log ref)_t, + the judge's score on the last token;  A = GAE(r, V), whitened over a round;
    L = mean_t max(-A rho, -A clip(rho, 1 - clip, 1 + clip)),  rho = pi/old;
    L_V = vf_coef/2 mean_t max((V - R)^2, (V_clip - R)^2),  R = A + V_old.

    Use it with a reward that can be asked for every sample and is worth chasing: it goes further than a pair loss and
    costs a value model and fresh samples all the way. Not on pairs alone: fit a reward model on them first, or use dpo.

    rounds: batches of prompts, sampled from the policy of the moment. n: responses a prompt. kl_coef: price of a nat
    away from the start. lam: 1 trusts what was sampled, 0 the value model. unfinished: the score of a response cut
    before its end. value: a reward model's directory to start the value model from (else the policy under a fresh
    head). value_lr: the value model's learning rate (else the policy's). epochs: passes over the samples of a round.
    """
    positive(clip=clip, clip_value=clip_value, vf_coef=vf_coef)
    how = Proximal(kl_coef, gamma, lam, clip, clip_value, vf_coef, whiten_rewards)
    draw = curating.rollouts(unfinished=unfinished)
    start, critic = policy, run.critic(run.policy(value) if value else policy)
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
        drawn = run.curate(run.judge(slates, spoken_by(judge, policy), role=asked_as(judge, policy)), draw)
        policy, critic = how.step(run, policy, critic, start, drawn, epochs=epochs, value_lr=value_lr)
        run.watch(policy)
    return policy


@dataclass(frozen=True)
class Proximal:
    """A round of PPO on samples with rewards: both models a few steps further."""

    kl_coef: float = 0.05
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    clip_value: float = 0.2
    vf_coef: float = 0.1
    whiten_rewards: bool = False

    def step(
        self,
        run: Run,
        policy: PolicyHandle,
        critic: PolicyHandle,
        start: PolicyHandle,
        drawn: Contrasts,
        *,
        epochs: float = 1.0,
        lr: float | None = None,
        value_lr: float | None = None,
    ) -> tuple[PolicyHandle, PolicyHandle]:
        """(policy, value model) after the round. Moments are those of all its tokens, whatever the batch size."""
        models = {"reference": start, "old": policy, "value": critic}
        stored = {name: run.logps(model, drawn, label=f"score under {name}") for name, model in models.items()}

        def measured(contrasts: Contrasts, of: OfTokens, name: str) -> Contrasts:
            curator = curating.with_moments(of, tuple(stored), name)
            return run.curate((contrasts, *stored.values()), curator, label=f"moments of {name}")  # type: ignore[arg-type]

        white = "given" if self.whiten_rewards else "none"
        if self.whiten_rewards:
            drawn = measured(drawn, TokenRewards(self.kl_coef), "token_reward")
        about = (self.kl_coef, self.gamma, self.lam)
        drawn = measured(drawn, advantage(*about, critic=True, whiten_rewards=white), "advantage")
        loss = objectives.ppo(self.clip, *about, critic=True, whiten="given", whiten_rewards=white)
        fit = objectives.ppo_value(self.clip_value, *about, self.vf_coef, whiten_rewards=white)
        plain: dict[str, Any] = {"reference": stored, "epochs": epochs, "schedule": "constant", "warmup": 0.0}
        rates: list[dict[str, Any]] = [{} if rate is None else {"lr": rate} for rate in (lr, value_lr)]
        return (
            run.train(policy, drawn, objective=loss, **plain, **rates[0]),
            run.train(critic, drawn, objective=fit, label="fit the value model", **plain, **rates[1]),
        )
