"""A packed row of trees as attention wants it: which columns see which, in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefine.engine.trees.tree import Tree

BLOCK = 128
"""A causal piece longer than this is halved: the CPU kernel computes what the causal mask hides within a block."""

Piece = tuple[int, int, int, int]
"""Queries from..to, keys from..to."""


@dataclass(frozen=True)
class Layout:
    """What attention needs to know about a packed row.

    Every column is in one ``causal`` piece; ``whole`` pieces come on top: queries that see all of some keys before
    them. (Small trees side by side as one piece with a mask were tried: no faster, the calls are not the cost.)
    """

    tree: Tree
    causal: tuple[Piece, ...]
    whole: tuple[Piece, ...]
    depth: int
    """The longest path, in tokens."""
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What a kernel makes of the tree once for all layers."""

    @staticmethod
    def of(tree: Tree) -> Layout:
        causal: list[Piece] = []
        whole: list[Piece] = []
        for s in tree.segments:
            _halve(s.start, s.end, causal, whole)
            if s.stop > s.end:
                whole.append((s.end, s.stop, s.start, s.end))
        return Layout(tree, tuple(causal), tuple(whole), max(s.depth + s.end - s.start for s in tree.segments))


def _halve(start: int, end: int, causal: list[Piece], whole: list[Piece]) -> None:
    """A causal block as smaller causal blocks and whole ones."""
    if end - start <= BLOCK:
        causal.append((start, end, start, end))
        return
    middle = (start + end + 1) // 2
    _halve(start, middle, causal, whole)
    whole.append((middle, end, start, middle))
    _halve(middle, end, causal, whole)
