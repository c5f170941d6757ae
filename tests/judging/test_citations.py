"""The three metrics of legal answers (arXiv 2501.06521), and the selection of hard samples, counted by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from prefine import judging, objectives
from prefine.curating.hard_negatives import hard_negatives
from prefine.errors import InputError
from prefine.judging.citations import Citations, Statute, legal_truth, read_statutes, statute_relevance
from prefine.objectives import Scores
from prefine.slate import Candidate, Contrast, Slate, point, scores
from prefine.worlds import statutes

BASE = (Statute("Sales Act", "3", "goods may be returned"), Statute("Water Act", "12", "the well is tested"))
RATE = Citations(BASE).rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("Under Article 3 of the Sales Act, goods may be returned.", 1.0),
        ("Article 3 of the sales act says: \"Goods may be returned\". So it is.", 1.0),
        ("Under Article 4 of the Sales Act, goods may be returned.", 0.0),  # right name, wrong number
        ("Under Article 3 of the Sales Act, goods may be kept.", 0.0),  # right number, wrong content
        ("Under Article 3 of the Water Act, goods may be returned.", 0.0),  # another law
        ("See Article 3 of the Sales Act.", 0.0),  # nothing quoted
        ("That depends.", 0.0),  # none cited
        ("Article 3 of the Sales Act, goods may be returned. Section 12 of the Water Act, the well is dry.", 0.5),
        (  # the same one twice counts twice: 2 of 3
            "Article 3 of the Sales Act, goods may be returned. Article 3 of the Sales Act, goods may be returned. "
            "Article 9 of the Sales Act, no.",
            2 / 3,
        ),
    ],
)  # fmt: skip
def test_the_rate_of_real_statutes_by_hand(text: str, rate: float) -> None:
    assert RATE(text) == pytest.approx(rate)


def test_conventions_can_be_changed() -> None:
    assert Citations(BASE, none=None).rate("That depends.") is None
    assert Citations(BASE, quoted=False).rate("See Article 3 of the Sales Act.") == 1.0
    colons = Citations(BASE, pattern=r"(?P<law>[\w ]+) (?P<article>\d+): (?P<content>[^.]*)")
    assert colons.rate("Sales Act 3: goods may be returned.") == 1.0


def test_the_metric_orders_models_by_how_much_they_corrupt() -> None:
    topics = list(statutes.TOPICS)
    rng = random.Random(0)
    rates = []
    for share in (0.0, 0.3, 0.6, 1.0):
        said = []
        for topic in topics * 5:
            own = statutes.STATUTES[topic]
            made = Statute(own.law, "999", own.content) if rng.random() < share else own
            said.append(statutes.NHSR.rate(statutes.answer(made, True)))
        rates.append(sum(said) / len(said))  # type: ignore[arg-type]
    assert rates[0] == 1.0 and rates[3] == 0.0
    assert rates[0] > rates[1] > rates[2] > rates[3]


def test_relevance_and_claims_of_the_world() -> None:
    (slate,) = [s for s in statutes._slates() if s.meta["topic"] == "the rent"][:1]
    own, other = statutes.STATUTES["the rent"], statutes.STATUTES["the pets"]
    right = statutes.answer(own, statutes.RIGHT["the rent"])
    texts = [
        right,
        statutes.answer(other, statutes.RIGHT["the rent"]),
        statutes.answer(statutes.STATUTES["the dam"], not statutes.RIGHT["the rent"]),
        " A court would have to say.",
    ]
    asked = Slate(slate.prompt, tuple(map(Candidate, texts)), meta=slate.meta)
    assert statutes.relevance(asked) == [1.0, 0.5, 0.0, 0.0]
    assert statutes.claims(asked) == [1.0, 0.5, 0.0, 0.0]
    assert statutes.NHSR([asked])[0]["nhsr"].values == (1.0, 1.0, 1.0, 0.0)
    assert statutes.gold(asked) == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])


def test_hard_problems_are_those_without_a_right_answer_and_their_likeliest_wrong_one_is_taken() -> None:
    rows = [("a", (1.0, 0.0), (-1.0, -0.1)), ("b", (0.5, 0.0), (-2.0, -1.0)), ("c", (0.0, 0.0), (-1.0, -3.0))]
    slates = [
        Slate(p, (Candidate(p + "0"), Candidate(p + "1")), {"score": scores(v), "likelihood": scores(q)})
        for p, v, q in rows
    ]
    demos = [point(Slate(p, (Candidate(f"{p} right"),)), 0, True) for p, _, _ in rows]

    def texts(found: list[Contrast]) -> list[tuple[str, str]]:
        return [(c.response(0), c.response(1)) for c in found]

    found = list(hard_negatives()(slates, demos, random.Random(0)))
    assert texts(found) == [("b right", "b1"), ("c right", "c0")]
    assert all(c.roles == (1, -1) and c.prompt(0) == c.slate.prompt for c in found)
    some = texts(list(hard_negatives(select="random")(slates, demos, random.Random(0))))
    assert len(some) == 3 and some[0] == ("a right", "a1")
    assert len(list(hard_negatives(at_most=1)(slates, demos, random.Random(0)))) == 1
    nobody = [Slate("a", (Candidate("x"),), {"score": scores([None]), "likelihood": scores([-1.0])})]
    assert list(hard_negatives()(nobody, demos[:1], random.Random(0))) == []
    # What is wrong is empty, so that nobody knows how likely it is; what is known to be likely is not known to be wrong.
    empty = Slate("a", (Candidate("x"), Candidate("")), {"score": scores([None, 0]), "likelihood": scores([-1, None])})
    assert list(hard_negatives()([empty], demos[:1], random.Random(0))) == []


def test_the_loss_is_dpo_and_a_mean_likelihood() -> None:
    torch.manual_seed(0)
    w, l, rw, rl = (-torch.rand(3, dtype=torch.float64) * 9 for _ in range(4))
    length = [2, 3, 5]
    s = Scores.of_pairs(w, l, rw, rl, chosen_length=length)
    margin = 0.1 * ((w - rw) - (l - rl))
    dpo = -torch.nn.functional.logsigmoid(margin)
    ours = objectives.regularised(0.1, 1.0, average=True)(s).per_contrast
    assert torch.allclose(ours.double(), dpo - w / torch.tensor(length), atol=1e-6)
    plain = objectives.regularised(0.1, 0.0, average=True)(s).per_contrast
    assert torch.allclose(plain.double(), objectives.dpo(0.1)(s).per_contrast.double(), atol=1e-9)


def test_a_database_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "laws.jsonl"
    rows = [
        {"law": "Sales Act", "article": 3, "content": "goods may be returned"},
        {"name": "W", "article": "1", "content": "x"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_statutes(file)[0] == BASE[0] and read_statutes(file)[1].law == "W"
    judge = judging.find(f"citations:{file}")
    said = Slate("?", (Candidate("Under Article 3 of the Sales Act, goods may be returned."), Candidate("No.")))
    assert judge([said])[0]["score"].values == (1.0, 0.0)
    file.write_text("\n")
    with pytest.raises(InputError, match="statute database is empty"):
        read_statutes(file)
    with pytest.raises(InputError, match="no statute database"):
        read_statutes(tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"law": "Sales Act", "content": "x"}', 'it has no "article"'),
        (b'{"article": "1", "content": "x"}', 'it has no "law"'),
        (b'{"law": "S", "article": 1, "content": null}', 'it has no "content"'),
        (b'{"law": "S", "article": [1], "content": "x"}', 'its "article" is no text: [1]'),
        (b"[1, 2]", "[1, 2] is no object"),
        (b"nonsense", "it is no JSON (Expecting value"),
        (b'{"law": "\xff"}', "it is not written in UTF-8"),
    ],
)
def test_a_line_that_is_no_statute_is_named_with_what_it_lacks(tmp_path: Path, line: bytes, said: str) -> None:
    file = tmp_path / "laws.jsonl"
    file.write_bytes(b'{"law": "S", "article": "1", "content": "x"}\n\n' + line + b"\n")
    with pytest.raises(InputError) as error:
        judging.find(f"citations:{file}")
    assert error.value.message.startswith(f"{file}:3: this is not a statute: {said}")


def test_the_graded_metrics_ask_from_0_to_10_and_show_the_laws_to_the_judge_alone() -> None:
    from prefine.policies.base import Sampling
    from prefine.slate import Prompt

    class Grader:
        asked: list[Prompt] = []  # noqa: RUF012

        def sample(self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]) -> list[list[Candidate]]:
            self.asked += prompts
            return [[Candidate("Fine. Score: 9")] for _ in prompts]

    row = Slate("May I?", (Candidate("Yes."),), meta={"extra": {"laws": [{"law": "S", "article": 1, "content": "c"}]}})
    grader = Grader()
    assert statute_relevance(grader)([row])[0]["relevance"].values == (9.0,)
    assert "Statutes that apply" not in str(grader.asked[-1])
    assert legal_truth(grader)([row])[0]["claims"].values == (9.0,)
    assert "Statutes that apply:\nS, 1, c\n" in str(grader.asked[-1]) and row.prompt == "May I?"
    assert legal_truth(grader)([Slate("May I?", (Candidate("Yes."),))])[0]["score"].values == (None,)
