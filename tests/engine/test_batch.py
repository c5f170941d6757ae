"""Collating contrasts: shapes, values, micro-batches; and the traps of sums for means and sorted labels."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefine.engine.batch import collate, collate_contrasts, encode_contrasts, microbatches, row_lengths
from prefine.errors import InputError
from prefine.objectives.scores import Scores
from prefine.policies.base import Limits, Row
from prefine.slate import Candidate, Contrast, Slate, group, pair, ranking


def row(prompt: int, response: int, first: int = 0) -> Row:
    return Row(tuple(range(prompt)), tuple(range(first, first + response)), (1.0,) * response)


def test_pairs_have_their_shapes() -> None:
    batch = collate([[row(3, 2), row(3, 4)], [row(1, 1), row(1, 3)]], [(1, -1), (1, -1)])
    assert batch.role_N.tolist() == [1, -1, 1, -1]
    assert batch.group_N.tolist() == [0, 0, 1, 1]
    assert batch.mask_NT.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert [len(r.response) for r in batch.rows] == [2, 4, 1, 3]


def test_contrasts_of_different_sizes_share_a_batch() -> None:
    batch = collate([[row(1, 1)], [row(1, 1)] * 3], [(1,), (1, 0, -1)])
    assert batch.group_N.tolist() == [0, 1, 1, 1]
    assert batch.role_N.tolist() == [1, 1, 0, -1]


def test_masks_say_which_tokens_count() -> None:
    masked = Row((0,), (5, 6, 7), (1.0, 0.0, 1.0))
    assert collate([[masked]], [(1,)]).mask_NT.tolist() == [[1, 0, 1]]


def test_one_number_a_response_when_masks_are_one_wide() -> None:
    whole = [Row((0,), tuple(range(k)), (1.0,)) for k in (1, 5)]
    assert collate([whole], [(1, -1)]).mask_NT.tolist() == [[1], [1]]


def test_a_value_of_the_contrast_is_G_and_one_of_the_members_is_N() -> None:
    values = [{"weight": 0.5, "reward": (1.0, 2.0)}, {"weight": 2.0, "reward": (3.0, 4.0)}]
    batch = collate([[row(1, 1)] * 2] * 2, [(1, -1)] * 2, values)
    assert batch.values["weight"].tolist() == [0.5, 2.0]
    assert batch.values["reward"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_plain_number_among_tuples_is_every_members() -> None:
    batch = collate([[row(1, 1)] * 2] * 2, [(1, -1)] * 2, [{"w": (1.0, 2.0)}, {"w": 3.0}])
    assert batch.values["w"].tolist() == [1.0, 2.0, 3.0, 3.0]


def test_a_value_missing_from_some_contrasts_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'margin' is on 1 contrasts .* not on 1"):
        collate([[row(1, 1)] * 2] * 2, [(1, -1)] * 2, [{"margin": 1.0}, {}])


def test_a_value_with_the_wrong_number_of_members_is_an_error() -> None:
    with pytest.raises(InputError, match="3 numbers for a contrast of 2"):
        collate([[row(1, 1)] * 2], [(1, -1)], [{"w": (1.0, 2.0, 3.0)}])


lengths = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), max_size=30)


@given(lengths, st.integers(1, 200), st.booleans())
def test_every_contrast_is_in_exactly_one_micro_batch_within_the_budget(
    sizes: list[list[int]], budget: int, by_length: bool
) -> None:
    batches = microbatches(sizes, budget, by_length=by_length)
    assert sorted(i for b in batches for i in b) == list(range(len(sizes)))
    for b in batches:
        tokens = sum(len(sizes[i]) for i in b) * max(max(sizes[i]) for i in b)
        assert tokens <= budget or len(b) == 1


def test_without_sorting_the_order_is_kept() -> None:
    assert microbatches([[5], [1], [4]], 6, by_length=False) == [[0], [1], [2]]
    assert microbatches([[5], [1], [4]], None, by_length=False) == [[0, 1, 2]]


class Counting:
    """A policy whose rows say which candidate they come from: the response of candidate k is k + 1 tokens."""

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        return tuple(row(1, int(contrast.response(k)), first=100) for k in range(len(contrast.members)))


def test_trap_labels_swapped_by_a_sort() -> None:
    """Micro-batching by length moves contrasts; every row keeps the role and the values it came with."""
    rng = random.Random(0)
    contrasts = []
    for i in range(40):
        n = rng.randrange(2, 5)
        texts = [str(rng.randrange(1, 30)) for _ in range(n)]
        slate = Slate(f"p{i}", tuple(Candidate(t) for t in texts))
        order = rng.sample(range(n), n)
        contrast = ranking(slate, order) if n > 2 else pair(slate, *order)
        truth = {"length": tuple(float(texts[m]) for m in order), "first": float(texts[order[0]])}
        contrasts.append(group(slate, order, contrast.roles, **truth))
    rows = encode_contrasts(Counting(), contrasts, Limits())  # type: ignore[arg-type]
    batches = microbatches(row_lengths(rows), budget=300)
    assert [i for b in batches for i in b] != list(range(40)), "the sort moved nothing: the test shows nothing"
    for indices in batches:
        batch = collate_contrasts(contrasts, rows, indices)
        assert batch.mask_NT.sum(-1).tolist() == batch.values["length"].tolist()
        best = batch.role_N == 1
        assert batch.mask_NT.sum(-1)[best].tolist() == batch.values["first"].tolist()


def test_trap_sums_for_means() -> None:
    """Two responses of the same quality a token: a sum prefers the short one, a mean sees no difference."""
    batch = collate([[row(1, 2), row(1, 6)]], [(1, -1)])
    scores = Scores(-0.5 * batch.mask_NT, batch.mask_NT, batch.role_N, batch.group_N)
    assert scores.sum().tolist() == [-1.0, -3.0]
    assert scores.mean().tolist() == [-0.5, -0.5]


def test_values_keep_double_precision_when_asked() -> None:
    batch = collate([[row(1, 1)]], [(1,)], [{"w": 0.1}], dtype=torch.float64)
    assert float(batch.values["w"][0]) == 0.1
