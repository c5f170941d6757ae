"""An objective tried on lessons before there is a model: what it lacks is said before anything is computed."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from prefine.engine.batch import collate_contrasts
from prefine.errors import InputError
from prefine.objectives.readings import gathered
from prefine.objectives.scores import Objective, Scores, traits
from prefine.policies.base import Row
from prefine.slate import Contrast

MOST = 16
"""Words of a response that are looked at."""


def dry_run(objective: Objective, contrasts: Sequence[Contrast]) -> None:
    """Raise the InputError that training would end with because of the form or the values of the contrasts.

    Log-probabilities are made up: a tenth of a nat a word. An objective that looks into the models themselves is
    not tried.
    """
    if gathered(objective) or not contrasts:
        return
    rows = [tuple(_row(contrast, member) for member in range(len(contrast.members))) for contrast in contrasts]
    batch = collate_contrasts(contrasts, rows, dtype=torch.float64)
    logp_NT = -0.1 * batch.mask_NT
    scores = Scores(
        logp_NT=logp_NT,
        mask_NT=batch.mask_NT,
        role_N=batch.role_N,
        group_N=batch.group_N,
        references=dict.fromkeys(traits(objective)[0], logp_NT - 0.01 * batch.mask_NT),
        values=batch.values,
        prompt_logp_N=-torch.ones(len(batch.rows), dtype=torch.float64),
        prompt_tokens_N=torch.ones(len(batch.rows), dtype=torch.float64),
    )
    scores = replace(scores, ids_N=tuple(row.response for row in batch.rows))
    try:
        copy.deepcopy(objective)(scores).mean(scores)
    except (KeyError, ValueError) as error:
        raise unfit(error) from error


def unfit(error: Exception) -> InputError:
    """The user's view of an objective that cannot read its contrasts."""
    said = error.args[0] if error.args else error
    return InputError(
        f"the objective cannot learn from these contrasts: {said}",
        remedy="give it the form it needs, or choose another objective; where --curator can be set, extremes and "
        "all-pairs make pairs, labelled and points single responses with labels, ranked lists, win-rates pairs with "
        "values",
    )


def _row(contrast: Contrast, member: int) -> Row:
    words = contrast.response(member).split()[:MOST] or [""]
    ids = tuple(zlib.crc32(word.encode()) % 1000 for word in words)
    return Row((0,), ids, (1.0,) * len(ids))
