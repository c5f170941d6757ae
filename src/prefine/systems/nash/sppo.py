"""018 SPPO: self-play preference optimisation. arXiv 2405.00675 (ICLR 2025).

A symmetric constant-sum game over responses, solved by multiplicative weights:

    pi_{t+1}(y|x) ~ pi_t(y|x) exp( eta P(y > pi_t | x) )

Taking logs, with the normaliser replaced by eta/2 (exact as eta -> 0, since E_{y~pi_t} P(y > pi_t) = 1/2), each
round regresses the log-ratio to the round's start on eta (win rate - 1/2), separately for both responses:

    L = 1/2 [ (a_w - eta (P(y_w > pi_t) - 1/2))^2 + (a_l - eta (P(y_l > pi_t) - 1/2))^2 ],   a = log pi(y)/pi_t(y)

with token sums and 1/beta = eta. The release collapses its ranker's comparisons into one score a response and
sets p_ij = sigma(s_i - s_j); here the judge's table is used as it is. Win rates include the diagonal (1/2).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge
from prefine.run import Run


@system(
    18, "sppo", "SPPO: self-play preference optimization for language model alignment",
    family="nash", paper="arXiv 2405.00675", on_worlds={"lr": 1e-3, "eta": 20.0, "optimizer": "adamw"},
    question="online", data="rewards", learning="online", aim="self-play", loss="squared", reference="moving",
)  # fmt: skip
def sppo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    preference: Judge,
    *,
    rounds: int = 3,
    n: int = 5,
    eta: float = 1000.0,
    temperature: float = 0.7,
    top_p: float = 0.9,
    single: bool = False,
    optimizer: str = "rmsprop",
    schedule: str = "linear",
) -> PolicyHandle:
    """Play against one's own last round; regress log-ratios on win rates.

    Use it with a preference that need not be transitive, or when DPO's chosen likelihood falls: both sides
    have fixed targets. Not with a judge too noisy for win rates over n samples.

    eta: size of the step in policy space (1000 for large models; scale it with how far a round may go).
    single: targets +-eta (P(y_w > y_l) - 1/2) from the pair's own comparison instead of the two win rates.
    """
    objective = objectives.sppo_single(eta) if single else objectives.sppo(eta)
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature, top_p=top_p)
        pairs = run.curate(run.judge(slates, preference), curating.win_rate_pairs("preference"))
        policy = run.train(policy, pairs, objective=objective, optimizer=optimizer, schedule=schedule)
        run.watch(policy)
    return policy


@claim(
    "sppo",
    statement="Over 3 rounds with a gold preference, SPPO raises the log-probability of chosen and lowers that of "
    "rejected responses relative to the round's start in every round, where DPO on the same pairs lets the chosen "
    "one fall below SPPO's; on the cyclic game the average policy of 4000 exact rounds has exploitability < 0.005 "
    "while the last iterates keep cycling (> 0.05).",
    baseline="dpo",
    holds=lambda f: (
        bool(np.all(f["chosen_rise_least"] > 0) and np.all(f["rejected_fall_least"] > 0))
        and f["chosen_rise"].mean() > f["dpo_chosen_rise"].mean()
        and f["gold_gain"].mean() > 0
        and f["average_exploitability"].max() < 0.005
        and f["last_exploitability"].min() > 0.05
    ),
)
def both_sides_move(lab: Lab, seed: int) -> Mapping[str, float]:
    """Language model on the assistant world; the game with exact updates."""
    from prefine.worlds.games import CYCLE, exploitability

    world = lab.world("assistant")
    run = lab.run("rounds", seed, world=world, lr=1e-3, batch_size=32, optimizer="adamw", schedule="linear", epochs=2)
    policy = base = lab.base(run, world)
    prompts = lab.prompts(run, world, 360)
    preference = world.preference
    assert preference is not None
    rises, falls, dpo_rises = [], [], []
    for t in run.rounds(3):
        slates = run.sample(policy, run.slice(prompts, t, 3), n=5)
        pairs = run.curate(run.judge(slates, preference), curating.win_rate_pairs("preference"))
        before = np.asarray(run.logps(policy, pairs).sums())
        after = {
            "sppo": run.train(policy, pairs, objective=objectives.sppo(20.0)),
            "dpo": run.train(policy, pairs, objective=objectives.dpo(0.1)),
        }
        moved = {name: (np.asarray(run.logps(p, pairs).sums()) - before).mean(0) for name, p in after.items()}
        rises.append(moved["sppo"][0])
        falls.append(-moved["sppo"][1])
        dpo_rises.append(moved["dpo"][0])
        policy = after["sppo"]
    held_out = lab.prompts(run, world, 128, split="test")
    gold = [run.evaluate(p, held_out, judge=world.gold, n=2)["reward"] for p in (base, policy)]

    rng = np.random.default_rng(seed)
    table, current, total, late = np.asarray(CYCLE), rng.dirichlet(np.full(3, 50.0)), np.zeros(3), []
    for step in range(4000):
        total += current
        late += [exploitability(table, current)] if step >= 3500 else []
        current = current * np.exp(0.1 * table @ current)
        current = current / current.sum()
    return {
        "chosen_rise": float(np.mean(rises)),
        "chosen_rise_least": float(min(rises)),
        "rejected_fall": float(np.mean(falls)),
        "rejected_fall_least": float(min(falls)),
        "dpo_chosen_rise": float(np.mean(dpo_rises)),
        "gold_gain": gold[1] - gold[0],
        "average_exploitability": exploitability(table, total / 4000),
        "last_exploitability": float(np.mean(late)),
    }
