"""Pairs with a known mistake, written from arithmetic problems."""

from __future__ import annotations

import random

from prefine.worlds import find_world
from prefine.worlds.arithmetic import check_steps, correct
from prefine.worlds.mistakes import wrong_digit, wrong_solution


def test_one_digit_or_everything_is_wrong() -> None:
    slates = find_world("arithmetic").prompts("train", 60, 3)
    near, apart = (list(pairs(slates, random.Random(0))) for pairs in (wrong_digit, wrong_solution))
    assert len(near) == len(apart) > 40
    for contrast in (*near, *apart):
        assert correct(contrast.slate)[contrast.members[0]] == 1.0
        assert min(check_steps(contrast.slate, contrast.response(0))) == 1.0
        assert min(check_steps(contrast.slate, contrast.response(1))) == 0.0
    for contrast in near:
        right, wrong = contrast.response(0), contrast.response(1)
        assert len(right) == len(wrong) and sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
    assert all(correct(contrast.slate)[1] == 0.0 for contrast in apart)
