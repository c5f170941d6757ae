"""Option probabilities: both orders asked, places cancelled out, exact numbers from a model that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from prefine import judging
from prefine.errors import InputError
from prefine.judging.base import spoken_by
from prefine.judging.options import filled, softmax
from prefine.policies.base import Sampling
from prefine.slate import Candidate, Prompt, Slate


@dataclass
class Server:
    """Scores text by the quality of the named response, and likes the letter A by ``pull`` nats whatever stands there.

    Responses are "q=NUMBER". It has ``response_logps``, as an endpoint has.
    """

    pull: float = 0.0
    tie: float = 0.0

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        raise AssertionError("nothing is sampled")

    def response_logps(self, prompt: str, response: str) -> tuple[float, ...]:
        qualities = [float(line[2:]) for line in prompt.splitlines() if line.startswith("q=")]
        if response in "12345":
            return (-abs(float(response) - qualities[0]),)
        at = "ABC".index(response)
        if at >= len(qualities):
            return (self.tie,)
        return (qualities[at], self.pull if at == 0 else 0.0)


def slate(*qualities: float) -> Slate:
    return Slate("which?", tuple(Candidate(f"q={q}") for q in qualities))


def test_the_best_of_all_has_each_response_in_each_place_once() -> None:
    shares = judging.option_choice(Server(pull=1.0))([slate(0.0, 0.0, 0.0)])[0]["score"].values
    assert shares == pytest.approx((1 / 3, 1 / 3, 1 / 3)), "the pull of the first place is the same for all"
    shares = judging.option_choice(Server())([slate(0.0, 1.0, -1.0)])[0]["score"].values
    assert shares == pytest.approx(softmax([0.0, 1.0, -1.0]))
    with pytest.raises(InputError, match="too many"):
        judging.option_choice(Server())([slate(*range(27))])


def test_a_rating_is_the_mean_of_the_options() -> None:
    (column,) = judging.option_score(Server())([slate(4.0)])
    weights = [math.exp(-abs(grade - 4.0)) for grade in range(1, 6)]
    expected = sum(w * g for w, g in zip(weights, range(1, 6))) / sum(weights)
    assert column["score"].values == pytest.approx((expected,))
    judge = judging.option_score(Server(), options=("A", "B"), values=(1.0, 0.0))
    assert judge([slate(0.0)])[0]["score"].values == pytest.approx((softmax([0.0, 0.0])[0],))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: judging.option_score(Server(), options=("1",)), "two or more"),
        (lambda: judging.option_score(Server(), options=("1", "1")), "different"),
        (lambda: judging.option_score(Server(), options=("good", "bad")), "no numbers"),
        (lambda: judging.option_score(Server(), values=(1.0,)), "values for"),
        (lambda: judging.option_choice(None)([slate(1.0, 2.0)]), "no model"),
    ],
)
def test_bad_options_are_said(make, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=said):
        make()


def test_without_a_model_the_policy_of_the_moment_speaks() -> None:
    server = Server()
    assert spoken_by(judging.find("best:self"), server).model is server  # type: ignore[arg-type, attr-defined]
    named = judging.option_score(server)
    assert spoken_by(named, Server(9.0)).model is server  # type: ignore[arg-type, attr-defined]


def test_nothing_that_a_response_says_is_a_template() -> None:
    assert filled("{prompt} {first}", Slate("p"), {"prompt": "{first}", "first": "{prompt}"}) == "{first} {prompt}"
    chat = Slate(({"role": "user", "content": "p"},))
    assert filled("{prompt}?", chat, {"prompt": "p"}) == ({"role": "user", "content": "p?"},)


def test_no_slates_and_no_candidates() -> None:
    assert judging.option_score(Server())([]) == []
    assert judging.option_choice(Server())([slate(1.0), Slate("p")])[0]["score"].values == (1.0,)
    assert judging.option_score(Server())([Slate("p")])[0]["score"].values == ()
