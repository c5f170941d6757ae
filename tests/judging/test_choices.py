"""The probability of A or B, a model's likelihood, and mixtures of them: who wins, in which order, and what is unread."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from prefine import curating, judging
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.judging.choices import FLOOR
from prefine.judging.teachers import Mixed
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Feedback, Slate

THREE = Slate("why?", tuple(map(Candidate, ("long answer", "mid answ", "short"))))


@dataclass(frozen=True)
class Chooser:
    """A model behind an endpoint: P(A) and P(B) from what stands as A and as B, spread over two forms."""

    says: Callable[[str, str], tuple[float, float]]

    def sample(self) -> None: ...

    def response_logps(self, prompt: str, response: str) -> tuple[float, ...]:
        first = prompt.split("Response A:\n")[1].split("\n\nResponse B:")[0]
        second = prompt.split("Response B:\n")[1].split("\n\nWhich")[0]
        mass = dict(zip("AB", self.says(first, second), strict=True))[response.strip()]
        share = 0.25 if response.startswith(" ") else 0.75
        return (math.log(max(mass * share, 1e-30)),)


def longer(a: str, b: str) -> tuple[float, float]:
    return (0.6, 0.2) if len(a) > len(b) else (0.2, 0.6)


def columns(says: Callable[[str, str], tuple[float, float]], **options: float) -> Mapping[str, Feedback]:
    return judging.choices(Chooser(says), **options)([THREE])[0]  # type: ignore[arg-type]


def test_letters_become_probabilities_and_those_a_score() -> None:
    found = columns(longer)
    P = found["preference"].values
    assert P[0][1] == pytest.approx(0.75, abs=1e-6) and P[1][0] == pytest.approx(0.25, abs=1e-6)
    want = [math.log(FLOOR + q) for q in (0.75, 0.5, 0.25)]
    assert found["score"].values == pytest.approx(want, abs=1e-6)
    assert found["preference_read"].values == (4, 4, 4)


def test_a_liking_for_the_first_place_cancels() -> None:
    found = columns(lambda a, b: (0.9, 0.1))
    assert [p for row in found["preference"].values for p in row] == pytest.approx([0.5] * 9)
    one_order = columns(lambda a, b: (0.9, 0.1), both=False)
    assert {round(p, 6) for i, row in enumerate(one_order["preference"].values) for j, p in enumerate(row) if i != j} == {
        0.9, 0.1,
    }  # fmt: skip
    slates = [Slate(f"q{k}", THREE.candidates) for k in range(400)]
    judge = judging.choices(Chooser(lambda a, b: (0.9, 0.1)), both=False)
    first = [of["preference"].values[0][1] for of in judge(slates)]
    assert sum(first) / 400 == pytest.approx(0.5, abs=0.06), "which one stands first is a coin's"
    assert first == [of["preference"].values[0][1] for of in judge(slates)], "and the same when asked again"


def test_what_is_no_letter_is_unread_and_said_so() -> None:
    def silent_about_short(a: str, b: str) -> tuple[float, float]:
        return (0.001, 0.001) if "short" in (a, b) else longer(a, b)

    found = columns(silent_about_short, least=0.1)
    assert found["score"].values[2] is None and found["preference_read"].values == (2, 2, 0)
    assert found["preference"].values[0][2] == 0.5
    assert found["score"].values[0] == pytest.approx(math.log(0.75 + FLOOR), abs=1e-6)
    with pytest.raises(InputError, match="least"):
        judging.choices(None, least=2.0)


def test_a_single_response_has_no_score() -> None:
    one = judging.choices(Chooser(longer))([Slate("why?", (Candidate("a"),))])[0]
    assert one["score"].values == (None,) and one["preference"].values == ((0.5,),)


def test_the_likelihood_is_a_mean_over_tokens() -> None:
    policy = Tabular.of(["x"], ["a", "b"], [[0.8, 0.2]])
    slate = Slate("x", (Candidate("b"), Candidate("a")))
    assert judging.likelihood(policy)([slate])[0]["score"].values == pytest.approx((math.log(0.2), math.log(0.8)))
    assert judging.likelihood(policy)([Slate("x")])[0]["score"].values == ()


def test_a_mixture_is_weighed_and_abstains_with_either() -> None:
    first, second = Scored(lambda s: [1.0, None, 3.0], "likelihood"), Scored(lambda s: [5.0, 5.0, 7.0], "choice")
    found = Mixed(first, second, 0.25)([THREE])[0]
    assert found["score"].values == (0.25 + 3.75, None, 0.75 + 5.25)
    assert set(found) == {"likelihood", "choice", "score"}

    def never(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        raise AssertionError("a judge without weight is not asked")

    assert Mixed(never, second, 0.0)([THREE])[0]["score"].values == (5.0, 5.0, 7.0)
    assert Mixed(first, never, 1.0)([THREE])[0]["score"].values == (1.0, None, 3.0)


def test_names_on_the_command_line_want_a_directory(tmp_path: object) -> None:
    for name in ("choice", "likelihood"):
        with pytest.raises(InputError, match="more than its name"):
            judging.find(name)
        assert judging.find(f"{name}:{tmp_path}")


def test_the_same_response_is_kept_once_with_what_is_known_of_it() -> None:
    slate = Slate("?", tuple(map(Candidate, "abac"))).with_feedback("score", Feedback("score", (1.0, 2.0, 3.0, 4.0)))
    (kept,) = curating.distinct(3)([slate])
    assert [c.text for c in kept.candidates] == ["a", "b", "c"] and kept.column("score") == (1.0, 2.0, 4.0)
    assert list(curating.distinct(fewest=4)([slate])) == []
