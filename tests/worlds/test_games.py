"""The games world: solving games, and the judges that know them."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from prefine.errors import InputError
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Slate
from prefine.worlds import find_world
from prefine.worlds.games import (
    CYCLE,
    PAPER,
    best_response,
    bradley_terry_table,
    exploitability,
    games,
    von_neumann_winner,
)

WORLD = find_world("games")


def whole(slate: Slate) -> Slate:
    """The slate with every action of its game once, in order."""
    return replace(slate, candidates=tuple(Candidate(a) for a in games()[slate.meta["game"]].actions))


def by_game(name: str) -> Slate:
    return whole(next(s for s in WORLD.prompts("train", 12, 0) if s.meta["game"] == name))


def test_the_cycle_is_solved_by_two_three_and_four_ninths() -> None:
    """A = P - 1/2 has A pi = 0 for pi = (2, 3, 4) / 9, checked in fractions."""
    pi = [Fraction(k, 9) for k in (2, 3, 4)]
    for row in CYCLE:
        assert sum((Fraction(str(p)) - Fraction(1, 2)) * q for p, q in zip(row, pi, strict=True)) == 0
    assert von_neumann_winner(CYCLE) == pytest.approx([2 / 9, 3 / 9, 4 / 9], abs=1e-12)


def test_known_solutions() -> None:
    assert von_neumann_winner(PAPER) == pytest.approx([1 / 3] * 3, abs=1e-12)
    assert von_neumann_winner(bradley_terry_table([0.0, 2.0, 1.0])) == pytest.approx([0, 1, 0], abs=1e-12)
    assert von_neumann_winner([[0.5]]) == pytest.approx([1])
    with pytest.raises(InputError, match="no table of preferences"):
        von_neumann_winner([[0.5, 0.9], [0.5, 0.5]])


def test_exploitability_by_hand() -> None:
    """Every pure action of the cycle is beaten with 0.8, 0.9 and 0.7: exploitable by 0.3, 0.4 and 0.2."""
    assert [exploitability(CYCLE, np.eye(3)[i]) for i in range(3)] == pytest.approx([0.3, 0.4, 0.2])
    assert [best_response(CYCLE, np.eye(3)[i]) for i in range(3)] == [2, 0, 1]
    assert exploitability(CYCLE, [2 / 9, 3 / 9, 4 / 9]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", list(games()))
def test_every_game_is_a_table_of_preferences_with_a_solution(name: str) -> None:
    game = games()[name]
    P = np.array(game.P)
    assert pytest.approx(np.ones_like(P)) == P + P.T and len(set(game.actions)) == len(P)
    winner = von_neumann_winner(P)
    assert winner.min() >= 0 and winner.sum() == pytest.approx(1)
    assert exploitability(P, winner) < 1e-9
    beaten = (np.where(np.eye(len(P)), 0, 0.5 - P) > 0).any(axis=1)
    assert beaten.all() if game.kind == "cyclic" else beaten.sum() == len(P) - 1


def test_gold_is_the_chance_against_the_von_neumann_winner() -> None:
    gold = WORLD.gold([by_game("cyclic-1")])[0]["gold"].values
    assert gold == pytest.approx((0.5, 0.5, 0.5))  # every action of the cycle is worth playing
    game = games()["transitive-1"]
    gold = WORLD.gold([by_game("transitive-1")])[0]["gold"].values
    best = max(range(len(gold)), key=lambda i: gold[i])
    assert gold[best] == 0.5
    assert gold == pytest.approx([row[best] for row in game.P])


def test_the_preference_judge_gives_the_exact_table_of_the_candidates() -> None:
    slate = by_game("cyclic-1").take([2, 0, 0])
    table = WORLD.preference([slate])[0]["preference"].values
    assert np.array(table) == pytest.approx(np.array([[0.5, 0.8, 0.8], [0.2, 0.5, 0.5], [0.2, 0.5, 0.5]]))


def test_the_base_policy_is_near_uniform_and_can_be_exploited(tmp_path: Path) -> None:
    policy = Tabular.load(WORLD.base(tmp_path))
    for game in games().values():
        pi = policy.probabilities(game.prompt).numpy()
        assert len(pi) == len(game.P)
        assert abs(pi - 1 / len(pi)).max() < 0.15
        assert exploitability(game.P, pi) > 0


def test_variants_hold_one_kind_and_prompts_repeat_with_ids_of_their_own() -> None:
    for kind in ("transitive", "cyclic"):
        slates = find_world(f"games:{kind}").prompts("test", 20, 0)
        assert {s.meta["kind"] for s in slates} == {kind}
        assert len({s.id for s in slates}) == 20 and len({s.prompt for s in slates}) == 6
