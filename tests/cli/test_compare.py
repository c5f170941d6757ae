"""``prefine compare`` and the block that takes any objective: on tiny data, again, killed, and with what is wrong."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

from prefine import launch
from prefine.cli import main
from prefine.compare import method_of
from prefine.errors import InputError
from prefine.report.compare import read_methods
from prefine.run import Run
from prefine.store import read_jsonl

TINY = runpy.run_path(str(Path(__file__).with_name("tiny.py")))
QUICK = ["--batch-size=16", "--max-tokens=4", "--eval-prompts=4", "--lr=1e-2", "--threads=1", "--device=cpu"]
METHODS = ["dpo", "simpo(gamma=0.5)", "lcpo:dpo"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good")
    TINY["make_model"](directory / "model")
    return TINY["make_data"](directory)


def words(good: Path, out: Path, *methods: str, data: str = "pairs") -> list[str]:
    own = ["--model", str(good / "model"), "--data", str(good / f"{data}.jsonl"), "--judge", "length"]
    return ["compare", *(methods or METHODS), *own, "--out", str(out), *QUICK]


@pytest.fixture(scope="module")
def done(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "three"
    assert main(words(good, out)) == 0
    return out


def named(good: Path) -> None:
    """named.jsonl: the pairs, and who labelled them."""
    rows = [json.loads(line) for line in (good / "pairs.jsonl").read_text().splitlines()]
    TINY["write"](good / "named.jsonl", [{**row, "annotator": f"a{i % 3}"} for i, row in enumerate(rows)])


def made(out: Path, verb: str) -> list[str]:
    """Keys of what was computed, over all methods and launches."""
    rows = [row for file in out.glob("**/journal.jsonl") for row in read_jsonl(file)]
    return [row["key"] for row in rows if row["verb"] == verb and row["event"] == "done"]


def test_every_method_is_a_run_of_its_own_on_one_store(done: Path) -> None:
    folders = {"dpo", "simpo-gamma-0.5", "lcpo-dpo"}
    assert folders <= {p.name for p in done.iterdir()} and all((done / f / "report.html").exists() for f in folders)
    keys = made(done, "logps")
    assert len(keys) == len(set(keys)), "the reference and the held-out scores are computed once"
    assert len(made(done, "sample")) == 4, "start and three policies, once each: the matrix draws nothing new"
    config = yaml.safe_load((done / "lcpo-dpo" / "run.yaml").read_text())
    assert config["system"] == "offline" and config["options"]["objective"] == "lcpo:dpo"


def test_all_see_the_data_in_the_same_order(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefine.cluster import work

    seeds = []
    whole = work.Trained.__call__

    def note(job: work.Trained, tell: object) -> object:
        seeds.append(job.settings.seed)
        return whole(job, tell)  # type: ignore[arg-type]

    monkeypatch.setattr(work.Trained, "__call__", note)
    named(good)
    assert main(words(good, tmp_path / "two", "dpo", "simpo", "lcpo:dpo", data="named")) == 0
    assert len(seeds) == 3 and len(set(seeds)) == 1, "also where a method's pairs carry more (who labelled them)"
    first = [read_jsonl(tmp_path / "two" / f / "metrics.jsonl")[0] for f in ("dpo", "simpo", "lcpo-dpo")]
    assert len({row["chosen/logp"] for row in first}) == 1, "the same batch under the same weights"


def test_the_report(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert all(name in page for name in METHODS)
    for title in ("Each against each", "Displacement of the chosen", "Reward against KL", "Length"):
        assert title in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page) and "<script" not in page
    about = json.loads((done / "comparison.json").read_text())
    assert about["names"] == ["start", *METHODS]
    for i, j in ((0, 1), (1, 3)):
        assert about["wins"][i][j] + about["wins"][j][i] == pytest.approx(1.0)


def test_again_replays_and_one_more_is_the_only_one_run(good: Path, done: Path) -> None:
    before = len(made(done, "train"))
    assert main(words(good, done)) == 0
    assert len(made(done, "train")) == before
    assert main(words(good, done, *METHODS, "ipo")) == 0
    assert len(made(done, "train")) == before + 1


def test_killed_in_the_middle_it_goes_on(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, started = launch.launch, []

    def killed(prepared: launch.Prepared, progress: object = None) -> launch.Outcome:
        started.append(prepared.system.key)
        if len(started) == 2:
            raise KeyboardInterrupt
        return whole(prepared, progress)  # type: ignore[arg-type]

    out = tmp_path / "killed"
    monkeypatch.setattr(launch, "launch", killed)
    assert main(words(good, out, "dpo", "simpo")) == 130
    monkeypatch.setattr(launch, "launch", whole)
    assert main(words(good, out, "dpo", "simpo")) == 0
    assert len(made(out, "train")) == 2 and (out / "report.html").exists()


def test_what_measuring_takes_is_no_cost_of_a_method(tmp_path: Path) -> None:
    out = tmp_path / "world"
    own = ["--world", "games", "--train-prompts=8", "--candidates=4", "--eval-prompts=6", "--batch-size=8"]
    assert main(["compare", "dpo", "simpo", *own, "--out", str(out), "--threads=1", "--epochs=1"]) == 0
    about = json.loads((out / "comparison.json").read_text())
    costs = [method.spent for method in read_methods(out, about["methods"])]
    assert [c.labels for c in costs] == [32, 32], "8 prompts of 4 responses; held-out ones are not counted"
    assert not any(c.more for c in costs) and all(c.seconds > 0 and c.trained > 0 for c in costs)
    figures = [m["figures"] for m in about["methods"]]
    assert all({"reward", "kl", "length", "win_rate"} <= f.keys() for f in figures)
    assert about["wins"][1][0] == pytest.approx(figures[0]["win_rate"]), (
        "the matrix and the table are of the same samples"
    )
    assert about["wins"][2][0] == pytest.approx(figures[1]["win_rate"])


def test_another_s_directory_is_left_alone(good: Path, done: Path, tmp_path: Path) -> None:
    before = TINY["contents"](done / "dpo")
    assert main(words(good, done / "dpo")) == 2
    assert TINY["contents"](done / "dpo") == before
    (tmp_path / "notes.txt").write_text("mine")
    assert main(words(good, tmp_path)) == 2


def test_the_report_is_written_again(done: Path) -> None:
    (done / "report.html").unlink()
    assert main(["report", str(done)]) == 0
    assert "Each against each" in (done / "report.html").read_text()


WRONG = {
    "unknown": (["dpo", "simpoo"], "simpo"),
    "unknown wrapper": (["dpo", "lcop:dpo"], "lcpo"),
    "an option that is not there": (["dpo", "simpo(bta=1)"], "beta"),
    "twice": (["dpo", "dpo"], "once"),
    "alone": (["dpo"], "two"),
    "a reward model": (["dpo", "reward-model"], "leave it out"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_before_anything_runs(
    good: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    methods, said = WRONG[case]
    assert main(words(good, tmp_path / "out", *methods)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_method_whose_inputs_the_data_lacks(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(good, tmp_path / "out", "kto", "dpo", data="labels")) == 2
    assert "pairs" in capsys.readouterr().err
    assert main(words(good, tmp_path / "out", "dpo", "weighted:dpo", "lcpo:dpo")) == 2
    said = capsys.readouterr().err
    assert "weighted:dpo: " in said and "column" in said and "leave out weighted:dpo" in said and "lcpo" not in said
    assert main(words(good, tmp_path / "out", "dpo", "simpo", data="nowhere")) == 2
    assert "leave out" not in capsys.readouterr().err, "no method's fault"
    assert not (tmp_path / "out").exists()


def test_names_of_methods() -> None:
    assert method_of("dpo").system == "dpo" and method_of("dpo(beta=0.2)").options == {"beta": 0.2}
    assert method_of("98").system == "rdpo" and method_of("98(eps=0.2)").options == {"eps": 0.2}
    offline = method_of("robust(eps=0.2):dpo")
    assert offline.system == "offline" and offline.options == {"objective": "robust(eps=0.2):dpo"}
    assert method_of("slots(loss=hinge)").system == "offline"
    with pytest.raises(InputError, match="option"):
        method_of("iterate(temprature=2)")


# -- the block ``offline``


def offline(good: Path, out: Path, *flags: str, data: str = "pairs") -> int:
    own = ["--model", str(good / "model"), "--data", str(good / f"{data}.jsonl"), "--out", str(out), *QUICK]
    return main(["run", "offline", *own, *flags])


def test_any_objective_from_the_command_line_and_from_yaml(good: Path, tmp_path: Path) -> None:
    flags = ["--objective", "lcpo(eta=0.8):simpo:beta=2.5", "--curriculum", "similarity(stages=2)"]
    assert offline(good, tmp_path / "flags", *flags) == 0
    nested = {"lcpo": {"eta": 0.8, "of": {"simpo": {"beta": 2.5}}}}
    config = {
        "system": "offline", "inputs": {"model": str(good / "model"), "data": str(good / "pairs.jsonl")},
        "options": {"objective": nested, "curriculum": {"similarity": {"stages": 2}}},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "yaml"), *QUICK]) == 0
    read = [yaml.safe_load((tmp_path / d / "run.yaml").read_text())["options"] for d in ("flags", "yaml")]
    assert read[0] == read[1] and read[0]["objective"] == "lcpo(eta=0.8):simpo(beta=2.5)"
    assert len(made(tmp_path / "yaml", "train")) == 0, "the same run: nothing to compute"


def test_labels_and_references(good: Path, tmp_path: Path) -> None:
    assert offline(good, tmp_path / "kto", "--objective", "kto", data="labels") == 0
    assert offline(good, tmp_path / "free", "--reference", "none") == 0
    assert offline(good, tmp_path / "other", "--reference", str(tmp_path / "free" / "policy")) == 0
    assert offline(good, tmp_path / "moving", "--following", "trailing:alpha=0.5,every=1") == 0


def test_reliabilities_are_learnt_by_name(good: Path, tmp_path: Path) -> None:
    named(good)
    assert offline(good, tmp_path / "named", "--objective", "lcpo:dpo", data="named") == 0
    last = read_jsonl(tmp_path / "named" / "metrics.jsonl")[-1]
    assert {n for n in last if n.startswith("reliability/")} == {f"reliability/{k}" for k in range(3)}


@pytest.mark.parametrize(
    ("flags", "data", "said"),
    [
        (["--objective", "weighted:dpo"], "pairs", "--values weight=COLUMN"),
        (["--objective", "lcpo:dop"], "pairs", "dpo"),
        (["--curriculum", "margin"], "pairs", "margin"),
        (["--curriculum", "similrity"], "pairs", "similarity"),
        (["--following", "fixd"], "pairs", "fixed"),
        (["--objective", "dpo"], "labels", "pairs"),
        (["--objective", "lcpo:sft"], "pairs", "no other order"),
    ],
)
def test_what_the_data_lacks_is_said_before_anything_runs(
    good: Path, tmp_path: Path, flags: list[str], data: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offline(good, tmp_path / "out", *flags, data=data) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_state_survives_a_kill(good: Path, tmp_path: Path) -> None:
    """Reliabilities are in the checkpoints: a training that was killed ends in the same bits."""
    from prefine import objectives
    from prefine.binding.user import chosen_over_rejected
    from prefine.engine import train as engine
    from prefine.engine.settings import TrainSettings
    from prefine.formats import read_slates

    settings = {"lr": 1e-2, "batch_size": 8, "max_steps": 6, "save_every": 2}

    def run(name: str) -> bytes:
        run = Run(tmp_path / name, store=tmp_path / f"store-{name}", settings=TrainSettings.of(settings))
        policy = run.policy(good / "model")
        pairs = run.curate(run.slates(read_slates(good / "pairs.jsonl")), chosen_over_rejected)
        trained = run.train(policy, pairs, objective=objectives.lcpo(objectives.dpo()))
        return (trained.path / "objective.safetensors").read_bytes() + (trained.path / "model.safetensors").read_bytes()

    whole = run("whole")
    step, real = 0, engine.score

    def dying(*arguments: object) -> object:
        nonlocal step
        step += 1
        if step == 5:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    engine.score = dying  # type: ignore[assignment]
    try:
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    finally:
        engine.score = real
    assert run("killed") == whole
