"""025: what is in distribution and what is not, accuracies with intervals, and why the implicit reward falls short."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import curating, judging, objectives
from prefine.curating.tags import INSIDE, Shifts, cells, compact_slates, place
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.policies.tabular import Tabular
from prefine.ranking import accuracy, compared, interval, rewards
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair
from prefine.systems.evaluation.dporm_vs_exrm import trained_on

torch.set_num_threads(1)
RNG = random.Random(0)


def tagged(n: int, domain: str | None, generator: str | None) -> list[Contrast]:
    extra = {k: v for k, v in (("domain", domain), ("generator", generator)) if v}
    two = (Candidate("bad"), Candidate("good"))
    return [pair(Slate(f"q{i} {domain}", two, meta={"extra": extra}), 1, 0) for i in range(n)]


DATA = [
    *tagged(40, "chat", "small"),
    *tagged(10, "maths", "small"),
    *tagged(8, "chat", "large"),
    *tagged(5, "maths", "large"),
]


def test_settings_are_told_apart_and_the_shares_are_disjoint() -> None:
    found = cells(DATA, "domain", "generator")
    shifts = Shifts(trained_on(found, "", ""))
    assert shifts.trained == ("chat", "small")
    names = {shifts.of(cell) for cell in found}
    assert names == {INSIDE, "prompt_shift_maths", "response_shift_large"}
    parts = [list(shifts.part(INSIDE, *share)(DATA, RNG)) for share in ((0.0, 0.3), (0.3, 1.0))]
    assert sum(map(len, parts)) == 40 and min(map(len, parts)) > 0
    assert {p.slate.prompt for p in parts[0]}.isdisjoint({p.slate.prompt for p in parts[1]})
    assert len(list(shifts.part("prompt_shift_maths")(DATA, RNG))) == 15
    assert trained_on(found, "maths", "") == ("maths", "small")


def test_all_pairs_of_a_prompt_are_on_one_side() -> None:
    one, other = (Slate("same", (Candidate(a), Candidate(b))) for a, b in (("a", "b"), ("c", "d")))
    assert place(one) == place(other) and 0 <= place(one) < 1


def test_what_is_missing_is_said() -> None:
    with pytest.raises(InputError, match="which 'domain' or 'generator'"):
        cells(tagged(3, None, None), "domain", "generator")
    with pytest.raises(InputError, match="one domain and generator"):
        trained_on(cells(tagged(3, "chat", None), "domain", "generator"), "", "")
    with pytest.raises(InputError, match="no pairs are of law/any"):
        trained_on(cells(DATA, "domain", "generator"), "law", "")
    with pytest.raises(InputError, match="of 40 pairs of the setting in_distribution none"):
        list(Shifts(("chat", "small")).part(INSIDE, 0.0, 0.0)(DATA, RNG))


def test_pairs_become_slates_with_the_chosen_first_whatever_its_place() -> None:
    (slate,) = compact_slates(tagged(1, "chat", None))
    assert [c.text for c in slate.candidates] == ["good", "bad"]


def test_a_random_scorer_is_at_one_half_gold_at_one_and_turning_the_pairs_turns_the_share() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(400, 2))
    gold.sort(axis=1)
    gold = gold[:, ::-1]
    random_scores = rng.normal(size=(400, 2))
    at_random = accuracy(random_scores)
    assert at_random.low < 0.5 < at_random.high and accuracy(gold).value == 1.0
    noisy = gold + rng.normal(size=gold.shape)
    assert accuracy(noisy[:, ::-1]).value == pytest.approx(1 - accuracy(noisy).value)
    ties = np.array([[1.0, 1.0], [2.0, 1.0]])
    assert accuracy(ties).value == 0.75 and accuracy(ties[:, ::-1]).value == 0.25


def test_the_interval_is_wilsons() -> None:
    """The two roots p of (share - p)^2 = z^2 p (1 - p) / n."""
    share, n, z = 0.83, 60, 1.96
    low, high = sorted(np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2]))
    assert interval(share, n) == pytest.approx((low, high))


def test_abstentions_are_counted_and_nothing_else_is(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    pairs = run.curate(run.slates([Slate("x")]), lambda slates, rng: DATA[:4])
    found = accuracy(rewards(run, Scored(lambda s: [1.0, None] if "q1" in str(s.prompt) else [1.0, 0.0]), pairs))
    assert (found.value, found.pairs, found.abstained) == (1.0, 3, 1)
    figures = compared(
        run, {"a": Scored(lambda s: [1.0, 0.0]), "b": Scored(lambda s: [0.0, 1.0])}, {"train": pairs}, {"away": pairs}
    )
    assert figures["gap_away_mean"] == 1.0 and figures["void"] == 1.0 and figures["b_away"] == 0.0
    assert run.labels == 0, "whose ranking is measured is not an annotator"


def test_dpo_says_nothing_of_tokens_that_no_pair_contains_where_a_linear_reward_does(tmp_path: Path) -> None:
    """Only the rows of the unembedding are trained: those of unseen tokens have no gradient, since the normaliser cancels
    in the margin. 40 tokens, half good, 20 of them compared; SGD in double precision."""
    tokens = [f"t{i}" for i in range(40)]
    good = np.arange(40) % 2 == 0
    rng = np.random.default_rng(0)
    Tabular(["x"], tokens, rng.normal(size=(1, 40))).save(tmp_path / "base")
    settings = {"lr": 0.5, "optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "clip": None, "epochs": 20.0}
    run = Run(tmp_path / "run", settings=TrainSettings.of(settings))
    base = run.policy(tmp_path / "base")

    def of(low: int, high: int) -> list[Contrast]:
        chosen, rejected = ([i for i in range(low, high) if good[i] == side] for side in (True, False))
        couples = [(a, b) for a in chosen for b in rejected]
        return [pair(Slate("x", (Candidate(tokens[a]), Candidate(tokens[b]))), 0, 1) for a, b in couples]

    empty = run.slates([Slate("x")])
    seen, unseen = (run.curate(empty, lambda slates, rng, part=part: part) for part in (of(0, 20), of(20, 40)))
    trained = run.train(base, seen, objective=objectives.dpo(0.1))
    implicit = judging.implicit_reward(trained, base)
    reward_G2 = rewards(run, implicit, unseen)
    assert np.abs(reward_G2[:, 0] - reward_G2[:, 1]).max() < 1e-10
    assert accuracy(rewards(run, implicit, seen)).value == 1.0

    meaning = torch.tensor(np.stack([np.where(good, 1.0, -1.0) + 0.5 * rng.normal(size=40), rng.normal(size=40)], 1))
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        gaps = torch.stack([(meaning[int(c.response(0)[1:])] - meaning[int(c.response(1)[1:])]) @ w for c in seen])
        (slope,) = torch.autograd.grad(-torch.nn.functional.logsigmoid(gaps).mean(), w)
        w = (w - 0.5 * slope).detach().requires_grad_()
    explicit = Scored(lambda slate: [float(meaning[int(c.text[1:])] @ w.detach()) for c in slate.candidates])
    assert accuracy(rewards(run, explicit, unseen)).value > 0.85


def test_a_score_a_token_is_the_score_over_the_tokens() -> None:
    slate = Slate("x", (Candidate("a b c", tokens=(1, 2)), Candidate("a b c")))
    assert judging.per_token(Scored(lambda s: [6.0, 6.0]))([slate])[0]["a_token"].values == (3.0, 2.0)
    assert curating.distinct()([]) is not None
