"""161 F-DPO: reducing hallucinations through factuality-aware preference learning. arXiv 2601.03027.

(Not f-DPO with f-divergences, nor filtered DPO.) One more bit a response: h = 1 if it contains any hallucination or
error. Pairs with a false winner and a factual loser, (h_w, h_l) = (1, 0), are turned round; pairs that then differ,
dh = h_l - h_w = 1, get a margin inside the sigmoid; all others are plain DPO:

    L = -log sigma( beta ( log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l) - lambda dh ) ),   token sums

lambda is in units of the log-ratio; lambda = 0 is DPO on the turned pairs. The paper's data step is in
``curating.factual``: flags from a strict judge (``factuality``), subtle errors written into factual winners, the
corrupted text over the original with flags (1, 0), so that it is turned round (``corrupter``), and a balance of the
four kinds of pairs (``at_most``; 10000, 10000, 15000, 10000 in the paper).
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.factual import Inverted, ToCorrupt, as_slates, first_over_second
from prefine.judging.base import Scored
from prefine.judging.flags import Flagged
from prefine.policies import directory
from prefine.run import Run


@system(
    161, "f-dpo", "F-DPO: reducing hallucinations in LLMs via factuality-aware preference learning",
    family="objective", paper="arXiv 2601.03027",
    on_worlds={"lr": 1e-3, "factuality": "python:prefine.worlds.facts:truthful"},
    question="reward-hacking", safety="constrained",
)  # fmt: skip
def f_dpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.1,
    lam: float = 10.0,
    flags: str = "hallucinated",
    factuality: str = "",
    factual_from: float = 0.5,
    at_most: tuple[int, ...] = (),
    corrupter: str = "",
    inversions: int = 10_000,
) -> PolicyHandle:
    """DPO that never prefers a false response to a factual one, and separates the two by a margin.

    Use it when labels reward fluent answers that are wrong, and somebody can say which responses are wrong. Without
    such flags, or a judge to give them, it is DPO.

    lam: margin of pairs that differ in factuality (the paper tries 0 to 100). flags: the columns
    hallucinated_chosen and hallucinated_rejected of --data; factuality: a judge that gives them instead, named as for
    --judge, a score below factual_from being a hallucination. at_most: pairs kept of each kind (0,1), (1,0), (0,0),
    (1,1). corrupter: a model that writes errors into so many (inversions) factual winners.
    """
    objective, ordered = objectives.factual(beta, lam, flags), curating.factual_order(flags, at_most)
    judge = judging.find(factuality) if factuality else None
    if corrupter:
        directory.find(corrupter)  # found missing now, not after the judge's work
    if judge is None:
        curating.need(pairs, flags)
    else:
        judged = run.judge(run.slates(as_slates(pairs), label="pairs to check"), Flagged(judge, factual_from, flags))
        pairs = run.curate(judged, first_over_second)
    if corrupter:
        asked = run.slates(ToCorrupt(inversions, flags)(pairs, run.seed), label="answers to corrupt")
        written = run.sample(run.policy(corrupter), asked, temperature=0.8, role="teacher", label="corrupt")
        pairs = run.join(pairs, run.curate(written, Inverted(flags)))
    return run.train(policy, run.curate(pairs, ordered), objective=objective)


@claim(
    "f-dpo",
    statement="Labels that reward a friendly phrase, with about 60% of the winners wrong: sampled answers of F-DPO are "
    "right at least 20 points more often than DPO's, and still friendlier than the base policy's.",
    baseline="dpo on the pairs as labelled",
    holds=lambda f: (
        (f["f_dpo_correct"] - f["dpo_correct"]).mean() >= 0.2 and f["f_dpo_polite"].mean() > f["start_polite"].mean()
    ),
)
def facts_under_a_style_label(lab: Lab, seed: int) -> Mapping[str, float]:
    """Questions for facts in the assistant world; friendly over unfriendly, whatever is true; the same steps."""
    from prefine.worlds import facts

    world = lab.world("assistant")
    run = lab.run("arms", seed, world=world, lr=1e-3, epochs=2)
    base = lab.base(run, world)
    train, held_out = (
        run.slates(s for s in lab.prompts(run, world, n, split=split) if s.meta["kind"] == "fact")
        for split, n in (("train", 400), ("test", 160))
    )
    style, truth = Scored(facts.polite), Scored(facts.correct, "correct")
    pairs = run.curate(run.judge(run.sample(base, train, n=8), style), curating.extremes(top=2, bottom=2))
    arms = {
        "start": base,
        "dpo": run.train(base, pairs, objective=objectives.dpo(0.1)),
        "f_dpo": f_dpo(run, base, pairs, lam=20.0, factuality="python:prefine.worlds.facts:correct"),
    }
    figures = {
        f"{arm}_{what}": run.evaluate(policy, held_out, judge=judge, n=2)["reward"]
        for arm, policy in arms.items()
        for what, judge in (("correct", truth), ("polite", style))
    }
    winners = run.judge(run.slates(as_slates(pairs)), truth)
    return {**figures, "winners_wrong": 1 - fmean(slate.column("correct")[0] for slate in winners)}
