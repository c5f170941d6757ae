"""130, 024 and 025 on tabular policies and on small data: who does what, what comes out, and what is refused."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefine import judging, objectives
from prefine.binding.rehearsal import rehearse, wanted
from prefine.catalogue import find
from prefine.curating import leveled_groups
from prefine.curating.tags import INSIDE
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.judging.thoughts import CONCLUDING, Reading
from prefine.options import of_function
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair
from prefine.slate import scores as judging_scores
from prefine.store import read_jsonl
from prefine.systems.objectives.pad import compared, pad
from prefine.systems.reasoning.veripo import read_by, veripo

torch.set_num_threads(1)

SETTINGS = {"lr": 0.05, "batch_size": 4, "schedule": "constant", "warmup": 0.0, "clip": None}


def a_run(tmp_path: Path, **more: Any) -> Run:
    return Run(tmp_path / "run", settings=TrainSettings.of({**SETTINGS, **more}))


def options(key: str) -> dict[str, Any]:
    return {name: option.default for name, option in of_function(find(key).recipe).items()}


def table(policy: Any) -> np.ndarray:
    return policy.load().logp_PA().detach().numpy()  # type: ignore[no-any-return]


# -- 130


@pytest.fixture
def couple(tmp_path: Path) -> tuple[Run, Any, Any, Path]:
    names, actions = ["x", "y"], ["a", "b", "c"]
    Tabular(names, actions).save(tmp_path / "student")
    Tabular(names, actions, [[0.3, 0.2, 0.0], [0.0, 0.1, 0.12]]).save(tmp_path / "teacher")
    run = a_run(tmp_path, max_steps=150)
    return run, run.policy(tmp_path / "student"), run.slates([Slate(n) for n in names]), tmp_path / "teacher"


def test_the_student_comes_to_the_teachers_gaps_and_no_further(couple: tuple[Run, Any, Any, Path]) -> None:
    """P_s = P_t where the token means differ by a constant: the student's gaps end as the teacher's."""
    run, student, prompts, teacher = couple
    trained = pad(run, student, prompts, teacher=str(teacher), likelihood=1.0, n=3, draws=24, top_p=1.0)
    own, wanted_gaps = table(trained), Tabular.load(teacher).logp_PA().detach().numpy()
    assert own[:, :1] - own == pytest.approx(wanted_gaps[:, :1] - wanted_gaps, abs=0.01)
    pairs = pad(run, student, prompts, teacher=str(teacher), likelihood=1.0, n=3, draws=24, top_p=1.0, form="extremes")
    far = table(pairs)
    assert far[0, 0] - far[0, 2] > 0.45, "the pair loss goes past the teacher's 0.3"


def test_a_judge_may_stand_for_the_teacher(couple: tuple[Run, Any, Any, Path]) -> None:
    run, student, prompts, _ = couple
    judge = Scored(lambda slate: [{"a": 3.0, "b": 0.0, "c": 0.0}[c.text] for c in slate.candidates])
    own = table(pad(run, student, prompts, judge, n=3, draws=24, top_p=1.0, beta_t=1.0))
    assert own[:, 0] - own[:, 1] == pytest.approx([0.3, 0.3], abs=0.01)  # 3 beta_t = beta (s_a - s_b)
    assert own[:, 1] == pytest.approx(own[:, 2], abs=0.01)


def test_what_pad_refuses_beforehand() -> None:
    defaults = options("pad")
    assert wanted(find("pad"), defaults, frozenset({"judge"})) == {"judge"}
    for wrong, said in (
        ({"teacher": "/nowhere"}, "no teacher"),
        ({"n": 7, "draws": 9}, "n=7"),
        ({"draws": 3}, "draws"),
    ):
        with pytest.raises(InputError, match=said):
            rehearse(find("pad"), {**defaults, **wrong})
    rehearse(find("pad"), {**defaults, "n": 7, "draws": 9, "form": "order"})


def test_calibration_is_the_mean_distance_of_pair_probabilities() -> None:
    t = np.array([[0.0, 0.1, 0.3]])
    figures = compared(np.zeros((1, 3)), t, beta=10.0)
    off = [1 / (1 + math.exp(-x)) - 0.5 for x in (1.0, 3.0, 2.0)]
    assert figures["error"] == pytest.approx(np.mean(off))
    assert compared(t, t, 10.0)["error"] == 0.0 and compared(t, t, 10.0)["spearman"] == pytest.approx(1.0)


# -- 024


def sums(tmp_path: Path) -> tuple[Run, Any, Any]:
    """One sum, four answers: sound, inconsistent, wrong, without form; the reward likes the first two alike."""
    answers = ["1+1=2\n#### 2", "1+1=3\n#### 2", "1+1=3\n#### 3", "two"]
    Tabular(["1+1?"], answers).save(tmp_path / "base")
    run = a_run(tmp_path, batch_size=8)
    rows = [Slate("1+1?", meta={"id": i, "answer": "2"}) for i in range(16)]
    return run, run.policy(tmp_path / "base"), run.slates(rows)


def test_the_verifier_tells_apart_what_the_reward_cannot(tmp_path: Path) -> None:
    run, base, prompts = sums(tmp_path)
    check = judging.verifier("####")
    shared: dict[str, Any] = {"rounds": 2, "n": 8, "form": "####", "reflection": "", "ease": 1.0}
    plain = table(veripo(run, base, prompts, check, cycles=0, **shared))[0]
    assert run.labels == 2 * 8 * 8, "the verifier's verdicts, each once: reading and repetition ask nobody"
    guided = table(veripo(run, base, prompts, check, cycles=1, **shared))[0]
    assert abs(plain[0] - plain[1]) < 0.1 and plain[1] > plain[2], "equally paid, equally likely"
    assert guided[0] - guided[1] > 0.3
    notes = [row for row in read_jsonl(run.dir / "notes.jsonl") if "inconsistent" in row]
    assert len(notes) == 3 and 0 < notes[0]["inconsistent"] < 1


def test_without_a_sound_rollout_the_loop_goes_on(tmp_path: Path) -> None:
    Tabular(["1+1?"], ["3\n#### 2", "three"]).save(tmp_path / "base")
    run = a_run(tmp_path)
    prompts = run.slates([Slate("1+1?", meta={"id": i, "answer": "2"}) for i in range(4)])
    done = veripo(run, run.policy(tmp_path / "base"), prompts, judging.verifier("####"), rounds=1, n=4, form="####")
    assert table(done)[0, 0] > math.log(0.5)


def test_who_reads_the_thoughts(tmp_path: Path) -> None:
    assert read_by("", "start") is CONCLUDING  # type: ignore[arg-type]
    assert read_by("self", "start") == Reading("start")  # type: ignore[arg-type]
    assert isinstance(read_by(str(tmp_path), "start"), Reading)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no reader"):
        rehearse(find("veripo"), {**options("veripo"), "reader": "/nowhere"})


def test_alike_rewards_have_no_advantage_and_others_sum_to_nothing() -> None:
    """A group of equal rewards gives no gradient; GRPO's advantages of a group add up to 0."""
    for rewards, still in (([1.5, 1.5], True), ([1.5, 0.5], False)):
        logp = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        s = objectives.Scores.of_pairs(logp, logp * 1.0, [0.0], [0.0], reward=torch.tensor([rewards]))
        s = objectives.Scores(**{**vars(s), "references": {"old": torch.zeros_like(s.logp_NT)}})
        assert objectives.AgainstGroup()(s).sum().item() == pytest.approx(0.0, abs=1e-12)
        (slope,) = torch.autograd.grad(objectives.grpo(beta=0.0)(s).mean(s), s.logp_NT)
        assert (slope.abs().max().item() == 0.0) is still


# -- 025


def test_the_loop_wants_prompts_and_data_must_say_where_they_are_from() -> None:
    defaults = options("dporm-vs-exrm")
    assert wanted(find("dporm-vs-exrm"), defaults, frozenset({"prompts"})) == set()
    assert wanted(find("dporm-vs-exrm"), {**defaults, "loop": 2}, frozenset({"prompts"})) == {"prompts"}
    two = (Candidate("a"), Candidate("b"))
    bare = [pair(Slate("q", two), 0, 1)]
    with pytest.raises(InputError, match="'domain' or 'generator'"):
        rehearse(find("dporm-vs-exrm"), defaults, given={"pairs": bare})
    told = [pair(Slate("q", two, meta={"extra": {"domain": "chat"}}), 0, 1)]
    rehearse(find("dporm-vs-exrm"), defaults, given={"pairs": told})  # the rest of the data may be of others
    assert INSIDE == "in_distribution"


# -- a leftover of 158


def test_without_a_gold_answer_all_responses_are_on_the_third_level() -> None:

    slate = Slate("?", (Candidate("a"), Candidate("b"))).with_feedback("verified", judging_scores((None, None)))
    (group,) = leveled_groups(unknown=3.0)([slate], random.Random(0))
    assert group.values["level"] == (3.0, 3.0) and group.roles == (-1, -1)
    assert list(leveled_groups()([slate], random.Random(0))) == []
