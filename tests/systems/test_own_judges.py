"""129 and 155: one teacher answer a prompt, and a model with two judges inside, on exact tables and by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from prefine import curating, judging
from prefine.artifacts import PolicyHandle
from prefine.curating.internal import LETTERS, WHICH, asked_which
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.anchored import Anchored
from prefine.judging.base import Scored
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair, scores
from prefine.store import read_jsonl
from prefine.systems.iteration.pu_rl_distill import TOP, pu_rl_distill
from prefine.systems.iteration.scir import scir
from prefine.worlds.two_judges import TwoJudges

SAID = ["Oslo is the capital", "the capital is Oslo", "Rome is a town", "no idea at all"]


def start(tmp_path: Path, **settings: object) -> tuple[Run, PolicyHandle]:
    torch.set_num_threads(1)
    plain = {"lr": 0.05, "schedule": "constant", "warmup": 0.0, "clip": None, "batch_size": 16, "max_steps": 8}
    Tabular(["p"], SAID).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({**plain, **settings}))
    return run, run.policy(tmp_path / "base")


def demos(run: Run, n: int = 8) -> object:
    slates = [Slate("p", (Candidate(SAID[0]),), meta={"id": str(i)}) for i in range(n)]
    return run.curate(run.slates(slates), curating.demonstrated)


# -- anchors


def test_an_anchored_judge_is_shown_the_anchor_once_and_nothing_in_an_answer_is_read_as_a_place() -> None:
    seen = []
    judge = Anchored(Scored(lambda s: seen.append(str(s.prompt)) or [0.0] * len(s)))  # type: ignore[func-returns-value]
    judge([Slate("say {anchor}", (Candidate("a {prompt}"),), meta={"anchor": "good {prompt}"})])
    assert seen == ["say {anchor}\n\nA good answer to this, for comparison:\ngood {prompt}"]
    with pytest.raises(InputError, match="no good answer"):
        judge([Slate("q", (Candidate("a"),))])


def test_likeness_is_one_for_the_anchor_and_small_for_what_shares_no_words() -> None:
    slate = Slate("p", tuple(map(Candidate, SAID)), meta={"anchor": SAID[0]})
    values = judging.likeness("words")([slate])[0]["score"].values
    assert values[0] == pytest.approx(1.0) and values[0] > values[1] > max(values[2], values[3])


def test_the_best_against_the_worst_and_the_anchor_against_what_is_clearly_below() -> None:
    slate = Slate("p", tuple(map(Candidate, "abc")), meta={"anchor": "good"})
    judged = slate.with_feedback("score", scores([0.2, 0.6, 0.5]))

    def found(**options: object) -> list[tuple[str, str]]:
        rows = curating.positive_unlabelled(**options)([judged], random.Random(0))  # type: ignore[arg-type]
        return [(c.response(0), c.response(1)) for c in rows]

    assert found() == [("b", "a")]
    assert found(anchors=True) == [("b", "a"), ("good", "a")]
    assert found(anchors=True, min_gap=0.5) == [("good", "a")]
    assert found(min_gap=0.5) == []
    even = slate.with_feedback("score", scores([0.4, 0.4, 0.4]))
    assert list(curating.positive_unlabelled()([even], random.Random(0))) == []


@pytest.mark.parametrize("objective", ["dpo", "ldl", "grpo"])
def test_a_student_moves_towards_what_is_like_the_teacher_s_answers(tmp_path: Path, objective: str) -> None:
    run, policy = start(tmp_path)
    end = pu_rl_distill(run, policy, demos(run), objective=objective, evaluation="words", beta=1.0, rounds=2, n=6)  # type: ignore[arg-type]
    p = end.load().probabilities("p")  # type: ignore[attr-defined]
    sft = next(
        r["key"]
        for r in read_jsonl(run.dir / "journal.jsonl")
        if r.get("label", "").startswith("stage 1") and r["event"] == "done"
    )
    before = Tabular.load(run.store.path(sft)).probabilities("p")
    assert p[0] > before[0] and p[3] < before[3], "beyond what imitation gave"
    told = [row["teacher_answers"] for row in read_jsonl(run.dir / "notes.jsonl") if "teacher_answers" in row]
    assert told == [8], "in any number of rounds the teacher spoke once a prompt"
    assert run.labels == 0, "the student's own opinion is nobody's label"


def test_the_anchor_is_above_every_grade_that_is_not_the_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judging.as_good_as("grade").judge.judge.high == TOP["grade"]  # type: ignore[attr-defined]
    graded = Scored(lambda slate: [1.0 + SAID.index(c.text) for c in slate.candidates])
    monkeypatch.setattr(judging, "as_good_as", lambda asked: graded)
    run, policy = start(tmp_path)
    pu_rl_distill(
        run, policy, demos(run), objective="dpo", evaluation="grade", anchor_pairs=True, rounds=1, n=6  # type: ignore[arg-type]
    )  # fmt: skip
    done = [r for r in read_jsonl(run.dir / "journal.jsonl") if r["verb"] == "train" and r["event"] == "done"]
    assert done[-1]["figures"]["contrasts"] > 8, "of 8 prompts also the anchor against the worst"


def test_a_teacher_is_sampled_once_a_prompt(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    Tabular(["p"], SAID, [[9.0, 0.0, 0.0, 0.0]]).save(tmp_path / "teacher")
    prompts = run.slates([Slate("p", meta={"id": str(i)}) for i in range(6)])
    pu_rl_distill(
        run, policy, prompts=prompts, teacher=str(tmp_path / "teacher"), evaluation="words", objective="dpo", rounds=3, n=4
    )  # fmt: skip
    spoken = [
        r
        for r in read_jsonl(run.dir / "journal.jsonl")
        if r["verb"] == "sample" and r["event"] == "done" and r["role"] == "teacher"
    ]
    assert [r["figures"]["candidates"] for r in spoken] == [6]
    with pytest.raises(InputError, match="no answers of a teacher"):
        pu_rl_distill(run, policy, evaluation="words")
    with pytest.raises(InputError, match="nothing to answer"):
        pu_rl_distill(run, policy, demos(run), teacher=str(tmp_path / "teacher"), evaluation="words")


# -- two judges in one model


def test_every_pair_has_both_verdicts_in_both_orders() -> None:
    slate = Slate("q", tuple(map(Candidate, ("one", "two", "two"))))
    for seed in range(6):
        for c in curating.internal_pairs()([slate], random.Random(seed)):
            first, second = c.response(0), c.response(1)
            assert {first, second} == {"one", "two"} and set(c.roles) == {0}
            for i in range(2, 6):
                shown = (first, second) if c.values["order"][i] == 0 else (second, first)  # type: ignore[index]
                assert f"Response A:\n{shown[0]}\n" in str(c.prompt(i)) and f"Response B:\n{shown[1]}\n" in str(
                    c.prompt(i)
                )
                means_first = shown[LETTERS.index(c.response(i))] == first
                assert c.values["says"][i] == (1.0 if means_first else -1.0)  # type: ignore[index]
    assert list(curating.internal_pairs()([Slate("q", (Candidate("a"), Candidate("a")))], random.Random(0))) == []
    with pytest.raises(InputError, match="show both"):
        curating.internal_pairs("Which is better?")


def test_labelled_pairs_teach_the_right_letter_in_both_places() -> None:
    contrast = pair(Slate("q", (Candidate("bad"), Candidate("good"))), 1, 0)
    first, second = curating.verdict_lessons()([contrast], random.Random(0))
    assert first.response(0) == "A" and "Response A:\ngood" in str(first.prompt(0))
    assert second.response(0) == "B" and "Response B:\ngood" in str(second.prompt(0))


def test_the_world_s_judges_err_apart_or_alike() -> None:
    apart, alike = TwoJudges(seed=3), TwoJudges(seed=3, same_errors=True)
    told = apart.told(apart.trained())
    assert 0.5 < told["agreement"] < 0.75 and told["agreed"] > max(told["implicit"], told["generative"])
    same = alike.told(alike.trained())
    assert same["agreement"] == 1 and same["agreed"] == same["implicit"] == same["generative"]


def test_two_judges_come_to_agree_and_roles_are_kept_apart(tmp_path: Path) -> None:
    world = TwoJudges(prompts=10, actions=4, seed=1)
    first, trained = world.saved(tmp_path)
    settings = {"lr": 0.5, "optimizer": "sgd", "clip": None, "schedule": "constant", "warmup": 0.0, "max_steps": 12}
    run = Run(tmp_path / "run", settings=TrainSettings.of(settings))
    policy = run.policy(trained)
    end = scir(run, policy, run.slates(world.slates()), n=4, beta=1.0, trained_from=str(first))
    assert world.told(end.load())["agreement"] > world.told(policy.load())["agreement"]  # type: ignore[arg-type]
    scored = [r for r in read_jsonl(run.dir / "journal.jsonl") if r["verb"] == "logps" and r["event"] == "done"]
    assert len(scored) == 4, "a round's start and the first model, in either round"
    assert run.labels == 0


def test_labelled_pairs_make_the_seed_model(tmp_path: Path) -> None:
    slate = Slate("p", tuple(map(Candidate, SAID[:2])), meta={"id": "0"})
    questions = [str(asked_which(WHICH, slate, *order)) for order in ((0, 1), (1, 0))]
    Tabular(["p", *questions], [SAID[:2], *[list(LETTERS)] * 2]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({"lr": 0.1, "max_steps": 6, "warmup": 0.0}))
    prompts = run.slates([Slate("p", meta={"id": str(i)}) for i in range(8)])
    pairs = run.curate(run.slates([slate]), lambda rows, rng: [pair(slate, 1, 0)])
    end = scir(run, run.policy(tmp_path / "base"), prompts, pairs, n=4, beta=1.0).load()
    assert end.probabilities("p")[1] > 0.5  # type: ignore[attr-defined]
    assert end.probabilities(questions[0])[1] > 0.5 and end.probabilities(questions[1])[0] > 0.5  # type: ignore[attr-defined]
