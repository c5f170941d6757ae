"""043, 046, 077, 104, 121, 139 as recipes, on exact tables: what is learnt from what, in which order, against whom."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle
from prefine.curating.embedding import HashedWords
from prefine.curating.instructions import GENERATORS, Instruction, instructed
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair, point, scores
from prefine.systems.iteration.curry_dpo import curry_dpo
from prefine.systems.objectives.mpo_set import mpo_set
from prefine.systems.objectives.pmpo import pmpo
from prefine.systems.objectives.pro import pro
from prefine.systems.objectives.rpo_relative import rpo_relative

ACTIONS = list("abcd")
RATED = Slate("p", tuple(map(Candidate, ACTIONS))).with_feedback("score", scores([5.0, 4.0, 4.0, 2.0]))


def start(tmp_path: Path, **settings: object) -> tuple[Run, PolicyHandle]:
    torch.set_num_threads(1)
    plain = {"lr": 0.05, "schedule": "constant", "warmup": 0.0, "clip": None, "batch_size": 16, "max_steps": 40}
    Tabular(["p", "q"], ACTIONS, [[0.1, 0.0, -0.1, 0.0]] * 2).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({**plain, **settings}))
    return run, run.policy(tmp_path / "base")


def moved(before: PolicyHandle, after: PolicyHandle) -> list[float]:
    return (after.load().probabilities("p") - before.load().probabilities("p")).tolist()  # type: ignore[attr-defined]


def judge(slate: Slate) -> list[float]:
    return [float(-ACTIONS.index(c.text)) for c in slate.candidates]


@pytest.mark.parametrize("recipe", [mpo_set, pro, curry_dpo])
def test_lists_raise_the_best_and_lower_the_worst(tmp_path: Path, recipe) -> None:  # type: ignore[no-untyped-def]
    run, policy = start(tmp_path)
    change = moved(policy, recipe(run, policy, run.slates([RATED])))
    assert change[0] > 0 > change[3]


def test_pmpo_learns_from_samples_and_from_labels_of_one_kind(tmp_path: Path) -> None:
    run, policy = start(tmp_path, max_steps=10)
    prompts = run.slates([Slate("p", meta={"id": str(i)}) for i in range(24)])
    change = moved(policy, pmpo(run, policy, prompts, Scored(judge), alpha=0.0, beta=2.0, rounds=2))
    assert change[0] > 0 > change[3]
    bad = run.curate(run.slates([RATED]), lambda rows, rng: [point(RATED, 3, False)])
    change = moved(policy, pmpo(run, policy, labels=bad, learn_from="labels", alpha=0.0, beta=8.0, n=8))
    assert change[3] < 0
    with pytest.raises(InputError, match="needs labels"):
        pmpo(run, policy, prompts, learn_from="labels")


def test_relative_contrasts_learn_from_unpaired_labels(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    labels = run.curate(run.slates([RATED]), lambda rows, rng: [point(RATED, 0, True), point(RATED, 3, False)] * 4)
    change = moved(policy, rpo_relative(run, policy, labels=labels, learn_from="labels"))
    assert change[0] > 0 > change[3]
    with pytest.raises(InputError, match="diagonal"):
        rpo_relative(run, policy, labels=labels, learn_from="labels", contrast="diagonal")


def stage(i: int, **options: object) -> list[str]:
    pairs = list(curating.best_against_each()([RATED], random.Random(0)))
    return [c.response(1) for c in curating.local_stage(i, 3, **options)(pairs, random.Random(0))]  # type: ignore[arg-type]


def test_the_schedule_of_the_sheet() -> None:
    """Scores (5, 4, 4, 2): (R1, R4), (R1, R3), (R1, R2); in reverse with hard_first."""
    assert [stage(i) for i in range(3)] == [["d"], ["c"], ["b"]]
    assert [stage(i, hard_first=True) for i in range(3)] == [["b"], ["c"], ["d"]]


def test_one_pair_a_prompt_has_no_local_order(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    two = run.slates([RATED.take([0, 3])])
    with pytest.raises(InputError, match="no prompt has more than 1 pair") as error:
        curry_dpo(run, policy, two)
    assert "global" in error.value.remedy


def test_one_stage_is_dpo_on_the_best_against_the_others(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    two = run.slates([RATED.take([0, 3])])
    plain = run.train(policy, run.curate(two, curating.best_against_each()), objective=objectives.dpo(0.1))
    assert moved(policy, curry_dpo(run, policy, two, stages=1)) == moved(policy, plain)


@pytest.mark.parametrize(("reference", "stages_count"), [("previous", 2), ("start", 1)])
def test_optima_of_stages_add_up_where_the_reference_moves(tmp_path: Path, reference: str, stages_count: int) -> None:
    """In each of two stages a beats b in 3 of 4 pairs: an exact optimum, beta (log-ratio of a - of b) = log 3."""
    run, policy = start(tmp_path, max_steps=500)
    rated = [
        Slate("p", (Candidate("a"), Candidate("b")), {"score": scores(row)}, {"id": f"{gap} {i}"})
        for gap in (3.0, 1.0)
        for i, row in enumerate([[gap, 0.0]] * 3 + [[0.0, gap]])
    ]
    done = curry_dpo(run, policy, run.slates(rated), beta=0.5, stages=2, order="global", reference=reference)  # type: ignore[arg-type]
    before, after = (p.load().logp_PA().detach()[0] for p in (policy, done))  # type: ignore[attr-defined]
    gained = (after - before)[0] - (after - before)[1]
    assert float(gained) == pytest.approx(stages_count * math.log(3) / 0.5, abs=1e-4)


def test_the_reference_of_a_stage_is_the_policy_of_the_stage_before(tmp_path: Path) -> None:
    """By what is handed to the trainer: nothing (the policy as it starts), or the start."""
    run, policy = start(tmp_path)
    seen: list[tuple[str, str | None]] = []
    train = run.train

    def noted(policy: PolicyHandle, rows: object, *, reference: PolicyHandle | None = None, **more: object):  # type: ignore[no-untyped-def]
        seen.append((policy.key, None if reference is None else reference.key))
        return train(policy, rows, reference=reference, **more)  # type: ignore[arg-type]

    run.train = noted  # type: ignore[method-assign, assignment]
    curry_dpo(run, policy, run.slates([RATED]))
    assert len({key for key, _ in seen}) == 3 and all(reference is None for _, reference in seen)
    seen.clear()
    curry_dpo(run, policy, run.slates([RATED]), reference="start")
    assert {reference for _, reference in seen} == {policy.key}


def test_the_likelihood_gap_orders_by_the_start(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    pairs = run.curate(run.slates([RATED]), curating.best_against_each())
    found = run.curate((pairs, run.logps(policy, pairs)), curating.with_likelihood_gap)  # type: ignore[arg-type]
    logp = policy.load().logp_PA().detach()[0]  # type: ignore[attr-defined]
    for contrast in found:
        gap = logp[0] - logp[ACTIONS.index(contrast.response(1))]
        assert contrast.values["likelihood_gap"] == pytest.approx(float(gap))


@pytest.mark.parametrize("kind", GENERATORS)
def test_every_generator_says_the_truth(kind: str) -> None:
    """checker(y, g(y, kept)) is kept, for 1000 random responses."""
    rng = random.Random(kind)
    words = ["Apple", "river,", "is", "blue.", "Why?", "3", "\n\n", "\n- item", "today", "ok!", "don't"]
    for _ in range(1000):
        response = "x" + " ".join(rng.choice(words) for _ in range(rng.randint(1, 12)))
        for kept in (True, False):
            made = GENERATORS[kind](response, kept, rng)
            assert made.holds(response) is kept, (response, made)


def test_levels_are_built_as_they_are_said_to_be() -> None:
    slate = Slate("Ana: Hi\nAssistant:", (Candidate(" Hello there."), Candidate(" no, go away today")))
    rows = [pair(slate, 0, 1)] * 40
    found = list(curating.multi_level()(rows, random.Random(0)))
    levels: dict[float, list[Contrast]] = {}
    for contrast in found:
        levels.setdefault(contrast.values["level"], []).append(contrast)  # type: ignore[arg-type]
    assert set(levels) == {0.0, 1.0, 2.0}
    for level, members in levels.items():
        assert sum(c.values["weight"] for c in members) / len(found) == pytest.approx(1.0), level  # type: ignore[misc]
    for c in levels[1.0]:
        assert c.response(0) == c.response(1) and c.prompt(0) != c.prompt(1)
        assert str(c.prompt(0)).endswith("\nAssistant:")
    for c in levels[2.0]:
        assert c.roles == (1, -1, -1, 1)
        assert c.prompt(0) == c.prompt(1) != c.prompt(2) == c.prompt(3) == slate.prompt
        assert c.response(0) == c.response(2) != c.response(1) == c.response(3)
    assert {c.response(0) for c in levels[2.0]} == {" Hello there.", " no, go away today"}  # the order flips in half


def test_instructions_stand_with_the_user() -> None:
    turns = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    assert instructed(turns, [Instruction("comma")])[1]["content"] == "u\n- Use a comma."  # type: ignore[index]


def test_prompts_with_words_in_common_are_alike() -> None:
    rows = [point(Slate(p, (Candidate("a"),)), 0, True) for p in ("tea in China", "tea in Japan", "my car broke")]
    e = HashedWords()(rows)
    assert e[0] @ e[1] > e[0] @ e[2]
    (first, *_) = curating.embedded("words")(rows, random.Random(0))
    assert sum(v**2 for v in first.values.values()) == pytest.approx(1.0, abs=1e-4)  # type: ignore[operator]
