"""The embedded worlds: small tasks with a known gold reward to try methods on. One file each."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from functools import cache

from prefine.errors import InputError
from prefine.worlds.base import World

NAMES = ("arithmetic", "assistant", "dialogues", "games", "remedies", "reviews", "spelling", "statutes")
"""Every world, one module each in this package with a ``WORLD`` in it."""


def find_world(name: str) -> World:
    """A world by name (``assistant``), or a variant of it (``arithmetic:misled``)."""
    plain, _, variant = name.partition(":")
    if plain not in NAMES:
        close = get_close_matches(plain, NAMES, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise InputError(f"there is no world {name!r}", remedy=f"{hint}the worlds are {', '.join(NAMES)}")
    return _variant(plain, variant) if variant else _load(plain)


def worlds() -> tuple[World, ...]:
    """Every world, by name."""
    return tuple(find_world(name) for name in NAMES)


@cache
def _load(name: str) -> World:
    return importlib.import_module(f"prefine.worlds.{name}").WORLD


def _variant(name: str, variant: str) -> World:
    there = getattr(importlib.import_module(f"prefine.worlds.{name}"), "VARIANTS", {})
    if variant not in there:
        raise InputError(
            f"world {name!r} has no variant {variant!r}",
            remedy=f"its variants are {', '.join(there)}" if there else f"use {name!r} as it is",
        )
    return there[variant]
