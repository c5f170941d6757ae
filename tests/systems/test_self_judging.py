"""Systems in which a model judges or improves itself: who speaks, who judges, what is learnt, on small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefine import curating, judging
from prefine.artifacts import PolicyHandle, Slates
from prefine.engine.settings import TrainSettings
from prefine.policies import load_policy
from prefine.policies.base import Sampling
from prefine.run import Run
from prefine.slate import Candidate, Slate
from prefine.store import read_jsonl
from prefine.systems.data.ipo_implicit import asked_best, ipo_implicit
from prefine.systems.iteration.evolve import evolve
from prefine.systems.iteration.selfie_spa import selfie_spa
from prefine.systems.iteration.sso import sso
from prefine.systems.iteration.upo import upo
from prefine.worlds import spelling
from prefine.worlds.pretrain import Settings, pretrained

SMALL = Settings(steps=4, rows=4, width=16, layers=1, heads=2, context=96)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model that knows the words of the spelling world and nothing else."""
    return pretrained(tmp_path_factory.mktemp("base"), "tiny", spelling.write, SMALL)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    settings = TrainSettings.of({"lr": 1e-3, "batch_size": 8, "max_steps": 1, "save_every": 1000})
    return Run(tmp_path / "run", settings=settings, sampling=Sampling(max_tokens=6))


def prompts(run: Run, n: int = 8) -> Slates:
    return run.slates(spelling.prompts("train", n, 0))


def verbs(run: Run, verb: str) -> list[dict]:  # type: ignore[type-arg]
    return [r for r in read_jsonl(run.dir / "journal.jsonl") if r["verb"] == verb and r["event"] == "done"]


# -- 051 IPO (implicit)


def test_051_the_current_policy_judges_and_the_start_is_the_reference(
    run: Run, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges, references = [], []
    judge, train = Run.judge, Run.train
    monkeypatch.setattr(Run, "judge", lambda self, s, j, **k: (judges.append(j), judge(self, s, j, **k))[1])
    monkeypatch.setattr(
        Run, "train", lambda self, p, c, **k: (references.append((p, k["reference"])), train(self, p, c, **k))[1]
    )
    start = run.policy(base)
    end = ipo_implicit(run, start, prompts(run), rounds=2, n=3, temperature=1.0, question=spelling.JUDGE)
    first, second = judges
    assert first.model == start and second.model not in (start, end), "who samples judges"
    assert references[0][0] == start and references[1][0] == second.model
    assert [reference for _, reference in references] == [start, start]
    assert isinstance(end, PolicyHandle) and end not in (start, second.model)
    assert run.labels == 0, "the policy's own opinion is nobody's label"


def test_051_the_question_with_the_best_strict_accuracy_is_asked(run: Run, base: Path) -> None:
    rows = [Slate("p", (Candidate("aa"), Candidate("b"))), Slate("q", (Candidate("aaa"), Candidate("bb")))]
    long = judging.find("length")
    pairs = run.curate(run.judge(run.slates(rows), long), curating.extremes("score"))
    asks = {"short": judging.find("brevity"), "all alike": judging.find("keywords:zzz"), "long": long}
    assert asked_best(run, run.policy(base), asks, pairs) == "long"
    assert read_jsonl(run.dir / "notes.jsonl")[-1]["judge_accuracy"] == 1.0
    assert asked_best(run, run.policy(base), {n: asks[n] for n in ("all alike", "short")}, pairs) == "all alike"
    assert read_jsonl(run.dir / "notes.jsonl")[-1]["judge_ties"] == 1.0


# -- 003 UPO


def test_003_start_is_the_reference_in_every_round_and_the_judges_stay(
    run: Run, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references, judges = [], []
    train, judge = Run.train, Run.judge
    monkeypatch.setattr(
        Run, "train", lambda self, p, c, **k: (references.append((p, k.get("reference"))), train(self, p, c, **k))[1]
    )
    monkeypatch.setattr(Run, "judge", lambda self, s, j, **k: (judges.append(j), judge(self, s, j, **k))[1])
    rows = [Slate(s.prompt, (Candidate(" kilo"), Candidate(" echo kelo")), meta=s.meta) for s in prompts(run, 6)]
    pairs = run.curate(run.judge(run.slates(rows), judging.find("length")), curating.extremes("score"))
    start = run.policy(base)
    upo(run, start, prompts(run), pairs, rounds=2, n=4, passes=2, share=1.0, soft=True)
    rounds = references[3:]
    assert [reference for _, reference in rounds] == [start, start] and rounds[0][0] != start
    assert rounds[1][0] not in (rounds[0][0], start)
    scorers, doubts = judges[1::2], judges[2::2]
    assert scorers[0] == scorers[1] and doubts[0] == doubts[1] and doubts[0].model != scorers[0].model
    assert 0 <= read_jsonl(run.dir / "notes.jsonl")[-1]["agreed"] <= 1
    assert run.labels == 12, "those of the pairs: what models fitted on them say is nobody's label"


@pytest.mark.parametrize("asked", ["self:yes", "length"])
def test_003_002_a_judge_that_is_the_policy_is_the_policy_of_the_moment_and_asks_nobody(
    run: Run, base: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    rows = [Slate(s.prompt, (Candidate(" kilo"), Candidate(" echo kelo")), meta=s.meta) for s in prompts(run, 4)]
    pairs = run.curate(run.judge(run.slates(rows), judging.find("length")), curating.extremes("score"))
    start, given = run.policy(base), judging.find(asked)
    judged: list[tuple[Any, str]] = []
    sampled: list[Any] = []
    judge, sample = Run.judge, Run.sample
    monkeypatch.setattr(
        Run, "judge", lambda self, s, j, **k: (judged.append((j, k.get("role", ""))), judge(self, s, j, **k))[1]
    )
    monkeypatch.setattr(Run, "sample", lambda self, p, s, **k: (sampled.append(p), sample(self, p, s, **k))[1])
    recipes: list[tuple[Any, dict[str, Any]]] = [(upo, {"n": 3, "passes": 2, "share": 1.0}), (evolve, {"turns": 2})]
    for recipe, options in recipes:
        judged.clear(), sampled.clear()
        before, own = run.labels, asked == "self:yes"
        recipe(run, start, prompts(run, 8), pairs, given, rounds=2, **options)
        scored = [(j, role) for j, role in judged if not isinstance(j, judging.DropoutJudge)]
        speakers = list(dict.fromkeys(sampled))[:2]
        assert [role for _, role in scored] == ["view" if own else "annotator"] * 2
        assert [getattr(j, "model", None) for j, _ in scored] == (speakers if own else [None] * 2)
        assert (run.labels == before) == own


# -- 140 Selfie, SPA


def test_140_the_sft_model_scores_and_the_rounds_start_is_the_reference(
    run: Run, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, judges = [], []
    train, judge = Run.train, Run.judge
    monkeypatch.setattr(
        Run, "train", lambda self, p, c, **k: (trained.append((p, k, len(c))), train(self, p, c, **k))[1]
    )
    monkeypatch.setattr(Run, "judge", lambda self, s, j, **k: (judges.append(j), judge(self, s, j, **k))[1])
    rows = [Slate(s.prompt, (Candidate(" kilo"), Candidate(" echo kelo")), meta=s.meta) for s in prompts(run, 4)]
    pairs = run.curate(run.judge(run.slates(rows), judging.find("length")), curating.extremes("score"))
    start = run.policy(base)
    selfie_spa(run, start, prompts(run, 12), pairs, rounds=2, n=2, temperature=1.0, sharpen=0.2)
    first, second = judges[1:]
    assert first.reference == second.reference == start and first.policy == trained[1][0] != start
    assert second.policy == trained[2][0] and "reference" not in trained[1][1], "DPO's reference is the round's start"
    assert all(kept["objective"].sharpen == 0.2 for _, kept, _ in trained[1:])
    assert run.labels == 8, "those of the seed: what the policy thinks of its own samples is nobody's label"


# -- 002 EVOLVE


@pytest.mark.parametrize("judged", [True, False])
def test_002_the_rounds_start_is_the_reference_and_turns_are_the_data(
    run: Run, base: Path, monkeypatch: pytest.MonkeyPatch, judged: bool
) -> None:
    trained, train = [], Run.train
    monkeypatch.setattr(Run, "train", lambda self, p, c, **k: (trained.append((p, c, k)), train(self, p, c, **k))[1])
    rows = [Slate(s.prompt, (Candidate(" kilo"), Candidate(" echo kelo")), meta=s.meta) for s in prompts(run, 4)]
    pairs = run.curate(run.judge(run.slates(rows), judging.find("length")), curating.extremes("score"))
    judge = judging.find("length") if judged else None
    start = run.policy(base)
    evolve(run, start, prompts(run, 8), pairs, judge, rounds=2, turns=3, template=spelling.REFINE)
    (first, demos, how), (_, given, _), *rounds = trained
    assert first == start and len(demos) == 8 and len(given) == 12 and not how["objective"].references
    assert len(rounds) == 2 and all("reference" not in kept for *_, kept in rounds), "the round's start"
    assert all(len(lessons) % 3 == 0 for _, lessons, _ in rounds)
    assert load_policy(run.dir / "refining").turns == 3


# -- 041 SSO


def test_041_nobody_is_asked_and_the_pairs_are_scored_by_who_wrote_them(
    run: Run, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, scored = [], []
    train, logps = Run.train, Run.logps
    monkeypatch.setattr(Run, "train", lambda self, p, c, **k: (trained.append((p, c, k)), train(self, p, c, **k))[1])
    monkeypatch.setattr(Run, "logps", lambda self, p, c, **k: (scored.append((p, c)), logps(self, p, c, **k))[1])
    sso(run, run.policy(base), prompts(run, 12), rounds=2, principles="words", rules=0, temperature=1.0, ask=True)
    own = [policy for policy, contrasts in scored if len(contrasts[0].members) == 7]
    assert own == [policy for policy, *_ in trained] and len(own) == 2 and own[0] != own[1]
    assert all("reference" not in kept for *_, kept in trained) and run.labels == 0
    assert trained[0][1][0].values["slot"] == (0.0, 0.0, 1.0, 1.0, 2.0, 2.0)
