"""Words and meaning in common with a reference answer: ROUGE, and a BERTScore from any model's hidden states.

    words     = 100 (ROUGE1_F1 + ROUGE2_F1 + ROUGEL_F1)
    semantics = 100 * times * BERTScore_F1:  P the mean over the response's tokens of the largest cosine with a token of
                the reference, R the same the other way, F1 = 2 P R / (P + R)

Prompts without a reference are not scored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefine.judging.referenced import as_text, in_row
from prefine.slate import Feedback, Slate, scores

Columns = Mapping[str, Feedback]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def f1(common: float, ours: int, theirs: int) -> float:
    """2 P R / (P + R) with P = common / ours, R = common / theirs; 0 where nothing is in common."""
    return 2 * common / (ours + theirs) if common else 0.0


def rouge_n(response: str, reference: str, n: int) -> float:
    """F1 of the n-grams, each counted as often as it is there on both sides.

    >>> rouge_n("the cat sat", "the cat ran", 1), rouge_n("the cat sat", "the cat ran", 2)
    (0.6666666666666666, 0.5)
    """
    ours, theirs = ([*zip(*(words_of(t)[k:] for k in range(n)), strict=False)] for t in (response, reference))
    return f1(float(sum((Counter(ours) & Counter(theirs)).values())), len(ours), len(theirs))


def rouge_l(response: str, reference: str) -> float:
    """F1 of the longest common subsequence of words.

    >>> rouge_l("a b c d", "a c d e")
    0.75
    """
    ours, theirs = words_of(response), words_of(reference)
    longest = [0] * (len(theirs) + 1)
    for word in ours:
        before = longest[:]
        for j, other in enumerate(theirs):
            longest[j + 1] = before[j] + 1 if word == other else max(before[j + 1], longest[j])
    return f1(float(longest[-1]), len(ours), len(theirs))


@dataclass(frozen=True)
class Words:
    """100 (ROUGE1 + ROUGE2 + ROUGEL) against the reference in the row, 0 to 300."""

    column: str = "reference"
    name: str = "words"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: scores([self._score(s, i) for i in range(len(s))])} for s in slates]

    def _score(self, slate: Slate, index: int) -> float | None:
        reference = in_row(slate, self.column)
        if not reference:
            return None
        pair = slate.response(index), as_text(reference)
        return 100 * (rouge_n(*pair, 1) + rouge_n(*pair, 2) + rouge_l(*pair))


def matched(ours_TD: np.ndarray, theirs_SD: np.ndarray) -> float:
    """BERTScore's F1 of two texts as token vectors, by greedy matching on cosines.

    >>> matched(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0]]))  # P = (1 + 0)/2, R = 1
    0.6666666666666666
    """
    if not len(ours_TD) or not len(theirs_SD):
        return 0.0
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12) for x in (ours_TD, theirs_SD))
    cosine_TS = a @ b.T
    precision, recall = float(cosine_TS.max(1).mean()), float(cosine_TS.max(0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@dataclass(frozen=True)
class Semantics:
    """100 * times * BERTScore F1 against the reference in the row, from the last hidden states of ``model`` (a handle).

    ``times`` is 2 where it stands for two metrics on the same scale, BLEURT and BERTScore."""

    model: Any
    times: float = 2.0
    column: str = "reference"
    name: str = "semantics"
    batch: int = 32

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        texts: dict[str, None] = {}
        for slate in slates:
            if in_row(slate, self.column):
                texts |= dict.fromkeys([as_text(in_row(slate, self.column)), *map(slate.response, range(len(slate)))])
        vectors = dict(zip(texts, self._vectors(list(texts)), strict=True)) if texts else {}
        return [{self.name: scores(self._scores(slate, vectors))} for slate in slates]

    def _scores(self, slate: Slate, vectors: Mapping[str, np.ndarray]) -> list[float | None]:
        reference = in_row(slate, self.column)
        if not reference:
            return [None] * len(slate)
        theirs = vectors[as_text(reference)]
        return [100 * self.times * matched(vectors[slate.response(i)], theirs) for i in range(len(slate))]

    def _vectors(self, texts: Sequence[str]) -> list[np.ndarray]:
        import torch
        from transformers import AutoModel, AutoTokenizer

        path = str(self.model.path)
        tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        tokenizer.padding_side = "right"
        found: list[np.ndarray] = []
        for start in range(0, len(texts), self.batch):
            rows = [t if t.strip() else "." for t in texts[start : start + self.batch]]
            made = tokenizer(rows, padding=True, truncation=True, max_length=512, return_tensors="pt")
            made.pop("token_type_ids", None)
            with torch.no_grad():
                states_NTD = model(**made).last_hidden_state.double().numpy()
            found += [
                states[mask.astype(bool)]
                for states, mask in zip(states_NTD, made["attention_mask"].numpy(), strict=True)
            ]
        return found


def sentences_of(text: str) -> list[str]:
    """Sentences, without their ends.

    >>> sentences_of("Use it daily. Not for children!")
    ['Use it daily', 'Not for children']
    """
    return [s for s in (part.strip(" .!?\n") for part in re.split(r"(?<=[.!?])\s+|\n+", text)) if s]
