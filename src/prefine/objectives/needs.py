"""What an objective can learn from, found out by trying it: forms of contrasts, values, references.

Nothing has to be declared, so nothing that is declared can be wrong: the objective is called on made-up scores of
every form, and the values it asks for are noted.

>>> from prefine.objectives import dpo, kto, lcpo, soft_labels
>>> needs(soft_labels(dpo())).forms, needs(soft_labels(dpo())).values
(('pairs', 'lists'), ('preference',))
>>> needs(lcpo(dpo())).takes, needs(kto()).forms
(('annotator',), ('labels', 'lists'))
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prefine.errors import InputError
from prefine.objectives import readings
from prefine.objectives.scores import Objective, Scores, traits

FORMS: Mapping[str, tuple[int, ...]] = {
    "labels": (1, 0),
    "pairs": (1, -1),
    "demos": (1,),
    "lists": (1, 0, -1),
}
"""Form -> the roles of a contrast of it; a label brings a response to another prompt along. "lists" are ranked, the
best first; sets of any roles are like them."""


@dataclass(frozen=True)
class Needs:
    """The forms of contrasts it can learn from, and the values: those it cannot do without, those it takes."""

    forms: tuple[str, ...]
    values: tuple[str, ...]
    takes: tuple[str, ...]
    references: tuple[str, ...]
    reads_prompt: bool
    sets: bool = False
    """Whether a list is two sets to it, accepted and rejected, and not a ranking."""
    why: str = ""
    """What it says of pairs, where it takes no form at all."""


class Asked(dict[str, Tensor]):
    """Values that note which of them were asked for."""

    def __init__(self, *given: Mapping[str, Tensor]) -> None:
        super().__init__(*given)
        self.names: dict[str, None] = {}

    def __contains__(self, name: object) -> bool:
        self.names[str(name)] = None
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Tensor:
        self.names[name] = None
        return super().__getitem__(name)


def needs(objective: Objective) -> Needs:
    """See the module. An objective that asks for something else altogether has no forms, and says why."""
    forms: list[str] = []
    values: dict[str, None] = {}
    takes: dict[str, None] = {}
    why = ""
    for form, roles in FORMS.items():
        try:
            missing, asked = _tried(objective, made_up(objective, roles))
        except (ValueError, KeyError, InputError, IndexError, RuntimeError) as error:
            why = str(error.args[0]) if form == "pairs" and error.args else why
            continue
        forms.append(form)
        values |= dict.fromkeys(missing)
        takes |= dict.fromkeys(asked)
    names, reads_prompt, _ = traits(objective)
    optional = tuple(name for name in takes if name not in values)
    return Needs(tuple(forms), tuple(values), optional, names, reads_prompt, _of_sets(objective), why)


def _of_sets(thing: object) -> bool:
    return getattr(thing, "of_sets", False) or any(map(_of_sets, readings.inside(thing)))


def _tried(objective: Objective, scores: Scores) -> tuple[list[str], list[str]]:
    """(values it cannot do without, values it asked for). Values are tried as one a contrast, then one a member."""
    missing: dict[str, Tensor] = {}
    members: set[str] = set()
    while True:
        asked = Asked(missing)
        try:
            copy.deepcopy(objective)(replace(scores, values=asked))
            return list(missing), list(asked.names)
        except KeyError:
            new = next((name for name in reversed(asked.names) if name not in missing), None)
            if new is None:
                raise
            missing[new] = torch.full((scores.groups,), 0.25, dtype=torch.float64)
        except (ValueError, RuntimeError, IndexError):
            last = next((n for n in reversed(list(missing)) if n not in members), None)
            if last is None:
                raise
            members.add(last)
            missing[last] = torch.full((len(scores.role_N),), 0.25, dtype=torch.float64)


def made_up(objective: Objective, roles: tuple[int, ...], groups: int = 3) -> Scores:
    """Scores of a few contrasts with these roles: two tokens a response, unlike numbers."""
    N = groups * len(roles)
    places = torch.arange(N, dtype=torch.float64)
    logp_NT = -torch.stack([0.3 + 0.01 * places, 0.2 + 0.03 * places], 1)
    return Scores(
        logp_NT=logp_NT,
        mask_NT=torch.ones(N, 2, dtype=torch.float64),
        role_N=torch.tensor(roles).repeat(groups),
        group_N=torch.arange(groups).repeat_interleave(len(roles)),
        references={name: logp_NT - 0.05 * (1 + torch.sin(places))[:, None] for name in traits(objective)[0]},
        readings=readings.made_up(objective, logp_NT),
        prompt_logp_N=-torch.ones(N, dtype=torch.float64),
        prompt_tokens_N=torch.full((N,), 2.0, dtype=torch.float64),
        ids_N=tuple((n, n + 1) for n in range(N)),
    )
