"""028 DPO-VP: iterative DPO with verifiable pairs. arXiv 2503.12854.

Each round samples n answers a problem, scores them +1 (right), 0 (wrong but in form), -1 (malformed), and pairs

    chosen     the longest right answer below the length limit, else the longest wrong one, else none
    rejected   a random malformed answer, else a random wrong one (another, if the chosen is wrong), else none

then trains one epoch of DPO (token sums, beta 0.1) from, and referred to, the round's start. The sampling
temperature rises over the rounds (0.7, 0.7, 0.7, 1.0, 1.0, 1.2), so that pairs do not run out.

``process_reward=True`` is the second study: a process reward model R and the generator improve each other. The
release has no code for it; reconstructed from the abstract as: score steps with R_{t-1}; pair the right answer
with the best process against the wrong one with the worst; after DPO refit R on the new trajectories, with all
steps of right answers good and the low-valued steps of wrong answers bad.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.base import Curator
from prefine.judging.base import Judge
from prefine.run import Run
from prefine.store import read_jsonl


@system(
    28, "dpo-vp", "DPO-VP: enhancing LLM reasoning with iterative DPO and verifiable rewards", family="iteration",
    paper="arXiv 2503.12854", world="arithmetic", on_worlds={"lr": 3e-4, "batch_size": 16},
    question="online", data="rewards", learning="online", reference="moving",
)  # fmt: skip
def dpo_vp(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    verifier: Judge,
    *,
    rounds: int = 6,
    n: int = 8,
    temperatures: tuple[float, ...] = (0.7, 0.7, 0.7, 1.0, 1.0, 1.2),
    beta: float = 0.1,
    longest: int = 2048,
    process_reward: bool = False,
    separator: str = "\n",
) -> PolicyHandle:
    """Rounds of on-policy DPO on right against wrong answers: reinforcement learning's accuracy, cheaply.

    Use it when final answers can be checked. Not where the policy is never right, or always.

    temperatures: by round; the last one stays. longest: tokens a chosen answer should stay below.
    process_reward: co-improve a process reward model with the generator. separator: what ends a step.
    """
    points = curating.step_points(separator=separator)
    critic = None
    for t in run.rounds(rounds):
        slates = run.sample(policy, prompts, n=n, temperature=temperatures[min(t, len(temperatures) - 1)])
        judged = run.judge(slates, verifier)
        curator: Curator = curating.verified_pairs(max_tokens=longest)
        if process_reward:
            critic = critic or run.fit(policy, run.curate(judged, points), objective=objectives.binary_cross_entropy())
            judged = run.judge(judged, judging.process_reward(critic, separator=separator))
            curator = curating.process_pairs()
        policy = run.train(policy, run.curate(judged, curator), objective=objectives.dpo(beta))
        if critic:
            critic = run.fit(critic, run.curate(judged, points), objective=objectives.binary_cross_entropy())
        run.watch(policy)
    return policy


@claim(
    "dpo-vp",
    statement="Greedy accuracy: base < one round with the same total number of samples < six rounds. Malformed answers "
    "fall in the first two rounds to under half. At a constant temperature of 0.7 fewer prompts give a pair in rounds "
    "4 to 6 than under the rising schedule.",
    baseline="one round of DPO on as many samples, and a constant temperature",
    holds=lambda f: (
        f["accuracy_base"].mean() < f["accuracy_one"].mean() < f["accuracy_six"].mean()
        and f["malformed_2"].mean() < 0.5 * f["malformed_0"].mean()
        and f["pairs_constant"].mean() < f["pairs_rising"].mean()
    ),
)
def six_rounds_or_one(lab: Lab, seed: int) -> Mapping[str, float]:
    """160 problems, 6 rounds of 4 samples, or 1 of 24; figures on 200 held-out problems."""
    world = lab.world("arithmetic")
    assert world.verifier is not None
    figures: dict[str, float] = {}
    arms: dict[str, dict[str, object]] = {
        "six": {"rounds": 6, "n": 4},
        "one": {"rounds": 1, "n": 24},
        "constant": {"rounds": 6, "n": 4, "temperatures": (0.7,)},
    }
    for name, options in arms.items():
        with lab.run(name, seed, world=world, lr=3e-4, batch_size=16) as run:
            base, prompts = lab.base(run, world), lab.prompts(run, world, 160)
            test = lab.prompts(run, world, 200, split="test")
            policy = dpo_vp(run, base, prompts, world.verifier, separator="\n", **options)  # type: ignore[arg-type]
            figures[f"accuracy_{name}"], _ = graded(run, policy, test, world.verifier)
            if name == "six":
                figures["accuracy_base"], figures["malformed_0"] = graded(run, base, test, world.verifier)
            rounds = [r for r in read_jsonl(run.dir / "journal.jsonl") if r["verb"] == "curate" and r["event"] in DONE]
            counts = [r["figures"]["contrasts"] for r in rounds][-6:]
            if name in ("six", "constant"):
                figures["pairs_rising" if name == "six" else "pairs_constant"] = float(np.mean(counts[3:]))
    with lab.run("two", seed, world=world, lr=3e-4, batch_size=16) as run:
        base, test = lab.base(run, world), lab.prompts(run, world, 200, split="test")
        policy = dpo_vp(run, base, lab.prompts(run, world, 160), world.verifier, rounds=2, n=4)
        figures["malformed_2"] = graded(run, policy, test, world.verifier)[1]
    return figures


DONE = ("done", "reused")


def graded(run: Run, policy: PolicyHandle, test: Slates, verifier: Judge) -> tuple[float, float]:
    """Greedy accuracy, and the share of malformed answers at temperature 1."""
    greedy = run.judge(run.sample(policy, test, temperature=0.0, role="evaluation"), verifier)
    drawn = run.judge(run.sample(policy, test, temperature=1.0, role="evaluation"), verifier)
    right = [v == 1 for s in greedy for v in s.column("verified")]
    malformed = [v == -1 for s in drawn for v in s.column("verified")]
    return float(np.mean(right)), float(np.mean(malformed))
