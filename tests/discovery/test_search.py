"""The loop of DiscoPOP: who is asked what, what is trained, what is returned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prefine.discovery import Proposed, best, search
from prefine.discovery.dialogue import ARCHIVE, Conversation, opening
from prefine.discovery.examples import PROPOSALS, VALID
from prefine.discovery.proposers import Grammar, Scripted, find
from prefine.errors import InputError, RunStopped
from prefine.judging.base import Scored
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair
from prefine.systems.objectives.discopop import discopop

torch.set_num_threads(1)


def test_exactly_the_valid_proposals_are_trained_and_the_fittest_is_best() -> None:
    worth = {"turned": 0.1, "logistic": 0.7, "flat": 0.2, "exponential": 0.9, "lrml": 0.8}
    trained: list[str] = []

    def fitness(loss: Proposed) -> float:
        trained.append(loss.name)
        return worth[loss.name]

    attempts, conversation = search(Scripted(tuple(PROPOSALS.values())), fitness, range(10))
    assert set(trained) == VALID and len(trained) == 5
    assert sum(a.fitness is None for a in attempts) == 5 and all(a.error for a in attempts if a.fitness is None)
    top = best(attempts)
    assert top is not None and top.loss is not None and top.loss.name == "exponential" and top.fitness == 0.9
    answers = [m["content"] for m in conversation if m["role"] == "user"][1:]
    assert sum(a.startswith("Code not valid") for a in answers) == 5
    assert any(a == "Fitness: 0.9. Please generate the next one." for a in answers)


def test_the_conversation_is_the_memory() -> None:
    heard: list[Conversation] = []

    def propose(conversation: Conversation) -> str:
        heard.append(conversation)
        return "nothing"

    search(propose, lambda loss: 0.0, range(3))
    assert [len(c) for c in heard] == [2, 4, 6]
    first = heard[0]
    assert first == opening(ARCHIVE) and first[0]["role"] == "system" and "0.05" in first[0]["content"]
    assert all(f'"fitness": {k.fitness}' in first[1]["content"] for k in ARCHIVE)
    assert heard[2][:4] == heard[1] and heard[1][2] == {"role": "assistant", "content": "nothing"}


def test_a_loss_that_diverges_is_answered_and_not_fatal() -> None:
    def fitness(loss: Proposed) -> float:
        raise RunStopped("the loss is not a number in step 3")

    attempts, conversation = search(Scripted((PROPOSALS["lrml"],)), fitness, range(1))
    assert attempts[0].fitness is None and "step 3" in conversation[-1]["content"] and best(attempts) is None


@pytest.mark.parametrize("seed", range(4))
def test_the_grammar_writes_losses_that_are_valid(seed: int) -> None:
    attempts, _ = search(Grammar(seed), lambda loss: 0.0, range(3))
    assert all(a.fitness == 0.0 for a in attempts), [a.error for a in attempts]
    assert len({a.reply for a in attempts}) == 3


def start(tmp_path: Path) -> tuple[Run, dict[str, object]]:
    from prefine.engine.settings import TrainSettings

    Tabular(["p"], ["good", "bad"]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({"lr": 0.2, "max_steps": 10, "warmup": 0.0}))
    prompts = run.slates([Slate("p", meta={"id": str(i)}) for i in range(8)])
    slates = run.slates([Slate("p", (Candidate("good"), Candidate("bad")))])
    pairs = run.curate(slates, lambda rows, rng: [pair(s, 0, 1) for s in rows])
    judge = Scored(lambda slate: [float(c.text == "good") for c in slate.candidates])
    return run, {"policy": run.policy(tmp_path / "base"), "pairs": pairs, "prompts": prompts, "judge": judge}


def test_the_recipe_returns_the_policy_of_the_best_proposal(tmp_path: Path) -> None:
    run, inputs = start(tmp_path)
    script = tmp_path / "script.jsonl"
    script.write_text("\n".join(PROPOSALS[name] for name in ("turned", "not a number", "exponential")))
    done = discopop(run, **inputs, generations=3, proposer=f"script:{script}")  # type: ignore[arg-type]
    assert float(done.load().probabilities("p")[0]) > 0.6  # type: ignore[attr-defined]
    notes = [json.loads(row) for row in (run.dir / "notes.jsonl").read_text().splitlines()]
    assert [row["valid"] for row in notes] == [1.0, 0.0, 1.0]


def test_without_a_search_it_trains_with_the_loss_named(tmp_path: Path) -> None:
    """LRML from the reference itself, with small steps: into the trap at rho = -2.37140 (beta 0.05)."""
    run, inputs = start(tmp_path)
    run.settings = replace(run.settings, lr=0.05, max_steps=400)
    for loss, where in {"lrml": (-2.372, -2.371), "cell": (5.0, 99.0)}.items():
        done = discopop(run, inputs["policy"], inputs["pairs"], loss=loss)  # type: ignore[arg-type]
        logp = done.load().logp_PA().detach()[0]  # type: ignore[attr-defined]
        assert where[0] < float(logp[0] - logp[1]) < where[1]


def test_a_search_says_what_it_needs_before_it_starts(tmp_path: Path) -> None:
    run, inputs = start(tmp_path)
    with pytest.raises(InputError, match="needs prompts and a judge"):
        discopop(run, inputs["policy"], inputs["pairs"], generations=2)  # type: ignore[arg-type]
    for wrong in ("grammer", "script:nowhere.jsonl", "model:nowhere", "endpoint:x", "grammar:x"):
        with pytest.raises(InputError):
            find(wrong, run)
    script = tmp_path / "none.jsonl"
    script.write_text("no loss\n")
    with pytest.raises(InputError, match="none of 2 proposals"):
        discopop(run, **inputs, generations=2, proposer=f"script:{script}")  # type: ignore[arg-type]


def test_a_model_is_asked_with_the_conversation_and_heard_again(tmp_path: Path) -> None:
    """Its replies are artifacts: a second run of the same search asks nobody."""
    from prefine.discovery.proposers import Spoken

    conversation = opening()
    Tabular([conversation], [PROPOSALS["lrml"]]).save(tmp_path / "speaker")
    run = Run(tmp_path / "run")
    spoken = Spoken(run, tmp_path / "speaker")
    assert spoken(conversation) == PROPOSALS["lrml"]
    assert Spoken(Run(tmp_path / "run"), tmp_path / "speaker")(conversation) == PROPOSALS["lrml"]
