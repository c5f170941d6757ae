"""024 VerIPO: verifier-guided iterative policy optimisation. arXiv 2505.19000.

Reinforcement learning searches widely, and its outcome reward does not see how an answer was come by: thoughts that
contradict the answer, and repetition, are paid as well as sound work. So between two phases of it a verifier reads the
stored rollouts and makes pairs of them, and DPO puts right what it can in a fraction of the time:

    A  GRPO:      r = r_a + r_f,  r_a in [0, 1] right (or mean relative accuracy), r_f = 0.5 for an answer in form
    B  verifier:  the longest right, consistent, unrepetitive rollout  >  a wrong one; > a right but inconsistent or
                  repetitive one; and wrong attempt + reflection + right attempt  >  the wrong attempt alone
    C  DPO:       beta 0.1, token sums, reference the policy at the end of A
    then A again, at a lower learning rate, without four fifths of the prompts that were always answered right

Consistent: a reader who sees the question and the thought alone comes to the same answer.

Roles: the start samples first; in every phase of GRPO the policy of the moment samples and is the ratio's old policy,
and the phase's start the reference of its KL; in DPO the end of the phase is start and reference; the verifier pays,
the reader (a rule, a small model, or the start) judges consistency and is never trained.

Settled: the wording of pairs, thresholds and reader are reconstructed from descriptions; the KL coefficient is not
stated and is 0 here. The curriculum before the loop is ``prefine run grpo`` on easier prompts. Text only, so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.guided import REFLECTION
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.judging.thoughts import CONCLUDING, Reader, Reading
from prefine.registry import at_least, positive
from prefine.run import Run
from prefine.worlds import unfaithful


@system(
    24, "veripo", "VerIPO: cultivating long reasoning via verifier-guided iterative policy optimization",
    family="reasoning", paper="arXiv 2505.19000", world="arithmetic",
    on_worlds={"lr": 1e-3, "rounds": 3, "n": 8, "batch_size": 8, "form": "####", "reflection": "", "ease": 1.0},
    question="online", data="rewards, lists", learning="online", loss="policy-gradient, logistic", reference="moving",
)  # fmt: skip
def veripo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    verifier: Judge,
    *,
    cycles: int = 1,
    rounds: int = 10,
    n: int = 8,
    temperature: float = 1.0,
    clip: float = 0.2,
    kl: float = 0.0,
    bonus: float = 0.5,
    form: str = "tags",
    reader: str = "",
    right: float = 0.9,
    repeated: float = 0.5,
    reflection: str = REFLECTION,
    solved: float = 0.2,
    beta: float = 0.1,
    ease: float = 0.5,
) -> PolicyHandle:
    """GRPO, a verifier that reads the rollouts, DPO on what it finds, and GRPO again.

    Use it where answers can be checked and the reasoning before them matters too. Not where responses have no thought
    apart from the answer, or where the policy is never right: there is nothing to pair.

    cycles: of verifier and DPO, each with another phase of GRPO after it. rounds: batches of prompts a phase. kl:
    closeness to the phase's start. bonus: reward of an answer in form. form: tags (<think>, <answer>), or the marker
    before the answer. reader: directory of a model that reads thoughts, self (the start), or nothing: their last
    number. right: accuracy that counts as right. repeated: share of repeated 4-grams that counts as repetitive.
    reflection: said between a wrong and a right attempt; empty makes no such pairs. solved: share kept of the prompts
    that were always answered right. ease: factor on the learning rate after the first phase.
    """
    at_least(2, n=n)
    at_least(0, cycles=cycles)
    positive(ease=ease)
    pairs, open_ = curating.verifier_guided(form, right, repeated, reflection), curating.unsolved(solved)
    search, dpo = objectives.grpo(clip, kl), objectives.dpo(beta)
    look = (judging.consistent(form, read_by(reader, policy)), judging.repetition())
    pay = judging.outcome(verifier, bonus)
    draw, lr = curating.rollouts(fewest=2), run.settings.lr
    for cycle in run.rounds(cycles + 1):
        began, rate, seen = policy, lr * (ease if cycle else 1.0), []
        for t in range(rounds):
            slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
            seen.append(run.judge(slates, pay))
            policy = run.train(
                policy, run.curate(seen[-1], draw), objective=search, reference={"reference": began, "old": policy},
                lr=rate, epochs=1.0, schedule="constant", warmup=0.0,
            )  # fmt: skip
        run.watch(policy)
        rollouts = looked_at(run, run.join(*seen), look)
        if cycle < cycles:
            policy = corrected(run, policy, rollouts, pairs, dpo, lr * ease)
            left = run.slates(open_(rollouts), label="prompts still open")
            prompts = left if len(left) >= rounds else prompts
    return policy


def read_by(reader: str, start: PolicyHandle) -> Reader:
    """The reader an option names."""
    if reader in ("", "self"):
        return Reading(start) if reader else CONCLUDING
    if not Path(reader).is_dir():
        raise InputError(f"there is no reader in {reader}", remedy="give a model's directory, self, or nothing")
    return Reading(judging.OnDisk(Path(reader)))


def looked_at(run: Run, rollouts: Slates, look: Sequence[Judge]) -> Slates:
    """The rollouts with what the verifier looks at, and word of it."""
    for judge in look:
        rollouts = run.judge(rollouts, judge, role="view")  # what is paid for was asked of the verifier
    known = [(a, c, r) for s in rollouts for a, c, r in zip(*(s.column(x) for x in COLUMNS), strict=True)]
    said = [c for _, c, _ in known if c is not None]
    run.note(
        accuracy=float(np.mean([a for a, _, _ in known if a is not None] or [0.0])),
        inconsistent=float(np.mean([float(not c) for c in said] or [0.0])), read=len(said) / max(1, len(known)),
        repetition=float(np.mean([r for _, _, r in known] or [0.0])),
    )  # fmt: skip
    return rollouts


COLUMNS = ("accuracy", "consistent", "repetition")


def corrected(
    run: Run, policy: PolicyHandle, rollouts: Slates, pairs: curating.Curator, dpo: objectives.Objective, lr: float
) -> PolicyHandle:
    """DPO on the verifier's pairs; where it finds none the policy goes on as it is, and that is said."""
    try:
        lessons = run.curate(rollouts, pairs)
    except InputError:
        run.progress.say("the verifier found no pair in these rollouts: no sound response beside a worse one")
        return policy
    return run.train(policy, lessons, objective=dpo, lr=lr, label="DPO on the verifier's pairs")


@claim(
    "veripo",
    statement="Sums whose base writes right answers under wrong working, paid by the answer alone: GRPO, verifier, DPO "
    "and GRPO again ends with a smaller share of responses whose working and answer differ than GRPO alone, and is at "
    "least as often right, on average over five seeds.",
    baseline="GRPO alone, one batch of samples more than both phases together",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: bool(
        f["veripo_inconsistent"].mean() < f["grpo_inconsistent"].mean() and f["veripo"].mean() >= f["grpo"].mean()
    ),
)
def consistent_or_only_right(lab: Lab, seed: int) -> Mapping[str, float]:
    """40 problems of 8 samples a batch: two phases of 3 batches and DPO between them, or 7 batches; 200 held out."""
    world, options = lab.world("arithmetic"), {"n": 8, "form": "####", "reflection": "", "ease": 1.0}
    run = lab.run("cycle", seed, world=world, lr=1e-3, batch_size=8, log_every=1000)
    base, held_out = run.policy(unfaithful.base(lab.root / "worlds")), lab.prompts(run, world, 200, split="test")
    prompts, verifier = lab.prompts(run, world, 40 * 7), world.verifier
    assert verifier is not None
    part = run.slates(list(prompts)[: 40 * 3], label="of one phase")
    arms = {
        "start": base,
        "veripo": veripo(run, base, part, verifier, cycles=1, rounds=3, **options),  # type: ignore[arg-type]
        "grpo": veripo(run, base, prompts, verifier, cycles=0, rounds=7, **options),  # type: ignore[arg-type]
    }
    figures: dict[str, float] = {}
    for name, policy in arms.items():
        drawn = run.judge(run.sample(policy, held_out, n=2, role="evaluation"), judging.outcome(verifier))
        judged = run.judge(drawn, judging.consistent("####"))
        said = [c for s in judged for c in s.column("consistent") if c is not None]
        figures |= {
            name: float(np.mean([a for s in judged for a in s.column("accuracy")])),
            f"{name}_inconsistent": float(np.mean([not c for c in said])),
        }
    return figures
