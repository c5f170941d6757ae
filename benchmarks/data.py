"""The data: a file, or generated text with the same distribution of lengths; and a tokenizer that fits it.

Lengths are in words (``\\w+`` or a punctuation mark). What is generated says so in the results.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
WORD = re.compile(r"\w+|[^\w\s]")

LEVELS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
LENGTHS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "pairs": {
        "prompt": (7, 11, 14, 26, 82, 148, 251, 315, 509, 791),
        "chosen": (0, 6, 9, 14, 26, 51, 86, 112, 182, 257),
        "rejected": (1, 6, 9, 17, 35, 62, 99, 137, 240, 487),
    },
    "slates": {
        "prompt": (3, 7, 8, 12, 21, 37, 67, 120, 236, 378),
        "response": (1, 11, 22, 57, 118, 281, 486, 587, 818, 3909),
    },
}
"""Words at ``LEVELS``, as counted in hh_harmless_pairs and alpaca_eval_slates."""

ALIKE = 0.3
"""Correlation of the lengths within a row (0.27 to 0.33 in hh_harmless_pairs)."""

FILES = {"pairs": "hh_harmless_pairs.jsonl.gz", "slates": "alpaca_eval_slates.jsonl.gz"}


@dataclass(frozen=True)
class Texts:
    """Rows of prompt and responses (best first, with a score each), and where they are from."""

    rows: tuple[tuple[str, tuple[str, ...], tuple[float, ...]], ...]
    source: str
    generated: bool
    name: str

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.rows).encode()).hexdigest()[:12]


def find(kind: str, given: str | Path | None = None) -> Texts:
    """The file given, else the one beside the checkout, else generated rows."""
    path = Path(given) if given else SHARED / FILES[kind]
    if given and not path.exists():
        raise FileNotFoundError(f"no data file {path}")
    return read(kind, path) if path.exists() else generate(kind)


def read(kind: str, path: Path) -> Texts:
    """A JSONL file (also .gz): pairs (prompt, chosen, rejected) or scored slates (prompt, candidates)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        rows = tuple(ROWS[kind](json.loads(line)) for line in lines if line.strip())
    return Texts(rows, f"{path.name}, {len(rows)} rows", generated=False, name=kind)


def _pair(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
    return row["prompt"], (row["chosen"], row["rejected"]), (1.0, 0.0)


def _slate(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
    best_first = sorted(row["candidates"], key=lambda c: -float(c["score"]))
    return row["prompt"], tuple(c["text"] for c in best_first), tuple(float(c["score"]) for c in best_first)


ROWS = {"pairs": _pair, "slates": _slate}


def generate(kind: str, rows: int | None = None, seed: int = 0) -> Texts:
    """Made-up words, as many as the table of ``LENGTHS`` has them, with lengths alike within a row."""
    rng = random.Random(f"{kind} {seed}")
    lexicon = _lexicon(rng)
    count = rows or {"pairs": 1500, "slates": 500}[kind]
    sizes = LENGTHS[kind]
    parts = {"pairs": ("chosen", "rejected"), "slates": ("response",) * 6}[kind]
    made = []
    for _ in range(count):
        common = rng.gauss(0, 1)
        prompt, *responses = [_text(rng, lexicon, _length(rng, sizes[part], common)) for part in ("prompt", *parts)]
        made.append((prompt, tuple(responses), tuple(1 - i / (len(parts) - 1) for i in range(len(parts)))))
    source = f"generated: {count} rows of made-up words with the lengths of {FILES[kind]}"
    return Texts(tuple(made), source, generated=True, name=kind)


def _length(rng: random.Random, sizes: Sequence[float], common: float) -> int:
    """A length by inverse transform; ``common`` makes the lengths of a row alike."""
    level = NormalDist().cdf(ALIKE**0.5 * common + (1 - ALIKE) ** 0.5 * rng.gauss(0, 1))
    for (low, high), (short, long) in zip(pairwise(LEVELS), pairwise(sizes), strict=True):
        if level <= high:
            return round(short + (long - short) * (level - low) / (high - low))
    return round(sizes[-1])


def _lexicon(rng: random.Random) -> list[str]:
    """Words, the frequent ones first and shorter."""
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words = (
        "".join(rng.choice(syllables) for _ in range(1 + min(i // 100, 1) + rng.randrange(3))) for i in range(12000)
    )
    return list(dict.fromkeys(words))


def _text(rng: random.Random, lexicon: Sequence[str], words: int) -> str:
    """Frequencies fall as one over the rank (Zipf)."""
    size = len(lexicon)
    return " ".join(lexicon[min(int(size ** rng.random()) - 1, size - 1)] for _ in range(words))


def words(text: str) -> int:
    return len(WORD.findall(text))


def corpus(texts: Texts) -> Iterator[str]:
    for prompt, responses, _ in texts.rows:
        yield prompt
        yield from responses


def order(count: int, seed: int) -> list[int]:
    """A seeded order of the rows; rounds take consecutive parts of it."""
    indices = list(range(count))
    random.Random(seed).shuffle(indices)
    return indices


def tokenizer(texts: Texts, size: int = 8192) -> Any:
    """A byte-level BPE of this size learnt from the texts themselves: lengths in tokens are then realistic."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(corpus(texts), trainer)
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    names = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **names)
