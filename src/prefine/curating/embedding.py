"""Texts as vectors. Of prompts: values of the contrasts for objectives that compare prompts (of responses: see
``vectors``)."""

from __future__ import annotations

import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from prefine.curating.base import Curator, as_is
from prefine.errors import InputError
from prefine.slate import Contrast, prompt_text

Embedder = Callable[[Sequence[Contrast]], np.ndarray]
"""Contrasts -> (G, D) vectors of their prompts."""


@dataclass(frozen=True)
class HashedWords:
    """Words and pairs of neighbouring words, hashed with signs to D numbers; rare ones (among these prompts) count
    for more. No model: prompts are alike where they share words.

    >>> from prefine.slate import Candidate, Slate, point
    >>> e = HashedWords()([point(Slate(p, (Candidate("a"),)), 0, True) for p in ("big cat", "big cats", "old dog")])
    >>> bool(e[0] @ e[1] > e[0] @ e[2])
    True
    """

    size: int = 64

    def __call__(self, contrasts: Sequence[Contrast]) -> np.ndarray:
        return self.of_texts([prompt_text(contrast.prompt(0)) for contrast in contrasts])

    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D), words weighed by their rarity among these texts."""
        counts = [_words(text) for text in texts]
        among = Counter(word for count in counts for word in count)
        vectors = np.zeros((len(counts), self.size))
        for row, count in zip(vectors, counts, strict=True):
            for word, times in count.items():
                code = zlib.crc32(word.encode())
                rarity = math.log((1 + len(counts)) / (1 + among[word])) + 1
                row[code % self.size] += (1 if code & 0x10000 else -1) * (1 + math.log(times)) * rarity
        return vectors


def _words(text: str) -> Counter[str]:
    words = re.findall(r"\w+", text.lower())
    return Counter([*words, *(f"{a} {b}" for a, b in pairwise(words))])


@dataclass(frozen=True)
class Given:
    """Vectors that came with the data: the column "embedding", a list of numbers in every row."""

    name: str = "embedding"

    def __call__(self, contrasts: Sequence[Contrast]) -> np.ndarray:
        found = [self._of(contrast) for contrast in contrasts]
        if len({len(vector) for vector in found}) > 1:
            raise InputError(f"{self.name!r} is of unequal lengths", remedy="give vectors of one length")
        return np.asarray(found, dtype=float)

    def _of(self, contrast: Contrast) -> Sequence[float]:
        meta = contrast.slate.meta
        value: Any = meta.get(self.name, meta.get("extra", {}).get(self.name))
        if not isinstance(value, list) or not value or not all(isinstance(v, int | float) for v in value):
            raise InputError(
                f"prompt {contrast.slate.id!r} has no vector in {self.name!r}",
                remedy=f'give "{self.name}": [0.1, ...] in every row, or --embedder words, or the directory of a '
                "sentence encoder",
            )
        return value


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder in a directory (all-MiniLM-L6-v2 and the like): the mean of its last hidden states."""

    path: str
    batch: int = 64

    def __call__(self, contrasts: Sequence[Contrast]) -> np.ndarray:
        return self.of_texts([prompt_text(contrast.prompt(0)) for contrast in contrasts])

    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) mean of the last hidden states of every text."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer, model = AutoTokenizer.from_pretrained(self.path), AutoModel.from_pretrained(self.path).eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(texts), self.batch):
                rows = tokenizer(texts[start : start + self.batch], padding=True, truncation=True, return_tensors="pt")
                states = model(**rows).last_hidden_state
                there = rows["attention_mask"][..., None].to(states.dtype)
                found.append(((states * there).sum(1) / there.sum(1).clamp(min=1)).double().numpy())
        return np.concatenate(found)


EMBEDDERS: Mapping[str, Callable[[], Embedder]] = {"words": HashedWords, "given": Given}


def embedder(name: str) -> Embedder:
    """Of "words" (no model), "given" (a column of the data), or the directory of a sentence encoder."""
    if name in EMBEDDERS:
        return EMBEDDERS[name]()
    if not (Path(name) / "config.json").exists():
        raise InputError(
            f"there is no embedder {name!r}",
            remedy=f"use {', '.join(EMBEDDERS)}, or the directory of a sentence encoder with its config.json",
        )
    return Encoder(name)


@dataclass(frozen=True)
class Embedded:
    """The contrasts of a curator with their prompts' vectors, of length 1, as values NAME.0, NAME.1, ..."""

    embedder: Embedder
    curator: Curator = as_is
    name: str = "embedding"

    def __call__(self, rows: Iterable[Any], rng: random.Random) -> Iterator[Contrast]:
        contrasts = list(self.curator(rows, rng))
        vectors = self.embedder(contrasts) if contrasts else np.zeros((0, 1))
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        for contrast, vector in zip(contrasts, vectors.tolist(), strict=True):
            more = {f"{self.name}.{d}": round(v, 6) for d, v in enumerate(vector)}
            yield replace(contrast, values={**contrast.values, **more})


def embedded(by: str = "words", curator: Curator = as_is) -> Embedded:
    """Contrasts that carry their prompt's vector, for contrasts across prompts."""
    return Embedded(embedder(by), curator)
