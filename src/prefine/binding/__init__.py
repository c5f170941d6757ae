"""From a configuration to what a recipe asks for: its inputs, bound to a world or to the user's own files."""

from __future__ import annotations

from prefine.binding.base import Source
from prefine.binding.user import UserSource
from prefine.binding.world import WorldSource
from prefine.config import Inputs, RunConfig
from prefine.errors import InputError

OF_A_WORLD = ("world", "annotator", "candidates")
OF_A_USER = ("model", "data", "prompts", "eval_data", "format", "columns", "skip_problems")


def source_of(config: RunConfig, default_world: str) -> Source:
    """Where the inputs come from. A world and own files do not mix; without either it is the system's world. A judge
    may be named for both: in a world it takes the place of the annotator."""
    given = config.inputs
    own = _given(given, OF_A_USER)
    flag = f"--{own[0].replace('_', '-')}" if own else ""
    if given.world is not None and own:
        raise InputError(
            f"--world and {flag} contradict each other: a world brings its own model, data and judge",
            remedy=f"leave out --world to use your own, or {flag} to use the world's",
        )
    if not own:
        return WorldSource(config, given.world or default_world)
    of_a_world = _given(given, OF_A_WORLD)
    if of_a_world:
        raise InputError(
            f"--{of_a_world[0]} is for worlds and contradicts {flag}",
            remedy=f"leave out --{of_a_world[0]}; who judges your own data is said with --judge",
        )
    return UserSource(config)


def _given(inputs: Inputs, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(inputs, name) is not None]


__all__ = ["Source", "UserSource", "WorldSource", "source_of"]
