"""What a first user trips over: a subset of the data, warnings in a log, names in progress, readable samples."""

from __future__ import annotations

import random
import runpy
import warnings
from pathlib import Path

import pytest

from prefine.binding.roles import InRole
from prefine.cli import console, main
from prefine.curating import length_balanced
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.options import of_dataclass
from prefine.policies.base import Sampling
from prefine.report.html import _samples
from prefine.report.record import Record
from prefine.slate import Candidate, Feedback, Slate
from prefine.store import read_jsonl

TINY = runpy.run_path(str(Path(__file__).with_name("tiny.py")))


def test_train_prompts_limits_data_as_it_limits_prompts(tmp_path: Path) -> None:
    model, data = TINY["make_model"](tmp_path / "model"), TINY["make_data"](tmp_path)
    out = tmp_path / "run"
    words = ["--data", str(data / "pairs.jsonl"), "--out", str(out), "--train-prompts", "5", "--max-tokens", "2"]
    assert main(["run", "sft", "--model", str(model), *words, "--threads", "1", "--device", "cpu"]) == 0
    done = [e for e in read_jsonl(out / "journal.jsonl") if e["verb"] == "curate" and e["event"] == "done"]
    assert 5 in [e["figures"]["contrasts"] for e in done], "five demonstrations of forty"


def test_a_warning_is_one_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = console.note
        for _ in range(2):
            warnings.warn("this tokenizer is strange [b]", UserWarning, stacklevel=1)
            warnings.warn("`old` will be removed", FutureWarning, stacklevel=1)
    assert capsys.readouterr().err == "note: this tokenizer is strange [b]\n"


def test_a_judge_in_a_role_keeps_its_name() -> None:
    def brevity(slates: list[Slate]) -> list[dict[str, Feedback]]:
        return [{} for _ in slates]

    assert InRole(brevity, "score").__name__ == "brevity"  # type: ignore[arg-type]
    assert InRole.__name__ == "InRole"


def test_too_few_samples_to_survive_is_said_as_that() -> None:
    slate = Slate("p", (Candidate("abcd"), Candidate("abcde")), {"score": Feedback("score", (1.0, 0.0))})
    with pytest.raises(InputError, match="2 responses a prompt can never leave min_survivors=8"):
        list(length_balanced("score", 8)([slate], random.Random(0)))


def test_a_report_shows_no_couples_of_the_same_text(tmp_path: Path) -> None:
    same = ({"prompt": "p", "before": "a", "after": "a"},)
    assert _samples(Record(tmp_path, samples=same)) == []
    assert len(_samples(Record(tmp_path, samples=(*same, {"prompt": "q", "before": "a", "after": "b"})))) == 2


@pytest.mark.parametrize("kind", [TrainSettings, Sampling])
def test_every_setting_is_explained(kind: type) -> None:
    plain = {"n", "seed", "temperature"}
    assert not [o.name for o in of_dataclass(kind).values() if not o.help and o.name not in plain]
