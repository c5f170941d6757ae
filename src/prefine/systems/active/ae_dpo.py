"""065 AE-DPO: sample-efficient preference alignment via active exploration. arXiv 2312.00267.

A label is most useful where the best that the best response may be worth lies furthest above what it is surely worth.
With m and s, mean and deviation of log pi(y|x) over draws of dropout on the last layer, and g = log ref(y|x):

    offline, of labelled pairs:   acq = max_k [ m_k + c s_k - g_k ] - max_k [ m_k - c s_k - g_k ];
    online, of prompts:           acq = max_i B_i^up - max_i B_i^low,  B_i = mean_j sigma( beta [ d(a_i) - d(a'_j) ] ),
                                  d = m - g, at the upper (lower) bound of a_i ~ pi and the lower (upper) one of
                                  a'_j ~ ref; compared are argmax_i B_i^up and a random a'_j.

Of every super-batch, ``ratio`` times as large as what is learnt from it, the rows with the largest acq are kept, then
DPO. The theory behind it is AE-Borda, a dueling bandit: ``selecting.dueling``.

Roles: the policy of the round speaks and is looked into with dropout; the start is reference throughout (g, a'_j, and
DPO's own), without dropout; the judge labels (online). The release steps the optimiser once a batch; here a round is a
verb and takes a batch or several, so that ``rounds`` at the number of batches is the paper's stream. Dropout inside
LoRA layers, which the release adds, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from prefine import curating, objectives, selecting
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.annotators import Noisy
from prefine.judging.base import Judge, Scored, spoken_by
from prefine.registry import at_least, one_of
from prefine.run import Run
from prefine.selecting.dueling import play
from prefine.worlds.duels import Duels
from prefine.worlds.quality import Quality


@system(
    65, "ae-dpo", "AE-DPO: active exploration by confidence bounds", family="active", paper="arXiv 2312.00267",
    on_worlds={"lr": 1e-3, "rounds": 4, "temperature": 1.0}, question="online", data="pairs, rewards",
    learning="active, offline, online",
)  # fmt: skip
def ae_dpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts | None = None,
    prompts: Slates | None = None,
    preference: Judge | None = None,
    *,
    feedback: Literal["offline", "online"] = "offline",
    choice: Literal["explore", "uncertain", "random"] = "explore",
    rounds: int = 8,
    ratio: float = 3.0,
    n: int = 5,
    width: float = 2.0,
    draws: int = 10,
    dropout: float = 0.05,
    beta: float = 0.1,
    temperature: float = 1.0,
) -> PolicyHandle:
    """Learn first from the pairs, or ask about the prompts, on which the policy could still be far off.

    Use it to spend few labels where the policy's own doubt says they matter. Not with models whose last layer hardly
    reacts to dropout, and not to save computing: every round scores ``ratio`` times what it learns from.

    feedback: offline chooses among labelled pairs, online asks for labels. choice: uncertain (mean variance) and random
    are the baselines. width: deviations a bound lies away. n: samples a prompt from the policy and as many from the
    reference (online). draws, dropout: of the last layer.
    """
    at_least(1, ratio=ratio, n=n)
    best = one_of("choice", choice, CHOICES[feedback])(selecting.Budget(1 / ratio, True), width, draws, dropout, beta)
    start, loss = policy, objectives.dpo(beta)
    wanted: Mapping[str, Any] = {"pairs": pairs} if feedback == "offline" else {
        "prompts": prompts, "preference": preference,
    }  # fmt: skip
    selecting.need(f"feedback={feedback}", **wanted)
    for t in run.rounds(rounds):
        if feedback == "offline":
            assert pairs is not None
            lessons = _kept(run, run.select(pairs, selecting.Part(t, rounds), label="super-batch"), best, policy, start)
        else:
            assert prompts is not None and preference is not None
            ours = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
            both = run.sample(start, ours, n=n, temperature=temperature, role="reference")
            judged = run.judge(_kept(run, both, best, policy, start), spoken_by(preference, policy))
            lessons = run.curate(judged, curating.win_rate_pairs())
        policy = run.train(policy, lessons, objective=loss, reference=start)
        run.watch(policy)
    return policy


def _kept(run: Run, rows: Any, best: selecting.Selector, policy: PolicyHandle, start: PolicyHandle) -> Any:
    view = selecting.view_of(best, policy, start)
    return run.select(rows if view is None else run.judge(rows, view, role="view"), best)


Make = Callable[[selecting.Budget, float, int, float, float], selecting.Selector]
CHOICES: Mapping[str, Mapping[str, Make]] = {
    "offline": {
        "explore": lambda share, width, draws, rate, beta: selecting.upper_confidence(share, width, draws, rate),
        "uncertain": lambda share, width, draws, rate, beta: selecting.uncertain(share, draws, rate),
        "random": lambda share, width, draws, rate, beta: selecting.at_random(share),
    },
    "online": {
        "explore": lambda share, width, draws, rate, beta: selecting.borda(share, beta, width, draws, rate),
        "uncertain": lambda share, width, draws, rate, beta: selecting.Then(
            selecting.uncertain(share, draws, rate), selecting.one_of_each()
        ),
        "random": lambda share, width, draws, rate, beta: selecting.Then(
            selecting.at_random(share), selecting.one_of_each()
        ),
    },
}


@claim(
    "ae-dpo",
    statement="The bandit (20 contexts, 4 of them hard; 400 comparisons; mean over 4 worlds a seed): AE-Borda's regret "
    "in its worst context is below that of uniform contexts, and at least 40% of its comparisons are in the hard ones. "
    "The assistant world: of 600 pairs with a fifth of the labels wrong, 200 chosen by AE-DPO give a gold reward that "
    "is not below that of 200 random ones by more than two standard errors of the difference over seeds.",
    baseline="uniform contexts; random pairs, at equal labels",
    holds=lambda f: (
        (f["regret"] < f["regret_uniform"]).all()
        and (f["hard_share"] >= 0.4).all()
        and (f["explore"] - f["random"]).mean()
        >= -2 * (f["explore"] - f["random"]).std(ddof=1) / np.sqrt(len(f["random"]))
    ),
)
def explored(lab: Lab, seed: int) -> Mapping[str, float]:
    """The bandit by arithmetic; the language model offline, in four rounds."""
    worlds = [Duels(seed=100 * seed + i) for i in range(4)]
    both = {
        active: [play(w.beats, w.kernel, 400, np.random.default_rng(w.seed), active=active, width=2.0) for w in worlds]
        for active in (True, False)
    }
    regret = {a: float(np.mean([w.regret(p) for w, p in zip(worlds, both[a], strict=True)])) for a in both}
    share = np.mean([w.is_hard[p.asked_T].mean() for w, p in zip(worlds, both[True], strict=True)])
    figures = {"regret": regret[True], "regret_uniform": regret[False], "hard_share": float(share)}
    world = lab.world("assistant")
    gold = Scored(Quality(world.attributes), "gold")
    with lab.run("lm", seed, world=world, lr=5e-4, batch_size=16) as run:
        start = lab.base(run, world)
        drawn = run.sample(start, lab.prompts(run, world, 600), n=2)
        pairs = run.curate(run.judge(drawn, Noisy(gold, rate=0.2, seed=seed)), curating.extremes("score"))
        test = lab.prompts(run, world, 128, split="test")
        for choice in CHOICES["offline"]:
            end = ae_dpo(run, start, pairs, choice=choice, rounds=4)  # type: ignore[arg-type]
            figures[choice] = run.evaluate(end, test, judge=gold, n=4)["reward"]
        figures["start"] = run.evaluate(start, test, judge=gold, n=4)["reward"]
    return figures
