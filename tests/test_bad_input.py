"""Bad input: one message with a remedy, exit code 2, nothing written. Data, configs, models, worlds, commands.

Every row goes through the whole command line, in this process. {model}, {pairs}, ... stand for good things that
lie in a directory of their own; files of a row are written into the directory the command runs in.
"""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prefine.cli import main

TINY = runpy.run_path(str(Path(__file__).parent / "cli" / "tiny.py"))
BAD_DATA = runpy.run_path(str(Path(__file__).parent / "formats" / "bad_inputs.py"))["DATA_BAD_INPUTS"]

RUN_TO = "run dpo --model {model} --data {pairs} --out "
GOOD_RUN = RUN_TO + "out"


class Bad(NamedTuple):
    """One way to be wrong: the command, what the message must say, and the files it needs."""

    name: str
    command: str
    says: str
    files: dict[str, Any] = {}  # noqa: RUF012
    make: Callable[[Path, Path], None] = lambda here, good: None


def yaml_file(text: str) -> dict[str, str]:
    return {"run.yaml": text}


CONFIG = "run --config run.yaml --out out"

CONFIGS = [
    Bad("no such config", CONFIG, "no such configuration file"),
    Bad("empty config", CONFIG, "this is empty", yaml_file("")),
    Bad("config is a list", CONFIG, "a configuration is a mapping", yaml_file("- dpo\n- sppo\n")),
    Bad("config is text", CONFIG, "a configuration is a mapping", yaml_file("dpo")),
    Bad("broken YAML", CONFIG, "run.yaml:2: this is not YAML", yaml_file("system: dpo\ntrain: [lr: 1}\n")),
    Bad("tabs in YAML", CONFIG, "this is not YAML", yaml_file("train:\n\tlr: 1\n")),
    Bad(
        "YAML that builds objects", CONFIG, "not YAML that can be read safely",
        yaml_file("system: !!python/object/apply:os.system ['touch pwned']\n"),
    ),
    Bad("YAML with a python name", CONFIG, "read safely", yaml_file("system: !!python/name:os.system\n")),
    Bad("config not UTF-8", CONFIG, "not a text file in UTF-8", {"run.yaml": b"system: \xff\xfe\n"}),
    Bad("no system in config", CONFIG, "no system is named", yaml_file("seed: 1\n")),
    Bad("misspelt field", CONFIG, "did you mean system", yaml_file("sytem: dpo\nsystem: dpo\n")),
    Bad("unknown field", CONFIG, "no field 'beta'", yaml_file("system: dpo\nbeta: 0.1\n")),
    Bad("input at the top", CONFIG, "under `inputs:`", yaml_file("system: dpo\nworld: assistant\n")),
    Bad("misspelt input", CONFIG, "did you mean model", yaml_file("system: dpo\ninputs: {modle: x}\n")),
    Bad("inputs is a list", CONFIG, "inputs=", yaml_file("system: dpo\ninputs: [assistant]\n")),
    Bad("numeric key", CONFIG, "the name 1 is not a text", yaml_file("system: dpo\n1: 2\n")),
    Bad("system is a list", CONFIG, "system=['dpo'] cannot be used", yaml_file("system: [dpo]\n")),
    Bad("seed in words", CONFIG, "seed='one' cannot be used", yaml_file("system: dpo\nseed: one\n")),
    Bad("seed is yes", CONFIG, "seed=True cannot be used", yaml_file("system: dpo\nseed: yes\n")),
    Bad("negative seed in config", CONFIG, "greater than or equal to 0", yaml_file("system: dpo\nseed: -1\n")),
    Bad("negative lr in config", CONFIG, "lr=-0.1 cannot be used", yaml_file("system: dpo\ntrain: {lr: -0.1}\n")),
    Bad("lr in words", CONFIG, "lr='fast' is not a number", yaml_file("system: dpo\ntrain: {lr: fast}\n")),
    Bad("lr is NaN", CONFIG, "lr=nan is not a number", yaml_file("system: dpo\ntrain: {lr: .nan}\n")),
    Bad("unknown setting", CONFIG, "no training setting 'learning_rate'",
        yaml_file("system: dpo\ntrain: {learning_rate: 1}\n")),
    Bad("batch of a half", CONFIG, "batch_size=0.5 is not a whole number",
        yaml_file("system: dpo\ntrain: {batch_size: 0.5}\n")),
    Bad("betas of one", CONFIG, "2 values, each a number", yaml_file("system: dpo\ntrain: {betas: [0.9]}\n")),
    Bad("unknown option in config", CONFIG, "dpo has no option 'eta'", yaml_file("system: dpo\noptions: {eta: 1}\n")),
    Bad("option of the wrong type", CONFIG, "beta=[1] is not a number",
        yaml_file("system: dpo\noptions: {beta: [1]}\n")),
    Bad("lora without rank", CONFIG, "lora.rank=0 cannot be used", yaml_file("system: dpo\nlora: {rank: 0}\n")),
    Bad("sampling setting unknown", CONFIG, "no sampling setting 'temprature'",
        yaml_file("system: dpo\nsampling: {temprature: 1}\n")),
    Bad("train is a list", CONFIG, "train=", yaml_file("system: dpo\ntrain: [lr]\n")),
]  # fmt: skip

COMMANDS = [
    Bad("no such command", "ruin dpo", "No such command"),
    Bad("run without a system", "run", "no system is named"),
    Bad("two systems", "run dpo sppo", "unexpected extra argument"),
    Bad("misspelt system", "run dop --out out", "did you mean dpo"),
    Bad("unknown number", "run 9999 --out out", "there is no system '9999'"),
    Bad("misspelt option", GOOD_RUN + " --bet 0.1", "did you mean --beta"),
    Bad("unknown option", GOOD_RUN + " --zzzzz 0.1", "dpo has no option --zzzzz"),
    Bad("option without a value", GOOD_RUN + " --beta", "beta='true' is not a number"),
    Bad("option in words", GOOD_RUN + " --beta big", "beta='big' is not a number"),
    Bad("option twice", GOOD_RUN + " --beta 1 --beta 2", "--beta is given twice"),
    Bad("negative beta", GOOD_RUN + " --beta -1", "beta=-1.0 cannot be used"),
    Bad("negative lr", GOOD_RUN + " --lr -1", "lr=-1.0 cannot be used"),
    Bad("zero epochs", GOOD_RUN + " --epochs 0", "epochs=0.0 cannot be used"),
    Bad("negative batch", GOOD_RUN + " --batch-size -4", "batch_size=-4 cannot be used"),
    Bad("epochs and steps", GOOD_RUN + " --epochs 2 --max-steps 10", "contradict each other"),
    Bad("unknown optimizer", GOOD_RUN + " --optimizer lionn", "optimizer='lionn'"),
    Bad("unknown optimizer in the recipe's hands", "run sppo --world games --optimizer lionn --out out",
        "optimizer='lionn'"),
    Bad("demo over another run", "demo --out out", "another configuration",
        make=lambda here, good: earlier_run(here, good)),
    Bad("unknown schedule", GOOD_RUN + " --schedule up", "schedule='up'"),
    Bad("unknown precision", GOOD_RUN + " --precision float8", "precision='float8'"),
    Bad("top-p above one", GOOD_RUN + " --top-p 1.5", "top_p=1.5 cannot be used"),
    Bad("negative temperature", GOOD_RUN + " --temperature -1", "temperature=-1.0 cannot be used"),
    Bad("no tokens", GOOD_RUN + " --max-tokens 0", "max_tokens=0 cannot be used"),
    Bad("seed in words on the command line", GOOD_RUN + " --seed one", "--seed"),
    Bad("negative seed", GOOD_RUN + " --seed -1", "seed=-1 cannot be used"),
    Bad("no threads", GOOD_RUN + " --threads 0", "threads=0 cannot be used"),
    Bad("unknown device", GOOD_RUN + " --device tpu", "there is no device 'tpu'"),
    Bad("unknown tracker", GOOD_RUN + " --track mlflow", "there is no tracker 'mlflow'"),
    Bad("alpha without rank", GOOD_RUN + " --lora-alpha 8", "--lora-alpha without --lora-rank"),
    Bad("negative rank", GOOD_RUN + " --lora-rank -2", "rank=-2 cannot be used"),
    Bad("world and model", "run dpo --world assistant --model {model} --out out", "contradict each other"),
    Bad("world and data", "run dpo --world assistant --data {pairs} --out out", "contradict each other"),
    Bad("annotator of own data", GOOD_RUN + " --annotator noisy", "--annotator is for worlds"),
    Bad("zero rounds", "run iterate --world assistant --rounds 0 --out out", "rounds=0 cannot be used"),
    Bad("zero candidates", "run iterate --world assistant --n 0 --out out", "n=0 cannot be used"),
    Bad("unknown objective", "run iterate --world games --objective dppo --out out", "there is no objective 'dppo'"),
    Bad("unknown curator", "run iterate --world games --curator xtremes --out out", "there is no curator 'xtremes'"),
    Bad("out is a file", RUN_TO + "taken", "cannot write to taken", {"taken": "a file"}),
    Bad("out below a file", RUN_TO + "taken/run", "cannot write to", {"taken": "a file"}),
    Bad("out holds something else", GOOD_RUN, "holds something else than a run", {"out/thesis.txt": "years of work"}),
    Bad("changed config", GOOD_RUN, "options.beta: 0.5 -> 0.1", make=lambda here, good: earlier_run(here, good)),
    Bad("changed seed", GOOD_RUN + " --seed 3 --beta 0.5", "seed: 0 -> 3",
        make=lambda here, good: earlier_run(here, good)),
    Bad("damaged run.yaml", GOOD_RUN, "this is not YAML", {"out/run.yaml": "system: {dpo"}),
    Bad("claim of nobody", "claim", "name systems, or give --all"),
    Bad("claims of all and one", "claim sppo --all", "contradict each other"),
    Bad("claim of a building block", "claim dpo", "a building block without a claim"),
    Bad("claim over no seeds", "claim sppo --seeds 0", "--seeds"),
    Bad("claims into another file", "claim ipo --out c.json", "not a claims file", {"c.json": "[1, 2]"}),
    Bad("show nothing", "show nothing", "there is no system 'nothing'"),
    Bad("unknown family of systems", "systems --family nahs", "there is no family 'nahs'"),
    Bad("report of nothing", "report nowhere", "there is no run directory"),
    Bad("report of another directory", "report out", "holds no run", {"out/thesis.txt": "years of work"}),
    Bad("status of nothing", "status nowhere", "there is no run directory"),
    Bad("runs of nothing", "runs nowhere", "there is no such folder"),
    Bad("check nothing", "data check nowhere.jsonl", "there is no such file"),
    Bad("check with nothing for a tokenizer", "data check {pairs} --model nowhere", "nowhere"),
    Bad("convert to the unknown", "data convert {pairs} x.jsonl --to pears", "pears"),
    Bad("convert over a file", "data convert {pairs} x.jsonl --to slates", "exists already", {"x.jsonl": "mine"}),
    Bad("serve nothing", "serve nowhere", "no such model directory"),
    Bad("serve on no port", "serve {model} --port 70000", "--port"),
]  # fmt: skip

WORLDS = [
    Bad("misspelt world", "run dpo --world asistant --out out", "did you mean assistant"),
    Bad("unknown variant", "run sppo --world games:chess --out out", "has no variant 'chess'"),
    Bad("unknown annotator", "run dpo --world games --annotator angry --out out", "no annotator 'angry'"),
    Bad("more prompts than there are", "run dpo --world assistant --train-prompts 100000 --out out", "were asked for"),
    Bad("world without a verifier", "run dpo-vp --world games --out out", "world 'games' has none"),
    Bad("world without demonstrations", "run sft --world games --out out", "world 'games' has none"),
    Bad("prompts of no world", "world prompts mars --out p.jsonl", "there is no world 'mars'"),
    Bad("prompts of no split", "world prompts games --split dev --out p.jsonl", "no split 'dev'"),
    Bad("prompts over a file", "world prompts games --out p.jsonl", "there is something already", {"p.jsonl": "mine"}),
    Bad("base of no world", "world base mars --out base", "there is no world 'mars'"),
]

INPUTS = [
    Bad("no model", "run dpo --data {pairs} --out out", "give --model"),
    Bad("no data", "run dpo --model {model} --out out", "dpo needs pairs"),
    Bad("no judge", "run iterate --model {model} --prompts {prompts} --out out", "iterate needs judge"),
    Bad("no prompts", "run iterate --model {model} --judge length --out out", "iterate needs prompts"),
    Bad("world with a judge and an annotator", "run dpo --world games --judge length --annotator noisy --out out",
        "--annotator and --judge contradict each other"),
    Bad("option that only the recipe knows about", "run iterate --world games --reference last --out out",
        "reference='last'"),
    Bad("world with a misspelt judge", "run iterate --judge lenght --out out", "there is no judge 'lenght'"),
    Bad("misspelt judge", "run iterate --model {model} --prompts {prompts} --judge lenght --out out", "lenght"),
    Bad("judge with too little", "run iterate --model {model} --prompts {prompts} --judge reward-model --out out",
        "needs more than its name"),
    Bad("judge that is nowhere",
        "run iterate --model {model} --prompts {prompts} --judge reward-model:nowhere --out out", "nowhere"),
    Bad("labels for a method of pairs", "run dpo --model {model} --data {labels} --out out", "dpo learns from pairs"),
    Bad("prompts for a method of pairs", "run dpo --model {model} --data {prompts} --out out", "pairs"),
    Bad("no gold answers", "run dpo-vp --model {model} --prompts {prompts} --judge verifier --out out",
        "no prompt has one"),
    Bad("empty prompts file", "run iterate --model {model} --prompts p.jsonl --judge length --out out",
        "holds no rows", {"p.jsonl": ""}),
    Bad("prompts that are empty", "run iterate --model {model} --prompts p.jsonl --judge length --out out",
        "prompt", {"p.jsonl": '{"prompt": ""}\n'}),
    Bad("fewer prompts than rounds", "run iterate --model {model} --prompts p.jsonl --judge length --out out",
        "cannot be split over 3 rounds", {"p.jsonl": '{"prompt": "a"}\n{"prompt": "b"}\n'}),
    Bad("no such data", "run dpo --model {model} --data pears.jsonl --out out", "there is no such file"),
    Bad("no such prompts", "run iterate --model {model} --prompts no.jsonl --judge length --out out", "no such file"),
    Bad("more tokens than the window has", GOOD_RUN + " --max-tokens 64", "do not fit in the model's window of 64"),
    Bad("no such held-out data", GOOD_RUN + " --eval-data no.jsonl", "no such file"),
    Bad("unknown format", GOOD_RUN + " --format pears", "pears"),
    Bad("another format", GOOD_RUN + " --format labels", 'not "labels" data'),
    Bad("columns that are not there", GOOD_RUN + " --columns chosen=good", "there is no column good"),
    Bad("columns without names", GOOD_RUN + " --columns good", "name=value pairs"),
]  # fmt: skip


def without(*names: str) -> Callable[[Path, Path], None]:
    """A copy of the good model that lacks some files."""

    def make(here: Path, good: Path) -> None:
        shutil.copytree(good / "model", here / "m", ignore=shutil.ignore_patterns(*names))

    return make


def with_file(name: str, content: bytes, *, lacks: str = "nothing") -> Callable[[Path, Path], None]:
    """A copy of the good model in which one file has another content."""

    def make(here: Path, good: Path) -> None:
        without(lacks)(here, good)
        (here / "m" / name).write_bytes(content)

    return make


def cut_short(here: Path, good: Path) -> None:
    without()(here, good)
    weights = here / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


ON_M = "run dpo --model m --data {pairs} --out out"

MODELS = [
    Bad("no such model", ON_M, "no such model directory"),
    Bad("model is a file", ON_M, "this is a file, not a model directory", {"m": "weights"}),
    Bad("model without config", ON_M, "no config.json", make=without("config.json")),
    Bad("model without weights", ON_M, "no weights", make=without("*.safetensors")),
    Bad("model without a tokenizer", ON_M, "no tokenizer", make=without("tokenizer*")),
    Bad("pickled weights", ON_M, "pickled",
        make=with_file("pytorch_model.bin", b"\x80\x04.", lacks="*.safetensors")),
    Bad("weights that are no safetensors", ON_M, "cannot be read",
        make=with_file("model.safetensors", b"not at all")),
    Bad("weights cut short", ON_M, "cannot be read", make=cut_short),
    Bad("config cut short", ON_M, "cannot be read", make=with_file("config.json", b'{"model_type": "lla')),
    Bad("model config is a list", ON_M, "not a JSON object", make=with_file("config.json", b"[]")),
    Bad("config of no model", ON_M, "", make=with_file("config.json", b"{}")),
    Bad("config of another kind", ON_M, "not a causal language model",
        make=with_file("config.json", b'{"model_type": "t5", "is_encoder_decoder": true}')),
    Bad("damaged tokenizer", ON_M, "tokenizer cannot be read", make=with_file("tokenizer.json", b"{")),
    Bad("adapter without a base", ON_M, "does not say which model it belongs to",
        make=with_file("adapter_config.json", b"{}", lacks="config.json")),
    Bad("unknown kind of policy", ON_M, "no policy kind 'oracle'",
        make=with_file("prefine.json", b'{"kind": "oracle"}')),
]  # fmt: skip

DATA = [
    Bad(f"data: {name}", f"run dpo --model {{model}} --data {file} --out out", says, {file: content})
    for name, file, content, says, _ in BAD_DATA
]

TABLE = [*CONFIGS, *COMMANDS, *WORLDS, *INPUTS, *MODELS, *DATA]


def earlier_run(here: Path, good: Path) -> None:
    """What a run with beta 0.5 leaves first: its configuration."""
    from prefine import launch
    from prefine.config import write_config

    inputs = {"model": str(good / "model"), "data": str(good / "pairs.jsonl")}
    prepared = launch.prepare({"system": "dpo", "inputs": inputs, "options": {"beta": 0.5}}, out=here / "out")
    write_config(prepared.config, here / "out")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good")
    TINY["make_model"](directory / "model")
    TINY["make_data"](directory)
    return directory


def test_the_table_is_as_large_as_promised() -> None:
    assert len(TABLE) >= 60
    assert len({bad.name for bad in TABLE}) == len(TABLE)


@pytest.mark.parametrize("bad", TABLE, ids=[bad.name for bad in TABLE])
def test_one_message_a_remedy_and_nothing_written(
    bad: Bad, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "damaged parquet" in bad.name:
        pytest.importorskip("pyarrow")
    for name, content in bad.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad.make(tmp_path, good)
    names = {"model": good / "model"} | {p.stem: p for p in good.glob("*.jsonl")}
    monkeypatch.chdir(tmp_path)
    before = TINY["contents"](tmp_path), TINY["contents"](good)

    code = main(bad.command.format(**names).split())

    said = capsys.readouterr()
    assert code == 2, said.err
    assert said.err.count("error:") == 1 and said.err.startswith("error:")
    assert "remedy:" in said.err
    assert bad.says in said.err
    assert "Traceback" not in said.err and "<class" not in said.err
    assert (TINY["contents"](tmp_path), TINY["contents"](good)) == before


def test_a_run_directory_in_use_says_by_whom(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not bad input but bad luck: exit code 3, for the same command works later."""
    from prefine.store import lock

    command = ["run", "dpo", "--model", str(good / "model"), "--data", str(good / "pairs.jsonl")]
    with lock(tmp_path / "out"):
        code = main([*command, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert code == 3
    assert "is in use by process" in said and "remedy:" in said


def test_secrets_in_what_was_given_are_not_repeated(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "hunter2-hunter2")
    judge = "lenght:hunter2-hunter2"
    code = main([
        "run", "iterate", "--model", str(good / "model"), "--prompts", str(good / "prompts.jsonl"),
        "--judge", judge, "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2 and "hunter2" not in said


def test_a_fault_of_ours_is_not_blamed_on_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefine import catalogue

    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(catalogue, "systems", broken)
    monkeypatch.delenv("PREFINE_DEBUG", raising=False)
    assert main(["systems"]) == 1
    said = capsys.readouterr().err
    assert "unexpected ZeroDivisionError" in said and "fault in prefine" in said and "Traceback" not in said
    assert main(["systems", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupting_is_not_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from prefine import catalogue

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "systems", interrupted)
    assert main(["systems"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_json_output_stays_json_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", "--json"]) == 0
    assert all({"number", "key"} <= set(row) for row in json.loads(capsys.readouterr().out))
