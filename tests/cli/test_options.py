"""Options by type: from text, from YAML values, from signatures and dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from prefine.catalogue import systems
from prefine.config import Inputs
from prefine.errors import InputError
from prefine.options import convert, describe, of_dataclass, of_function, settable


@pytest.mark.parametrize(
    ("wanted", "text", "value"),
    [
        (int, "3", 3),
        (int, "10_000", 10000),
        (float, "1e-5", 1e-5),
        (float, "3", 3.0),
        (float, 3, 3.0),
        (float, "inf", float("inf")),
        (bool, "true", True),
        (bool, "No", False),
        (str, "none", "none"),
        (str | None, "none", None),
        (float | None, "none", None),
        (float | None, None, None),
        (int | None, "7", 7),
        (float | str, "0.5", 0.5),
        (str | float, "mean", "mean"),
        (Literal["a", "b"], "b", "b"),
        (Literal[1, 2], "2", 2),
        (tuple[float, float], "0.9,0.99", (0.9, 0.99)),
        (tuple[float, float], [0.9, 1], (0.9, 1.0)),
        (tuple[str, ...], "a, b", ("a", "b")),
        (tuple[str, ...], "", ()),
        (list[int], "1,2", [1, 2]),
        (Mapping[str, float], "a=1,b=2", {"a": 1.0, "b": 2.0}),
        (dict[str, Any], {"a": [1]}, {"a": [1]}),
    ],
)
def test_values_become_what_is_asked_for(wanted: Any, text: Any, value: Any) -> None:
    got = convert(wanted, text, "x")
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (int, "3.5"), (int, 3.0), (int, True), (float, "fast"), (float, True), (float, "nan"), (bool, "maybe"),
        (bool, 1), (str, 3), (Literal["a"], "c"), (tuple[float, float], "1"), (tuple[int, ...], "1,x"),
        (Mapping[str, float], "a"), (float | None, "fast"), (object, "anything"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_is_wanted(wanted: Any, text: Any) -> None:
    with pytest.raises(InputError) as caught:
        convert(wanted, text, "x")
    assert "x=" in caught.value.message and caught.value.remedy == f"give {describe(wanted)}"


def recipe(run: Any, policy: Any, *, beta: float = 0.1, mode: Literal["a", "b"] = "a", parts=None, free=3) -> None:  # type: ignore[no-untyped-def]
    """What it does.

    beta: how close to stay. mode, free: two
    in one breath.
    """


def test_a_signature_is_the_whole_declaration() -> None:
    options = of_function(recipe)
    assert list(options) == ["beta", "mode", "parts", "free"]
    assert (options["beta"].type, options["beta"].default) == (float, 0.1)
    assert options["free"].type is int, "without an annotation the default says the type"
    assert options["beta"].help == "how close to stay."
    assert options["mode"].help == options["free"].help == "two in one breath."
    assert options["mode"].flag == "--mode"


def test_postponed_annotations_that_cannot_be_resolved_fall_back_to_the_default() -> None:
    def late(run: NotThere, *, rounds: int = 3, odd: AlsoNotThere = 2.0) -> None:  # type: ignore[name-defined]  # noqa: F821
        ...

    options = of_function(late)
    assert options["rounds"].type is int and options["odd"].type is float


def test_fields_of_a_dataclass_with_the_text_below_them() -> None:
    from prefine.engine.settings import TrainSettings

    options = of_dataclass(TrainSettings, without=["seed"])
    assert "seed" not in options
    assert options["epochs"].help.startswith("Passes over the contrasts")

    @dataclass
    class Local:
        a: int = 1

    assert of_dataclass(Local)["a"].type is int


def test_names_with_one_meaning_are_checked_wherever_they_appear() -> None:
    def any_recipe(run: Any, *, rounds: int = 3, top_p: float = 1.0) -> None: ...

    options = of_function(any_recipe)
    assert options["rounds"].convert("2") == 2
    for name, text in (("rounds", "0"), ("top_p", "1.1"), ("top_p", "0")):
        with pytest.raises(InputError):
            options[name].convert(text)


def test_every_option_of_every_system_can_be_written_on_a_command_line() -> None:
    from prefine.catalogue import systems

    for system in systems():
        for option in of_function(system.recipe).values():
            assert settable(option.type), f"{system.key} --{option.name}: {option.type}"
            if option.default is not None:
                assert option.convert(option.default) == option.default


def test_no_recipe_has_an_option_that_a_flag_for_inputs_would_take() -> None:
    """--candidates and --annotator say what a world brings: an option of that name could not be set."""
    taken = set(Inputs.model_fields)
    assert [(s.key, o) for s in systems() for o in s.options if o in taken] == []
