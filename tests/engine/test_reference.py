"""References in training: stored, live and following; what follows is what the papers' equation says, and durable."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from prefine import artifacts
from prefine.engine.reference import Following, Moving, fixed, following, synced, trailing
from prefine.engine.score import logp_of, score_contrasts
from prefine.engine.settings import TrainSettings
from prefine.engine.train import Metrics, train
from prefine.errors import InputError
from prefine.objectives import dpo
from prefine.objectives.scores import Loss, Scores
from prefine.policies.base import Batch, Limits, Row
from prefine.policies.lora import LoraSettings, attach
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair
from prefine.store import read_jsonl

V = 31
LOG_2 = math.log(2.0)


class Ids:
    """The least language policy: a prompt and its responses are lists of ids."""

    kind = "ids"

    def __init__(self, seed: int = 0, lora: bool = False, dropout: float = 0.0, shift: int = 0) -> None:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            bos_token_id=0, eos_token_id=1, attention_dropout=dropout,
        )  # fmt: skip
        self.module: Any = LlamaForCausalLM(config).eval()
        self.shift = shift
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.mul_(8.0) if parameter.dim() > 1 else None
        if lora:
            torch.manual_seed(seed)
            self.module = attach(self.module, LoraSettings(rank=2, alpha=4.0))

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        read = lambda text: tuple(int(i) + self.shift for i in str(text).split())  # noqa: E731
        answers = [read(contrast.response(k)) for k in range(len(contrast.members))]
        return tuple(Row(read(contrast.slate.prompt), a, (1.0,) * len(a)) for a in answers)

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        return logp_of(self.module, batch.rows, width=batch.mask_NT.shape[1], with_prompt=with_prompt)


def contrasts(n: int = 6) -> list[Contrast]:
    rng = np.random.default_rng(0)
    text = lambda: " ".join(str(i) for i in rng.integers(2, V - 2, rng.integers(2, 6)))  # noqa: E731
    return [pair(Slate(text(), (Candidate(text()), Candidate(text())), meta={"id": str(i)}), 0, 1) for i in range(n)]


BETA = 0.2
HOW = TrainSettings(
    lr=0.05, max_steps=6, batch_size=2, optimizer="sgd", clip=None, warmup=0.0, schedule="constant", shuffle=False,
    save_every=1, precision="float32", tokens_per_microbatch=24,
)  # fmt: skip


def trained(
    reference: Any, policy: Ids | None = None, how: TrainSettings = HOW, **more: Any
) -> tuple[Ids, list[Metrics]]:
    policy = policy or Ids()
    result = train(policy, contrasts(), dpo(BETA), references={"reference": reference}, settings=how, **more)  # type: ignore[arg-type]
    return policy, [{k: v for k, v in row.items() if not k.startswith("time/")} for row in result.metrics]


def losses(rows: Sequence[Metrics]) -> list[float]:
    return [row["loss"] for row in rows]


def weights(policy: Ids) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in policy.module.named_parameters()}


def stored(policy: Ids) -> Any:
    return score_contrasts(policy, contrasts(), Limits())  # type: ignore[arg-type]


def by_hand(follow: Following, lora: bool = False) -> tuple[list[float], dict[str, Tensor]]:
    """The same training with two whole models, written down: pi, and ref <- (1 - alpha) ref + alpha pi."""
    policy, reference = Ids(lora=lora), Ids(lora=lora)
    told = []
    for step in range(HOW.max_steps or 0):
        batch = [contrasts()[i] for i in range(2 * (step % 3), 2 * (step % 3) + 2)]
        rows = [row for c in batch for row in policy.encode(c, Limits())]
        with torch.no_grad():
            base = logp_of(reference.module, rows, route="padded")[0].sum(-1)
        ratio = logp_of(policy.module, rows, route="padded")[0].sum(-1) - base
        loss = -nn.functional.logsigmoid(BETA * (ratio[0::2] - ratio[1::2])).mean()
        policy.module.zero_grad()
        loss.backward()
        told.append(float(loss.detach()))
        with torch.no_grad():
            for p in policy.module.parameters():
                p.sub_(p.grad, alpha=HOW.lr) if p.grad is not None else None
            if (step + 1) % follow.every == 0:
                for r, p in zip(reference.module.parameters(), policy.module.parameters(), strict=True):
                    r.copy_((1 - follow.alpha) * r + follow.alpha * p)
    return told, weights(policy)


# -- what following means


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapter"])
@pytest.mark.parametrize("follow", [trailing(0.3, every=2), trailing(0.05), synced(every=4)], ids=str)
def test_it_is_a_second_model_updated_by_the_equation(follow: Following, lora: bool) -> None:
    if lora:
        pytest.importorskip("peft", reason="needs peft (prefine[lora])")
    policy, rows = trained(Moving(follow), Ids(lora=lora))
    expected, final = by_hand(follow, lora)
    assert losses(rows) == pytest.approx(expected, abs=1e-5)
    for name, weight in weights(policy).items():
        torch.testing.assert_close(weight, final[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("follow", [fixed(), trailing(0.0), synced(every=6), trailing(0.5, every=99)], ids=str)
def test_one_that_never_moves_is_the_stored_one(follow: Following) -> None:
    assert not follow.moves_within(6)
    policy, rows = trained(Moving(follow))
    expected, expected_rows = trained(stored(Ids()))
    assert losses(rows) == pytest.approx(losses(expected_rows), abs=1e-6)
    for name, weight in weights(policy).items():
        torch.testing.assert_close(weight, weights(expected)[name], atol=1e-6, rtol=1e-5)
    assert rows[0].keys() == expected_rows[0].keys(), "the metrics are the same"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_that_is_the_policy_of_the_step_before_leaves_a_loss_of_log_2(precision: str) -> None:
    """... and a gradient all the same: under autocast a parameter's remembered cast would lose it."""
    policy, rows = trained(Moving(synced(every=1)), how=replace(HOW, precision=precision))
    assert losses(rows) == pytest.approx([LOG_2] * 6, abs=1e-6)
    assert all(abs(row["margin"]) < 1e-6 and row["grad_norm"] > 1e-3 for row in rows)
    assert any(not torch.equal(a, b) for a, b in zip(weights(policy).values(), weights(Ids()).values(), strict=True))
    _, frozen = trained(stored(Ids()))
    assert losses(frozen)[-1] < LOG_2 - 1e-2, "a fixed one is left behind: the test shows something"


def test_under_bfloat16_the_reference_is_scored_with_its_own_weights() -> None:
    """The cast of a weight that autocast remembers is the policy's: it must not be the reference's too."""
    how = replace(HOW, precision="bfloat16")
    _, moving = trained(Moving(trailing(0.5, every=99)), how=how)
    _, live = trained(Ids(), how=how)
    assert losses(moving) == pytest.approx(losses(live), abs=1e-5) and losses(moving)[-1] < LOG_2 - 1e-2


def test_a_hard_copy_begins_anew() -> None:
    _, rows = trained(Moving(synced(every=2)))
    assert [abs(loss - LOG_2) < 1e-6 for loss in losses(rows)] == [True, False] * 3


def test_one_may_begin_elsewhere() -> None:
    _, rows = trained(Moving(trailing(0.5, every=3), start=Ids(seed=1)))
    _, frozen = trained(stored(Ids(seed=1)))
    assert losses(rows)[:3] == pytest.approx(losses(frozen)[:3], abs=1e-6)
    assert abs(losses(rows)[4] - losses(frozen)[4]) > 1e-3
    _, lazily = trained(Moving(trailing(0.5, every=3), start=lambda: Ids(seed=1)))
    assert losses(lazily) == losses(rows)


def test_only_what_training_changes_is_copied(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs peft (prefine[lora])")
    from safetensors.torch import load_file

    trained(Moving(trailing(0.5)), Ids(lora=True), checkpoint_dir=tmp_path)
    saved = load_file(next(tmp_path.glob("objects/step-00000005/tensors.safetensors")))
    copied = {n for n in saved if n.startswith("reference.reference.")}
    adapter = {n for n, p in Ids(lora=True).module.named_parameters() if p.requires_grad}
    assert copied == {f"reference.reference.{n}" for n in adapter} and all("lora_" in n for n in adapter)


def test_scoring_it_leaves_the_policy_as_it_is() -> None:
    """Also when it fails in the middle."""
    policy = Ids()
    before, held = weights(policy), [p.data_ptr() for p in policy.module.parameters()]

    class Broken(Exception):
        pass

    def fails_later(scores: Scores) -> Loss:
        raise Broken

    fails_later.references = ("reference",)  # type: ignore[attr-defined]
    with pytest.raises(Broken):
        train(policy, contrasts(), fails_later, references={"reference": Moving(trailing(0.5))}, settings=HOW)  # type: ignore[arg-type]
    real, calls = policy.logp, []

    def logp(batch: Batch, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:  # the reference comes first
            raise Broken
        return real(batch, **more)

    policy.logp = logp  # type: ignore[method-assign]
    with pytest.raises(Broken):
        trained(Moving(trailing(0.5), start=Ids(seed=3)), policy)
    assert [p.data_ptr() for p in policy.module.parameters()] == held
    assert all(torch.equal(p, before[n]) for n, p in policy.module.named_parameters())
    assert not policy.module.training


# -- a live one


def test_a_live_policy_is_scored_as_it_is_needed_and_does_not_change() -> None:
    other = Ids(seed=1, dropout=0.5)
    other.module.train()
    before = weights(other)
    _, rows = trained(other)
    _, expected_rows = trained(stored(Ids(seed=1)))
    assert losses(rows) == pytest.approx(losses(expected_rows), abs=1e-6)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in other.module.named_parameters())
    assert other.module.training, "its own mode is back"


# -- killed and run again


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapter"])
def test_a_run_that_was_killed_ends_in_the_same_bits(tmp_path: Path, stop: int, lora: bool) -> None:
    if lora:
        pytest.importorskip("peft", reason="needs peft (prefine[lora])")
    how = replace(HOW, optimizer="adamw", shuffle=True, save_every=2)
    straight, rows = trained(Moving(trailing(0.3, every=2)), Ids(lora=lora), how)

    def kill(row: Metrics) -> None:
        if row["step"] == stop:
            raise Killed

    with pytest.raises(Killed):
        trained(Moving(trailing(0.3, every=2)), Ids(lora=lora), how, checkpoint_dir=tmp_path, progress=kill)
    again, again_rows = trained(Moving(trailing(0.3, every=2)), Ids(lora=lora), how, checkpoint_dir=tmp_path)
    assert again_rows == rows
    assert all(torch.equal(a, b) for a, b in zip(weights(again).values(), weights(straight).values(), strict=True))


def test_a_checkpoint_with_another_following_is_not_taken_up(tmp_path: Path) -> None:
    trained(Moving(trailing(0.3)), checkpoint_dir=tmp_path)
    _, fresh = trained(Moving(trailing(0.4)))
    _, rows = trained(Moving(trailing(0.4)), checkpoint_dir=tmp_path)
    assert rows == fresh and rows[0]["step"] == 1


# -- what cannot be


def bigger() -> Ids:
    other = Ids()
    other.module = LlamaForCausalLM(copy.deepcopy(other.module.config).__class__(vocab_size=V, hidden_size=32))
    return other


WRONG: dict[str, tuple[Callable[[], Any], Callable[[], Ids], str]] = {
    "shapes": (lambda: Moving(trailing(0.5), start=bigger()), Ids, "same shapes"),
    "base under an adapter": (
        lambda: Moving(trailing(0.5), start=Ids(seed=1, lora=True)),
        lambda: Ids(lora=True),
        "frozen under their adapters",
    ),
    "adapter against whole": (lambda: Moving(trailing(0.5), start=Ids()), lambda: Ids(lora=True), "same shapes"),
    "tokenizer": (lambda: Moving(trailing(0.5), start=Ids(shift=1)), Ids, "another tokenizer"),
    "tokenizer, live": (lambda: Ids(shift=1), Ids, "another tokenizer"),
    "stored for other contrasts": (lambda: stored(Ids())[:-1], Ids, "5 contrasts"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_reference_that_does_not_fit_says_why(what: str) -> None:
    if "adapter" in what:
        pytest.importorskip("peft", reason="needs peft (prefine[lora])")
    reference, policy, words = WRONG[what]
    with pytest.raises(InputError, match=words):
        trained(reference(), policy())


def test_followings_can_be_named_on_a_command_line() -> None:
    assert following("fixed") == fixed() == following(None)
    assert following("synced:every=64") == synced(64)
    assert following("trailing:alpha=0.6,every=64") == trailing(0.6, 64)
    for wrong in (
        "trialing:alpha=0.5",
        "trailing",
        "trailing:alpha=2",
        "synced:every=0",
        "synced:every=1.5",
        "synced:k=1",
    ):
        with pytest.raises(InputError):
            following(wrong)


# -- as a verb


def test_a_run_asks_the_store_only_for_references_that_stay(tmp_path: Path) -> None:
    Tabular(["x", "y"], ["a", "b", "c"], torch.zeros(2, 3)).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings(lr=0.05, batch_size=8))
    policy = run.policy(tmp_path / "base")
    slates = run.slates([Slate("xy"[i % 2], (Candidate("a"), Candidate("bc"[i % 3 % 2]))) for i in range(32)])
    pairs = run.curate(slates, lambda rows, rng: [pair(s, 0, 1) for s in rows])

    def verbs() -> list[str]:
        return [r["verb"] for r in read_jsonl(run.dir / "journal.jsonl") if r["event"] == "done"]

    moving = run.train(policy, pairs, objective=dpo(BETA), following=trailing(0.6, every=1))
    assert verbs().count("logps") == 0, "a moving reference has no numbers to store"
    frozen = run.train(policy, pairs, objective=dpo(BETA))
    for same in (fixed(), "fixed", synced(every=4), trailing(0.0)):  # there are 4 steps
        assert run.train(policy, pairs, objective=dpo(BETA), following=same).key == frozen.key
    assert verbs().count("logps") == 1 and verbs().count("train") == 2
    assert (
        len({moving.key, frozen.key, run.train(policy, pairs, objective=dpo(BETA), following="synced:every=1").key})
        == 3
    )
    rows = [r for r in read_jsonl(run.dir / "metrics.jsonl") if r["key"] not in (moving.key, frozen.key)]
    assert [r["loss"] for r in rows] == pytest.approx([LOG_2] * 4, abs=1e-9)
    again = Run(tmp_path / "again", settings=TrainSettings(lr=0.05, batch_size=8))
    assert again.train(policy, pairs, objective=dpo(BETA), following=trailing(0.6, every=1)).key == moving.key


def test_while_a_policy_trains_no_other_copy_of_its_weights_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tabular(["x"], ["a", "b"], torch.zeros(1, 2)).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings(lr=0.05, batch_size=8))
    policy = run.policy(tmp_path / "base")
    slates = run.slates([Slate("x", (Candidate("a"), Candidate("b"))) for _ in range(8)])
    pairs = run.curate(slates, lambda rows, rng: [pair(s, 0, 1) for s in rows])
    real, there = run.cluster.train, []
    monkeypatch.setattr(
        run.cluster, "train", lambda *given: (there.extend(key for key, _ in artifacts._LIVE), real(*given))[1]
    )
    policy.load()
    assert policy.key in {key for key, _ in artifacts._LIVE}
    run.train(policy, pairs, objective=dpo(BETA))
    assert policy.key not in there
