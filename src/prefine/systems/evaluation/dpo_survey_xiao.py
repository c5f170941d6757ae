"""094 A comprehensive survey of direct preference optimization (Xiao et al.). arXiv 2410.15595.

The survey asks six questions of DPO: how the implicit reward is fitted and generalises, how closely and to what the
policy is held, which form feedback has, who writes the responses, how length and other flaws are exploited, and what
the model forgets. They are the facet ``question`` of the catalogue: every published system answers one first
(``prefine systems --question online``; ``facets.coverage``). And they are measurements, which this recipe takes of a
DPO run, with an explicit reward model fitted on the same pairs beside it:

    M1  how many held-out pairs the implicit and the explicit reward rank right, in distribution and out of it
    M2  where the log-probabilities of chosen and rejected went (in the report of every run)
    M3  Spearman correlation of a reward with the length of responses
    M4  the score on something else, before and after: any --eval-data, and the KL in every report
    M5  the share of computing that went into sampling: in the report, by verb

Out of distribution are the pairs with the longest prompts: the share ``out`` is not trained on. That the six names
are the paper's own is from memory; that M1 falls out of distribution, more for the implicit reward, is its finding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from prefine import curating, facets, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system, systems
from prefine.claims import Lab
from prefine.judging.base import Scored
from prefine.registry import between
from prefine.run import Run
from prefine.slate import Contrast, Slate, prompt_text
from prefine.systems.evaluation.dpo_survey_liu import in_random_order


@dataclass(frozen=True)
class Third:
    """Training pairs, held-out ones like them, or those of the longest prompts, by ``which``."""

    which: str
    out: float
    held: float

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        ordered = sorted(rows, key=lambda c: (len(prompt_text(c.prompt(0))), c.slate.id))
        edge = len(ordered) - round(self.out * len(ordered))
        inside = random.Random(0).sample(ordered[:edge], edge)
        held = round(self.held * len(inside))
        yield from {"out": ordered[edge:], "in": inside[:held], "train": inside[held:]}[self.which]


@system(
    94, "dpo-survey-xiao", "A comprehensive survey of DPO: its questions as measurements of a run",
    family="evaluation", paper="arXiv 2410.15595", on_worlds={"lr": 1e-3, "epochs": 2}, question="implicit-reward",
)  # fmt: skip
def dpo_survey_xiao(
    run: Run, policy: PolicyHandle, pairs: Contrasts, *, beta: float = 0.1, out: float = 0.25, held: float = 0.2
) -> PolicyHandle:
    """DPO and a reward model on the same pairs, and what the survey says to look at, noted in the report.

    Use it once on new data, before choosing a method: where the explicit reward ranks unseen pairs better than the
    implicit one, a loop with a judge (iterate --judge reward-model:DIR) is worth its samples. Not to get the best
    policy from the data: it holds a good part of it back.

    beta: closeness to the reference. out: share of pairs, those of the longest prompts, kept as out of distribution.
    held: share of the rest that is held out.
    """
    between(0, 1, out=out, held=held)
    train, inside, outside = (run.curate(pairs, Third(which, out, held)) for which in ("train", "in", "out"))
    trained = run.train(policy, train, objective=objectives.dpo(beta))
    explicit = run.fit(policy, train)
    for name, held_out in (("in", inside), ("out", outside)):
        implicit = rewards(run, trained, held_out) - rewards(run, policy, held_out)
        figures = {
            "m1_implicit": accuracy(implicit),
            "m1_explicit": accuracy(rewards(run, explicit, held_out)),
            "m3_implicit": spearman(implicit.ravel(), lengths(held_out).ravel()),
        }
        run.note(**{f"{figure}_{name}": value for figure, value in figures.items()})
    return trained


def rewards(run: Run, model: PolicyHandle, pairs: Contrasts) -> np.ndarray:
    """(G, 2) log-probabilities of whole responses, or a reward model's rewards."""
    return np.asarray(run.logps(model, pairs).sums())


def lengths(pairs: Contrasts) -> np.ndarray:
    """(G, 2) words."""
    return np.array([[len(c.response(0).split()), len(c.response(1).split())] for c in pairs], dtype=float)


def accuracy(reward_G2: np.ndarray) -> float:
    """M1: the share of pairs whose chosen response has the higher reward, a tie being half.

    >>> accuracy(np.array([[1.0, 0.0], [2.0, 3.0], [1.0, 1.0]]))
    0.5
    """
    gap = reward_G2[:, 0] - reward_G2[:, 1]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """M3: the correlation of ranks, equals sharing theirs; 0 where one of them does not vary.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0])), 6)
    0.5
    """
    a, b = (np.array([(v < z).sum() + 0.5 * (v == z).sum() for z in v], dtype=float) for v in (x, y))
    return 0.0 if a.std() == 0 or b.std() == 0 else float(np.corrcoef(a, b)[0, 1])


def share_of(verb: str, journal: Iterable[Mapping[str, object]]) -> float:
    """M5: the share of the seconds of all verbs that one kind took.

    >>> share_of("sample", [{"verb": "sample", "seconds": 3.0}, {"verb": "train", "seconds": 1.0}])
    0.75
    """
    rows = [(e["verb"], float(e["seconds"])) for e in journal if e.get("seconds") is not None]  # type: ignore[arg-type]
    total = sum(seconds for _, seconds in rows)
    return sum(seconds for name, seconds in rows if name == verb) / total if total else 0.0


@claim(
    "dpo-survey-xiao",
    statement="The measurements say what they should: a reward model of clean labels ranks more unseen pairs right "
    "than one of shuffled labels, in distribution and out of it; the reward of one taught that longer wins has a rank "
    "correlation with length above 0.5, of one taught on pairs of equal length below 0.2; and every one of the six "
    "questions has a system in the catalogue.",
    baseline="the same measurements on shuffled, and on length-matched, labels",
    holds=lambda f: bool(
        (f["m1_clean_in"] > f["m1_shuffled_in"]).all() and (f["m1_clean_out"] > f["m1_shuffled_out"]).all()
        and f["m3_longer_wins"].mean() > 0.5 and abs(f["m3_length_matched"].mean()) < 0.2
        and (f["questions_unanswered"] == 0).all()
    ),
)  # fmt: skip
def measurements(lab: Lab, seed: int) -> Mapping[str, float]:
    """Reward models on the base policy's responses: fitted on facts, out of distribution on chores."""
    world = lab.world("assistant")
    run = lab.run("measures", seed, world=world, lr=1e-3, batch_size=16, epochs=3, log_every=1000)
    base = lab.base(run, world)
    judged = run.judge(run.sample(base, lab.prompts(run, world, 160), n=4), world.annotators["perfect"])
    unseen = run.judge(run.sample(base, lab.prompts(run, world, 480, split="test"), n=4), world.annotators["perfect"])

    def pairs(of: Slates, kinds: tuple[str, ...]) -> Contrasts:
        best = curating.extremes("score")
        return run.curate(of, OfKind(kinds, best))

    train = pairs(judged, ("fact",))
    tests = {"in": pairs(unseen, ("fact",)), "out": pairs(unseen, ("chore", "harm"))}
    models = {"clean": run.fit(base, train), "shuffled": run.fit(base, run.curate(train, in_random_order))}
    figures = {
        f"m1_{name}_{where}": accuracy(rewards(run, model, test))
        for name, model in models.items() for where, test in tests.items()
    }  # fmt: skip
    by_length = run.curate(run.judge(judged, Scored(words, "words")), curating.extremes("words"))
    matched = run.curate(judged, curating.length_matched("score"))
    for name, lessons in (("longer_wins", by_length), ("length_matched", matched)):
        model = run.fit(base, lessons)
        measured = [(rewards(run, model, test).ravel(), lengths(test).ravel()) for test in tests.values()]
        figures[f"m3_{name}"] = spearman(*(np.concatenate(x) for x in zip(*measured, strict=True)))
    covered = facets.coverage((s.key, s.facets) for s in systems())
    figures["questions_unanswered"] = float(sum(not keys for name, keys in covered.items() if name != "cost"))
    return figures


@dataclass(frozen=True)
class OfKind:
    """A curator on the slates whose prompts are of these kinds."""

    kinds: tuple[str, ...]
    curator: Callable[..., Iterable[Contrast]]

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterable[Contrast]:
        return self.curator((s for s in slates if s.meta.get("kind") in self.kinds), rng)


def words(slate: Slate) -> list[float | None]:
    return [float(len(slate.response(i).split())) for i in range(len(slate))]
