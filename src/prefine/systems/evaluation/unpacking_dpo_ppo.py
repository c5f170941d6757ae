"""126 Unpacking DPO and PPO: best practices for learning from preference feedback. arXiv 2406.09279 (NeurIPS 2024).

Four things are varied one at a time, everything else fixed: the preference data, the algorithm (DPO, or PPO against a
reward model of the same pairs), the reward model (its size), and the prompts that PPO trains on. Arms:

    DPO   -log sigma( beta [ log pi/ref (y_w) - log pi/ref (y_l) ] )
    RM    -log sigma( r(y_w) - r(y_l) ),  a scalar head on the first policy's backbone, or on another model's
    PPO   y ~ pi at a temperature; score r(y) at the last token, -10 if y was cut before its end;
          r_t = -kl_coef (log old - log ref)_t, + the score on the last token;  GAE, whitened over the round;
          clipped policy loss and clipped value loss, value model begun as the reward model, with its own optimiser

A round is a step of the paper: its prompts are sampled once and passed over in mini-batches. (The optimisers begin anew
each round, where the release goes on with them.) The report has every arm, and how much each factor matters: the mean
difference between two of its levels over all arms that are otherwise alike. What the paper finds, in this order: data,
algorithm, reward model, prompts. The release whitened over single responses in an early version; here it is over the
batch, as the paper says, with Bessel's correction and 1e-6 under the root.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefine import curating
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.factors import Levels, effects, gap
from prefine.registry import at_least, between, one_of, positive
from prefine.run import Run
from prefine.systems.blocks.ppo import ppo
from prefine.systems.evaluation.arms import ONLINE, Plan, by_category, data_sets, prompt_sets, size_of
from prefine.worlds import words


@system(
    126, "unpacking-dpo-ppo", "Unpacking DPO and PPO: data, algorithm, reward model and prompts, one at a time",
    family="evaluation", paper="arXiv 2406.09279", question="online", data="pairs, rewards",
    learning="offline, online", loss="logistic, policy-gradient",
    on_worlds={
        "lr": 1e-3, "dpo_lr": 1e-3, "dpo_epochs": 2, "reward_lr": 1e-3, "reward_epochs": 3, "value_lr": 1e-3,
        "rounds": 6, "batch_size": 16, "temperature": 1.0, "unfinished": -1.0, "category": "kind",
    },
)  # fmt: skip
def unpacking_dpo_ppo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    prompts: Slates,
    *,
    noise: tuple[float, ...] = (0.0, 0.2),
    data_by: str = "",
    algorithms: tuple[str, ...] = ("dpo", "ppo"),
    reward_models: tuple[str, ...] = ("1", "0.5"),
    prompts_by: str = "",
    category: str = "",
    rounds: int = 20,
    beta: float = 0.1,
    kl_coef: float = 0.05,
    temperature: float = 0.7,
    unfinished: float = -10.0,
    dpo_lr: float = 5e-7,
    dpo_epochs: float = 3.0,
    reward_lr: float = 1e-5,
    reward_epochs: float = 1.0,
    value_lr: float | None = None,
    n: int = 1,
) -> PolicyHandle:
    """Every combination of data, algorithm and reward model, and PPO on every set of prompts; the best arm comes out.

    Use it before a large run, to see what is worth spending on: better pairs, samples, or a larger reward model. It
    trains a policy an arm, so not on the model itself where a smaller one of its family will do.

    noise: shares of labels turned round, the levels of data. data_by: a column of the pairs that names their data set,
    instead. algorithms: of dpo, ppo, grpo. reward_models: shares of the policy's layers, or directories of models.
    prompts_by: a column of the prompts; PPO then also trains on those of each value alone, equally many. category: a
    column of the held-out prompts to break rewards down by. rounds: steps of PPO, each on its part of the prompts.
    beta: DPO's closeness. kl_coef: PPO's price of a nat. unfinished: the score of a response cut before its end.
    dpo_lr, dpo_epochs: of DPO. reward_lr, reward_epochs: of the reward models. value_lr: of the value model (else lr).
    n: responses a prompt that PPO draws (GRPO eight).
    """
    for share in noise:
        between(0, 1, noise=share)
    for name in algorithms:
        one_of("algorithms", name, {"dpo": None, **ONLINE})
    positive(beta=beta)
    at_least(0, kl_coef=kl_coef)
    plan = Plan(
        algorithms, tuple(size_of(text) for text in reward_models), rounds, beta, kl_coef, temperature, unfinished,
        {"lr": dpo_lr, "epochs": dpo_epochs}, {"lr": reward_lr, "epochs": reward_epochs}, value_lr, n,
    )  # fmt: skip
    data, asked = data_sets(run, pairs, noise, data_by), prompt_sets(run, prompts, prompts_by)
    arms: list[tuple[Levels, float, PolicyHandle]] = []
    for levels, trained in plan.arms(run, policy, data, asked):
        figures = run.watch(trained)
        measured = figures.get("reward", figures.get("pair_accuracy", 0.0))
        arms.append((levels, measured, trained))
        run.note(**{"_".join([*levels.values(), name]): x for name, x in by_category(run, trained, category).items()})
        run.note(**{"_".join(levels.values()): measured})
    run.note(**{f"effect_of_{factor}": x for factor, x in effects([(a, x) for a, x, _ in arms]).items()})
    return max(arms, key=lambda arm: arm[1])[2]


@claim(
    "unpacking-dpo-ppo",
    statement="On a grid of labels right or 30% turned round, DPO or PPO, and reward models of all or half of the "
    "policy's layers, gold reward depends more on the data than on the reward model's size; and PPO with the gold "
    "reward ends above DPO on the same prompts' clean pairs.",
    baseline="DPO; the other levels of the grid",
    holds=lambda f: bool(
        f["right_over_turned"].mean() > abs(f["whole_over_half"].mean()) and f["ppo_gold"].mean() > f["dpo"].mean()
    ),
)
def grid(lab: Lab, seed: int) -> Mapping[str, float]:
    """A pair for each of 192 prompts, all of them prompts of PPO too; gold reward of 56 others, 16 samples each."""
    world = words.world()
    run = lab.run("grid", seed, world=world, lr=1e-3, batch_size=8, log_every=1000)
    base, prompts = lab.base(run, world), lab.prompts(run, world, 192)
    held_out = lab.prompts(run, world, 56, split="test")
    judged = run.judge(run.sample(base, prompts, n=4), world.annotators["perfect"])
    pairs = run.curate(judged, curating.extremes("score"))
    tiny = {"temperature": 1.0, "unfinished": -1.0, "rounds": 6, "n": 4, "kl_coef": 0.02}
    both = {"lr": 1e-3, "batch_size": 16}
    plan = Plan(dpo={"epochs": 4, **both}, reward={"epochs": 8, **both}, **tiny)  # type: ignore[arg-type]
    arms: list[tuple[Levels, float]] = []
    figures: dict[str, float] = {}

    def gold(policy: PolicyHandle) -> dict[str, float]:
        return run.evaluate(policy, held_out, judge=world.gold, start=base, n=16)

    for levels, trained in plan.arms(run, base, data_sets(run, pairs, (0.0, 0.3), ""), {"all": prompts}):
        measured = gold(trained)
        arms.append((levels, measured["reward"]))
        if levels == {"data": "noise-0", "algorithm": "dpo"}:
            figures |= {"dpo": measured["reward"], "dpo_kl": measured["kl"]}
    best = gold(ppo(run, base, prompts, world.annotators["perfect"], **tiny))  # type: ignore[arg-type]
    return {
        **figures, "start": gold(base)["reward"], "ppo_gold": best["reward"], "ppo_gold_kl": best["kl"],
        "right_over_turned": gap(arms, "data", "noise-0", "noise-0.3"),
        "whole_over_half": gap(arms, "reward_model", "1.0", "0.5"),
        "ppo_over_dpo": gap(arms, "algorithm", "ppo", "dpo"),
    }  # fmt: skip
