"""105 BMC: bridging and modeling correlations in pairwise data. arXiv 2408.07471 (ICLR 2025).

Bridging. An editor rewrites the losing response with the winning one as its guide, changing as little as possible:

    (x, y_w, y_l)  ->  (x, y~ = Edit(x, y_l; y_w), y_l)

so that chosen and rejected differ only where it matters. Modelling. In the pair loss, tokens that differ between the
two (longest matching blocks of the token ids, stopwords left out) weigh more where the policy is less sure:

    lambda_t = 1 + m_t min( 1/pi(y_t | x, y_<t), delta ),   detached
    L = -log sigma( beta [ sum_t lambda_t log pi/ref (y~) - sum_t lambda_t log pi/ref (y_l) ] )

The paper multiplies policy and reference by the policy's lambda; the released code gives the reference the lambda of
its own probabilities (the same at the first step): ``own``. The weights are a wrapper, so any loss can be the base
(the paper's are DPO, IPO, ORPO, R-DPO, SimPO, DPOP). Differences from the release: a stopword's token counts as one
with a space before it too, and frequent tokens of long responses take part in the matching (difflib would set them
aside). The editor's prompts are not in the release; ours is ``curating.bridging.REQUEST``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.objectives import Objective
from prefine.objectives.differing import differences
from prefine.policies.base import Limits
from prefine.registry import one_of
from prefine.run import Run
from prefine.worlds.mistakes import wrong_digit, wrong_solution

STOPWORDS = """
a about above after again against all am an and any are as at be because been before being below between
both but by can did do does doing down during each few for from further had has have having he her here hers herself
him himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or
other our ours ourselves out over own same she should so some such than that the their theirs them themselves then
there these they this those through to too under until up very was we were what when where which while who whom why
will with you your yours yourself yourselves don didn doesn isn wasn weren won wouldn shouldn couldn hasn haven hadn
aren ain ma mightn mustn needn shan s t d ll m o re ve y
"""


@system(
    105, "bmc", "BMC: bridging and modeling correlations in pairwise data for direct preference optimization",
    family="objective", paper="arXiv 2408.07471", on_worlds={"lr": 1e-3, "epochs": 2, "beta": 0.1},
    question="feedback", granularity="token", beta="adaptive",
)  # fmt: skip
def bmc(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    editor: str = "",
    base: Literal["dpo", "ipo", "orpo", "simpo", "length-regularised"] = "dpo",
    beta: float = 0.05,
    delta: float = 2.0,
    own: bool = False,
    max_edit_tokens: int = 512,
) -> PolicyHandle:
    """Edit rejected responses into chosen ones, then weigh the tokens on which the two differ.

    Use it when chosen and rejected were written apart and differ in everything, and a strong model is there to
    edit; or without an editor on pairs that are near-copies already (corrections, post-edits). Not on unrelated
    pairs without an editor: then every token differs, and the weights say only which are unlikely.

    editor: a model directory, hub name or endpoint directory; nothing: the pairs are taken as they are.
    base: the pair loss under the weights; beta: its beta (of ipo: tau; orpo: lam).
    delta: largest extra weight (3 for questions with answers, 2.5 mathematics, 1.5 instructions in the paper).
    """
    bases: Mapping[str, Callable[[], Objective]] = {
        "dpo": lambda: objectives.dpo(beta),
        "ipo": lambda: objectives.ipo(beta),
        "orpo": lambda: objectives.orpo(beta, prompt_in_nll=False),
        "simpo": lambda: objectives.simpo(beta),
        "length-regularised": lambda: objectives.length_regularised(beta),
    }
    loss = one_of("base", base, bases)()
    objectives.correlated(loss, delta)  # the options are fine, or this says what is not
    if editor:
        requests = run.slates(curating.edit_requests(pairs), label="what the editor is asked")
        edits = run.sample(
            run.policy(editor), requests, temperature=0.0, max_tokens=max_edit_tokens, role="editor", label="edit"
        )
        pairs = run.curate((pairs, edits), curating.bridged)
    return run.train(policy, pairs, objective=objectives.correlated(loss, delta, stopword_ids(policy), own))


def stopword_ids(policy: PolicyHandle) -> tuple[int, ...]:
    """Ids of the tokens that are an English stopword by themselves: plain or capitalised, with a space or without."""
    codec = getattr(policy.load(), "codec", None)
    if codec is None:
        return ()
    plain = STOPWORDS.split()
    words = [*plain, *(word.capitalize() for word in plain if len(word) > 1)]
    ids = [codec.response(lead + word, finished=False) for word in words for lead in ("", " ")]
    return tuple(sorted({one[0] for one in ids if len(one) == 1}))


@claim(
    "bmc",
    statement="On sums whose rejected solution is the right one with one wrong digit (bridged), against as many "
    "pairs whose rejected solution is an unrelated wrong one: after equal steps of DPO the right digit is preferred "
    "to the wrong one in more held-out cases, and with BMC's weights the margin on the differing token is larger "
    "than under DPO on the same bridged pairs, in every seed, while the mean |log-ratio| on the tokens that the two "
    "share is at most a tenth larger.",
    baseline="dpo",
    holds=lambda f: (
        f["dpo_accuracy"].mean() > f["apart_accuracy"].mean()
        and bool(np.all(f["bmc_margin"] > f["dpo_margin"]))
        and f["bmc_shared_change"].mean() <= 1.1 * f["dpo_shared_change"].mean()
    ),
)
def one_wrong_digit(lab: Lab, seed: int) -> Mapping[str, float]:
    """A base whose pupils mostly count one short; pairs written from the problems, half of them held out."""
    world = lab.world("arithmetic:misled")
    run = lab.run("digits", seed, world=world, lr=5e-4, batch_size=32, epochs=2)
    base = lab.base(run, world)
    train = lab.prompts(run, world, 320)
    near, apart = (run.curate(train, curator) for curator in (wrong_digit, wrong_solution))
    test = run.curate(lab.prompts(run, world, 128, split="test"), wrong_digit)
    dpo, weighted = objectives.dpo(0.1), objectives.correlated(objectives.dpo(0.1), delta=2.5)
    before, figures = run.logps(base, test), {}
    rows = [base.load().encode(contrast, Limits()) for contrast in test]
    marks = [[np.asarray(m, dtype=bool) for m in differences(w.response, l.response)] for w, l in rows]
    arms: dict[str, tuple[Contrasts, Objective]] = {"apart": (apart, dpo), "dpo": (near, dpo), "bmc": (near, weighted)}
    for name, (pairs, objective) in arms.items():
        after = run.logps(run.train(base, pairs, objective=objective), test)
        digits, margins, shared = [], [], []
        for (w0, l0), (w1, l1), (mw, ml) in zip(before, after, marks, strict=True):
            digits.append(w1[mw].sum() > l1[ml].sum())
            margins.append((w1 - w0)[mw].sum() - (l1 - l0)[ml].sum())
            shared.append(np.abs(np.concatenate([(w1 - w0)[~mw], (l1 - l0)[~ml]])).mean())
        figures[f"{name}_accuracy"] = float(np.mean(digits))
        figures[f"{name}_margin"], figures[f"{name}_shared_change"] = float(np.mean(margins)), float(np.mean(shared))
    return figures
