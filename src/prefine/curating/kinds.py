"""Labels of both kinds, or word of it where there is only one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from prefine.errors import InputError
from prefine.slate import Contrast


def both_kinds(labels: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
    """The labels as they are, if some are good and some bad.

    >>> from prefine.slate import Candidate, Slate, point
    >>> slate = Slate("x", (Candidate("a"), Candidate("b")))
    >>> len(list(both_kinds([point(slate, 0, True), point(slate, 1, False)], random.Random(0))))
    2
    """
    kinds: set[bool] = set()
    for label in labels:
        kinds |= {role > 0 for role in label.roles if role}
        yield label
    if len(kinds) == 1:
        raise InputError(
            f"all labels are {'good' if True in kinds else 'bad'}, and this learns from the difference",
            remedy="bring labels of the other kind, or choose the option that holds what is learnt in place "
            "(for an anchor: --anchor batch, or --penalty 0.01)",
        )
