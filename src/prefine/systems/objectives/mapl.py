"""121 MAPL: multi-level aware preference learning for complex multi-instruction tasks. arXiv 2505.12845.

Without new labels: instructions that a program can check (length, key words, format, ...) are made for responses that
are there, some that a response follows and some that it breaks, and written behind the prompts. Then

    within a response   L_1 = -log sigma( r(x_w, y) - r(x_l, y) ),   y follows x_w's instructions better than x_l's
    between pairs       L_2 = -log sigma( [r(x1, a) - r(x1, b)] - [r(x2, a) - r(x2, b)] ),   only a follows x1's
    L = L_BT + lambda_1 L_1 + lambda_2 L_2

r = beta log pi(y|x)/ref(y|x) (DPO, token sums) or the output of a reward model. Between two prompts log Z(x) does not
cancel; the method drops it. Either y follows all of x_w's instructions and not all of x_l's, or some of x_w's and none
of x_l's. Read in a public summary: the first level and its construction. Reconstructed from the abstract: the second
(x2 is the original prompt; in half of the contrasts a is the response that was rejected, so the order flips), the
weights 1, one to three instructions a prompt.
"""

from __future__ import annotations

from typing import Literal

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import system
from prefine.curating.instructions import GENERATORS
from prefine.registry import one_of
from prefine.run import Run

KINDS = " ".join(GENERATORS)


@system(
    121, "mapl", "MAPL: multi-level aware preference learning", family="objective", paper="arXiv 2505.12845",
    on_worlds={"lr": 1e-3, "epochs": 2}, question="feedback", granularity="prompt",
)  # fmt: skip
def mapl(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    trains: Literal["policy", "reward-model"] = "policy",
    beta: float = 0.1,
    intra: float = 1.0,
    inter: float = 1.0,
    kinds: str = KINDS,
    most: int = 3,
    flips: bool = True,
) -> PolicyHandle:
    """Learn which prompt a response answers better, beside which response answers a prompt better.

    Use it when models or reward models ignore instructions about length, words and form. Not when prompts leave no room
    for more instructions (``max_prompt`` cuts them from the front).

    trains: the policy by DPO, or a reward model. intra, inter: weights of the two levels (0, 0 is plain DPO or
    Bradley-Terry). kinds: of instructions, with spaces between. most: instructions a prompt gets at most.
    """
    curator = curating.multi_level(kinds, most, flips)
    ways = {
        "policy": lambda rows: run.train(policy, rows, objective=objectives.mapl(beta, intra, inter)),
        "reward-model": lambda rows: run.fit(policy, rows, objective=objectives.mapl_reward(intra, inter)),
    }
    way = one_of("trains", trains, ways)
    return way(run.curate(pairs, curator))
