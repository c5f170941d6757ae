"""The configuration: out to YAML and in again is the same; differences are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prefine.config import differences, parse, read_config, write_config
from prefine.errors import InputError

FULL = {
    "system": "sppo",
    "inputs": {"world": "assistant", "annotator": "noisy", "train_prompts": 64},
    "seed": 3,
    "options": {"rounds": 3, "eta": 1e-7, "pairing": None, "sizes": [1, 2]},
    "train": {"lr": 1e-5, "clip": None, "betas": [0.9, 0.999]},
    "sampling": {"temperature": 0.7},
    "lora": {"rank": 8, "alpha": 16.0},
    "device": "cpu",
    "threads": 1,
    "track": ["tensorboard"],
}


def test_out_and_in_again_is_the_same(tmp_path: Path) -> None:
    config = parse(FULL)
    write_config(config, tmp_path)
    again = parse(read_config(tmp_path / "run.yaml"))
    assert again == config
    assert again.train["lr"] == 1e-5 and again.options["eta"] == 1e-7, "floats survive YAML's own idea of numbers"
    assert "clip" in again.train and again.train["clip"] is None, "none is a value like others"


def test_the_file_says_how_to_run_it_again(tmp_path: Path) -> None:
    write_config(parse(FULL), tmp_path)
    text = (tmp_path / "run.yaml").read_text()
    assert f"prefine run --config {tmp_path / 'run.yaml'} --out {tmp_path}" in text
    assert yaml.safe_load(text)["system"] == "sppo"


def test_what_is_not_set_is_not_written() -> None:
    plain = parse({"system": "dpo"}).plain()
    assert "lora" not in plain and "inputs" not in plain and "track" not in plain


def test_differences_are_named_and_place_is_none() -> None:
    ours = parse({**FULL, "seed": 4, "train": {**FULL["train"], "lr": 1e-3}, "device": "cuda", "threads": 8}).plain()  # type: ignore[dict-item]
    assert differences(ours, parse(FULL).plain()) == ["seed: 3 -> 4", "train.lr: 1e-05 -> 0.001"]
    assert differences(parse(FULL).plain(), parse(FULL).plain()) == []
    assert differences({"a": 1}, {}) == ["a: not set -> 1"]


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    file = tmp_path / "evil.yaml"
    file.write_text(f"system: !!python/object/apply:os.system ['touch {marker}']")
    with pytest.raises(InputError):
        read_config(file)
    assert not marker.exists()


def test_the_example_in_the_documentation_is_a_configuration(tmp_path: Path) -> None:
    from prefine import launch

    page = Path(__file__).parents[2] / "docs" / "command-line.md"
    text = page.read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "run.yaml").write_text(text)
    prepared = launch.prepare(read_config(tmp_path / "run.yaml"), out=tmp_path / "out")
    assert prepared.settings.lr == 1e-3, "1e-3 is a text in YAML 1.1 and a number to everybody else"
    assert prepared.config.options["eta"] == 20.0 and prepared.config.options["n"] == 5
    assert not (tmp_path / "out").exists()
