"""Goals in prompts (141), reasons beside pairs (063), and log-probabilities of other policies as values (107)."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from prefine import curating, objectives
from prefine.curating.goals import TEXT, WithoutGoal, aimed, goals, range_of, relabelled
from prefine.curating.rationales import FromAspects, Told, answered, requests, with_rationales
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Contrast, Prompt, Slate, pair, scores

RNG = random.Random(0)


def rated(prompt: Prompt = "2+2=", one: float = 8.0, two: float = 3.0) -> Contrast:
    slate = Slate(prompt, (Candidate("4"), Candidate("5")), {"score": scores([one, two])}, {"id": "sum"})
    return pair(slate, 0, 1, gap=one - two)


# -- goals


def test_one_record_becomes_exactly_two() -> None:
    two = list(relabelled(goals())([rated()], RNG))
    said = [(c.prompt(0), c.response(0), c.response(1), c.roles) for c in two]
    first, second = (TEXT.replace("{goal}", g) + "\n\n2+2=" for g in "83")
    assert said == [(first, "4", "5", (1, -1)), (second, "5", "4", (1, -1))]
    assert all(c.prompt(0) == c.prompt(1) and not c.values for c in two)


def test_the_chosen_is_the_best_under_the_relabelled_reward() -> None:
    """R(x, y, g) = -(g - r)^2, whichever of the two is labelled better."""
    put = goals(text="{goal}")
    for one, two in [(8.0, 3.0), (2.0, 9.0), (7.5, 7.0)]:
        for c in relabelled(put)([rated(one=one, two=two)], RNG):
            goal = float(str(c.prompt(0)).split("\n")[0])
            rewards = [-((goal - {"4": one, "5": two}[c.response(m)]) ** 2) for m in (0, 1)]
            assert rewards[0] == 0.0 > rewards[1]


def test_equal_goals_teach_nothing() -> None:
    assert list(relabelled(goals())([rated(one=4.0, two=4.0)], RNG)) == []
    assert list(relabelled(goals(digits=0))([rated(one=4.2, two=3.9)], RNG)) == []
    assert len(list(relabelled(goals())([rated(one=4.2, two=3.9)], RNG))) == 2


def test_whole_numbers_have_no_decimals_and_scales_are_taken_to_ten() -> None:
    put = goals(scales=[(-1.0, 1.0)])
    assert [put.of(rated(one=v).slate, 0) for v in (-1.0, 0.0, 0.5, 1.0, 3.0)] == [
        ("1",), ("5.5",), ("7.8",), ("10",), ("10",)
    ]  # fmt: skip
    assert range_of([rated(), rated(one=9.0)], "score") == (3.0, 9.0)
    with pytest.raises(InputError, match="the same 'score'"):
        range_of([rated(one=1.0, two=1.0)], "score")


def test_without_the_goals_the_two_records_cancel() -> None:
    """At the reference the full-batch DPO gradient of the union is zero under one prompt, and not with the goals."""
    put = goals(text="{goal}")
    two = list(relabelled(put)([rated()], RNG))
    bare = [replace(c, slate=replace(c.slate, prompt="2+2=")) for c in two]
    settings = TrainSettings(lr=1.0, optimizer="sgd", schedule="constant", warmup=0.0, clip=None, max_steps=1)
    start = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    for contrasts, moves in ((bare, False), (two, True)):
        prompts = sorted({str(c.prompt(0)) for c in contrasts})
        table = Tabular(prompts, ["4", "5"], start.repeat(len(prompts), 1))
        before = table.logp_PA().detach().clone()
        train(table, contrasts, objectives.dpo(0.5), references={"reference": table.copy()}, settings=settings)
        assert bool((table.logp_PA() - before).abs().max() > 1e-3) == moves


def test_conversations_have_the_goal_in_the_system_message_or_in_the_question() -> None:
    asked = (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "go"},
    )
    ruled = ({"role": "system", "content": "Be kind."}, *asked)
    system, user = goals(text="[{goal}]"), goals(text="[{goal}]", place="user")
    of = {name: next(iter(relabelled(put)([rated(turns)], RNG))).prompt(0) for name, put, turns in (
        ("system", system, asked), ("ruled", system, ruled), ("user", user, asked))}  # fmt: skip
    assert of["system"] == ({"role": "system", "content": "[8]"}, *asked)
    assert of["ruled"] == ({"role": "system", "content": "Be kind.\n\n[8]"}, *asked)
    assert of["user"] == (*asked[:2], {"role": "user", "content": "[8]\n\ngo"})


def test_a_response_with_a_prompt_of_its_own_gets_the_goal_too() -> None:
    slate = rated().slate
    own = replace(slate, candidates=(slate.candidates[0], replace(slate.candidates[1], prompt="3+2=")))
    (first, _) = relabelled(goals(text="[{goal}]"))([pair(own, 0, 1)], RNG)
    assert [first.prompt(m) for m in (0, 1)] == ["[8]\n\n2+2=", "[8]\n\n3+2="]


def test_several_columns_make_a_goal_of_several_numbers() -> None:
    two = {"true": scores([9.0, 9.0]), "brief": scores([2.0, 7.0])}
    slate = Slate("?", (Candidate("a"), Candidate("b")), two)
    put = goals(("true", "brief"), [(1.0, 10.0)] * 2, text="[{goal}]")
    assert [c.prompt(0) for c in relabelled(put)([pair(slate, 0, 1)], RNG)] == [
        "[true 9, brief 2]\n\n?", "[true 9, brief 7]\n\n?"
    ]  # fmt: skip
    assert put.words(put.top) == "[true 10, brief 10]"


def test_asking_for_the_best_and_judging_without_the_goal() -> None:
    best = aimed(goals(text="[{goal}]"))
    (slate,) = best.slates([Slate("2+2=", meta={"id": "sum"})])
    assert slate.prompt == "[10]\n\n2+2=" and slate.id == "sum"
    seen: list[Slate] = []

    def look(slate: Slate) -> list[float]:
        seen.append(slate)
        return [1.0]

    WithoutGoal(Scored(look))([slate.with_candidates([Candidate("4")])])
    assert seen[0].prompt == "2+2=" and seen[0].meta == {"id": "sum"} and seen[0].response(0) == "4"


@pytest.mark.parametrize(
    "options", [{"text": "no number"}, {"place": "end"}, {"columns": ()}, {"digits": -1}], ids=lambda o: str(list(o))
)
def test_goals_check_their_options(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        goals(**options)  # type: ignore[arg-type]


def test_a_pair_without_scores_says_what_is_missing() -> None:
    bare = pair(Slate("?", (Candidate("a"), Candidate("b"))), 0, 1)
    with pytest.raises(InputError, match="score") as error:
        list(relabelled(goals())([bare], RNG))
    assert "score_chosen" in error.value.remedy


# -- reasons


def told(text: str | None = "4 is right.", prompt: Prompt = "2+2=") -> Contrast:
    extra = {} if text is None else {"extra": {"rationale": text}}
    return pair(Slate(prompt, (Candidate("4"), Candidate("5")), meta=extra), 0, 1, weight=0.5, score=(1.0, 0.0))


def test_a_reason_is_a_member_without_a_side_under_a_prompt_that_shows_both() -> None:
    (c,) = with_rationales(ask="{prompt}|{above}|{below}?")([told()], RNG)
    assert (c.roles, c.values) == ((1, -1, 0), {"weight": 0.5, "score": (1.0, 0.0, 0.0), "rationale": (0.0, 0.0, 1.0)})
    assert [(c.prompt(m), c.response(m)) for m in range(3)] == [
        ("2+2=", "4"),
        ("2+2=", "5"),
        ("2+2=|4|5?", "4 is right."),
    ]


def test_in_a_conversation_it_is_a_turn_of_the_user() -> None:
    (c,) = with_rationales(ask="{prompt}|{above}|{below}?")([told(prompt=({"role": "user", "content": "2+2="},))], RNG)
    assert c.prompt(2) == ({"role": "user", "content": "user: 2+2=|4|5?"},)


def test_what_responses_say_is_not_read_as_a_place() -> None:
    slate = Slate("{below}", (Candidate("{above}"), Candidate("{prompt}")), meta={"rationale": "so"})
    (c,) = with_rationales(ask="{prompt}|{above}|{below}")([pair(slate, 0, 1)], RNG)
    assert c.prompt(2) == "{below}|{above}|{prompt}"


def test_shuffled_it_names_the_place_and_both_places_occur() -> None:
    rows = list(with_rationales(ask="{above}|{below}", shuffled=True)([told()] * 40, random.Random(1)))
    said = {(c.prompt(2), c.response(2)) for c in rows}
    assert said == {
        ("4|5", "The response above is better. 4 is right."), ("5|4", "The response below is better. 4 is right.")
    }  # fmt: skip


def test_pairs_without_a_reason_stay_and_none_at_all_is_an_error() -> None:
    with_it, without = with_rationales()([told(), told(None)], RNG)
    assert len(with_it.members) == 3 and without.roles == (1, -1) and without.values["rationale"] == (0.0, 0.0)
    with pytest.raises(InputError, match="no pair has a rationale") as error:
        list(with_rationales()([told(None), told(" ")], RNG))
    assert "rationale" in error.value.remedy
    with pytest.raises(InputError, match="below"):
        with_rationales(ask="{above}")


def test_a_reason_made_of_aspects_names_where_the_chosen_is_ahead_and_behind() -> None:
    columns = {"true": [1.0, 0.0], "kind": [0.9, 0.0], "brief": [0.0, 1.0], "score": [1.0, 0.0], "calm": [1.0, 1.0]}
    slate = Slate("?", (Candidate("a"), Candidate("b")), {n: scores(v) for n, v in columns.items()})
    assert FromAspects()(pair(slate, 0, 1)) == "More true and kind, less brief."
    assert FromAspects()(pair(slate, 1, 0)) == "More brief, less true and kind."
    assert FromAspects()(told()) is None


def test_a_model_can_be_asked_for_reasons() -> None:
    pairs = [told(None)]
    (asked,) = requests(pairs, "specific")
    assert "2+2=" in str(asked.prompt) and str(asked.prompt).index("4") < str(asked.prompt).index("5")
    (c,) = answered(pairs, [asked.with_candidates([Candidate(" Sums. ")])], RNG)
    assert Told()(c) == "Sums." and c.values == pairs[0].values
    with pytest.raises(InputError):
        list(requests(pairs, "long"))


# -- log-probabilities as values


def test_whole_responses_of_several_policies() -> None:
    rows = [[np.array([-1.0, -2.0]), np.array([-4.0])], [np.array([-0.5]), np.array([-0.25, -0.25])]]
    other = [[np.array([-9.0]), np.array([-8.0])], [np.array([-7.0]), np.array([-6.0])]]
    found = list(curating.with_logps("a", "b")([told(), told()], rows, other, RNG))
    assert [c.values["a"] for c in found] == [(-3.0, -4.0), (-0.5, -0.5)]
    assert [c.values["b"] for c in found] == [(-9.0, -8.0), (-7.0, -6.0)] and found[0].values["weight"] == 0.5
    with pytest.raises(ValueError, match="1 policies"):
        list(curating.with_logps("a", "b")([told()], rows, RNG))
