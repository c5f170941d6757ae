"""Any wrapper over any pair loss, any curriculum, any reference schedule: the grammar, and a grid of two steps each."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine import registry
from prefine.curating.curriculum import CURRICULA, curriculum
from prefine.engine.reference import Moving, following
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.errors import InputError
from prefine.fingerprint import key_of
from prefine.objectives.needs import needs
from prefine.objectives.readings import gathered
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Contrast, Slate, pair, scores

torch.set_num_threads(1)
PROMPTS, ACTIONS = 6, 4


# -- the grid

ONCE = {factory: name for name, factory in o.WRAPPERS.items()}.values()  # one of several names for the same
WRAPPED = ["", *(f"{name}:" for name in ONCE), "lcpo:length:", "weighted:robust:", "plus-likelihood:lcpo:"]
ORDERS = [
    "shuffled",
    "plain",
    "margin",
    "length(stages=2)",
    "similarity(hard_first=true)",
    "value(name=level,stages=2)",
]
SCHEDULES = ["fixed", "synced:every=1", "trailing:alpha=0.5,every=1"]
VALUES = {"weight": 0.5, "preference": 0.8, "margin": 0.5, "gap": 0.5, "annotator": 1.0, "level": 1.0,
          "win": (0.7, 0.4), "score": (1.0, 0.2), "calibration": (1.0, 0.0), "rationale": (0.0, 0.0)}  # fmt: skip


def pair_losses() -> list[str]:
    """Objectives that learn from pairs and see nothing but log-probabilities."""
    found = []
    for name, factory in o.FACTORIES.items():
        made = factory()
        if "pairs" in needs(made).forms and set(needs(made).values) <= VALUES.keys() and not gathered(made):
            found.append(name)
    return found


def combinations() -> list[tuple[str, str, str]]:
    """Every wrapper with every second pair loss (another half for the next wrapper), curricula and schedules going
    round."""
    losses, rest = pair_losses(), itertools.cycle(itertools.product(ORDERS, SCHEDULES))
    return [(f"{w}{loss}", *next(rest)) for i, w in enumerate(WRAPPED) for loss in losses[i % 2 :: 2]]


def lessons() -> list[Contrast]:
    rng, found = random.Random(0), []
    for i in range(8):
        slate = Slate(f"x{i % PROMPTS}", tuple(Candidate(f"answer {'a' * (k + 1)}") for k in range(ACTIONS)))
        chosen, rejected = rng.sample(range(ACTIONS), 2)
        values = {**VALUES, "level": float(i % 3), "annotator": float(i % 2), "weight": 0.2 + 0.1 * i}
        found.append(pair(slate.with_feedback("score", scores([3.0, 1.0, 2.0, 0.0])), chosen, rejected, **values))
    return found


def policies() -> tuple[Tabular, Tabular]:
    rng = np.random.default_rng(0)
    names, actions = [f"x{i}" for i in range(PROMPTS)], [f"answer {'a' * (k + 1)}" for k in range(ACTIONS)]
    start, other = (rng.normal(size=(PROMPTS, ACTIONS)) for _ in range(2))
    return Tabular(names, actions, start), Tabular(names, actions, other)


UNFIT = ("no other order", "no margin", "hidden states", "'level' is needed", "one value a contrast")
"""What a combination may say that cannot be: it is said before anything is computed."""


def two_steps(text: str, order: str, schedule: str) -> list[dict[str, float]]:
    """Rows of metrics; an InputError where the combination has no meaning."""
    policy, other = policies()
    loss, staged = o.read(text), curriculum(order)
    needed, how = needs(loss), following(schedule)
    if not needed.forms:
        raise InputError(needed.why or "nothing", remedy="")
    references = {name: Moving(how, start=other) if how.alpha else other for name in needed.references}
    rows: list[dict[str, float]] = []
    for i in range(staged.stages):
        contrasts = list(staged.stage(i)(lessons(), random.Random(0)))
        settings = TrainSettings(lr=0.05, batch_size=2, max_steps=2 // staged.stages, warmup=0.0, clip=None,
                                 shuffle=staged.shuffles)  # fmt: skip
        rows += [dict(row) for row in train(policy, contrasts, loss, references=references, settings=settings).metrics]
    assert all(torch.isfinite(p).all() for p in policy.module.parameters())
    return rows


def test_a_grid_of_combinations_trains() -> None:
    done, refused = 0, []
    for text, order, schedule in combinations():
        try:
            rows = two_steps(text, order, schedule)
        except InputError as error:
            assert any(said in error.message for said in UNFIT), (text, error.message)
            refused.append(text)
            continue
        where = f"{text} with {order} and {schedule}"
        assert len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows), where
        assert all(np.isfinite(row["grad_norm"]) for row in rows) and max(row["grad_norm"] for row in rows) > 0, where
        done += 1
    assert done >= 200, f"{done} of {done + len(refused)}"
    assert len(refused) < 0.3 * (done + len(refused)), refused


def test_all_named_curricula_are_in_the_grid() -> None:
    assert {registry.read(order).name for order in ORDERS} == set(CURRICULA)


# -- the grammar


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("dpo", "dpo"),
        ("dpo:beta=0.2", {"dpo": {"beta": 0.2}}),
        (" DPO( beta = 2e-1 ) ", "dpo(beta=0.2)"),
        ("lcpo:dpo", {"lcpo": "dpo"}),
        ("robust(eps=0.2):simpo:beta=2.5", {"robust": {"eps": 0.2, "of": {"simpo": {"beta": 2.5}}}}),
        ("soft_labels:length(alpha=0.1):ipo", {"soft-labels": {"of": {"length": {"alpha": 0.1, "of": "ipo"}}}}),
        (
            "wpo:lcpo(eta=0.8):ipo(tau=0.3)",
            {"wpo": {"of": {"lcpo": {"eta": 0.8, "of": {"ipo": {"tau": 0.3}}}}}},
        ),
    ],
)
def test_text_and_yaml_say_the_same(text: str, same: object) -> None:
    keys = {key_of(objective=o.read(part)) for part in (text, same, registry.read(text).text)}  # type: ignore[arg-type]
    assert len(keys) == 1


def test_python_says_the_same() -> None:
    assert o.read("robust(eps=0.2):simpo(beta=2.5)") == o.robust(o.simpo(2.5), 0.2)
    assert o.read("plus-likelihood(eta=0.3):length(alpha=0.1):dpo") == o.plus_likelihood(
        o.length_regularised(0.1, 0.1), 0.3
    )
    made = o.read("wpo(calibration=none):lcpo(eta=0.8):ipo")
    by_hand = o.on_policy(o.lcpo(o.ipo(), 0.8), "none")
    assert key_of(objective=made) == key_of(objective=by_hand)


def test_a_name_that_is_both_is_the_objective_alone_and_the_wrapper_before_another() -> None:
    assert o.read("wpo(beta=0.2)") == o.wpo(0.2) == o.read("wpo:dpo(beta=0.2)")


WRONG = {
    "lpco:dpo": "lcpo",
    "lcpo:dop": "dpo",
    "lcpo": "lcpo:dpo",
    "dpo:simpo": "robust",
    "lcpo(etta=0.9):dpo": "eta",
    "dpo(beta=0.1": "name(option=value,...)",
    "dpo(beta)": "option=value",
    "(dpo)": "name",
    "dpo(beta=much)": "float",
    "robust(objective=dpo):dpo": "robust:OBJECTIVE",
    "length:sft": "dpo",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_with_what_would_be_right(text: str) -> None:
    with pytest.raises(InputError) as error:
        o.read(text)
    assert WRONG[text] in error.value.remedy


def test_a_mapping_is_one_part() -> None:
    for wrong in ({"dpo": 3}, {"dpo": {}, "simpo": {}}, {}):
        with pytest.raises(InputError):
            o.read(wrong)


def every_text() -> Iterator[str]:
    for wrapper in o.WRAPPERS:
        yield f"{wrapper}:dpo"
    yield from o.FACTORIES


@pytest.mark.parametrize("text", every_text())
def test_a_text_is_read_back_as_it_was(text: str) -> None:
    assert registry.read(text).text == text


# -- needs


def test_needs_are_found_out() -> None:
    found = needs(o.read("weighted(by=trust):margin(by=strength):dpo"))
    assert set(found.values) == {"trust", "strength"} and found.references == ("reference",)
    assert needs(o.read("reference-free:dpo")).references == ()
    assert needs(o.read("lcpo:dpo")).takes == ("annotator",)
    assert needs(o.orpo()).reads_prompt
    assert needs(o.kto()).forms[0] == "labels"
