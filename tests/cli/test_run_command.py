"""``prefine run`` from end to end on tiny things: on own data, on a world, again, and with another configuration."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefine.cli import main
from prefine.store import read_jsonl

TINY = runpy.run_path(str(Path(__file__).with_name("tiny.py")))
QUICK = ["--batch-size=16", "--max-tokens=4", "--eval-prompts=4", "--lr=1e-2", "--threads=1", "--device=cpu"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good")
    TINY["make_model"](directory / "model")
    return TINY["make_data"](directory)


def ran(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(["run", *words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def own(good: Path, out: Path, data: str = "pairs") -> list[str]:
    return ["--model", str(good / "model"), "--data", str(good / f"{data}.jsonl"), "--out", str(out), *QUICK]


def trained(out: Path) -> int:
    """How many trainings were computed (not replayed) over all launches."""
    return sum(e["verb"] == "train" and e["event"] == "done" for e in read_jsonl(out / "journal.jsonl"))


def weights(out: Path) -> bytes:
    return (out / "policy" / "model.safetensors").read_bytes()


def last(out: Path) -> dict[str, Any]:
    return read_jsonl(out / "evaluations.jsonl")[-1]["figures"]


@pytest.fixture(scope="module")
def run_dir(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run of DPO on own pairs, for the tests that look at it or go on with it."""
    out = tmp_path_factory.mktemp("runs") / "dpo"
    assert main(["run", "dpo", *own(good, out), "--beta", "0.5"]) == 0
    return out


def test_own_model_and_pairs(run_dir: Path, good: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run_dir / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "policy")
    out = model.generate(**tokenizer("say yes", return_tensors="pt"), max_new_tokens=2)
    assert out.shape[1] > 2, "plain transformers loads the result and generates from it"
    assert weights(run_dir) != (good / "model" / "model.safetensors").read_bytes()
    figures = last(run_dir)
    assert figures["pair_accuracy"] == 1.0 and figures["pair_margin"] > 0, "every pair says the same: yes"
    assert (run_dir / "report.html").stat().st_size > 10_000


def test_the_whole_configuration_is_written_down(run_dir: Path, good: Path) -> None:
    config = yaml.safe_load((run_dir / "run.yaml").read_text())
    assert config["system"] == "dpo" and config["options"] == {
        "beta": 0.5, "label_smoothing": 0.0, "following": "fixed",
    }  # fmt: skip
    assert config["inputs"]["data"] == str(good / "pairs.jsonl")
    assert config["train"]["lr"] == 0.01 and config["train"]["weight_decay"] == 0.0, "defaults too"
    assert config["sampling"]["max_tokens"] == 4


def test_the_same_flags_replay(run_dir: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, count = weights(run_dir), trained(run_dir)
    ran(capsys, "dpo", *own(good, run_dir), "--beta", "0.5")
    assert weights(run_dir) == before and trained(run_dir) == count == 1


def test_its_own_file_replays(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also without --out: a run's own file goes on in its own directory."""
    before = weights(run_dir)
    ran(capsys, "--config", str(run_dir / "run.yaml"))
    assert weights(run_dir) == before and trained(run_dir) == 1


def test_its_own_file_in_another_place_is_the_same_run(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another directory with a store of its own: everything is computed again, and the bits are the same."""
    ran(capsys, "--config", str(run_dir / "run.yaml"), "--out", str(tmp_path / "again"))
    assert trained(tmp_path / "again") == 1
    assert weights(tmp_path / "again") == weights(run_dir)
    assert last(tmp_path / "again") == last(run_dir)


def test_flags_go_before_the_file(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "other"
    ran(capsys, "--config", str(run_dir / "run.yaml"), "--beta", "0.9", "--out", str(out))
    assert yaml.safe_load((out / "run.yaml").read_text())["options"]["beta"] == 0.9


def test_none_is_a_value(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "other"
    ran(capsys, "--config", str(run_dir / "run.yaml"), "--clip", "none", "--out", str(out))
    assert yaml.safe_load((out / "run.yaml").read_text())["train"]["clip"] is None


def test_fresh_starts_over_and_shares_what_is_common(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    ran(capsys, "dpo", *own(good, out))
    assert main(["run", "dpo", *own(good, out), "--beta", "0.7"]) == 2
    assert "options.beta: 0.1 -> 0.7" in capsys.readouterr().err
    ran(capsys, "dpo", *own(good, out), "--beta", "0.7", "--fresh")
    events = read_jsonl(out / "journal.jsonl")
    assert any(e["verb"] == "logps" and e["event"] == "reused" for e in events)
    assert not any(e["verb"] == "logps" and e["event"] == "done" and "reference" in e["label"] for e in events[:12])


@pytest.mark.parametrize(
    ("system", "data"), [("kto", "pairs"), ("kto", "labels"), ("sft", "pairs"), ("orpo", "pairs")], ids=str
)
def test_data_of_one_kind_serves_methods_of_another(
    system: str, data: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(capsys, system, *own(good, tmp_path / "run", data))
    assert weights(tmp_path / "run") != (good / "model" / "model.safetensors").read_bytes()


def test_a_loop_with_a_judge(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["--model", str(good / "model"), "--prompts", str(good / "prompts.jsonl"), "--judge", "length:words"]
    shown = ran(capsys, "iterate", *words, "--out", str(out), *QUICK, "--rounds", "2", "--n", "2")
    rounds = {row["round"] for row in read_jsonl(out / "evaluations.jsonl")}
    assert rounds == {None, 0, 1}
    assert "reward" in shown and "win rate" in shown and str(out / "report.html") in shown


def test_a_teacher_answers_the_prompts_in_place_of_data(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "run", str(good / "model")
    words = ["--model", model, "--prompts", str(good / "prompts.jsonl"), "--out", str(out), *QUICK]
    assert main(["run", "pu-rl-distill", *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "needs demos" in said and "--prompts FILE and --teacher DIR" in said and "--world" in said
    ran(capsys, "pu-rl-distill", *words, "--teacher", model, "--evaluation", "words", "--rounds", "1", "--n", "2")
    assert yaml.safe_load((out / "run.yaml").read_text())["options"]["teacher"] == model
    spoken = [e for e in read_jsonl(out / "journal.jsonl") if e.get("role") == "teacher" and e["event"] == "done"]
    assert len(spoken) == 1


def test_a_reward_model_becomes_a_judge(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = tmp_path / "judge"
    ran(capsys, "reward-model", *own(good, judge), "--epochs", "3")
    figures = last(judge)
    assert figures["pair_accuracy"] == 1.0 and figures["pair_chosen_reward"] > figures["pair_rejected_reward"]
    assert not {"kl", "pair_chosen_logp", "pair_ranking_accuracy"} & set(figures), "a reward is no log-probability"
    assert "sample" not in {row["verb"] for row in read_jsonl(judge / "journal.jsonl")}, "it has no answers of its own"
    assert (judge / "report.html").exists()
    words = ["--model", str(good / "model"), "--prompts", str(good / "prompts.jsonl"), "--rounds", "1", "--n", "2"]
    ran(
        capsys, "iterate", *words, "--judge", f"reward-model:{judge / 'policy'}", "--out", str(tmp_path / "run"), *QUICK
    )
    assert "reward" in last(tmp_path / "run")


def test_a_reference_that_follows(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, "dpo", *own(good, tmp_path / "run"), "--epochs", "3", "--following", "synced:every=1")
    losses = [row["loss"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert len(losses) > 1 and losses == pytest.approx([0.6931] * len(losses), abs=1e-3)


def test_responses_cut_to_max_length_are_counted_and_told(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for _ in range(2):  # a replay says it too
        code = main(["run", "sft", *own(good, out), "--max-length", "2"])
        said = capsys.readouterr()
        assert code == 0, said.err
        assert re.search(
            r"[1-9]\d* of [1-9]\d* responses trained on were cut to max_length=2 tokens", said.out + said.err
        )
    (figures,) = (
        r["figures"] for r in read_jsonl(out / "journal.jsonl") if (r["verb"], r["event"]) == ("train", "done")
    )
    assert 0 < figures["cut"] <= figures["responses"]
    main(["run", "sft", *own(good, tmp_path / "whole"), "--max-length", "500"])
    said = capsys.readouterr()
    assert "were cut" not in said.out + said.err


def test_adapters(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    out = tmp_path / "run"
    ran(capsys, "dpo", *own(good, out), "--lora-rank", "2")
    assert yaml.safe_load((out / "run.yaml").read_text())["lora"] == {"rank": 2, "alpha": 4.0}
    assert (out / "policy" / "adapter_model.safetensors").exists()


def test_held_out_is_not_trained_on(run_dir: Path) -> None:
    """40 prompts: 8 held out, the same whatever the seed; the other 32 are trained on."""
    events = read_jsonl(run_dir / "journal.jsonl")
    curated = {e["label"]: e["figures"]["contrasts"] for e in events if e["verb"] == "curate" and e["event"] == "done"}
    assert curated["held-out pairs"] == 8
    assert max(curated.values()) == 32


def test_data_to_measure_on_can_be_given(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = TINY["make_data"](tmp_path / "other", 5)
    out = tmp_path / "run"
    ran(capsys, "dpo", *own(good, out), "--eval-data", str(other / "pairs.jsonl"))
    events = read_jsonl(out / "journal.jsonl")
    curated = [e["figures"]["contrasts"] for e in events if e["verb"] == "curate" and e["event"] == "done"]
    assert 5 in curated and 40 in curated, "nothing is taken from the training data then"


def test_a_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    ran(capsys, "018", "--world", "games", "--rounds", "1", "--train-prompts", "4", "--eval-prompts", "4")
    out = tmp_path / "runs" / "sppo-games-0"
    config = yaml.safe_load((out / "run.yaml").read_text())
    assert config["inputs"]["world"] == "games" and config["inputs"]["annotator"] == "perfect"
    assert "win_rate" in last(out)


def test_a_world_judged_by_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["--world", "games", "--judge", "brevity", "--rounds", "1", "--train-prompts", "8", "--eval-prompts", "2"]
    ran(capsys, "iterate", *words, "--out", str(out))
    inputs = yaml.safe_load((out / "run.yaml").read_text())["inputs"]
    assert inputs["judge"] == "brevity" and "annotator" not in inputs


def test_an_option_before_the_system(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A switch right before the system's name does not take it for its value."""
    out = tmp_path / "run"
    ran(capsys, "--average", "rpo-regularized", *own(good, out))
    assert yaml.safe_load((out / "run.yaml").read_text())["options"]["average"] is True


def test_runs_and_status_see_it(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(run_dir.parent), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["system"] == "dpo" and row["state"] == "finished"
    assert main(["status", str(run_dir)]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["report", str(run_dir)]) == 0
    assert "report.html" in capsys.readouterr().out


@pytest.mark.shared
def test_a_real_file_of_pairs(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(__file__).parents[3] / "shared" / "data" / "hh_harmless_pairs.jsonl.gz"
    if not data.exists():
        pytest.skip("the data beside the checkout (../shared) is not there")
    out = tmp_path / "run"
    words = ["--model", str(good / "model"), "--data", str(data), "--out", str(out), *QUICK]
    ran(capsys, "dpo", *words, "--max-steps", "2")
    assert 0 <= last(out)["pair_accuracy"] <= 1


def test_a_report_that_cannot_be_written_does_not_fail_the_run(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefine.report import html

    def full(directory: Path) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr(html, "write_report", full)
    assert main(["run", "--config", str(run_dir / "run.yaml")]) == 0
    assert "no space left" in capsys.readouterr().err and weights(run_dir)


def test_figures_go_to_the_tracker_asked_for(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps only go up, over all rounds; what is measured goes there as well; the tracker is closed."""
    from prefine.report import trackers

    seen: list[tuple[int, set[str]]] = []
    closed: list[bool] = []

    class Remembering:
        def __init__(self, run_dir: Path, config: Any) -> None:
            assert config["system"] == "iterate"

        def log(self, step: int, figures: Any) -> None:
            seen.append((step, set(figures)))

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(trackers, "TRACKERS", {"memory": Remembering})
    words = ["--model", str(good / "model"), "--prompts", str(good / "prompts.jsonl"), "--judge", "length:words"]
    out = str(tmp_path / "run")
    ran(capsys, "iterate", *words, "--out", out, *QUICK, "--rounds", "2", "--n", "2", "--track", "memory")
    steps = [step for step, _ in seen]
    assert steps == sorted(set(steps))
    assert any("loss" in names for _, names in seen) and any("held-out/reward" in names for _, names in seen)
    assert closed == [True]
