"""Every world keeps the promises of ``worlds.base``, and unknown names are answered with near misses."""

import dataclasses
import pickle
import random
from pathlib import Path

import pytest

from prefine.binding import WorldSource
from prefine.errors import InputError
from prefine.slate import Candidate, Slate
from prefine.worlds import NAMES, find_world, worlds

VARIANTS = ("arithmetic:misled", "games:transitive", "games:cyclic")
LANGUAGE = ("arithmetic", "assistant", "dialogues", "remedies", "reviews", "spelling", "statutes")


def answered(world_name: str, slate: Slate) -> Slate:
    """A slate with two responses that the world can judge."""
    world = find_world(world_name)
    if world.demonstrate is None:
        from prefine.worlds.games import games

        texts = games()[slate.meta["game"]].actions[:2]
    else:
        texts = (world.demonstrate(slate, random.Random(0)), " I am not sure.")
    return dataclasses.replace(slate, candidates=tuple(Candidate(t) for t in texts))


def test_the_worlds() -> None:
    assert (
        [w.name for w in worlds()]
        == list(NAMES)
        == ["arithmetic", "assistant", "dialogues", "games", "remedies", "reviews", "spelling", "statutes"]
    )
    assert all(find_world(name).name == name for name in (*NAMES, *VARIANTS))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("asistant", "did you mean assistant"),
        ("review", "did you mean reviews"),
        ("zzz", "the worlds are arithmetic, assistant, dialogues, games, remedies, reviews, spelling, statutes"),
        ("arithmetic:mislead", "its variants are misled"),
        ("reviews:x", "use 'reviews' as it is"),
        ("", "the worlds are"),
    ],
)
def test_an_unknown_world_is_a_clear_error(name: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        find_world(name)
    assert hint in error.value.remedy
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", LANGUAGE)
def test_train_and_test_prompts_are_many_and_never_overlap(name: str) -> None:
    world = find_world(name)
    train, test = world.prompts("train", 600, 0), world.prompts("test", 200, 0)
    again = {s.prompt for seed in range(5) for s in world.prompts("train", 600, seed)}
    assert len({s.prompt for s in train}) == len({s.id for s in train}) == 600
    assert not again & {s.prompt for s in test}
    assert not {s.prompt for s in train} & {s.prompt for s in world.prompts("test", 200, 1)}


@pytest.mark.parametrize("name", (*NAMES, *VARIANTS))
def test_prompts_are_decided_by_the_seed(name: str) -> None:
    prompts = find_world(name).prompts
    assert prompts("train", 20, 3) == prompts("train", 20, 3)
    assert [s.id for s in prompts("train", 20, 3)] != [s.id for s in prompts("train", 20, 4)]


@pytest.mark.parametrize("name", NAMES)
def test_prompts_refuse_what_they_cannot_give(name: str) -> None:
    prompts = find_world(name).prompts
    with pytest.raises(InputError, match="no split 'dev'"):
        prompts("dev", 1, 0)
    if name in LANGUAGE:
        with pytest.raises(InputError, match="were asked for"):
            prompts("test", 10**6, 0)


@pytest.mark.parametrize("name", (*NAMES, *VARIANTS))
def test_prompts_are_bare_and_annotators_never_show_the_gold_column(name: str) -> None:
    world = find_world(name)
    bare = world.prompts("train", 5, 0)
    assert all(not s.candidates and not s.feedback and "gold" not in s.meta for s in bare)
    slates = [answered(name, s) for s in bare]
    for judge in world.annotators.values():
        for columns in judge(slates):
            assert "score" in columns and "gold" not in columns
    assert set(world.annotators) == {"perfect", "noisy", "length-biased", "several", "cyclic"}


@pytest.mark.parametrize("name", (*NAMES, *VARIANTS))
def test_judges_give_the_columns_they_promise(name: str) -> None:
    world = find_world(name)
    slates = [answered(name, s) for s in world.prompts("train", 5, 0)]
    promised = {"gold": world.gold, "verified": world.verifier, "preference": world.preference, **world.attributes}
    for column, judge in promised.items():
        for slate, columns in zip(slates, judge(slates) if judge else [], strict=bool(judge)):
            slate.with_feedback(column, columns[column])
    if world.preference is not None:
        for columns in world.preference(slates):
            (a, b), (c, d) = columns["preference"].values
            assert a == d == 0.5 and b + c == pytest.approx(1)


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_demonstration_has_the_best_of_gold(name: str) -> None:
    world = find_world(name)
    slates = [answered(name, s) for s in world.prompts("train", 50, 0)]
    for columns in world.gold(slates):
        good, dodge = columns["gold"].values
        assert good > dodge


@pytest.mark.parametrize("name", (*NAMES, *VARIANTS))
def test_the_parts_of_a_world_are_frozen_and_plain(name: str) -> None:
    """Artifact keys are made of functions and frozen dataclasses: no lambdas, no closures in the judges."""
    world = find_world(name)
    for judge in (
        world.gold,
        world.preference,
        *world.annotators.values(),
        *world.attributes.values(),
        *world.judges.values(),
    ):
        assert dataclasses.is_dataclass(judge) and "<lambda>" not in repr(judge) and "<locals>" not in repr(judge)
        pickle.dumps(judge)  # only to show that nothing in it is local; prefine itself never pickles


def test_the_same_base_directory_is_given_again(tmp_path: Path) -> None:
    world = find_world("games")
    first = world.base(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in first.iterdir()}
    assert world.base(tmp_path) == first
    assert {p.name: p.stat().st_mtime_ns for p in first.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == [first.name]


@pytest.mark.parametrize("name", ("arithmetic", "assistant", "games", "spelling"))
def test_judging_somebody_elses_prompts_is_a_clear_error(name: str) -> None:
    with pytest.raises(InputError, match="know only its own prompts"):
        find_world(name).gold([Slate("What is this?", (Candidate("This."),))])


def test_an_action_that_is_not_in_the_game_is_a_clear_error() -> None:
    world = find_world("games")
    slate = dataclasses.replace(world.prompts("train", 1, 0)[0], candidates=(Candidate("castle"),))
    with pytest.raises(InputError, match="'castle' is no action of game"):
        world.gold([slate])


def test_a_base_that_can_judge_is_asked_in_its_own_words_and_options_stay_in_their_world() -> None:
    from prefine.launch import prepare
    from prefine.worlds import spelling

    def settings(system: str, world: str | None, **inputs: str) -> WorldSource:
        source = prepare({"system": system, "inputs": {"world": world, **inputs}}, look=False).source
        assert isinstance(source, WorldSource)
        return source

    own, other = (settings("iterate", world, judge="self:yes").judge for world in ("spelling", "assistant"))
    assert own.judge.template == spelling.JUDGE != other.judge.template  # type: ignore[union-attr]
    told = [prepare({"system": "evolve", "inputs": {"world": w}}, look=False).config for w in (None, "assistant")]
    assert [config.options["template"] == spelling.REFINE for config in told] == [True, False]
    assert [config.train["lr"] for config in told] == [2e-4, 1e-3]
