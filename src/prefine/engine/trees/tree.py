"""Rows as prefix trees: every prefix that several rows share is computed once.

Rows that begin alike (the responses of a pair, the members of a list, the steps of a search) are put into one
tree, found from the token ids alone. A tree is laid out depth first, so that a segment's descendants follow it
directly, and several trees stand in one packed row without any padding. A token attends to its ancestors and
itself, and its position is its depth; so its hidden state is that of the row it is part of.

A prefix is followed by several tokens but its hidden state is one: where a tree branches the same column is read
once for every branch, and nothing need be repeated.

Generalises prefix sharing of pairs (Wang and Hegde 2024, arXiv:2410.20305).

Shapes: L columns of a packed row, N rows, M scored tokens of all rows, U the different ones among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from prefine.policies.base import Row

WORTH_SHARING = 32
"""A prefix is shared where that saves at least 1/32 of the tokens that hang on it: less is not worth the split."""

ROW_TOKENS = 32768
"""Most columns of a packed row, where trees can be divided."""


@dataclass(frozen=True)
class Segment:
    """A run of tokens without a branch: columns start..end, its descendants' columns end..stop."""

    start: int
    end: int
    stop: int
    depth: int
    """How many tokens come before it."""
    parent: int
    """The segment it continues, -1 for a root."""


@dataclass(frozen=True)
class Tree:
    """One packed row: prefix trees side by side. ``columns[n]`` are the columns of row n's tokens in order."""

    ids_L: np.ndarray
    segments: tuple[Segment, ...]
    columns: dict[int, np.ndarray]

    @property
    def position_L(self) -> np.ndarray:
        """Depth of every column's token."""
        return np.concatenate(
            [np.arange(s.end - s.start) + s.depth for s in self.segments] or [np.zeros(0, np.int64)]
        ).astype(np.int64)

    @property
    def stop_L(self) -> np.ndarray:
        """Where the descendants of every column's segment end: the columns that see it end there too."""
        return np.repeat([s.stop for s in self.segments], [s.end - s.start for s in self.segments])

    def path(self, segment: int) -> tuple[int, ...]:
        """The segments from a root down to this one."""
        path: list[int] = []
        while segment >= 0:
            path.append(segment)
            segment = self.segments[segment].parent
        return tuple(reversed(path))


def grow(paths: Sequence[Sequence[int]], worth: int = WORTH_SHARING) -> list[Tree]:
    """The prefix trees of some rows, one for every prefix that is worth sharing (see ``WORTH_SHARING``).

    >>> [t.ids_L.tolist() for t in grow([[1, 2, 3, 9], [4, 4], [1, 2, 3, 8, 8]])]
    [[1, 2, 3, 8, 8, 9], [4, 4]]
    """
    order = sorted((n for n in range(len(paths)) if len(paths[n]) > 0), key=lambda n: tuple(paths[n]))
    ids = [np.asarray(paths[n], dtype=np.int64) for n in order]
    shared = [0] + [_common(a, b) for a, b in pairwise(ids)] + [0]
    return [_tree(order, ids, shared, *bounds, worth) for bounds in _roots(ids, shared, 0, len(ids), worth)]


Range = tuple[int, int, int]
"""Sorted rows low..high (high not among them) and the depth down to which they are alike."""


def _split(ids: Sequence[np.ndarray], shared: Sequence[int], low: int, high: int) -> tuple[int, list[tuple[int, int]]]:
    """How deep rows low..high are alike, and the ranges of rows that go on together from there."""
    if high - low == 1:
        return len(ids[low]), []
    depth = min(shared[low + 1 : high])
    marks = [low, *(i for i in range(low + 1, high) if shared[i] == depth), high]
    return depth, list(pairwise(marks))


def _is_worth(
    ids: Sequence[np.ndarray], shared: Sequence[int], low: int, high: int, depth: int, since: int, worth: int
) -> bool:
    """Whether the tokens since..depth of rows low..high should be computed once."""
    _, ranges = _split(ids, shared, low, high)
    saved = (depth - since) * (len(ranges) - 1)
    below = sum(len(ids[i]) - depth for i in range(low, high))
    return saved > 0 and saved * worth >= below


def _roots(ids: Sequence[np.ndarray], shared: Sequence[int], low: int, high: int, worth: int) -> Iterator[Range]:
    """Ranges of rows that stand in a tree of their own."""
    todo = [(low, high)] if high > low else []
    while todo:
        low, high = todo.pop()
        depth, ranges = _split(ids, shared, low, high)
        if not ranges or _is_worth(ids, shared, low, high, depth, 0, worth):
            yield low, high, depth
        else:
            todo += reversed(ranges)


def _tree(
    order: Sequence[int], ids: Sequence[np.ndarray], shared: Sequence[int], low: int, high: int, depth: int, worth: int
) -> Tree:
    """Rows low..high as one tree, depth first."""
    segments: list[Segment] = []
    tokens: list[np.ndarray] = []
    columns = {order[i]: np.empty(len(ids[i]), dtype=np.int64) for i in range(low, high)}
    width = 0
    todo: list[tuple[int, int, int, int]] = [(low, high, 0, -1)]
    while todo:
        low, high, since, parent = todo.pop()
        depth, ranges = _split(ids, shared, low, high)
        if ranges and not _is_worth(ids, shared, low, high, depth, since, worth) and depth > since:
            # The rows keep a copy each of these few tokens.
            todo += [(a, b, since, parent) for a, b in reversed(ranges)]
            continue
        if depth > since:
            run = ids[low][since:depth]
            for i in range(low, high):
                columns[order[i]][since:depth] = np.arange(width, width + len(run))
            tokens.append(run)
            segments.append(Segment(width, width + len(run), width + len(run), since, parent))
            width += len(run)
            parent = len(segments) - 1
        todo += [(a, b, depth, parent) for a, b in reversed(ranges)]
    # Depth first, so children come after their parent: their end is known before its own.
    for s in reversed(range(len(segments))):
        up = segments[s].parent
        if up >= 0:
            segments[up] = replace(segments[up], stop=max(segments[up].stop, segments[s].stop))
    return Tree(np.concatenate(tokens), tuple(segments), columns)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two rows begin with together."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length


def join(trees: Sequence[Tree]) -> Tree:
    """Trees side by side in one packed row."""
    segments: list[Segment] = []
    columns: dict[int, np.ndarray] = {}
    width = 0
    for tree in trees:
        first = len(segments)
        for s in tree.segments:
            parent = s.parent + first if s.parent >= 0 else -1
            segments.append(Segment(s.start + width, s.end + width, s.stop + width, s.depth, parent))
        columns |= {n: column + width for n, column in tree.columns.items()}
        width += len(tree.ids_L)
    return Tree(np.concatenate([t.ids_L for t in trees]), tuple(segments), columns)


def pack(trees: Sequence[Tree], budget: int | None = ROW_TOKENS) -> list[Tree]:
    """Trees in as few packed rows of at most ``budget`` columns as first-fit-decreasing finds.

    A tree is not divided, so one that is over the budget alone gets a row of its own.
    """
    rows: list[list[Tree]] = []
    room: list[int] = []
    for tree in sorted(trees, key=lambda t: len(t.ids_L), reverse=True):
        size = len(tree.ids_L)
        fits = next((i for i, left in enumerate(room) if budget is None or size <= left), None)
        if fits is None:
            rows.append([tree])
            room.append((budget or 0) - size)
        else:
            rows[fits].append(tree)
            room[fits] -= size
    return [join(row) for row in rows]


@dataclass(frozen=True)
class Scored:
    """What is to be read off a packed row: U different (column, next token)."""

    tree: Tree
    column_U: np.ndarray
    target_U: np.ndarray


@dataclass(frozen=True)
class Forest:
    """Rows as packed trees, and where every scored token's number goes.

    ``which_M`` points into the trees' U numbers laid end to end; the first ``responses`` of the M go to
    (``row_M``, ``slot_M``), the others are the prompts' and are added up by ``row_M``.
    """

    scored: tuple[Scored, ...]
    which_M: np.ndarray
    row_M: np.ndarray
    slot_M: np.ndarray
    responses: int

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(len(s.tree.ids_L) for s in self.scored)

    @property
    def segments(self) -> int:
        return sum(len(s.tree.segments) for s in self.scored)


def plant(
    rows: Sequence[Row], *, with_prompt: bool = False, budget: int | None = ROW_TOKENS, worth: int = WORTH_SHARING
) -> Forest:
    """The forest of some rows.

    A row goes only as far as the token before its last one that counts: what follows is read by nobody.
    """
    slots = [np.flatnonzero(np.asarray(row.mask) != 0) for row in rows]
    whole = [row.prompt + row.response for row in rows]
    asked = [  # place of the token that predicts each scored one: the responses', then the prompts'
        (
            len(row.prompt) + slot - 1,
            np.arange(len(row.prompt) - 1 if with_prompt else 0),
        )
        for row, slot in zip(rows, slots, strict=True)
    ]
    ends = [max(int(r[-1]) + 1 if len(r) else 0, len(p)) for r, p in asked]
    trees = pack(grow([ids[:end] for ids, end in zip(whole, ends, strict=True)], worth), budget)

    # Every scored token as (tree, column, target), each different one computed once.
    home = {n: t for t, tree in enumerate(trees) for n in tree.columns}
    which: list[np.ndarray] = []
    row_of: list[np.ndarray] = []
    asks: list[list[np.ndarray]] = [[] for _ in trees]
    places: list[list[tuple[int, int]]] = [[] for _ in trees]
    for part in (0, 1):
        for n, ids in enumerate(whole):
            at = asked[n][part]
            row_of.append(np.full(len(at), n))
            which.append(np.zeros(len(at), dtype=np.int64))
            if len(at):
                column = trees[home[n]].columns[n][at]
                target = np.asarray(ids, dtype=np.int64)[at + 1]
                asks[home[n]].append(np.stack([column, target]))
                places[home[n]].append((len(which) - 1, len(at)))
    scored: list[Scored] = []
    base = 0
    for tree, pairs, place in zip(trees, asks, places, strict=True):
        column, target = np.concatenate(pairs, 1)
        unique, inverse = np.unique(column << 32 | target, return_inverse=True)
        for (k, _), inverses in zip(place, _cut(inverse.reshape(-1), [count for _, count in place]), strict=True):
            which[k] = inverses + base
        scored.append(Scored(tree, unique >> 32, unique & 0xFFFFFFFF))
        base += len(unique)
    return Forest(
        tuple(scored),
        np.concatenate(which or [np.zeros(0, np.int64)]),
        np.concatenate(row_of or [np.zeros(0, np.int64)]).astype(np.int64),
        np.concatenate(slots or [np.zeros(0, np.int64)]).astype(np.int64),
        sum(len(slot) for slot in slots),
    )


def _cut(array: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(sizes)[:-1])
