"""Advice on made data: what is measured, which rule speaks, and that its command is one that works."""

from __future__ import annotations

import json
import random
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from prefine.advise import RULES, advise, flip_rate, look, suited, together
from prefine.cli import main
from prefine.compare import method_of
from prefine.config import parse
from prefine.errors import InputError
from prefine.facets import FACETS
from prefine.launch import prepare

TINY = runpy.run_path(str(Path(__file__).parent / "cli" / "tiny.py"))
WORDS = ["a", "of", "to", "river", "stone", "light", "every", "under", "slowly", "kept", "seven", "green", "paper"]


def text(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def made(path: Path, rows: list[dict[str, Any]]) -> Any:
    return look(TINY["write"](path / "data.jsonl", rows))


def pairs(count: int = 60, seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [{"prompt": f"say {i}", "chosen": text(rng, 8), "rejected": text(rng, 8), **more} for i in range(count)]


def keys(facts: Any) -> list[str]:
    return [a.system.key for a in advise(facts)]


def facet(facts: Any, name: str) -> set[str]:
    return {a.system.facets.get(name, "") for a in advise(facts)}


def test_three_methods_with_reason_and_command(tmp_path: Path) -> None:
    found = advise(made(tmp_path, pairs()))
    assert len({a.system.key for a in found}) == 3
    assert all(a.why and a.command.startswith(f"prefine run {a.system.key} --model MODEL --data ") for a in found)


def test_labels_given_twice_tell_the_noise(tmp_path: Path) -> None:
    rng = random.Random(0)
    twice = []
    for row in pairs(400):
        for _ in range(2):
            wrong = rng.random() < 0.2
            twice.append({**row, "chosen": row["rejected"], "rejected": row["chosen"]} if wrong else row)
    facts = made(tmp_path, twice)
    assert facts.noise == pytest.approx(0.2, abs=0.05) and facts.repeated == 400
    first = advise(facts)[0]
    assert "noisy-pairs" in first.system.facets["data"] and "wrong" in first.why
    assert float(re.search(r"--eps ([\d.]+)", first.command)[1]) == pytest.approx(facts.noise, abs=1e-3)  # type: ignore[index]


def test_a_disagreement_of_chance_is_a_rate_of_a_half() -> None:
    assert flip_rate(0.0) == 0.0 and flip_rate(0.5) == 0.5 and flip_rate(0.18) == pytest.approx(0.1)


def test_scores_against_the_label_are_a_lower_bound(tmp_path: Path) -> None:
    rows = [{**row, "score_chosen": 1.0 if i % 5 else 0.0, "score_rejected": 0.5} for i, row in enumerate(pairs())]
    facts = made(tmp_path, rows)
    assert facts.noise == pytest.approx(0.2) and "score" in facts.noise_from and facts.margins == 1.0


def test_nothing_is_guessed(tmp_path: Path) -> None:
    facts = made(tmp_path, pairs())
    assert facts.noise is None and facts.annotators == 0 and facts.margins == 0.0
    assert "noisy-pairs" not in facet(facts, "data")


def test_annotators_are_seen(tmp_path: Path) -> None:
    facts = made(tmp_path, [{**row, "worker_id": f"w{i % 5}"} for i, row in enumerate(pairs())])
    assert facts.annotators == 5 and facts.annotator_column == "worker_id"
    assert any("diverse-pairs" in a.system.facets.get("data", "") for a in advise(facts))


def test_length_is_seen(tmp_path: Path) -> None:
    rng = random.Random(0)
    longer = [{**row, "chosen": text(rng, 20 + i % 4)} for i, row in enumerate(pairs())]
    facts = made(tmp_path, longer)
    assert facts.longer_chosen == 1.0 and facts.length_is_a_shortcut
    assert {"penalised", "normalised"} & facet(facts, "length")
    assert not made(tmp_path, pairs()).length_is_a_shortcut


def test_alike_responses_are_seen(tmp_path: Path) -> None:
    rows = [{**row, "rejected": row["chosen"] + "!"} for row in pairs()]
    facts = made(tmp_path, rows)
    assert facts.similarity is not None and facts.similarity > 0.8
    assert "guarded" in facet(facts, "likelihood") or {"token", "step"} & facet(facts, "granularity")


def test_labels_and_demonstrations_get_what_learns_from_them(tmp_path: Path) -> None:
    labels = [{"prompt": f"say {i}", "completion": "yes" * (i + 1), "label": bool(i % 2)} for i in range(40)]
    assert keys(made(tmp_path, labels))[0] == "kto" or "labels" in facet(made(tmp_path, labels), "data")
    demos = [{"prompt": f"say {i}", "completion": f"yes {i}"} for i in range(40)]
    assert "sft" in keys(made(tmp_path, demos))


def test_answers_to_check_against_are_seen(tmp_path: Path) -> None:
    facts = made(tmp_path, [{"prompt": f"what is {i} plus one", "answer": str(i + 1)} for i in range(40)])
    found = advise(facts)
    assert facts.answers == 40 and any("verifier" in a.system.inputs and "--judge verifier" in a.command for a in found)
    assert "--judge verifier" in together(found)


def test_stated_margins_are_seen_under_their_usual_names(tmp_path: Path) -> None:
    for column in ("margin", "rating_gap"):
        assert made(tmp_path, [{**row, column: 1.5} for row in pairs()]).margins == 1.0


def test_languages_without_spaces_have_lengths_too(tmp_path: Path) -> None:
    rows = [{"prompt": f"say {i}", "chosen": "\u7b54" * (12 + i % 3), "rejected": "\u7b54" * 6} for i in range(60)]
    assert made(tmp_path, rows).longer_chosen == 1.0


def test_data_that_teaches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        made(tmp_path, [{"prompt": "say yes"}, {"prompt": "say no"}])


def test_rules_speak_the_catalogue_s_words() -> None:
    for rule in RULES:
        for name, value in rule.seek.items():
            assert all(word.strip() in FACETS[name].values for word in value.split(","))


def test_what_is_advised_can_be_run(tmp_path: Path) -> None:
    """The command as it stands, with a model: its checks pass."""
    model = TINY["make_model"](tmp_path / "model")
    rows = [{**row, "annotator": f"w{i % 3}"} for i, row in enumerate(pairs())]
    path = TINY["write"](tmp_path / "data.jsonl", rows)
    found = advise(look(path))
    for advised in found:
        values = {"system": advised.system.key, "options": advised.options}
        values["inputs"] = {"model": str(model), "data": str(path)}
        prepare(parse(values).plain(), out=tmp_path / advised.system.key)
    command, *names = shlex.split(together(found))[1:5]
    assert command == "compare" and [method_of(name).system for name in names] == keys(look(path))


def test_only_what_the_data_serves(tmp_path: Path) -> None:
    facts = made(tmp_path, pairs())
    for system in suited(facts, {}):
        assert set(system.inputs) - set(system.optional) <= {"policy", *(n for n, c in facts.serves.items() if c)}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = TINY["write"](tmp_path / "data.jsonl", pairs())
    assert main(["advise", str(path)]) == 0
    said = capsys.readouterr().out
    assert "because" in said and "prefine compare" in said and "not known" in said
    assert main(["advise", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["advice"]) == 3 and found["facts"]["serves"]["pairs"] == 60
    assert main(["advise", str(tmp_path / "nothing.jsonl")]) == 2
