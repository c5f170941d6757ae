"""Settings on the command line that depend on the system: recipe options, training and sampling settings.

``prefine run`` knows its own few flags; every other ``--name value`` is looked up in the recipe's signature,
then among training and sampling settings. A name that several have belongs to the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefine.errors import InputError
from prefine.options import NO, YES, Option

Words = list[str]


def split(arguments: Sequence[str], own: Mapping[str, bool]) -> tuple[Words, dict[str, str]]:
    """(what the command itself understands, the other settings as name -> text).

    ``own``: the command's flags, and whether each takes a value.

    >>> split(["sppo", "--rounds", "3", "--seed", "1", "--no-shuffle"], {"--seed": True})
    (['sppo', '--seed', '1'], {'rounds': '3', 'shuffle': 'false'})
    """
    mine: Words = []
    others: dict[str, str] = {}
    i = 0
    while i < len(arguments):
        word = arguments[i]
        flag, equals, text = word.partition("=")
        following = arguments[i + 1] if i + 1 < len(arguments) else None
        i += 1
        if flag in own or not word.startswith("--") or word == "--":
            mine.append(word)
            if own.get(flag) and not equals and following is not None:
                mine.append(following)
                i += 1
            continue
        name = flag[2:].replace("-", "_")
        if not equals:
            text, used = _value(name, following)
            i += used
            name = name.removeprefix("no_") if text == "false" and not used else name
        if name in others:
            raise InputError(f"--{name.replace('_', '-')} is given twice", remedy="give it once")
        others[name] = text
    return mine, others


def sort_out(
    settings: Mapping[str, str],
    recipe: Mapping[str, Option],
    train: Mapping[str, Option],
    sampling: Mapping[str, Option],
    system: str,
) -> dict[str, dict[str, Any]]:
    """Each setting converted and in its group: ``{"options": ..., "train": ..., "sampling": ...}``."""
    groups: dict[str, dict[str, Any]] = {"options": {}, "train": {}, "sampling": {}}
    for name, text in settings.items():
        for group, known in (("options", recipe), ("train", train), ("sampling", sampling)):
            if name in known:
                groups[group][name] = known[name].convert(text)
                break
        else:
            raise _unknown(name, system, recipe, {**sampling, **train})
    both = groups["train"].keys() & {"epochs", "max_steps"}
    if len(both) == 2:
        raise InputError("--epochs and --max-steps contradict each other", remedy="give one of them")
    return groups


def _value(name: str, following: str | None) -> tuple[str, int]:
    """The text of ``--name`` and how many words it took: the next word, or none for a switch."""
    if following is not None and not following.startswith("--"):
        return following, 1
    return (NO[0] if name.startswith("no_") else YES[0]), 0


def _unknown(name: str, system: str, recipe: Mapping[str, Option], general: Mapping[str, Option]) -> InputError:
    from difflib import get_close_matches

    close = get_close_matches(name, [*recipe, *general], n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join('--' + c.replace('_', '-') for c in close)}? " if close else ""
    own = ", ".join(option.flag for option in recipe.values()) or "none"
    return InputError(
        f"{system} has no option --{name.replace('_', '-')}",
        remedy=f"{hint}its own options are: {own}; `prefine run {system} --help` lists all others",
    )
