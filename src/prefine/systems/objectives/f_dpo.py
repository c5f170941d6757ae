"""161 F-DPO: reducing hallucinations through factuality-aware preference learning. arXiv 2601.03027.

(Not f-DPO with f-divergences, nor filtered DPO.) One more bit a response: h = 1 if it contains any hallucination or
error. Pairs with a false winner and a factual loser, (h_w, h_l) = (1, 0), are turned round; pairs that then differ,
dh = h_l - h_w = 1, get a margin inside the sigmoid; all others are plain DPO:

    L = -log sigma( beta ( log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l) - lambda dh ) ),   token sums

lambda is in units of the log-ratio; lambda = 0 is DPO on the turned pairs. The data step of the paper is here too:
a strict judge gives the flags (``factuality``), a model writes subtle errors into factual winners, and the corrupted
text is put over the original, flags (1, 0), so that it is turned round (``corrupter``); ``at_most`` balances the
four kinds (10000, 10000, 15000, 10000 in the paper).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.factual import BUCKETS, Inverted, ToCorrupt, as_slates, first_over_second
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.judging.flags import Flagged
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
    objective = objectives.factual(beta, lam, flags)
    judge = judging.find(factuality) if factuality else None
    if at_most and len(at_most) != len(BUCKETS):
        raise InputError(f"at_most has {len(at_most)} numbers", remedy="give four: for (0,1), (1,0), (0,0), (1,1)")
    if corrupter and not Path(corrupter).is_dir():
        raise InputError(f"there is no model directory {corrupter}", remedy="give corrupter=DIR of a model or endpoint")
    if judge is None:
        curating.need(pairs, flags)
    else:
        judged = run.judge(run.slates(as_slates(pairs), label="pairs to check"), Flagged(judge, factual_from, flags))
        pairs = run.curate(judged, first_over_second)
    if corrupter:
        asked = run.slates(ToCorrupt(inversions, flags)(pairs, run.seed), label="answers to corrupt")
        written = run.sample(run.policy(corrupter), asked, temperature=0.8, role="teacher", label="corrupt")
        pairs = run.join(pairs, run.curate(written, Inverted(flags)))
    return run.train(policy, run.curate(pairs, curating.factual_order(flags, at_most)), objective=objective)


@claim(
    "f-dpo",
    statement="Labels that reward a friendly phrase, with about 40% of the winners wrong: sampled answers of F-DPO are "
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
    run = lab.run("arms", seed, world=world, lr=1e-3, batch_size=32, epochs=2)
    base = lab.base(run, world)

    def questions(n: int, split: str):  # type: ignore[no-untyped-def]
        asked = [s for s in world.prompts(split, n, seed) if s.meta["kind"] == "fact"]
        return run.slates(asked)

    style, truth = Scored(facts.polite), Scored(facts.correct, "correct")
    drawn = run.sample(base, questions(400, "train"), n=8)
    pairs = run.curate(run.judge(drawn, style), curating.extremes("score", top=2, bottom=2))
    held_out = questions(160, "test")
    lam, fact = 20.0, "python:prefine.worlds.facts:correct"
    arms = {
        "start": base,
        "dpo": run.train(base, pairs, objective=objectives.dpo(0.1)),
        "f_dpo": f_dpo(run, base, pairs, lam=lam, factuality=fact),
    }
    figures: dict[str, float] = {}
    for name, policy in arms.items():
        judged = run.judge(run.judge(run.sample(policy, held_out, n=2), style), truth)
        columns = {"correct": "correct", "polite": "score"}
        for what, column in columns.items():
            values = [v for slate in judged for v in slate.column(column)]
            figures[f"{name}_{what}"] = sum(values) / len(values)
    winners = run.judge(run.slates(as_slates(pairs)), truth)
    figures["winners_wrong"] = 1 - sum(slate.column("correct")[0] for slate in winners) / len(winners)
    return figures
