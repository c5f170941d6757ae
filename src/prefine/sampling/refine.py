"""Self-refinement: a response becomes part of the next prompt, and the model is asked for a better one.

    y_1 ~ pi(. | x),   y_{k+1} ~ pi(. | z(x, y_k))      z: a template over the prompt and the previous answer

``refined`` does it for data (each turn is an artifact, so a killed chain goes on), and keeps all answers of a prompt
side by side; ``policies.refining`` does it whenever a policy is asked, for evaluation and serving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from prefine.artifacts import PolicyHandle, Slates
from prefine.errors import InputError
from prefine.evaluation import score_column
from prefine.policies.refining import REFINE, refine_prompt, showing
from prefine.registry import at_least, one_of
from prefine.run import Run
from prefine.slate import Slate

SHOWN: Mapping[str, Callable[[Sequence[str]], Sequence[str]]] = {
    "chain": lambda said: said[-1:],
    "first": lambda said: said[:1],
    "all": lambda said: said,
    "none": lambda said: (),
}
"""Which of the answers so far the next turn sees: the last one; the first one, every time; all; none, which is
independent samples."""


def refined(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    turns: int = 4,
    *,
    template: str = REFINE,
    strategy: str = "chain",
    temperature: float = 1.0,
) -> Slates:
    """A slate of ``turns`` answers for every prompt, the k-th given by the k-th turn, all as answers to the prompt."""
    at_least(1, turns=turns)
    showing(template)
    shown = one_of("strategy", strategy, SHOWN)
    prompts = run.bare(prompts)
    if strategy == "none":
        return run.sample(policy, prompts, n=turns, temperature=temperature)
    slates = run.sample(policy, prompts, n=1, temperature=temperature)
    for turn in range(2, turns + 1):
        asked = run.slates(asking(slates, shown, template), label=f"what turn {turn} is asked")
        answers = run.sample(policy, asked, n=1, temperature=temperature, role="refined", label=f"turn {turn}")
        slates = run.slates(_together(slates, answers), label=f"{turn} turns")
    return slates


def by_turn(run: Run, policy: PolicyHandle, turns: int, template: str = REFINE) -> dict[str, float]:
    """What the run's own judge says of every turn's answers to the held-out prompts, on average; nothing where the run
    has no judge or no such prompts."""
    by = run.yardstick
    if by is None or by.prompts is None or by.judge is None:
        return {}
    slates = refined(run, policy, by.prompts, turns, template=template, temperature=by.temperature)
    judged = run.judge(slates, by.judge, role="evaluation")
    said = [judged_slate.column(score_column(judged)) for judged_slate in judged]
    known = [[row[turn] for row in said if row[turn] is not None] for turn in range(turns)]
    return {f"turn_{turn + 1}": fmean(values) for turn, values in enumerate(known) if values}


def asking(slates: Slates, shown: Callable[[Sequence[str]], Sequence[str]], template: str) -> Iterator[Slate]:
    """The prompts of the next turn."""
    for slate in slates:
        said = [slate.response(i) for i in range(len(slate))]
        yield Slate(refine_prompt(slate.prompt, shown(said), template), meta=slate.meta)


def _together(slates: Slates, answers: Slates) -> Iterator[Slate]:
    """Every slate with the next answer, whose log-probabilities were those under another prompt."""
    for slate, answer in zip(slates, answers, strict=True):
        if not len(answer):
            raise InputError("a turn gave no answer", remedy="look at the sampling settings")
        yield slate.with_candidates([replace(answer.candidates[-1], logps=None)])
