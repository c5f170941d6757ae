"""The report: one file that needs nothing, says what happened, and never lets a model's text act."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prefine.errors import InputError
from prefine.report.html import say_count, say_seconds, write_report

Write = Callable[..., Path]

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects what a browser would act on, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(run_dir: Path) -> Page:
    page = Page(write_report(run_dir).read_text())
    assert page.open == [], f"never closed: {page.open}"
    return page


def test_it_has_every_part_that_a_reader_needs(tmp_path: Path, write_run: Write) -> None:
    text = page_of(write_run(tmp_path / "run")).text
    for part in ("SPPO", "assistant world", "arXiv 2405.00675", "eta = 1000.0", "Wins against the start",
                 "Reward against KL", "Length", "Margin", "Accuracy", "Log-probability of chosen and rejected",
                 "Gradient norm", "Before and after", "Time and cost", "What to try next",
                 "Configuration"):  # fmt: skip
        assert part in text, part


def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path, write_run: Write) -> None:
    path = write_report(write_run(tmp_path / "run"))
    page, source = Page(path.read_text()), path.read_text()
    assert not {"script", "link", "iframe", "object", "embed", "img", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [v for name, v in page.attributes if name in ("href", "src", "srcset", "data", "action", "xlink:href")]
    assert all(v is not None and v.startswith("#") for v in links)
    assert "url(" not in source and "@import" not in source
    assert "http://" not in source and "https://" not in source


HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\" onload=\"alert(2)"


def test_text_of_models_is_shown_and_never_acts(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", sample_text=HOSTILE)
    for name in ("journal.jsonl", "metrics.jsonl", "evaluations.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
        for row in rows:
            row["label"] = HOSTILE
            if "name" in row:
                row["name"] = HOSTILE
        (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "run.yaml").write_text(
        json.dumps({"system": HOSTILE, "inputs": {HOSTILE: HOSTILE}, "options": {"a": HOSTILE}})
    )
    page = page_of(run)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert('x')</script>" in page.text  # the reader sees what the model wrote
    assert "{{ 7 * 7 }}" in page.text


def test_the_headline_gives_the_win_rate_with_its_interval(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    rows[-1]["figures"] |= {"win_rate": 0.70, "win_rate_se": 0.05, "length": 30.0}
    rows[0]["figures"]["length"] = 24.0
    (run / "evaluations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = page_of(run).text
    assert "95%: 60% to 80%" in text  # 0.70 +- 1.96 * 0.05
    assert "wins 70% of comparisons with its start, with responses 25% longer" in text
    assert "+25.0%" in text


def test_it_does_not_claim_a_win_that_may_be_chance(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    rows[-1]["figures"] |= {"win_rate": 0.55, "win_rate_se": 0.05}
    (run / "evaluations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = page_of(run).text
    assert "cannot be told from its start" in text
    assert "includes even" in text


def test_without_a_judge_it_speaks_of_held_out_pairs(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", rounds=1)
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    rows[0]["figures"] = {"length": 20.0, "pair_chosen_logp": -30.0, "pair_rejected_logp": -30.0}
    rows[1]["figures"] = {"length": 20.2, "pair_accuracy": 0.8, "pair_accuracy_se": 0.04, "kl": 2.0,
                          "pair_chosen_logp": -29.0, "pair_rejected_logp": -35.0}  # fmt: skip
    (run / "evaluations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = page_of(run).text
    assert "ranks 80% of held-out pairs right, at about the same length." in text
    assert "Held-out chosen and rejected" in text


@pytest.mark.parametrize(
    ("chosen", "rejected", "says"),
    [(-6.0, -14.0, "likelihood displacement"), (5.0, -5.0, "what one hopes for"), (6.0, 4.0, "Both rise"),
     (-8.0, 8.0, "labels are not swapped"), (0.0, 0.0, "beyond the noise")],
)  # fmt: skip
def test_likelihood_displacement_is_named_where_it_shows(
    tmp_path: Path, write_run: Write, chosen: float, rejected: float, says: str
) -> None:
    page = page_of(write_run(tmp_path / "run", chosen_slope=chosen, rejected_slope=rejected))
    figure = page.text.split("Log-probability of chosen and rejected")[1].split("Against the reference")[0]
    assert says in figure


FILES = ("run.yaml", "journal.jsonl", "metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "notes.jsonl")


@pytest.mark.parametrize("missing", FILES)
def test_a_run_that_lacks_a_file_still_reports(tmp_path: Path, write_run: Write, missing: str) -> None:
    run = write_run(tmp_path / "run")
    (run / missing).unlink()
    assert "Time and cost" in page_of(run).text


@pytest.mark.parametrize("only", FILES)
def test_any_single_file_is_enough(tmp_path: Path, write_run: Write, only: str) -> None:
    run = write_run(tmp_path / "run")
    for name in FILES:
        if name != only:
            (run / name).unlink()
    if only == "notes.jsonl":
        assert page_of(run).text
    else:
        assert "run report" in page_of(run).text


@pytest.mark.parametrize("cut", [1, 57, 400, 2000])
def test_files_cut_in_the_middle_of_a_line_are_read_as_far_as_they_go(
    tmp_path: Path, write_run: Write, cut: int
) -> None:
    run = write_run(tmp_path / "run", finished=False)
    for name in FILES[1:]:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: max(1, len(data) - cut)])
    page = page_of(run)
    assert "stopped" in page.text and "goes on from here" in page.text


JUNK = [
    '{"round": "three", "figures": 7, "key": 5}', '{"figures": {"reward": "high", "kl": null}}', "[1, 2]", "null",
    '{"step": 1, "loss": NaN, "chosen_logp": Infinity}', '{"key": ["a"], "step": {"b": 1}, "round": [2]}',
    '{"prompt": [{"role": "user", "content": "hi"}], "after": {"x": 1}, "before_score": "good"}', "{{{", "\x00",
    '{"event": "done", "seconds": "long", "verb": ["train"], "label": 3, "figures": {"tokens": "many"}}',
]  # fmt: skip


def test_rows_that_make_no_sense_do_not_stop_the_report(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run")
    for name in FILES[1:]:
        with (run / name).open("a") as file:
            file.write("\n".join(JUNK) + "\n")
    (run / "run.yaml").write_text("- just\n- a list\n")
    page = page_of(run)
    assert "Wins against the start" in page.text
    assert "unreadable lines left out" in page.text


def test_a_run_killed_and_gone_on_is_counted_once(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run")
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        text = (run / name).read_text()
        (run / name).write_text(text + text)
    again = write_report(run).read_text()
    once = write_report(write_run(tmp_path / "once")).read_text()
    assert again.count("<circle") == once.count("<circle")
    assert again.count("couple") == once.count("couple")


def test_a_failed_run_says_why(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", finished=False)
    with (run / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"time": 1.0, "event": "failed", "verb": "train", "error": "the disk is full"}) + "\n")
        file.write(json.dumps({"time": 1.0, "event": "failed", "verb": "run", "error": "the disk is full"}) + "\n")
    text = page_of(run).text
    assert "It stopped with an error: the disk is full" in text


def test_long_samples_are_cut_and_say_so(tmp_path: Path, write_run: Write) -> None:
    path = write_report(write_run(tmp_path / "run", sample_text="word " * 20_000))
    assert "characters more" in path.read_text()
    assert path.stat().st_size < 400_000


def test_a_long_run_makes_no_heavy_page(tmp_path: Path, write_run: Write) -> None:
    path = write_report(write_run(tmp_path / "run", rounds=5, steps=4000))
    assert path.stat().st_size < 600_000


@pytest.mark.parametrize("make", [lambda p: p / "nowhere", lambda p: p])
def test_a_directory_without_a_run_is_said_plainly(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(InputError) as error:
        write_report(make(tmp_path))
    assert error.value.remedy


def test_numbers_for_people() -> None:
    assert [say_seconds(s) for s in (0.42, 12.2, 185.0, 7800.0)] == ["0.4 s", "12 s", "3 min 05 s", "2 h 10 min"]
    assert [say_count(n) for n in (960, 48_200, 1_240_000)] == ["960", "48,200", "1.2 M"]
