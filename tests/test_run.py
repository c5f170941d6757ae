"""The verbs: what is done is never done again, and what was asked for is what comes out."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine.artifacts import PolicyHandle, Slates
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError, RunStopped
from prefine.objectives import dpo, ipo, sft
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Feedback, Slate, pair, scores
from prefine.store import Store, read_jsonl

ACTIONS = ["a", "b", "c", "d"]
VALUE = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0}


def judge(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
    return [{"score": scores([VALUE[c.text] for c in s.candidates])} for s in slates]


def extremes(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    for slate in slates:
        values = slate.column("score")
        if max(values) > min(values):
            yield pair(slate, values.index(max(values)), values.index(min(values)))


def start(run: Run, folder: Path) -> PolicyHandle:
    path = folder / "base"
    if not path.exists():
        Tabular(["x", "y"], ACTIONS, torch.zeros(2, 4)).save(path)
    return run.policy(path)


def prompts(run: Run, n: int = 60) -> Slates:
    return run.slates([Slate("xy"[i % 2], meta={"id": str(i)}) for i in range(n)])


def settings(**more: object) -> TrainSettings:
    return TrainSettings.of({"lr": 0.05, "batch_size": 16, "epochs": 2, **more})


def events(run: Run) -> list[tuple[str, str]]:
    return [(r["event"], r["verb"]) for r in read_jsonl(run.dir / "journal.jsonl") if r["verb"] != "run"]


def whole(run: Run, folder: Path, beta: float = 0.1) -> PolicyHandle:
    policy = start(run, folder)
    for _ in run.rounds(2):
        judged = run.judge(run.sample(policy, prompts(run), n=4), judge)
        policy = run.train(policy, run.curate(judged, extremes), objective=dpo(beta))
    return policy


def test_a_recipe_improves_the_policy(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", settings=settings())
    better = whole(run, tmp_path).load()
    assert better.expected([[0.0, 1.0, 2.0, 3.0]] * 2).min() > 1.6  # 1.5 at the start


def test_running_again_makes_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = whole(Run(tmp_path / "r", settings=settings()), tmp_path)
    monkeypatch.setattr(Store, "commit", lambda *a, **k: pytest.fail("something was made again"))
    run = Run(tmp_path / "other-directory", settings=settings())
    assert whole(run, tmp_path).key == first.key
    assert {event for event, verb in events(run) if verb in ("sample", "judge", "curate", "train")} == {"reused"}


def test_another_seed_or_argument_is_another_result(tmp_path: Path) -> None:
    one = whole(Run(tmp_path / "a", settings=settings()), tmp_path)
    assert whole(Run(tmp_path / "b", settings=settings(), seed=1), tmp_path).key != one.key
    assert whole(Run(tmp_path / "c", settings=settings(lr=0.06)), tmp_path).key != one.key
    assert whole(Run(tmp_path / "d", settings=settings()), tmp_path, beta=0.2).key != one.key
    assert whole(Run(tmp_path / "e", settings=settings(save_every=1)), tmp_path).key == one.key


def test_the_reference_is_remembered_across_objectives_and_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "a", settings=settings())
    policy = start(run, tmp_path)
    pairs = run.curate(run.judge(run.sample(policy, prompts(run), n=4), judge), extremes)
    run.train(policy, pairs, objective=dpo(0.1))

    import prefine.engine.score

    monkeypatch.setattr(prefine.engine.score, "score_contrasts", lambda *a, **k: pytest.fail("scored again"))
    for seed, objective in ((0, dpo(0.5)), (1, ipo(0.1)), (2, dpo(0.1))):
        Run(tmp_path / f"b{seed}", settings=settings(), seed=seed).train(policy, pairs, objective=objective)


def test_a_damaged_artifact_is_made_again_with_the_same_bits(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", settings=settings())
    policy = whole(run, tmp_path)
    file = policy.path / "tabular.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    again = whole(Run(tmp_path / "r", settings=settings()), tmp_path)
    assert (again.path / "tabular.safetensors").read_bytes() == good


def test_samples_depend_on_the_prompt_and_not_on_its_neighbours(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    many = run.sample(start(run, tmp_path), prompts(run, 600), n=4)
    texts = [[c.text for c in s.candidates] for s in many]
    assert len({tuple(t) for t in texts}) > 50  # not one seed for all
    assert many[0].candidates[0].origin["role"] == "current"


def test_feedback_on_candidates_sampled_later_starts_empty(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    policy = start(run, tmp_path)
    judged = run.judge(run.sample(policy, prompts(run, 4), n=2), judge)
    more = run.sample(policy, judged, n=1, role="extra")
    assert more[0].column("score")[2] is None
    assert [c.origin["role"] for c in more[0].candidates] == ["current", "current", "extra"]


def test_abstentions_are_counted_and_told(tmp_path: Path) -> None:
    said: list[str] = []

    class Progress:
        def stage(self, label: str, total: float | None = None) -> Progress:
            return self

        def update(self, done: float, **figures: float) -> None: ...
        def end(self, **figures: float) -> None: ...
        def say(self, text: str) -> None:
            said.append(text)

    def shy(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [{"score": scores([None, 1.0])} for _ in slates]

    run = Run(tmp_path / "r", progress=Progress())
    judged = run.judge(run.sample(start(run, tmp_path), prompts(run, 5), n=2), shy)
    assert run.store.manifest(judged.key)["figures"] == {"slates": 5, "labels": 5, "abstained": 5}
    assert any("abstained on 5" in text for text in said)


def test_a_judge_that_gives_nan_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    sampled = run.sample(start(run, tmp_path), prompts(run, 2), n=2)
    with pytest.raises(InputError, match="not a finite number"):
        run.judge(sampled, lambda slates: [{"score": scores([float("nan"), 1.0])} for _ in slates])


def test_a_curator_that_finds_nothing_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    with pytest.raises(InputError, match="found no lesson in 2 rows"):
        run.curate(prompts(run, 2), lambda slates, rng: [])


def test_merge_is_weight_arithmetic(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", settings=settings())
    a = start(run, tmp_path)
    pairs = run.curate(run.judge(run.sample(a, prompts(run), n=4), judge), extremes)
    b = run.train(a, pairs, objective=dpo(0.1))
    mixed = run.merge({b: 1.5, a: -0.5}).load().module.state_dict()["logits_PA"]
    want = 1.5 * b.load().module.state_dict()["logits_PA"] - 0.5 * a.load().module.state_dict()["logits_PA"]
    assert torch.allclose(mixed, want, atol=1e-12)


def test_slices_are_disjoint_and_complete(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    every = prompts(run, 10)
    parts = [{s.id for s in run.slice(every, i, 3)} for i in range(3)]
    assert set.union(*parts) == {s.id for s in every}
    assert sum(map(len, parts)) == 10
    with pytest.raises(InputError, match="cannot be split"):
        run.slice(every, 0, 11)


def test_join_and_combine(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    policy = start(run, tmp_path)
    bare = prompts(run, 4)
    one, two = (
        run.judge(run.sample(policy, bare, n=1), judge),
        run.judge(run.sample(policy, bare, n=2, role="past"), judge),
    )
    assert len(run.join(one, two)) == 8
    both = run.combine(one, two)
    assert len(both) == 4 and len(both[0]) == 3
    assert both[0].column("score") == one[0].column("score") + two[0].column("score")


@dataclass(frozen=True)
class Fails:
    """An objective that fails when a file says so: the same code, so the same key, before and after."""

    flag: Path
    error: type[Exception]

    def __call__(self, s):  # type: ignore[no-untyped-def]
        if self.flag.exists():
            raise self.error(errno.ENOSPC, "full") if self.error is OSError else self.error()
        return sft()(s)


@pytest.mark.parametrize(("error", "words"), [(MemoryError, "out of memory"), (OSError, "disk is full")])
def test_a_run_out_of_room_goes_on_once_there_is_room(tmp_path: Path, error: type[Exception], words: str) -> None:
    flag = tmp_path / "flag"
    run = Run(tmp_path / "r", settings=settings(save_every=1))
    policy = start(run, tmp_path)
    pairs = run.curate(run.judge(run.sample(policy, prompts(run), n=4), judge), extremes)
    flag.touch()
    with pytest.raises(RunStopped, match=words):
        run.train(policy, pairs, objective=Fails(flag, error))
    flag.unlink()
    done = run.train(policy, pairs, objective=Fails(flag, error))
    other = Run(tmp_path / "clean", settings=settings(save_every=1), store=tmp_path / "clean-store")
    assert (done.path / "tabular.safetensors").read_bytes() == (
        other.train(policy, pairs, objective=Fails(flag, error)).path / "tabular.safetensors"
    ).read_bytes()


def test_a_full_disk_at_commit_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "r", settings=settings())
    policy = start(run, tmp_path)
    sampled = prompts(run)
    real = Store.commit

    def full(self: Store, key: str, work: Path, **about: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(work))

    monkeypatch.setattr(Store, "commit", full)
    with pytest.raises(RunStopped, match="disk is full"):
        run.sample(policy, sampled, n=2)
    before = {p.name for p in (tmp_path / ".store" / "objects").iterdir()}
    monkeypatch.setattr(Store, "commit", real)
    assert len(run.sample(policy, sampled, n=2)) == 60
    assert len({p.name for p in (tmp_path / ".store" / "objects").iterdir()} - before) == 1


def test_evaluate_compares_with_the_start(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", settings=settings())
    base, better = start(run, tmp_path), whole(run, tmp_path)
    figures = run.evaluate(better, prompts(run, 200), judge=judge, start=base, n=2)
    exact = better.load().expected([[0.0, 1.0, 2.0, 3.0]] * 2).mean()
    assert abs(figures["reward"] - exact) < 4 * figures["reward_se"]
    assert figures["win_rate"] > 0.5
    kl = better.load().kl(base.load()).mean()
    assert abs(figures["kl"] - kl) < 4 * figures["kl_se"] + 1e-6
    assert read_jsonl(run.dir / "evaluations.jsonl")[-1]["figures"] == figures


def test_a_response_answers_its_own_prompt_when_it_has_one(tmp_path: Path) -> None:
    slate = Slate("x", (Candidate("a"), Candidate("b", prompt="y")))
    run = Run(tmp_path / "r")
    contrasts = run.curate(run.slates([slate]), lambda slates, rng: [pair(s, 0, 1) for s in slates])
    base = Tabular(["x", "y"], ACTIONS, [[0.0, 0, 0, 0], [0.0, 9, 0, 0]])
    base.save(tmp_path / "base")
    sums = run.logps(run.policy(tmp_path / "base"), contrasts).sums()[0]
    assert sums[0] == pytest.approx(np.log(0.25))
    assert sums[1] == pytest.approx(np.log(np.exp(9) / (np.exp(9) + 3)))
