"""Judges that are models: log-ratios, reward models, graded text and the probability of a yes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from prefine import judging
from prefine.errors import InputError
from prefine.fingerprint import key_of
from prefine.judging.base import spoken_by
from prefine.judging.language import ask
from prefine.judging.models import prefixes_of, steps_of
from prefine.policies.base import Batch, Limits, Row, Sampling
from prefine.slate import Candidate, Contrast, Prompt, Slate, prompt_text

torch.set_num_threads(1)


@dataclass
class Letters:
    """A policy over single characters: each has its own log-probability after any prompt."""

    logps: Mapping[str, float]
    answer: str = ""
    kind: ClassVar[str] = "letters"
    module = None

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        rows = []
        for m in range(len(contrast.members)):
            ids = tuple(map(ord, contrast.response(m)))
            ended = contrast.slate.candidates[contrast.members[m]].stop != "length"
            ids = (*ids, 0) if ended else ids
            rows.append(Row(tuple(map(ord, prompt_text(contrast.prompt(m)))), ids, (1.0,) * len(ids)))
        return tuple(rows)

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        out = torch.zeros(batch.mask_NT.shape)
        for n, row in enumerate(batch.rows):
            for t, token in enumerate(row.response):
                out[n, t] = self.logps.get(chr(token), -1.0) if token else -0.25
        return out, None

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        self.asked = list(prompts)
        self.seeds = list(seeds)
        return [[Candidate(self.answer) for _ in range(sampling.n)] for _ in prompts]

    def save(self, path: Path) -> None: ...


@dataclass(frozen=True)
class Handle:
    policy: object
    key: str = "k"

    def load(self) -> object:
        return self.policy


def slate(*texts: str, prompt: Prompt = "p") -> Slate:
    return Slate(prompt, tuple(map(Candidate, texts)))


def test_the_implicit_reward_is_a_sum_of_log_ratios_less_the_length() -> None:
    policy, reference = Letters({"a": -1.0, "b": -0.5}), Letters({"a": -2.0, "b": -0.25})
    slates = [slate("ab", "aa"), slate(), slate("b")]
    columns = judging.implicit_reward(Handle(policy), Handle(reference))(slates)
    assert [c["implicit"].values for c in columns] == [(0.75, 2.0), (), (-0.25,)]
    penalised = judging.implicit_reward(Handle(policy), Handle(reference), length_penalty=0.5)(slates[:1])
    assert penalised[0]["implicit"].values == (0.75 - 1.0, 2.0 - 1.0)


def test_the_implicit_reward_of_a_dpo_optimum_is_the_reward_up_to_a_constant() -> None:
    """085 (c), with the policies' probabilities as data: pi = ref exp(r/beta)/Z."""
    beta, reward = 0.4, {"a": 0.3, "b": -1.0, "c": 0.8}
    ref = {"a": 0.5, "b": 0.3, "c": 0.2}
    weights = {k: ref[k] * math.exp(reward[k] / beta) for k in ref}
    total = sum(weights.values())
    policy = Letters({k: math.log(w / total) for k, w in weights.items()})
    reference = Letters({k: math.log(p) for k, p in ref.items()})
    (columns,) = judging.implicit_reward(policy, reference)([slate("a", "b", "c")])
    shifts = [beta * r - reward[k] for k, r in zip("abc", columns["implicit"].values, strict=True)]
    assert max(shifts) - min(shifts) < 1e-6


class Rewards:
    """A reward model that likes the letter a."""

    kind = "reward-model"

    def sample(self) -> None: ...

    def reward(self, slates: Sequence[Slate]) -> list[list[float]]:
        self.seen = [[s.response(i) for i in range(len(s))] for s in slates]
        return [[float(text.count("a")) for text in row] for row in self.seen]


def test_a_reward_model_as_a_judge() -> None:
    columns = judging.reward_model(Handle(Rewards()))([slate("aa", "b"), slate("a")])
    assert [c["score"].values for c in columns] == [(2.0, 0.0), (1.0,)]


def test_a_policy_without_rewards_is_explained() -> None:
    with pytest.raises(InputError, match="letters"):
        judging.reward_model(Handle(Letters({})))([slate("a")])


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("min", (1.0, 0.0)), ("mean", (1.5, 0.0)), ("last", (2.0, 0.0)), ("best", (2.0, 0.0))]
)
def test_a_process_reward_model_sees_every_prefix(aggregate: str, expected: tuple[float, float]) -> None:
    model = Rewards()
    judge = judging.process_reward(Handle(model), aggregate)
    (columns,) = judge([slate("a\nba", "c")])
    assert model.seen == [["a\n", "a\nba", "c"]]
    assert columns["steps"].values == ((1.0, 2.0), (0.0,)) and columns["score"].values == expected


@pytest.mark.parametrize("text", ["a\nb\n\nc", "a\n", "\n\na\n", "a", "", "\n"])
def test_steps_join_to_the_text(text: str) -> None:
    steps = steps_of(text, "\n")
    assert "".join(steps) == text and steps
    assert prefixes_of(text, "\n")[-1] == text
    assert len(steps) == 1 or all(step.strip() for step in steps)


# -- language judges


def test_a_grade_is_read_off_the_text() -> None:
    judge = judging.language_judge(Letters({}, answer="Clear and right.\nScore: 4"))
    (columns,) = judge([slate("x", "y")])
    assert columns["score"].values == (4.0, 4.0) and columns["score_read"].values == (1.0, 1.0)


@pytest.mark.parametrize("answer", ["no grade", "Score: 7", "Score: -1", "4", ""])
def test_what_cannot_be_read_is_an_abstention(answer: str) -> None:
    (columns,) = judging.language_judge(Letters({}, answer=answer), samples=3, temperature=1.0)([slate("x")])
    assert columns["score"].values == (None,) and columns["score_read"].values == (0.0,)


@pytest.mark.parametrize(
    ("answer", "grade"), [("Score: 3", 3.0), ("score:2.5", 2.5), ("**Score: 5**", 5.0), ("Score: 1 ... Score: 2", 2.0)]
)
def test_ways_of_writing_a_grade(answer: str, grade: float) -> None:
    assert judging.language_judge(None).read(answer) == grade


def test_several_samples_are_averaged_over_those_that_can_be_read() -> None:
    class Wavering(Letters):
        def sample(self, prompts, sampling, seeds):  # type: ignore[no-untyped-def]
            return [[Candidate(t) for t in ("Score: 2", "hm", "Score: 5")] for _ in prompts]

    (columns,) = judging.language_judge(Wavering({}), samples=3, temperature=0.7)([slate("x")])
    assert columns["score"].values == (3.5,) and columns["score_read"].values == (2.0,)


@pytest.mark.parametrize(("window", "room"), [(None, 256), (4096, 256), (64, 32)])
def test_a_verdict_is_as_long_as_a_small_window_allows(window: int | None, room: int) -> None:
    class Windowed(Letters):
        def sample(self, prompts, sampling, seeds):  # type: ignore[no-untyped-def]
            assert sampling.max_tokens == room
            return super().sample(prompts, sampling, seeds)

    model = Windowed({}, answer="Score: 1")
    model.codec = SimpleNamespace(window=window)  # type: ignore[attr-defined]
    (columns,) = judging.language_judge(model)([slate("x")])
    assert columns["score"].values == (1.0,)


def test_questions_are_put_to_the_letter() -> None:
    tricky = slate("{prompt} and {response}", prompt="why {response}?")
    assert ask("Q {prompt} A {response}", tricky, 0) == "Q why {response}? A {prompt} and {response}"
    turns = ({"role": "user", "content": "hi"},)
    asked = ask("{prompt}|{response}", slate("yo", prompt=turns), 0)
    assert asked == ({"role": "user", "content": "user: hi|yo"},), "conversations are judged in a conversation"
    assert isinstance(ask("{prompt}", slate("yo"), 0, chat=True), tuple)


def test_the_seed_of_a_question_depends_on_the_question_alone() -> None:
    model = Letters({}, answer="Score: 1")
    judge = judging.language_judge(model)
    judge([slate("x", "y"), slate("z")])
    together = model.seeds
    judge([slate("z")])
    assert model.seeds == together[2:] and len(set(together)) == 3


def test_the_share_of_yes() -> None:
    words = {**dict.fromkeys("YesNo", 0.0), "Y": math.log(0.3), "N": math.log(0.1)}
    (columns,) = judging.yes_judge(Letters(words))([slate("x")])
    assert columns["score"].values[0] == pytest.approx(0.75, abs=1e-6), "the words as they stand, no end token"


def test_the_share_of_yes_from_a_server() -> None:
    class Server(Letters):
        def response_logps(self, prompt: str, response: str) -> tuple[float, ...]:
            return (math.log(0.2), math.log(0.5)) if response == "Yes" else (math.log(0.1),)

    (columns,) = judging.yes_judge(Server({}))([slate("x")])
    assert columns["score"].values[0] == pytest.approx(0.5)


def test_a_self_judge_is_spoken_by_the_policy_of_the_moment() -> None:
    judge = judging.find("self")
    with pytest.raises(InputError, match="itself"):
        judge([slate("x")])
    bound = spoken_by(judge, Handle(Letters({}, answer="Score: 3")))  # type: ignore[arg-type]
    assert bound([slate("x")])[0]["score"].values == (3.0,)
    assert spoken_by(judging.Length(), Handle(None)) == judging.Length()  # type: ignore[arg-type]


def test_judges_that_differ_have_other_keys() -> None:
    policy = Letters({})
    judges = [
        judging.implicit_reward(Handle(policy, "a"), Handle(policy, "b")),
        judging.implicit_reward(Handle(policy, "b"), Handle(policy, "a")),
        judging.implicit_reward(Handle(policy, "a"), Handle(policy, "b"), 0.1),
        judging.reward_model(Handle(policy, "a")),
        judging.process_reward(Handle(policy, "a")),
        judging.process_reward(Handle(policy, "a"), "mean"),
        judging.language_judge(Handle(policy, "a")),
        judging.language_judge(Handle(policy, "a"), samples=2),
        judging.votes(),
        judging.votes("boxed"),
        judging.verifier("boxed"),
    ]
    assert len({key_of(judge=j) for j in judges}) == len(judges)
