"""Data made ready for the sides: contrasts as prefine reads them, and the very same tokens for the peers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.compare import BUILD
from prefine.policies import load_policy
from prefine.policies.base import Limits
from prefine.slate import Candidate, Contrast, Slate, group, pair, scores


@dataclass(frozen=True)
class Prepared:
    """Contrasts on disk, and the ids of their rows: ``rows[i]`` is (prompt, [response, ...]) of contrast i."""

    contrasts: Path
    ids: Path
    rows: tuple[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], ...]

    def tokens(self, indices: Iterable[int]) -> int:
        """Tokens of the plain layout: every response with a prompt of its own, no padding."""
        return sum(len(self.rows[i][0]) + len(r) for i in indices for r in self.rows[i][1])

    def told(self) -> dict[str, Any]:
        """Mean tokens of a contrast's prompt and responses."""
        n = len(self.rows)
        responses = [len(r) for _, rs in self.rows for r in rs]
        return {
            "contrasts": n,
            "mean_prompt_tokens": round(sum(len(p) for p, _ in self.rows) / n, 1),
            "mean_response_tokens": round(sum(responses) / len(responses), 1),
        }


def pairs_of(texts: data.Texts) -> list[Contrast]:
    """The best against the second of every row: the pair itself, where a row is one."""
    return [pair(_slate(row), 0, 1) for row in texts.rows]


def lists_of(texts: data.Texts) -> list[Contrast]:
    """All responses of a row at once; the value "win" is the share of the others that a response beats."""
    return [_list(row) for row in texts.rows]


def best_against_rest(texts: data.Texts) -> list[list[Contrast]]:
    """For every row the pairs of its best response with each of the others."""
    made = []
    for row in texts.rows:
        slate = _slate(row)
        made.append([pair(slate, 0, k) for k in range(1, len(slate))])
    return made


def _slate(row: tuple[str, Sequence[str], Sequence[float]]) -> Slate:
    prompt, responses, marks = row
    return Slate(prompt, tuple(Candidate(r) for r in responses), {"score": scores(marks)})


def _list(row: tuple[str, Sequence[str], Sequence[float]]) -> Contrast:
    slate = _slate(row)
    marks, k = row[2], len(slate)
    won = [sum((a > b) + 0.5 * (a == b) for j, b in enumerate(marks) if j != i) for i, a in enumerate(marks)]
    win = tuple(w / (k - 1) for w in won)
    return group(slate, range(k), (1, *(0,) * (k - 2), -1), win=win)


def prepare(name: str, contrasts: Sequence[Contrast], policy: Path, limits: Limits) -> Prepared:
    """Write the contrasts, and their rows as prefine encodes them (limits applied)."""
    folder = BUILD / "data"
    folder.mkdir(parents=True, exist_ok=True)
    here, ids = folder / f"{name}.jsonl", folder / f"{name}.ids.jsonl"
    encode = load_policy(policy, device="cpu").encode
    rows = []
    with here.open("w") as out, ids.open("w") as out_ids:
        for contrast in contrasts:
            encoded = encode(contrast, limits)
            rows.append((encoded[0].prompt, tuple(row.response for row in encoded)))
            out.write(json.dumps(contrast.to_json()) + "\n")
            out_ids.write(json.dumps({"prompt": rows[-1][0], "responses": rows[-1][1]}) + "\n")
    return Prepared(here, ids, tuple(rows))
