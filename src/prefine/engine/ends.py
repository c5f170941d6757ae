"""Hidden states at the ends of rows: what a scalar head reads of a response as a whole; and before every token.

Ends go the same two ways as log-probabilities do (``engine.score``): padded rows, and prefix trees where that
saves more than it costs and the model can.

Shapes: N rows, L their padded length, T the longest response, D hidden size, U the different ends among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prefine.engine import score
from prefine.engine.trees import route as tree_route
from prefine.engine.trees.attention import NotInTrees
from prefine.engine.trees.tree import Forest, plant
from prefine.policies.base import Row

Ids = Sequence[int]


def end_hidden(model: nn.Module, rows: Sequence[Ids], *, route: str = "auto") -> Tensor:
    """(N, D) what the model's backbone gives at the last token of every row. Differentiable."""
    return ROUTES[score.chosen(route)](model, rows)


def padded_ends(model: nn.Module, rows: Sequence[Ids]) -> Tensor:
    """One forward pass over padded rows."""
    padded = score.pad_rows(rows, device=next(model.parameters()).device)
    last_N = torch.tensor([len(row) - 1 for row in rows], device=padded.ids_NL.device)
    return score.forward_hidden(model, padded)[torch.arange(len(rows), device=last_N.device), last_N]


def tree_ends(model: nn.Module, rows: Sequence[Ids], forest: Forest | None = None) -> Tensor:
    """One forward pass a packed row of prefix trees; the same numbers as padded rows give."""
    why = tree_route.refusal(model, head=False)
    if why is not None:
        raise NotInTrees(f"{type(model).__name__} cannot go in prefix trees: {why}")
    forest = plant(_asking(rows)) if forest is None else forest
    device = next(model.parameters()).device
    parts = [tree_route.hidden_at(model, scored) for scored in forest.scored]
    return torch.cat(parts).index_select(0, torch.from_numpy(forest.which_M).to(device))


def auto_ends(model: nn.Module, rows: Sequence[Ids]) -> Tensor:
    """Trees where they save more than they cost and the model can, else padded rows."""
    forest = tree_route.worthwhile(model, _asking(rows))
    if forest is not None and tree_route.refusal(model, head=False) is None:
        return tree_ends(model, rows, forest)
    return padded_ends(model, rows)


def hidden_before(model: nn.Module, rows: Sequence[Row], width: int) -> Tensor:
    """(N, T, D) what the backbone gives at the place before every response token: what predicts it has seen neither
    the token nor what follows. Past a response's end: what is there, to be masked. One padded forward pass."""
    if not all(row.prompt for row in rows):
        raise ValueError("a row without a prompt token has nothing that its first response token follows")
    padded = score.pad_rows([row.prompt + row.response for row in rows], device=next(model.parameters()).device)
    hidden_NLD = score.forward_hidden(model, padded)
    first_N = torch.tensor([len(row.prompt) - 1 for row in rows], device=hidden_NLD.device)
    place_NT = first_N[:, None] + torch.arange(width, device=hidden_NLD.device)
    rows_N1 = torch.arange(len(rows), device=hidden_NLD.device)[:, None]
    return hidden_NLD[rows_N1, place_NT.clamp(max=hidden_NLD.shape[1] - 1)]


def _asking(rows: Sequence[Ids]) -> list[Row]:
    """Rows that ask only for what follows their last token, which is where a forest then looks."""
    return [Row(tuple(row), (0,), (1.0,)) for row in rows]


ROUTES: Mapping[str, Callable[[nn.Module, Sequence[Ids]], Tensor]] = {
    "padded": padded_ends,
    "tree": tree_ends,
    "auto": auto_ends,
}
"""How ends can be computed; all give the same numbers to floating-point accuracy."""
