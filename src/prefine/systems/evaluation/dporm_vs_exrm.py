"""025 DPORM against EXRM: how far DPO's implicit reward generalises. arXiv 2409.03650 (Findings of EMNLP 2024).

The same pairs make two rewards: an explicit one (EXRM), a scalar head on the start, and the implicit one of a policy
trained by DPO from the same start (DPORM):

    L_EX = -log sigma( r(y_w) - r(y_l) ),     L_DPO = -log sigma( r_i(y_w) - r_i(y_l) )
    r_i(x, y) = beta log pi(y|x)/ref(y|x),    token sums; beta scales r_i and changes no ranking

Both rank held-out pairs of the kind they were trained on about alike; on other prompts (prompt shift) and on responses
from elsewhere (response shift) the implicit one falls behind: 3 points on average over the paper's five settings, 7 at
most. Why: what DPO changes at the last layer for one token says nothing of another that no pair contains (the
log-normaliser cancels in the margin), where a reward head reads whatever the hidden states have in common. So in
iterative DPO new samples are better labelled by an explicit reward model than by the policy itself.

Roles: the start is where both begin and DPO's reference in training; the trained policy and the start make the implicit
judge, the reward model is the explicit one; in the loop the judge is one of the two (``labeller``), the explicit one
fitted once, the implicit one of the policy of the moment against the start.

Settled (the paper's data sets and grids were not read): a setting is a domain of prompts or a generator of responses
that the training pairs are not from; learning rate and passes of both are chosen by accuracy on held-out pairs in
distribution, other ones than are reported; a comparison whose training accuracies are more than 5 points apart is said
to be void. Dividing r_i by the length is a diagnosis only (``implicit_a_token``). Of settings that rank alike the first
is taken, so give the smaller learning rates first: how far r_i carries depends on it (in the claim's world it ranks
unseen words upside down after gentle training and nearly as well as the reward model after rough training, which in
distribution nobody can see).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.tags import INSIDE, Cell, Shifts, cells
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.objectives import Objective
from prefine.ranking import best, compared
from prefine.registry import between, one_of
from prefine.run import Run
from prefine.worlds import classes


@system(
    25, "dporm-vs-exrm", "DPORM vs EXRM: the limited generalization of the implicit reward model induced by DPO",
    family="evaluation", paper="arXiv 2409.03650", question="implicit-reward",
    on_worlds={"lr": 1e-3, "epochs": 2, "domain": "kind", "lrs": (5e-4, 1e-3)},
)  # fmt: skip
def dporm_vs_exrm(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    prompts: Slates | None = None,
    *,
    domain: str = "domain",
    generator: str = "generator",
    train_domain: str = "",
    train_generator: str = "",
    held: float = 0.2,
    beta: float = 0.1,
    lrs: tuple[float, ...] = (),
    passes: tuple[float, ...] = (),
    loop: int = 0,
    labeller: Literal["explicit", "implicit"] = "explicit",
    reference: Literal["previous", "start"] = "previous",
    n: int = 4,
    give: Literal["policy", "reward-model"] = "policy",
) -> PolicyHandle:
    """Fit an explicit reward model and DPO's implicit one on one kind of pairs, and compare them on every other kind.

    Use it before a loop in which the policy is to label its own samples: it says how far its implicit reward can be
    trusted away from the pairs it learnt from. Not without rows that say where they are from.

    domain, generator: columns that say where prompts and responses are from. train_domain, train_generator: what to
    train on (default: what most pairs are from). held: share of those pairs held out, half of it for choosing. lrs,
    passes: learning rates and epochs to choose from (default: the run's own). loop: rounds of iterative DPO on
    prompts afterwards, n responses each. labeller: who labels them. reference: of the loop's DPO. give: what comes
    out, the policy or the reward model.
    """
    between(0.01, 0.9, held=held)
    objective, wanted = objectives.dpo(beta), one_of("give", give, {"policy": 0, "reward-model": 1})
    if loop and prompts is None:
        raise InputError("the loop needs prompts", remedy="give --prompts, or leave out --loop")
    found = cells(pairs, domain, generator)
    run.note(pairs=len(pairs), settings=len(found))
    shifts = Shifts(trained_on(found, train_domain, train_generator), domain, generator)
    grid = [dict(zip(("lr", "epochs"), x, strict=True)) for x in product(lrs or (None,), passes or (None,))]
    settings = [{name: x for name, x in one.items() if x is not None} for one in grid]
    edge = held / 2 if len(settings) > 1 else 0.0
    train = run.curate(pairs, shifts.part(INSIDE, held), label="train")
    validation = run.curate(pairs, shifts.part(INSIDE, 0.0, edge), label="validation") if edge else train
    test = run.curate(pairs, shifts.part(INSIDE, edge, held), label="test")
    away = {s: run.curate(pairs, shifts.part(s), label=s) for s in sorted({shifts.of(c) for c in found} - {INSIDE})}
    explicit, implicit = fitted(run, policy, train, validation, objective, settings)
    compared(run, both(explicit, implicit, policy), {"train": train, INSIDE: test}, away)
    trained = implicit
    for t in run.rounds(loop):
        slates = run.sample(trained, run.slice(prompts, t, loop), n=n)  # type: ignore[arg-type]
        judged = run.judge(slates, both(explicit, trained, policy, "score")[labeller], role="view")
        anchor = trained if reference == "previous" else policy
        lessons = run.curate(judged, curating.extremes("score"))
        trained = run.train(trained, lessons, objective=objective, reference=anchor)
        run.watch(trained)
    return (trained, explicit)[wanted]


def fitted(
    run: Run, start: PolicyHandle, train: Contrasts, validation: Contrasts, objective: Objective,
    grid: Sequence[Mapping[str, Any]],
) -> tuple[PolicyHandle, PolicyHandle]:  # fmt: skip
    """The reward model and the policy, each with the settings that rank the validation pairs best."""
    explicit = [run.fit(start, train, **settings) for settings in grid]
    implicit = [run.train(start, train, objective=objective, label="DPO", **settings) for settings in grid]
    return (
        best(run, explicit, judging.reward_model, validation),
        best(run, implicit, lambda policy: judging.implicit_reward(policy, start), validation),
    )


def both(explicit: PolicyHandle, policy: PolicyHandle, start: PolicyHandle, name: str = "reward") -> dict[str, Judge]:
    """The two rewards behind one interface, and the implicit one a token."""
    implicit = judging.implicit_reward(policy, start, name=name)
    model = judging.reward_model(explicit, name)
    return {"explicit": model, "implicit": implicit, "implicit_a_token": judging.per_token(implicit)}


def trained_on(found: Mapping[Cell, int], domain: str, generator: str) -> Cell:
    """The domain and generator to train on: as asked, else what most pairs are from. There must be others."""
    fitting = {c: k for c, k in found.items() if domain in ("", c[0]) and generator in ("", c[1])}
    if not fitting:
        there = ", ".join(sorted(f"{d}/{g}" for d, g in found))
        raise InputError(f"no pairs are of {domain or 'any'}/{generator or 'any'}", remedy=f"there are: {there}")
    if len(found) == 1:
        raise InputError("all pairs are of one domain and generator", remedy="bring pairs of others to measure on")
    return max(fitting, key=lambda cell: (fitting[cell], str(cell)))


@claim(
    "dporm-vs-exrm",
    statement="Pairs over half of the words of two classes, where the language model knows which words go together: on "
    "held-out pairs of those words the explicit and the implicit reward are less than 3 points apart on average; on "
    "pairs of the other words the explicit one ranks more right in every seed, and at least 10 points more on average.",
    baseline="the implicit reward of DPO, from the same start on the same pairs, its settings chosen alike",
    holds=lambda f: bool(
        abs((f["explicit_in"] - f["implicit_in"]).mean()) < 0.03
        and (f["explicit_out"] > f["implicit_out"]).all()
        and (f["explicit_out"] - f["implicit_out"]).mean() >= 0.1
    ),
)
def unseen_words(lab: Lab, seed: int) -> Mapping[str, float]:
    """1200 pairs of seen words, a fifth held out, and 400 of unseen ones; three learning rates to choose from."""
    run = lab.run("classes", seed, lr=1e-3, batch_size=32, log_every=1000)
    start = run.policy(classes.base(lab.root / "worlds"))
    shifts, by_gold = Shifts((None, "seen")), curating.extremes("gold")
    texts = [*classes.slates(1200, "seen", seed), *classes.slates(400, "unseen", seed)]
    pairs = run.curate(run.judge(run.slates(texts), classes.GOLD), by_gold)
    train, validation, test = (
        run.curate(pairs, shifts.part(INSIDE, *share)) for share in ((0.2, 1.0), (0.0, 0.1), (0.1, 0.2))
    )
    away = {"unseen": run.curate(pairs, shifts.part("response_shift_unseen"))}
    grid = [{"lr": lr} for lr in (3e-4, 1e-3, 3e-3)]
    explicit, implicit = fitted(run, start, train, validation, objectives.dpo(0.1), grid)
    found = compared(run, both(explicit, implicit, start), {"train": train, INSIDE: test}, away)
    names = {"fit": "train", "in": INSIDE, "out": "unseen"}
    figures = {
        f"{name}_{short}": found[f"{name}_{setting}"]
        for name in ("explicit", "implicit", "implicit_a_token") for short, setting in names.items()
    }  # fmt: skip
    return {**figures, "void": found["void"]}
