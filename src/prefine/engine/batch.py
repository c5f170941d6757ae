"""From contrasts to batches: encode once, cut by a token budget, collate.

A contrast is never split, and its roles and values travel with its rows, so no order of batches can swap a
label. Shapes: G contrasts, N rows (the members of all of them, in order), T response positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from prefine.errors import InputError
from prefine.policies.base import Batch, Limits, Policy, Row
from prefine.slate import Contrast

Values = Mapping[str, float | tuple[float, ...]]


def encode_contrasts(policy: Policy, contrasts: Sequence[Contrast], limits: Limits) -> list[tuple[Row, ...]]:
    """The rows of every contrast, one tuple a contrast."""
    return [policy.encode(contrast, limits) for contrast in contrasts]


def row_lengths(rows_per_contrast: Sequence[Sequence[Row]]) -> list[list[int]]:
    """Tokens of every row (prompt and response), by contrast: what ``microbatches`` wants to know."""
    return [[len(row.prompt) + len(row.response) for row in rows] for rows in rows_per_contrast]


def microbatches(lengths: Sequence[Sequence[int]], budget: int | None, *, by_length: bool = True) -> list[list[int]]:
    """Cut contrasts into micro-batches of at most ``budget`` padded tokens: rows x the longest row.

    ``lengths[i]`` are the row lengths of contrast i. Gives lists of contrast indices, every contrast exactly
    once; a contrast that is over the budget alone gets a micro-batch of its own. ``by_length`` puts contrasts
    of like length together (a stable sort of *indices*: rows, roles and values are looked up by them).

    >>> microbatches([[9, 9], [2, 2], [8, 8], [2, 1]], budget=36)
    [[3, 1], [2, 0]]
    """
    # Ties go by the shorter rows too, so that equal longest rows still pack alike.
    order = sorted(range(len(lengths)), key=lambda i: sorted(lengths[i], reverse=True)) if by_length else None
    batches: list[list[int]] = []
    rows = longest = 0
    for i in order if order is not None else range(len(lengths)):
        here = max(lengths[i], default=0)
        if batches and (budget is None or (rows + len(lengths[i])) * max(longest, here) <= budget):
            batches[-1].append(i)
            rows, longest = rows + len(lengths[i]), max(longest, here)
        else:
            batches.append([i])
            rows, longest = len(lengths[i]), here
    return batches


def cut(policy: Policy, rows: Sequence[Sequence[Row]], budget: int | None) -> list[list[int]]:
    """Contrasts in micro-batches of at most ``budget`` tokens. A policy that knows better than ``microbatches``
    how many tokens its forward pass has says so by a method ``cut(rows, budget)``."""
    own = getattr(policy, "cut", None)
    return microbatches(row_lengths(rows), budget) if own is None else own(rows, budget)


def padded_tokens(rows_per_batch: Sequence[Sequence[Row]]) -> int:
    """Tokens of rectangles: rows x the longest row, added up over the batches."""
    return sum(len(rows) * max((len(r.prompt) + len(r.response) for r in rows), default=0) for rows in rows_per_batch)


def even_parts(sizes: Sequence[int], budget: int | None) -> list[list[int]]:
    """Cut contrasts of these sizes into few parts of at most ``budget`` in sum, as even as can be had simply.

    The largest first, each to the part with the least so far. A contrast over the budget alone gets a part of its
    own (nearly: what has size 0 may join it). The members of a part are in their old order.

    >>> even_parts([5, 3, 4, 2, 4], budget=10)
    [[0, 2], [1, 3, 4]]
    """
    total, largest = sum(sizes), max(sizes, default=0)
    count = 1 if budget is None else max(1, -(-total // budget))
    while True:
        parts: list[list[int]] = [[] for _ in range(min(count, len(sizes)))]
        filled = [0] * len(parts)
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            least = filled.index(min(filled))
            parts[least].append(i)
            filled[least] += sizes[i]
        if budget is None or max(filled, default=0) <= max(budget, largest) or count >= len(sizes):
            return [sorted(part) for part in parts if part]
        count += 1


def collate(
    rows_per_contrast: Sequence[Sequence[Row]],
    roles: Sequence[Sequence[int]],
    values: Sequence[Values] | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Batch:
    """Rows, roles and values of G contrasts as one batch.

    ``mask_NT`` is as wide as the longest mask: response tokens for language models, one number for policies
    that score a response as a whole (reward models). A value with one float a contrast becomes (G,); one with
    a float a member becomes (N,), in row order (a float among tuples is repeated for its members). Every
    contrast must have the same value names: a number missing from some would silently mean another thing.
    """
    if not (len(rows_per_contrast) == len(roles) and (values is None or len(values) == len(roles))):
        raise ValueError("rows, roles and values must be of the same contrasts")
    for rows, role in zip(rows_per_contrast, roles, strict=True):
        if len(rows) != len(role) or not rows:
            raise ValueError(f"{len(rows)} rows with {len(role)} roles")
    dtype = dtype or torch.get_default_dtype()
    flat = tuple(row for rows in rows_per_contrast for row in rows)
    width = max((len(row.mask) for row in flat), default=0)
    mask_NT = torch.zeros(len(flat), width, dtype=dtype)
    for n, row in enumerate(flat):
        mask_NT[n, : len(row.mask)] = torch.tensor(row.mask, dtype=dtype)
    sizes = torch.tensor([len(rows) for rows in rows_per_contrast], dtype=torch.long)
    return Batch(
        rows=flat,
        role_N=torch.tensor([r for role in roles for r in role], dtype=torch.long).to(device),
        group_N=torch.arange(len(sizes)).repeat_interleave(sizes).to(device),
        mask_NT=mask_NT.to(device),
        values={
            name: torch.tensor(numbers, dtype=dtype).to(device)
            for name, numbers in _value_columns(values or (), [len(rows) for rows in rows_per_contrast]).items()
        },
    )


def collate_contrasts(
    contrasts: Sequence[Contrast],
    rows_per_contrast: Sequence[Sequence[Row]],
    indices: Sequence[int] | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Batch:
    """``collate`` with the roles and values of the contrasts themselves; ``indices`` picks some of them."""
    picked = range(len(contrasts)) if indices is None else indices
    return collate(
        [rows_per_contrast[i] for i in picked],
        [contrasts[i].roles for i in picked],
        [contrasts[i].values for i in picked],
        device=device,
        dtype=dtype,
    )


def _value_columns(values: Sequence[Values], sizes: Sequence[int]) -> dict[str, list[float]]:
    names = sorted({name for these in values for name in these})
    columns: dict[str, list[float]] = {}
    for name in names:
        lacking = sum(name not in these for these in values)
        if lacking:
            raise InputError(
                f"the value {name!r} is on {len(values) - lacking} contrasts of a batch but not on {lacking}",
                remedy="give every contrast the same values (joined sources often differ)",
            )
        column = [these[name] for these in values]
        if not any(isinstance(value, tuple) for value in column):
            columns[name] = [float(value) for value in column]  # type: ignore[arg-type]
            continue
        spread: list[float] = []
        for value, size in zip(column, sizes, strict=True):
            members = value if isinstance(value, tuple) else (value,) * size
            if len(members) != size:
                raise InputError(
                    f"the value {name!r} has {len(members)} numbers for a contrast of {size} responses",
                    remedy="give one number for the contrast, or one for every member",
                )
            spread.extend(float(v) for v in members)
        columns[name] = spread
    return columns
