"""Making room: what goes is only what can be made again and nobody else uses; the policy, the report, labels stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from prefine import cleaning
from prefine.artifacts import _LIVE, PolicyHandle, sweep
from prefine.cli import main
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError, RunStopped
from prefine.evaluation import every_candidate
from prefine.objectives import sft
from prefine.policies import load_policy
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Slate
from prefine.store import Store, lock, read_jsonl


def finished(folder: Path, name: str = "run", rounds: int = 2, store: Path | None = None) -> Run:
    if not (folder / "base").exists():
        Tabular(["x", "y"], list("abcd"), torch.zeros(2, 4)).save(folder / "base")
    run = Run(folder / name, store=store, settings=TrainSettings.of({"lr": 0.05, "batch_size": 8, "max_steps": 2}))
    with run:
        policy = run.policy(folder / "base")
        prompts = run.slates([Slate("xy"[i % 2], meta={"id": str(i)}) for i in range(20)])
        for _ in run.rounds(rounds):
            lessons = run.curate(run.sample(policy, prompts, n=2), every_candidate)
            policy = run.train(policy, lessons, objective=sft())
        run.finish(policy)
    return run


def objects(run: Run) -> set[str]:
    return {p.name for p in (run.store.root / "objects").iterdir()}


def made(run: Run) -> list[str]:
    return [e["verb"] for e in read_jsonl(run.dir / "journal.jsonl") if e["event"] == "done" and e["verb"] != "run"]


def test_looking_touches_nothing_and_says_what_comes_again(tmp_path: Path) -> None:
    run = finished(tmp_path)
    before = objects(run)
    found = cleaning.look(run.dir)
    assert objects(run) == before and found.finished and found.size > 0
    assert "2 sample, 2 curate, 1 train" in found.again, "the final training is kept"


def test_cleaning_leaves_the_policy_and_the_report(tmp_path: Path) -> None:
    run = finished(tmp_path)
    weights = load_policy(run.dir / "policy").logits if hasattr(Tabular, "logits") else None
    cleaning.clean(run.dir)
    assert objects(run) == {run.final}, "one artifact: the final policy"
    assert run.store.get(run.final) is not None, "and it is whole"
    assert main(["report", str(run.dir)]) == 0 and main(["status", str(run.dir)]) == 0
    assert (run.dir / "policy").is_dir() and weights is None
    assert cleaning.look(run.dir).pieces == ()


def test_running_again_makes_what_went_and_nothing_else(tmp_path: Path) -> None:
    run = finished(tmp_path)
    kept = [(p.name, p.read_bytes()) for p in sorted((run.dir / "policy").iterdir())]
    count = made(run).count("train")
    cleaning.clean(run.dir)
    again = finished(tmp_path)
    assert [(p.name, p.read_bytes()) for p in sorted((again.dir / "policy").iterdir())] == kept
    assert made(again).count("train") == count + 1, "the first of the two; the final one was kept"


def test_what_another_run_uses_stays(tmp_path: Path) -> None:
    one, two = finished(tmp_path, "one", rounds=2), finished(tmp_path, "two", rounds=1)
    found = cleaning.look(one.dir)
    assert found.shared >= 3, "prompts, samples and lessons of the first round, and its training"
    cleaning.clean(one.dir)
    assert two.store.get(two.final) is not None
    assert len(cleaning.look(two.dir).pieces) >= 3
    before = made(two)
    finished(tmp_path, "two", rounds=1)
    assert [v for v in made(two)[len(before) :] if v != "slates"] == [], "nothing of it had gone"


def test_runs_elsewhere_that_share_the_store_are_known(tmp_path: Path) -> None:
    store = tmp_path / "far" / "store"
    one = finished(tmp_path, "here/one", store=store)
    two = finished(tmp_path, "there/deep/down/two", store=store)
    assert cleaning.look(one.dir).pieces == ()
    shutil.rmtree(two.dir)
    assert len(cleaning.look(one.dir).pieces) > 3, "a run that is gone uses nothing"
    assert Store(store).users() == [one.dir.resolve()]


def test_a_run_beside_the_store_that_used_another_is_no_user_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = finished(tmp_path, "one")
    alone = {piece.path for piece in cleaning.look(one.dir).pieces}
    with monkeypatch.context() as there:
        there.setenv("PREFINE_STORE", str(tmp_path / "other"))
        two = finished(tmp_path, "two")
    assert one.store.users() == [one.dir.resolve()] and two.store.users() == [two.dir.resolve()]
    found = cleaning.look(one.dir)
    assert found.shared == 0 and {piece.path for piece in found.pieces} == alone
    assert main(["clean", str(one.dir)]) == 0 and "other runs use them" not in capsys.readouterr().out
    finished(tmp_path, "two")
    assert cleaning.look(one.dir).pieces == (), "once it also ran with this store, it is"
    assert cleaning.look(one.dir).shared > 3


def test_runs_moved_together_with_their_store_are_still_its_users(tmp_path: Path) -> None:
    for name in ("one", "two"):
        finished(tmp_path / "old", name)
    (tmp_path / "old").rename(tmp_path / "new")
    one, two = (tmp_path / "new" / name for name in ("one", "two"))
    assert set(Store(tmp_path / "new" / ".store").users()) == {one.resolve(), two.resolve()}


def test_a_run_that_has_not_ended_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    with lock(run.dir), pytest.raises(RunStopped, match="in use"):
        cleaning.clean(run.dir)
    with pytest.raises(KeyboardInterrupt), Run(run.dir):
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="not come to its end"):
        cleaning.clean(run.dir)
    assert main(["clean", str(run.dir)]) == 0
    assert "could go once the run has come to its end" in capsys.readouterr().out
    assert main(["clean", str(tmp_path / "base")]) == 2


def test_the_command_lists_first_and_removes_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    assert main(["clean", str(run.dir)]) == 0
    assert "nothing was touched" in capsys.readouterr().out and len(objects(run)) > 1
    assert main(["clean", str(run.dir), "--yes"]) == 0
    assert "removed; running the command again has to make" in capsys.readouterr().out and len(objects(run)) == 1


def test_models_of_rounds_gone_by_are_not_kept_in_memory(tmp_path: Path) -> None:
    Tabular(["x"], list("ab"), torch.zeros(1, 2)).save(tmp_path / "base")
    old, new = (PolicyHandle(name, tmp_path / "base") for name in ("old", "new"))
    _LIVE.clear()
    sweep()
    old.load(), new.load()
    sweep()
    assert len(_LIVE) == 2, "both were asked for in the round that ended"
    new.load()
    sweep()
    assert list(_LIVE) == [new._place]
    assert old.load() is not None, "it can be read again"
