"""Follow-up likelihood (arXiv 2409.13948): the reward against its equation, on a bigram model by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prefine import judging
from prefine.curating.feedback import played_user
from prefine.errors import InputError
from prefine.judging.base import spoken_by
from prefine.judging.followup_texts import HELPFULNESS, SHORT, Utterances
from prefine.judging.followups import OPENING, FollowUps, after_dialogue, feedback_prompt, follow_ups, utterances
from prefine.policies.base import Batch, Limits, Row
from prefine.slate import Candidate, Contrast, Slate, point

ONE = (Utterances("one", ("ab", "b"), ("ba", "aab")),)


class Bigram:
    """log p(next | last) by a rule; it knows "a" better after "a", and everything else less well."""

    module = None
    shift = 0.0

    def logp_of(self, last: str, nxt: str) -> float:
        return -0.1 * (1 + ord(nxt) % 3) - 0.05 * (ord(last) % 5) + self.shift

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        rows = []
        for m, at in enumerate(contrast.members):
            candidate = contrast.slate.candidates[at]
            ids = candidate.tokens or tuple(map(ord, candidate.text))
            assert candidate.stop == "length", "no end token after the beginning of a turn"
            rows.append(Row(tuple(map(ord, str(contrast.prompt(m)))), ids, (1.0,) * len(ids)))
        return tuple(rows)

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        out = torch.zeros(batch.mask_NT.shape, dtype=torch.float64)
        for n, row in enumerate(batch.rows):
            ids = (row.prompt[-1], *row.response)
            for t, (last, nxt) in enumerate(pairwise(ids)):
                out[n, t] = self.logp_of(chr(last), chr(nxt))
        return out, None

    def sample(self) -> None: ...


def ell(model: Bigram, text: str, before: str) -> float:
    """(1/|u|) sum_i log p(u_i | u_{i-1}), the first after the turn's opening."""
    whole = before + text
    return sum(model.logp_of(a, b) for a, b in pairwise(whole)) / len(text)


def reward(model: Bigram, sets: tuple[Utterances, ...]) -> float:
    """The equation, with the space that stands before an utterance after plain text."""
    each = []
    for s in sets:
        good, bad = ([ell(model, " " + u, ":") for u in side] for side in (s.positive, s.negative))
        each.append(sum(good) / len(good) - sum(bad) / len(bad))
    return sum(each) / len(each)


def judged(sets: tuple[Utterances, ...], model: Bigram | None = None, read: str = "mean") -> float:
    judge = FollowUps(model or Bigram(), sets, read)
    value: float = judge([Slate("q\nA:", (Candidate(" yes"),))])[0]["score"].values[0]
    return value


def test_the_reward_is_its_closed_form() -> None:
    assert judged(ONE) == pytest.approx(reward(Bigram(), ONE), abs=1e-12)
    two = (*ONE, Utterances("two", ("c",), ("ca", "cc")))
    assert judged(two) == pytest.approx(reward(Bigram(), two), abs=1e-12)


def test_the_two_sides_swapped_turn_the_sign() -> None:
    turned = tuple(Utterances(s.name, s.negative, s.positive) for s in ONE)
    assert judged(turned) == -judged(ONE) != 0


def test_a_constant_added_to_every_token_changes_nothing() -> None:
    shifted = Bigram()
    shifted.shift = -3.0
    assert judged(ONE, shifted) == pytest.approx(judged(ONE), abs=1e-12)


def test_an_utterance_twice_counts_unless_the_mean_stays() -> None:
    (s,) = ONE
    once_more = (dataclasses.replace(s, positive=("ab", "b", "b")),)
    all_twice = (dataclasses.replace(s, positive=("ab", "b", "ab", "b")),)
    assert judged(once_more) != pytest.approx(judged(ONE))
    assert judged(all_twice) == pytest.approx(judged(ONE), abs=1e-12)
    turned = (dataclasses.replace(s, positive=s.positive[::-1]),)
    assert judged(turned) == pytest.approx(judged(ONE), abs=1e-12)


def test_the_proxy_reads_every_token_at_the_first_place_as_raw_logits_would() -> None:
    """A model with softmax(logits[last]): the mean of raw logits and of log-probabilities differ by one constant."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(128, generator=generator, dtype=torch.float64)

    class First(Bigram):
        def logp_of(self, last: str, nxt: str) -> float:
            return float(torch.log_softmax(logits, 0)[ord(nxt)]) if last == ":" else math.nan

    def raw(side: tuple[str, ...]) -> float:
        each = [sum(float(logits[ord(c)]) for c in " " + u) / (len(u) + 1) for u in side]
        return sum(each) / len(each)

    assert judged(ONE, First(), "first") == pytest.approx(raw(ONE[0].positive) - raw(ONE[0].negative), abs=1e-6)


def test_columns_of_the_kinds_come_before_the_whole() -> None:
    judge = FollowUps(Bigram(), (*ONE, Utterances("two", ("c",), ("ca",))))
    columns = judge([Slate("q:", (Candidate("a"), Candidate("b"))), Slate("r:")])
    assert list(columns[0]) == ["score_one", "score_two", "score"]
    one, two, whole = (columns[0][n].values for n in columns[0])
    assert whole == pytest.approx([(a + b) / 2 for a, b in zip(one, two)])
    assert columns[1]["score"].values == ()


def test_a_follow_up_stands_where_the_user_speaks_next() -> None:
    plain = Slate("Ana: Hi\nAssistant:", (Candidate(" Hello."),), meta={"user": "Ana"})
    assert after_dialogue(None, plain, 0) == ("Ana: Hi\nAssistant: Hello.\nAna:", " ")
    chat = Slate(({"role": "user", "content": "Hi"},), (Candidate("Hello."),))
    assert after_dialogue(None, chat, 0)[0] == "User:\nHi\n\nAssistant:\nHello.\n\nUser:\n"

    class Templated:
        class tokenizer:
            chat_template = "yes"

            @staticmethod
            def apply_chat_template(turns: list[dict[str, str]], tokenize: bool) -> str:
                return "".join(f"<{t['role']}>{t['content']}</>" for t in turns)

    assert after_dialogue(Templated(), chat, 0) == ("<user>Hi</><assistant>Hello.</><user>", "")


def test_a_scorer_that_plays_the_user_sees_the_roles_swapped() -> None:
    asked = ({"role": "system", "content": "S"}, {"role": "user", "content": "Q"})
    turns = feedback_prompt(asked, "A")
    assert [(t["role"], t["content"]) for t in turns] == [
        ("system", "S"),
        ("user", OPENING),
        ("assistant", "Q"),
        ("user", "A"),
    ]
    rows = [point(Slate("Q", (Candidate("A"),), meta={"extra": {"feedback": "Too short."}}), 0, True)]
    (lesson,) = played_user()(rows, random.Random(0))
    assert lesson.prompt(0) == feedback_prompt("Q", "A") and lesson.response(0) == "Too short."
    with pytest.raises(InputError, match="no response has feedback"):
        list(played_user("other")(rows, random.Random(0)))


def test_six_kinds_with_ten_each_way_all_different() -> None:
    assert len(HELPFULNESS) == 6 and all(len(s.positive) == len(s.negative) == 10 for s in HELPFULNESS)
    texts = [u for s in HELPFULNESS for u in (*s.positive, *s.negative)]
    assert len(set(texts)) == 120


def test_by_name_and_from_a_file(tmp_path: Path) -> None:
    assert utterances() == HELPFULNESS and utterances("short") == SHORT
    assert [s.name for s in utterances(kinds=["relevance"])] == ["relevance"]
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"tone": {"positive": ["Nice."], "negative": ["Rude."]}}))
    assert utterances(str(file)) == (Utterances("tone", ("Nice.",), ("Rude.",)),)
    with pytest.raises(InputError, match="read="):
        follow_ups(read="last")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[]", "the file is no object of kinds"),
        (b"{}", "the file is no object of kinds, or an empty one"),
        (b'{"tone": ["Nice."]}', '"tone" is no object with "positive" and "negative": [\'Nice.\']'),
        (b'{"tone": {"positive": ["Nice."]}}', '"tone" has no "negative"'),
        (b'{"tone": {"positive": "Nice.", "negative": ["Rude."]}}', '"positive" of "tone" must be a list of texts'),
        (b'{"tone": {"positive": [], "negative": ["Rude."]}}', '"positive" of "tone" must be a list of texts'),
        (b'{"tone": {"positive": ["Nice."], "negative": [""]}}', '"negative" of "tone" must be a list of texts'),
        (b'{"tone": {"positive": ["Nice."], "negative": [5]}}', '"negative" of "tone" must be a list of texts'),
        (b'{"tone": "\xff"}', "it is not written in UTF-8"),
    ],
)
def test_a_file_of_follow_ups_is_told_what_is_wrong_in_it(tmp_path: Path, text: bytes, said: str) -> None:
    file = tmp_path / "own.json"
    file.write_bytes(text)
    with pytest.raises(InputError) as error:
        utterances(str(file))
    assert error.value.message.startswith(f"{file}: these are not follow-ups: {said}")


def test_a_file_of_follow_ups_that_is_no_json_is_told_the_line(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text('{"tone":\n {"positive" ["Nice."]}}')
    with pytest.raises(InputError) as error:
        utterances(str(file))
    assert error.value.message.startswith(f"{file}:2: these are not follow-ups: it is no JSON (Expecting ':'")


def test_without_a_model_it_is_the_policys_own() -> None:
    judge = judging.find("follow-ups")
    with pytest.raises(InputError, match="no policy whose follow-ups"):
        judge([Slate("q", (Candidate("a"),))])
    model = Bigram()
    assert spoken_by(judge, model).model is model  # type: ignore[arg-type,attr-defined]
    named = follow_ups(model)
    assert spoken_by(named, Bigram()) is named  # type: ignore[arg-type]
