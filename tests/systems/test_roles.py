"""Who does what in every loop: which policy samples, judges, is trained, is the reference, in which round.

The recipes run on a run that only writes down what it was asked, so these tests read like the papers' algorithms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from prefine.catalogue import find
from prefine.errors import InputError


@dataclass(frozen=True)
class Thing:
    """Stands for an artifact: says how it was made."""

    name: str
    path: str = ""

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@dataclass
class Written:
    """A run that does nothing and writes everything down."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    trained: int = 0
    round: int | None = None

    def _note(self, verb: str, **about: Any) -> None:
        self.calls.append((verb, {"round": self.round, **about}))

    def of(self, verb: str) -> list[dict[str, Any]]:
        return [about for name, about in self.calls if name == verb]

    def rounds(self, n: int) -> Iterator[int]:
        for self.round in range(n):
            yield self.round
        self.round = None

    def slice(self, prompts: Thing, i: int, of: int) -> Thing:
        return Thing(f"{prompts.name}[{i}/{of}]")

    def sample(self, policy: Thing, prompts: Thing, **options: Any) -> Thing:
        self._note("sample", policy=policy.name, prompts=prompts.name, **options)
        return Thing(f"slates of {policy.name}")

    def judge(self, slates: Thing, judge: Any, **options: Any) -> Thing:
        self._note("judge", slates=slates.name, judge=judge, **options)
        return Thing(f"judged {slates.name}")

    def curate(self, slates: Any, curator: Any, **options: Any) -> Thing:
        self._note("curate", slates=getattr(slates, "name", slates), curator=curator)
        return Thing(f"pairs {len(self.of('curate'))}")

    def combine(self, a: Thing, b: Thing) -> Thing:
        return Thing(f"{a.name} + {b.name}")

    def join(self, *parts: Thing) -> Thing:
        return Thing(" & ".join(p.name for p in parts))

    def bare(self, slates: Thing) -> Thing:
        return slates

    def train(
        self, policy: Thing, contrasts: Thing, *, objective: Any, reference: Any = None, **settings: Any
    ) -> Thing:
        reference = policy if reference is None else reference
        self._note(
            "train", policy=policy.name, on=contrasts.name, objective=objective, reference=reference.name, **settings
        )
        self.trained += 1
        return Thing(f"M{self.trained}")

    def fit(self, policy: Thing, contrasts: Thing, **options: Any) -> Thing:
        self._note("fit", policy=policy.name, on=contrasts.name, **options)
        return Thing(f"R{len(self.of('fit'))}")

    def merge(self, weights: Mapping[Thing, float], **options: Any) -> Thing:
        self._note("merge", weights={p.name: w for p, w in weights.items()})
        return Thing(f"E{len(self.of('merge'))}")

    def policy(self, path: str) -> Thing:
        return Thing(f"policy at {path}")

    def note(self, **figures: Any) -> None: ...

    def watch(self, policy: Thing) -> dict[str, float]:
        return {}


M0, X, J = Thing("M0"), Thing("X"), object()


def go(key: str, *inputs: Any, **options: Any) -> Written:
    run = Written()
    run.result = find(key).recipe(run, M0, *inputs, **options)  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("key", ["ilr-dpo", "sppo", "iterate", "iterative-dpo-gshf"])
def test_plain_loops_sample_from_and_refer_to_the_last_round(key: str) -> None:
    run = go(key, X, J)
    assert [c["policy"] for c in run.of("sample")] == ["M0", "M1", "M2"]
    assert [c["prompts"] for c in run.of("sample")] == ["X[0/3]", "X[1/3]", "X[2/3]"]  # fresh prompts each round
    assert [(c["policy"], c["reference"]) for c in run.of("train")] == [("M0", "M0"), ("M1", "M1"), ("M2", "M2")]
    assert run.result.name == "M3"  # type: ignore[attr-defined]


def test_iterate_can_keep_the_first_policy_as_reference() -> None:
    run = go("iterate", X, J, reference="start")
    assert [(c["policy"], c["reference"]) for c in run.of("train")] == [("M0", "M0"), ("M1", "M0"), ("M2", "M0")]


def test_gshf_theory_trains_from_the_first_policy_on_all_pairs_so_far() -> None:
    run = go("iterative-dpo-gshf", X, J, reference="start")
    assert [(c["policy"], c["reference"]) for c in run.of("train")] == [("M0", "M0")] * 3
    assert [c["on"] for c in run.of("train")] == ["pairs 1", "pairs 1 & pairs 2", "pairs 1 & pairs 2 & pairs 3"]


def test_gshf_hybrid_puts_the_offline_pairs_among_the_lessons() -> None:
    run = go("iterative-dpo-gshf", X, J, Thing("offline"), mode="hybrid")
    assert [c["on"] for c in run.of("train")] == ["offline & pairs 1", "offline & pairs 2", "offline & pairs 3"]
    with pytest.raises(InputError, match="needs offline pairs"):
        go("iterative-dpo-gshf", X, J, mode="hybrid")


def test_gshf_offline_goes_down_the_ladder() -> None:
    run = go("iterative-dpo-gshf", X, J, mode="offline", rounds=3, beta=0.5)
    steps = [(c["curator"].eta, c["curator"].eta_before) for c in run.of("curate")]
    assert steps[0] == (1.5, float("inf")) and steps[1] == (0.75, 1.5) and steps[2] == (pytest.approx(0.5), 0.75)
    assert [c["policy"] for c in run.of("sample")] == ["M0", "M1", "M2"]


@pytest.mark.parametrize("wrong", [{"mode": "onlin"}, {"pairing": "best"}, {"reference": "both"}])
def test_gshf_names_what_it_does_not_know(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match="not a combination"):
        go("iterative-dpo-gshf", X, J, **wrong)


def test_accelerated_po_extrapolates_between_trained_iterates() -> None:
    run = go("apo-accelerated", X, J, alpha=0.3)
    assert run.of("merge") == [
        {"round": 0, "weights": {"M1": 1.3, "M0": -0.3}},
        {"round": 1, "weights": {"M2": 1.3, "M1": -0.3}},  # M2 - M1, not M2 - E1
        {"round": 2, "weights": {"M3": 1.3, "M2": -0.3}},
    ]
    assert [c["policy"] for c in run.of("sample")] == ["M0", "E1", "E2"]
    assert [(c["policy"], c["reference"]) for c in run.of("train")] == [("M0", "M0"), ("E1", "E1"), ("E2", "E2")]
    assert run.result.name == "M3"  # type: ignore[attr-defined]  (the last trained one)


def test_dice_scores_with_a_reference_that_lags_one_round() -> None:
    run = go("dice", X, Thing("human pairs"))
    assert next((c["policy"], c["reference"], c["on"]) for c in run.of("train")) == ("M0", "M0", "human pairs")
    judges = [(c["judge"].policy.name, c["judge"].reference.name) for c in run.of("judge")]
    assert judges == [("M1", "M0"), ("M2", "M1")]
    assert {c["role"] for c in run.of("judge")} == {"view"}, "its own view is nobody's label"
    assert [(c["policy"], c["reference"]) for c in run.of("train")][1:] == [("M1", "M1"), ("M2", "M2")]
    assert [c["prompts"] for c in run.of("sample")] == ["X", "X"]
    assert all(c["curator"].gamma == 0.5 and c["curator"].offline.name == "human pairs" for c in run.of("curate"))


def test_dice_takes_a_policy_that_is_dpo_trained_already() -> None:
    run = go("dice", X, Thing("human pairs"), trained_from="SFT")
    judges = [(c["judge"].policy.name, c["judge"].reference.name) for c in run.of("judge")]
    assert judges == [("M0", "policy at SFT"), ("M1", "M0")]


@dataclass(frozen=True)
class Mirror:
    """A judge that is the policy itself."""

    speaker: str = "?"

    def spoken_by(self, policy: Thing) -> Mirror:
        return Mirror(policy.name)


def test_temporal_self_rewarding_has_past_present_and_future() -> None:
    run = go("temporal-sr", X, Mirror(), rounds=2, n=7)
    # round 0: M0 and its past self, M1 is the throw-away future, M2 the result; round 1: M2, past M0, future M3, M4
    assert [(c["policy"], c["role"]) for c in run.of("sample")] == [
        ("M0", "current"), ("M0", "past"), ("M1", "future"),
        ("M2", "current"), ("M0", "past"), ("M3", "future"),
    ]  # fmt: skip
    assert [c["judge"].speaker for c in run.of("judge")] == ["M0", "M0", "M2", "M2"]  # M_i judges everything
    assert {c["role"] for c in run.of("judge")} == {"view"}, "and asks nobody"
    assert {c["role"] for c in go("temporal-sr", X, J).of("judge")} == {"annotator"}
    assert [(c["policy"], c["reference"]) for c in run.of("train")] == [
        ("M0", "M0"), ("M0", "M0"), ("M2", "M2"), ("M2", "M2"),
    ]  # fmt: skip
    assert run.result.name == "M4"  # type: ignore[attr-defined]


def test_temporal_without_past_and_future_is_plain_self_rewarding() -> None:
    run = go("temporal-sr", X, Mirror(), past=False, future=False)
    assert [(c["policy"], c["role"]) for c in run.of("sample")] == [("M0", "current"), ("M1", "current")]
    assert run.trained == 2


def test_dpo_vp_raises_the_temperature_and_keeps_all_prompts() -> None:
    run = go("dpo-vp", X, J)
    assert [c["temperature"] for c in run.of("sample")] == [0.7, 0.7, 0.7, 1.0, 1.0, 1.2]
    assert {c["prompts"] for c in run.of("sample")} == {"X"}
    assert [c["policy"] for c in run.of("sample")] == ["M0", "M1", "M2", "M3", "M4", "M5"]
    assert all(c["policy"] == c["reference"] for c in run.of("train"))


def test_dpo_vp_refits_the_process_reward_model_after_every_round() -> None:
    run = go("dpo-vp", X, J, rounds=2, process_reward=True)
    assert [c["policy"] for c in run.of("fit")] == ["M0", "R1", "R2"]
    process = [c["judge"].model.name for c in run.of("judge") if hasattr(c["judge"], "model")]
    assert process == ["R1", "R2"]  # round 1's R judges round 1; refitted, it judges round 2


def test_scpo_votes_without_the_extra_samples_and_raises_tau() -> None:
    run = go("scpo", X, rounds=2, n=8, extra=8)
    drawn = [(c["role"], c["n"], c["temperature"]) for c in run.of("sample")]
    assert drawn == [("voter", 8, 0.7), ("voter", 8, 0.7), ("extra", 8, 1.2)]
    assert [c["curator"].tau for c in run.of("curate")] == [0.5, 0.7]
    assert all(c["judge"].voters == "voter" for c in run.of("judge"))


def test_sppo_trains_as_released() -> None:
    run = go("sppo", X, J)
    assert {(c["optimizer"], c["schedule"]) for c in run.of("train")} == {("rmsprop", "linear")}
    assert {(c["n"], c["temperature"], c["top_p"]) for c in run.of("sample")} == {(5, 0.7, 0.9)}
