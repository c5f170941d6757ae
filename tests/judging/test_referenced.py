"""Judges that are shown a reference, and texts of users turned into prompts (arXiv 2506.04463)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import pvariance

import pytest

from prefine import judging
from prefine.curating.user_content import ASK, CHECK, as_prompts, asking, proposed
from prefine.errors import InputError
from prefine.judging.base import Scored, spoken_by
from prefine.judging.language import language_judge
from prefine.judging.referenced import Repeated, referenced, repeated
from prefine.slate import Candidate, Feedback, Slate, prompt_text, scores


def seen(slate: Slate) -> list[float]:
    """How long the prompt is that the judge is shown."""
    return [float(len(prompt_text(slate.prompt)))] * len(slate)


@dataclass(frozen=True)
class Noisy:
    seed: int = 0

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [
            {"score": scores([Random(f"{self.seed} {s.id} {i}").gauss(0, 1) for i in range(len(s))])} for s in slates
        ]


def test_only_the_judge_sees_the_reference() -> None:
    told: list[Slate] = []

    def judge(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        told.extend(slates)
        return [{"score": scores([1.0] * len(s))} for s in slates]

    plain = Slate("Who?", (Candidate("I."),), meta={"reference": "It was {prompt} I."})
    chat = Slate(({"role": "user", "content": "Who?"},), (Candidate("I."),), meta={"extra": {"reference": "You."}})
    bare = Slate("Who?", (Candidate("I."), Candidate("We.")))
    found = referenced(judge, text="{prompt}\n[{reference}]")([plain, bare, chat])
    assert [c["score"].values for c in found] == [(1.0,), (None, None), (1.0,)]
    assert told[0].prompt == "Who?\n[It was {prompt} I.]" and told[0].candidates == plain.candidates
    assert told[1].prompt == ({"role": "user", "content": "Who?\n[You.]"},)
    assert plain.prompt == "Who?" and len(told) == 2
    with pytest.raises(InputError, match="does not show"):
        referenced(judge, text="{prompt}")


def test_the_mean_of_m_judgements_has_an_mth_of_the_variance() -> None:
    slates = [Slate(f"q{n}", (Candidate("a"),)) for n in range(4000)]
    once, eight = ([c["score"].values[0] for c in repeated(Noisy(), m)(slates)] for m in (1, 8))
    assert pvariance(once) == pytest.approx(1.0, abs=0.08) and pvariance(eight) == pytest.approx(1 / 8, abs=0.01)


def test_what_repeating_means_for_each_judge() -> None:
    model = language_judge(None)
    graded = repeated(model, 8)
    assert (graded.samples, graded.temperature) == (8, 1.0)  # type: ignore[attr-defined]
    assert repeated(judging.Length(), 8) == judging.Length() and repeated(Noisy(), 1) == Noisy()
    within = repeated(referenced(Noisy()), 3)
    assert isinstance(within.judge, Repeated) and len(within.judge.judges) == 3  # type: ignore[attr-defined]
    assert spoken_by(referenced(judging.find("follow-ups")), "it").judge.model == "it"  # type: ignore[arg-type,attr-defined]


def test_an_abstention_is_left_out_of_the_mean() -> None:
    both = Repeated((Scored(lambda s: [1.0, None]), Scored(lambda s: [3.0, None])))
    assert both([Slate("x", (Candidate("a"), Candidate("b")))])[0]["score"].values == (2.0, None)


def test_from_texts_to_questions_to_prompts() -> None:
    rows = [
        Slate("A text.", meta={"id": "1", "answer": "secret"}),
        Slate("p", meta={"id": "2", "extra": {"post": "B."}}),
    ]
    asked = list(asking(rows, "post"))
    assert [s.meta for s in asked] == [{"id": "1", "document": "A text."}, {"id": "2", "document": "B."}]
    assert "A text." in str(asked[0].prompt) and "{document}" not in str(asked[0].prompt) and "secret" not in str(asked)
    written = [
        Slate(asked[0].prompt, (Candidate("\n Why so?\nBecause."),), meta=asked[0].meta),
        Slate(asked[1].prompt, (Candidate(" \n"),), meta=asked[1].meta),
    ]
    (one,) = proposed(written)
    assert one.prompt == "A text." and one.response(0) == " Why so?"
    enough = [one.with_feedback("enough", scores([p])) for p in (0.5, 0.4)]
    (made,) = as_prompts(enough, "Q: {question}\nA:", 0.5)
    assert made.prompt == "Q: Why so?\nA:" and made.meta == {"id": "1", "reference": "A text."}
    assert "A text." not in str(made.prompt), "the policy never sees the text"
    assert len(list(as_prompts([one]))) == 1
    chat = list(asking([Slate(({"role": "user", "content": "C."},), meta={"id": "3"})], "post"))
    assert chat[0].prompt == ({"role": "user", "content": ASK.replace("{document}", "C.")},)
    assert "{prompt}" in CHECK and "{response}" in CHECK
