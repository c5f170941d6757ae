"""The benchmark suite: its data, its comparisons, what it writes and the page made of that. Nothing long is run."""

from __future__ import annotations

import ast
import gzip
import json
import math
import random
import re
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import compare, data, models, page, plot, prepared, results, stats, work  # noqa: E402
from benchmarks.rows import Asked, Row, table  # noqa: E402

# -- data


@pytest.mark.parametrize(("kind", "part"), [("pairs", 0), ("pairs", 1), ("pairs", 2), ("slates", 0), ("slates", 1)])
def test_generated_text_has_the_lengths_of_the_file_it_stands_in_for(kind: str, part: int) -> None:
    rows = data.generate(kind, 1500).rows
    lengths = sorted(data.words([prompt, *responses][part]) for prompt, responses, _ in rows)
    wanted = list(data.LENGTHS[kind].values())[min(part, len(data.LENGTHS[kind]) - 1)]
    for level, words in zip(data.LEVELS[2:-2], wanted[2:-2], strict=True):
        assert lengths[int(level * len(lengths))] == pytest.approx(words, rel=0.25, abs=2)


def test_generated_lengths_are_alike_within_a_row() -> None:
    rows = data.generate("pairs", 1500).rows
    chosen, rejected = ([data.words(responses[k]) for _, responses, _ in rows] for k in (0, 1))
    assert 0.1 < statistics.correlation(chosen, rejected) < 0.5


def test_generated_data_says_so_and_is_the_same_again() -> None:
    texts = data.generate("slates", 20)
    assert texts.generated and "generated" in texts.source
    assert texts.key == data.generate("slates", 20).key != data.generate("slates", 20, seed=1).key
    assert {len(responses) for _, responses, _ in texts.rows} == {6}


def test_a_file_that_is_given_is_read_and_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl.gz"
    candidates = [{"text": t, "score": s} for t, s in (("low", 0.1), ("high", 0.9), ("middle", 0.5))]
    with gzip.open(file, "wt") as out:
        out.write(json.dumps({"prompt": "p", "candidates": candidates}) + "\n")
    texts = data.find("slates", file)
    assert texts.rows == (("p", ("high", "middle", "low"), (0.9, 0.5, 0.1)),)
    assert "mine.jsonl.gz" in texts.source and not texts.generated


def test_a_list_carries_the_share_of_the_others_that_each_response_beats() -> None:
    texts = data.Texts((("p", ("a", "b", "c"), (0.9, 0.5, 0.5)),), "made up", True, "slates")
    (contrast,) = prepared.lists_of(texts)
    assert contrast.values["win"] == (1.0, 0.25, 0.25)
    assert [(c.response(0), c.response(1)) for c in prepared.best_against_rest(texts)[0]] == [("a", "b"), ("a", "c")]


# -- statistics and comparisons


def test_one_slow_round_does_not_move_the_median() -> None:
    usual = stats.ratios([4.0, 4.4, 4.2, 4.1, 4.3], [1.0, 1.1, 1.05, 1.0, 1.1])
    slow = stats.ratios([4.0, 4.4, 90.0, 4.1, 4.3], [1.0, 1.1, 1.05, 1.0, 1.1])
    assert slow["median"] == pytest.approx(usual["median"], rel=0.05)
    assert slow["most"] > 80


@pytest.mark.parametrize("other", [[0.7001, 2.0], [0.7, 2.0, 3.0], [float("nan"), 2.0], []])
def test_sides_that_compute_something_else_are_not_timed(other: list[float]) -> None:
    with pytest.raises(compare.Failed, match="same loss"):
        compare.agreed({"a": [0.7, 2.0], "b": other}, "loss", limit=5e-5)


def test_sides_that_agree_leave_their_difference() -> None:
    check = compare.agreed({"a": [0.7], "b": [0.70002], "c": [0.69999]}, "loss")
    assert check["difference"] == pytest.approx(2e-5, rel=0.01) and check["sides"] == ["a", "b", "c"]


class Fake:
    """A worker that only notes when it was asked."""

    def __init__(self, name: str, asked: list[tuple[str, int]]) -> None:
        self.side, self.peak, self.asked = compare.Side(name, "none"), 7, asked

    def forget_peak(self) -> None: ...

    def do(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((self.side.name, arguments["i"]))
        return {"seconds": 1.0 + arguments["i"], "cpu_seconds": 1.0, "memory": {"peak": 7}}


def test_sides_go_in_turn_and_the_first_round_does_not_count() -> None:
    asked: list[tuple[str, int]] = []
    workers: Any = [Fake("A", asked), Fake("B", asked)]
    a, b = compare.in_turn(workers, [{"i": i} for i in range(3)])
    assert asked == [("A", 0), ("B", 0), ("A", 1), ("B", 1), ("A", 2), ("B", 2)]
    assert a.values("seconds") == b.values("seconds") == [2.0, 3.0]
    assert compare.told(a, [4.0, 9.0])["tokens_per_second"]["values"] == [2.0, 3.0]


def test_real_processes_agree_on_objectives_and_are_timed() -> None:
    settings = {"pairs": 3, "length": 5, "times": 1}
    sides = [
        compare.Side("prefine", "prefine_objectives", settings),
        compare.Side("torch", "torch_objectives", settings),
    ]
    with compare.opened(sides) as workers:
        compare.agree(workers, {}, "losses and gradients")
        measured = compare.in_turn(workers, [{}, {}])
        with pytest.raises(compare.Failed, match="prefine: KeyError"):
            workers[0].do("no such operation")
    assert [len(m.rounds) for m in measured] == [1, 1]
    assert all(m.peak > 20e6 for m in measured)
    assert all(w.process.returncode is not None for w in workers)


def test_a_side_that_dies_says_its_last_words() -> None:
    with pytest.raises(compare.Failed, match=r"No module named .benchmarks\.sides\.nothing"):
        compare.Worker(compare.Side("gone", "nothing"))


def test_both_ways_to_score_agree_with_plain_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.sides import prefine_score, transformers_score

    from prefine.policies.base import Limits

    for module in (models, prepared):
        monkeypatch.setattr(module, "BUILD", tmp_path)
    texts = data.generate("pairs", 12)
    policy = models.directory(models.TINY, texts)
    ready = prepared.prepare("pairs", prepared.pairs_of(texts), policy, Limits(max_length=100))
    assert max(len(p) + len(r) for p, rs in ready.rows for r in rs) <= 100
    common = {
        "policy": str(policy),
        "contrasts": str(ready.contrasts),
        "ids": str(ready.ids),
        "max_length": 100,
        "threads": 1,
    }
    indices = list(range(12))
    theirs = transformers_score.open(common)["check"](indices)["numbers"]
    for route in ("auto", "padded"):
        ours = prefine_score.open({**common, "route": route})["check"](indices)["numbers"]
        assert compare.difference(ours, theirs) < 1e-5


# -- the arithmetic a tree needs


def test_work_is_that_of_the_different_prefixes() -> None:
    rng = random.Random(0)
    rows = []
    for _ in range(5):
        prompt = tuple(rng.randrange(2) for _ in range(rng.randrange(1, 5)))
        rows.append((prompt, tuple(tuple(rng.randrange(2) for _ in range(rng.randrange(1, 6))) for _ in range(4))))
    prefixes, scored = set(), set()
    for prompt, responses in rows:
        for response in responses:
            row = (*prompt, *response)
            prefixes |= {row[:k] for k in range(1, len(row))}
            scored |= {row[:k] for k in range(len(prompt), len(row))}
    found = work.tree_work(rows)
    assert (found.tokens, found.scored, found.attended) == (len(prefixes), len(scored), sum(map(len, prefixes)))


def test_a_tree_without_sharing_needs_what_the_textbook_says() -> None:
    shape = models.Shape("s", vocabulary=10, hidden=4, layers=1, heads=1, kv_heads=1, inner=3)
    needed = work.Work(tokens=5, scored=2, attended=15)
    # four 4 x 4 and three 4 x 3 matrices, 2 operations a multiply-add, three times for forward and backward
    layers, head, attention = 5 * 2 * (4 * 16 + 3 * 12), 2 * 2 * 40, 2 * 2 * 4 * 15
    assert needed.flops(shape) == 3 * (layers + head + attention)


def test_the_shapes_have_the_sizes_they_are_called_by() -> None:
    assert round(models.SMALL.parameters / 1e6) == 14
    assert round(models.LARGE.parameters / 1e6) == 69
    assert 0.45e9 < models.QWEN.parameters < 0.55e9


# -- the command and what it writes


def stamped(**row: Any) -> dict[str, Any]:
    machine = {"processor": "a_chip", "threads": 2, "torch": "2"}
    about = {"date": "today", "commit": "abc", "machine": machine, "load_before": 0.1, "took_seconds": 60.0}
    return {"title": "A row", "status": "done", **about, **row}


def test_rows_are_merged_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results.merge("a", stamped(title="old"), file)
    results.merge("b", stamped(), file)
    results.merge("a", stamped(title="new"), file)
    found = results.read(file)
    assert found["version"] == results.VERSION
    assert {n: r["title"] for n, r in found["rows"].items()} == {"a": "new", "b": "A row"}


@pytest.mark.parametrize("lacking", [*results.REQUIRED, "reason"])
def test_a_row_without_its_provenance_is_refused(tmp_path: Path, lacking: str) -> None:
    row = stamped(status="failed", reason="why")
    del row[lacking]
    with pytest.raises((ValueError, KeyError), match=lacking):
        results.merge("a", row, tmp_path / "results.json")


def test_a_row_that_fails_is_recorded_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(asked: Asked) -> dict[str, Any]:
        raise compare.Failed("off by 1")

    rows = {
        "bad": Row("Bad", breaks, 1),
        "good": Row("Good", lambda asked: {"figures": {"pairs": asked.pairs}}, 1),
        "other": Row("On a GPU", breaks, 1, gpu=True),
    }
    monkeypatch.setattr(command, "table", lambda: rows)
    file = tmp_path / "results.json"
    assert command.main(["--pairs", "7", "--out", str(file)]) == 1
    found = results.read(file)["rows"]
    assert list(found) == ["bad", "good"]
    assert found["bad"]["status"] == "failed" and found["bad"]["reason"] == "Failed: off by 1"
    assert found["good"]["status"] == "done" and found["good"]["figures"] == {"pairs": 7}
    assert "min left" in capsys.readouterr().out


def test_an_unknown_row_is_answered_with_the_ones_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["train-pear-small"]) == 2
    assert "train-pairs-small" in capsys.readouterr().err


def test_gpu_rows_say_what_they_lack(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.main(["gpu"]) == 2
    assert "CUDA" in capsys.readouterr().err
    assert not any(table()[name].gpu for name in command._groups(table())["cpu"])


# -- the page


def full_row() -> dict[str, Any]:
    spread = {"median": 2.0, "least": 1.0, "most": 3.0, "values": [1.0, 2.0, 3.0]}
    side = {"seconds": spread, "tokens_per_second": spread, "peak_bytes": 5e8}
    points = [
        {"at": at, "sides": {"prefine": side, "padded": side}, "ratio": spread, "plain_tokens": 9} for at in (2, 4, 8)
    ]
    return stamped(
        data={"source": "my_file", "generated": False},
        settings={"model": models.SMALL.told(), "batch": 8},
        checks=[{"what": "loss", "difference": 1e-6, "limit": 1e-4, "sides": ["prefine", "TRL"], "value": 0.7}],
        sides={"prefine": side, "TRL": side},
        ratios={"TRL's time over prefine's": spread},
        series={"label": "responses", "points": points},
        targets=[results.target("throughput", 6.5, 6.0), results.target("memory", 0.3, 0.25, at_most=True)],
    )


def test_the_page_shows_targets_sides_checks_and_failures() -> None:
    rows = {"one": full_row(), "two": stamped(status="failed", reason="no peer")}
    text = page.page({"rows": rows})
    assert "| **6.5** | met |" in text and "| **0.3** | missed |" in text
    assert "`two` could not be measured: no peer" in text
    assert "agree to 1.0e-06" in text and "2 (1–3)" in text and "13.8M parameters" in text
    assert "(#one)" in text and "{ #one }" in text


def test_charts_are_whole_and_load_nothing() -> None:
    charts = re.findall(r"<div class=\"bench-chart\">.*?</div>", page.page({"rows": {"one": full_row()}}), re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        assert "\n" not in chart and "http" not in chart and "#000" not in chart
        ElementTree.fromstring(chart)


def test_the_length_of_a_bar_is_its_value() -> None:
    chart = plot.bars("t", {"a": (10.0, 10.0, 10.0), "b": (5.0, 4.0, 6.0)}, "x")
    long, half = (float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', chart))
    assert long == pytest.approx(2 * half, rel=1e-2)


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.9), (1.0, 1.0), (2.0, 7.0), (0.001, 5000.0), (130.0, 161.0)])
def test_ticks_reach_over_all_values(low: float, high: float) -> None:
    for marks in (plot.decades(low, high), plot.even(low, high), plot.even(0.0, high)):
        assert marks == sorted(set(marks)) and 1 <= len(marks) <= 10
    assert plot.decades(low, high)[0] <= low and plot.decades(low, high)[-1] >= high
    assert plot.even(0.0, high)[-1] >= high and not math.isclose(plot.even(0.0, high)[-1], 0.0)


# -- the peers


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    return names | {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}


def test_what_runs_in_the_peers_environment_imports_nothing_of_prefine() -> None:
    sides = ROOT / "benchmarks" / "sides"
    peers = [f for f in sides.glob("*.py") if not f.name.startswith("prefine_")]
    assert {"trl_train.py", "transformers_generate.py"} <= {f.name for f in peers}
    for file in [*peers, ROOT / "benchmarks" / "worker.py"]:
        uses = imported(file)
        assert not [n for n in uses if n.startswith(("prefine", "benchmarks.sides.prefine"))], file.name


def pins(name: str) -> Mapping[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_peers_are_pinned_and_stand_on_the_same_libraries() -> None:
    peers, ours = pins("bench-peer.txt"), pins("run.txt")
    assert peers["trl"].startswith("1.16.") and "torch" not in peers
    for shared in ("transformers", "tokenizers", "accelerate", "numpy"):
        assert peers[shared] == ours[shared]
    text = (ROOT / "requirements" / "bench-peer.txt").read_text()
    assert not re.search(r"https?://|index-url|find-links|trusted-host", text)
