"""Lessons in refining, chains of turns, policies that refine, and pairs made by contrasting principles."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from prefine import curating, sampling
from prefine.curating.refinements import last_over_first
from prefine.curating.steering import followed, steering_views
from prefine.errors import InputError
from prefine.policies import kind_of, load_policy
from prefine.policies.base import Sampling
from prefine.policies.refining import Refining, refine_prompt
from prefine.run import Run
from prefine.sampling.principles import HEADER, told, without_header
from prefine.slate import Candidate, Prompt, Slate, pair
from prefine.worlds import spelling
from prefine.worlds.pretrain import Settings, pretrained

TEMPLATE = "{prompt} <{previous}> better:"


@dataclass
class Counting:
    """A policy that answers with how often it was asked; everything it was shown is remembered."""

    asked: list[Prompt] = field(default_factory=list)
    kind: ClassVar[str] = "counting"
    module = None

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        rows = []
        for prompt in prompts:
            self.asked.append(prompt)
            rows.append([Candidate(f"{len(self.asked)}.{i}", logps=(0.0,)) for i in range(sampling.n)])
        return rows

    def fresh(self) -> Counting:
        return self

    load = fresh


@dataclass(frozen=True)
class Handle:
    policy: Counting
    key: str = "counting-policy"

    def load(self) -> Counting:
        return self.policy


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def chained(run: Run, strategy: str) -> tuple[list[Prompt], Any]:
    policy = Counting()
    prompts = run.slates([Slate("x", meta={"id": "x"})])
    slates = sampling.refined(run, Handle(policy), prompts, 3, template=TEMPLATE, strategy=strategy)  # type: ignore[arg-type]
    return policy.asked, slates[0]


# -- 002


def test_a_turn_is_shown_the_answer_before_and_the_template_and_nothing_else(run: Run) -> None:
    asked, slate = chained(run, "chain")
    assert asked == ["x", "x <1.0> better:", "x <2.0> better:"]
    assert [slate.response(i) for i in range(3)] == ["1.0", "2.0", "3.0"]
    assert all(slate.prompt_of(i) == "x" for i in range(3)) and slate.meta["id"] == "x"
    assert slate.candidates[1].logps is None, "they were those under another prompt"
    assert [c.origin["role"] for c in slate.candidates] == ["current", "refined", "refined"]


@pytest.mark.parametrize(
    ("strategy", "last"),
    [("first", "x <1.0> better:"), ("all", "x <1.0\n\n2.0> better:"), ("none", "x")],
)
def test_other_strategies(run: Run, strategy: str, last: str) -> None:
    asked, slate = chained(run, strategy)
    assert asked[-1] == last and len(slate) == 3


def test_a_template_shows_both() -> None:
    with pytest.raises(InputError, match="previous"):
        curating.with_refinements("{prompt} better:")
    chat = refine_prompt(({"role": "user", "content": "hi"},), ["yo"], TEMPLATE)
    assert chat == ({"role": "user", "content": "user: hi <yo> better:"},)


def test_every_pair_is_there_again_under_both_of_its_responses() -> None:
    rows = list(curating.with_refinements(TEMPLATE)([pair(_slate("w", "l"), 0, 1)], random.Random(0)))
    seen = [(c.prompt(0), c.prompt(1), c.response(0), c.response(1), c.values) for c in rows]
    values = [{"refinement": r, "weight": 3.0} for r in (0.0, 1.0, 1.0)]
    prompts = ["p", "p <l> better:", "p <w> better:"]
    assert seen == [(p, p, "w", "l", v) for p, v in zip(prompts, values, strict=True)]
    demos = list(curating.refinement_demos(TEMPLATE)([pair(_slate("w", "l"), 0, 1)], random.Random(0)))
    assert [(c.prompt(0), c.response(0)) for c in demos] == [("p", "w"), ("p <l> better:", "w")]


def _slate(*texts: str) -> Slate:
    return Slate("p", tuple(map(Candidate, texts)))


def test_without_a_judge_the_last_turn_beats_the_first_where_they_differ() -> None:
    found = list(last_over_first([_slate("a", "b", "c"), _slate("a", "b", "a")], random.Random(0)))
    assert [(c.response(0), c.response(1)) for c in found] == [("c", "a")]


def test_a_refining_policy_takes_its_turns_and_does_not_depend_on_company(tmp_path: Path) -> None:
    inner = Counting()
    policy = Refining(inner, 3, TEMPLATE)
    (one, two) = policy.sample(["x"], Sampling(n=2), [5])[0]
    assert inner.asked == ["x", "x <1.0> better:", "x <1.1> better:", "x <2.0> better:", "x <3.0> better:"]
    assert (one.text, two.text) == ("4.0", "5.0")
    base = pretrained(tmp_path, "tiny", spelling.write, Settings(steps=2, rows=2, width=16, layers=1, heads=2))
    real = Refining(load_policy(base), 2, "{prompt}{previous} better:")
    real.save(tmp_path / "refining")
    again = load_policy(tmp_path / "refining")
    assert kind_of(tmp_path / "refining") == "refining" and (again.turns, again.template) == (2, real.template)
    assert again.codec.prompt("Spell A:") and again.tokenizer is again.policy.tokenizer, "what a server asks for"
    prompts, sampled = ["Spell A B:", "Spell K:"], Sampling(n=2, max_tokens=4)
    together = [[c.text for c in row] for row in again.sample(prompts, sampled, [3, 4])]
    assert together == [[c.text for c in row] for row in real.sample(prompts, sampled, [3, 4])]
    assert together[1] == [c.text for c in real.sample(prompts[1:], sampled, [4])[0]]
    (tmp_path / "refining" / "refining.json").write_text("{}")
    with pytest.raises(InputError, match="not a refining policy"):
        load_policy(tmp_path / "refining")


# -- 041


def test_the_rules_keep_what_they_say_in_their_order() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(200, 6))
    o, p, n = means[:, :2], means[:, 2:4], means[:, 4:]
    one = [
        i
        for i in range(200)
        if p[i, 0] > o[i, 0] > n[i, 0] and n[i, 1] > o[i, 1] > p[i, 1]
    ]  # fmt: skip
    mean_w, mean_l = np.mean([o[i, 0] for i in one]), np.mean([o[i, 1] for i in one])
    two = [i for i in one if o[i, 0] >= mean_w and o[i, 1] >= mean_l]
    gaps = {i: (p[i, 0] - n[i, 0], n[i, 1] - p[i, 1]) for i in two}
    a, b = (np.mean([gaps[i][k] for i in two]) for k in (0, 1))
    three = [i for i in two if gaps[i][0] > a and gaps[i][1] > b]
    assert [followed(means, r) for r in (0, 1, 2, 3)] == [list(range(200)), one, two, three]
    assert one and two and followed(np.zeros((3, 6)), 3) == [], "strictly"


def test_three_pairs_in_their_slots() -> None:
    slate = Slate("x", (Candidate("g", prompt="G x"), Candidate("b", prompt="B x"), Candidate("0")))
    same = Slate("y", (Candidate("g", prompt="G y"), Candidate("g", prompt="B y"), Candidate("0")))
    (view,) = steering_views([slate, same], random.Random(0))
    seen = [(view.prompt(m), view.response(m)) for m in range(7)]
    assert seen == [("x", "g"), ("x", "b"), ("G x", "g"), ("G x", "b"), ("B x", "g"), ("B x", "b"), ("B x", "0")]
    logps = [[np.array([-1.0])] * 7]
    for third, loser in (("released", "0"), ("expected", "b")):
        (item,) = curating.steered(0, third)([view], logps, random.Random(0))
        slots = [(item.prompt(i), item.response(i), item.response(i + 1)) for i in (0, 2, 4)]
        assert slots == [("x", "g", "b"), ("G x", "g", "b"), ("B x", loser, "g")]
        assert item.roles == (1, -1) * 3 and item.values == {"slot": (0.0, 0.0, 1.0, 1.0, 2.0, 2.0)}


def test_both_sides_are_told_the_same_features_and_named_ones_come_first() -> None:
    rules = sampling.principles("general", 2, 0.2)
    rng, named, more = random.Random(0), 0, Counter()  # type: ignore[var-annotated]
    good = {g: name for name, (g, _) in rules.features}
    for _ in range(300):
        up, down = rules.drawn(["safety", "nonsense"], rng)
        picked = [name for text, name in good.items() if text in up]
        assert len(picked) == 2 and all(dict(rules.features)[name][1] in down for name in picked)
        named += "safety" in picked
        more["brief"] += "few words" in up
    assert named == 300 and more["brief"] / 300 == pytest.approx(0.2, abs=0.07)


def test_principles_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"tone": ["Be warm.", "Be cold."]}))
    assert sampling.principles(str(tmp_path / "mine.json")).drawn((), random.Random(0))[1].endswith("Be cold.")
    (tmp_path / "bad.json").write_text(json.dumps({"tone": "warm"}))
    with pytest.raises(InputError, match="no principles"):
        sampling.principles(str(tmp_path / "bad.json"))


@pytest.mark.parametrize("text", ["Good response: Four.", "Helpful answer:Four.", " Response:\nFour."])
def test_a_header_that_gives_the_principle_away_is_cut(text: str) -> None:
    cut = without_header(Candidate(text, tokens=(1,), logps=(0.0,)), "p")
    assert cut.text == "Four." and cut.tokens is None and cut.logps is None
    assert without_header(Candidate("My answer is: four", tokens=(1,)), None).tokens == (1,) and HEADER


def test_a_system_turn_where_there_are_turns() -> None:
    assert told("s", "x") == "s x" and told("s", ({"role": "user", "content": "x"},))[0]["role"] == "system"
