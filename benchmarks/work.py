"""How much arithmetic rows need when every shared prefix is computed once: counted from the ids alone.

Nothing of the engine is used here: the limit is what the tree needs, not what some way of computing it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.models import Shape


@dataclass(frozen=True)
class Work:
    """Of some rows as a prefix tree."""

    tokens: int
    """Different prefixes that something follows: one hidden state each."""
    scored: int
    """Those of them whose next token is scored."""
    attended: int
    """Pairs of a token and one of its ancestors or itself."""

    def flops(self, shape: Shape) -> float:
        """Of forward and backward: 2 a multiply-add, and twice the forward's for both gradients.

        6 W t (matrices of the layers) + 6 D V s (head) + 12 D L a (scores and weighted values of attention).
        """
        matrices = 6.0 * shape.layer_weights * shape.layers * self.tokens
        head = 6.0 * shape.hidden * shape.vocabulary * self.scored
        attention = 12.0 * shape.hidden * shape.layers * self.attended
        return matrices + head + attention


def tree_work(rows: Iterable[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> Work:
    """Of rows given as (prompt, responses).

    >>> tree_work([((1, 2), ((3, 4), (3, 5)))])  # 1 2 3, of which 2 and 3 are followed by scored tokens
    Work(tokens=3, scored=2, attended=6)
    """
    node: dict[tuple[int, int], int] = {}
    attended = 0
    scored: set[int] = set()
    for prompt, responses in rows:
        for response in responses:
            at = 0
            for depth, token in enumerate([*prompt, *response][:-1], 1):
                step = (at, token)
                if step not in node:
                    node[step] = len(node) + 1
                    attended += depth
                at = node[step]
                if depth >= len(prompt):
                    scored.add(at)
    return Work(len(node), len(scored), attended)
