"""The trainer: the loss of a step does not depend on how the step was cut, and a killed run loses nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefine.engine.batch import collate_contrasts
from prefine.engine.settings import TrainSettings
from prefine.engine.train import Metrics, step_indices, train
from prefine.errors import InputError, RunStopped
from prefine.objectives.scores import Loss, Scores
from prefine.policies.base import Batch, Limits, Row
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Contrast, Slate, pair, point

torch.set_num_threads(1)


# -- a small differentiable policy over letters: p(y_t | y_{t-1}, first letter of the prompt)


class Letters(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.embedding = nn.Parameter(torch.randn(26, 8, generator=generator) * 0.5)
        self.head = nn.Parameter(torch.randn(8, 26, generator=generator) * 0.5)
        self.bias = nn.Parameter(torch.zeros(26))
        self.dropout = nn.Dropout(dropout)

    def forward(self, previous: Tensor, prompt: Tensor) -> Tensor:
        hidden = self.dropout(torch.tanh(self.embedding[previous] + self.embedding[prompt]))
        return (hidden @ self.head + self.bias).log_softmax(-1)


class LetterPolicy:
    """The protocol, in the least that shows it: rows of letters with several tokens each."""

    kind = "letters"

    def __init__(self, dropout: float = 0.0) -> None:
        self.module = Letters(dropout)
        self.forwards: list[int] = []
        self.modes: list[bool] = []

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        return tuple(
            Row(_ids(str(contrast.prompt(m))), _ids(contrast.response(m)), (1.0,) * len(contrast.response(m)))
            for m in range(len(contrast.members))
        )

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        self.forwards.append(len(batch.rows))
        self.modes.append(self.module.dropout.training)
        width = batch.mask_NT.shape[1]
        ids = torch.tensor([row.response + (0,) * (width - len(row.response)) for row in batch.rows])
        prompt = torch.tensor([row.prompt[0] for row in batch.rows])[:, None].expand_as(ids)
        previous = torch.cat([prompt[:, :1], ids[:, :-1]], 1)
        logp_NT = self.module(previous, prompt).gather(-1, ids[..., None])[..., 0]
        return logp_NT * batch.mask_NT, torch.zeros(len(batch.rows)) if with_prompt else None


def _ids(text: str) -> tuple[int, ...]:
    return tuple(ord(c) - ord("a") for c in text)


WORDS = ("a", "bcd", "efghij", "kl", "mnopq", "r", "stuvwxyz", "zy")


def word_pairs(n: int = 8) -> list[Contrast]:
    """Pairs whose responses have very different lengths, so that means of means are not means."""
    words = [(WORDS[i % 8], WORDS[(3 * i + 1) % 8]) for i in range(n)]
    return [
        pair(Slate("abcdefgh"[i % 8], (Candidate(w), Candidate(l)), meta={"id": f"q{i}"}), 0, 1, weight=0.1 * i)
        for i, (w, l) in enumerate(words)
    ]


def reference_of(policy: LetterPolicy | Tabular, contrasts: Sequence[Contrast]) -> list[list[np.ndarray]]:
    scored = []
    with torch.no_grad():
        for contrast in contrasts:
            rows = policy.encode(contrast, Limits())
            logp_NT = policy.logp(collate_contrasts([contrast], [rows]))[0].numpy()
            scored.append([logp[: len(row.mask)].copy() for logp, row in zip(logp_NT, rows, strict=True)])
    return scored


def per_contrast(scores: Scores) -> Loss:
    """A logistic pair loss: one value a contrast."""
    chosen, rejected = scores.sides(scores.ratio())
    return Loss.of(-nn.functional.logsigmoid(chosen - rejected) * (1 + scores.value("weight")))


def per_token(scores: Scores) -> Loss:
    """A pair loss with a likelihood term that is a mean over the chosen tokens of the whole step."""
    chosen = scores.chosen(scores.sum())
    return 0.5 * per_contrast(scores) + Loss.of(-chosen, per="chosen_token")


def coupled(scores: Scores) -> Loss:
    """A loss in which every contrast sees all others, so its step must not be cut."""
    chosen, rejected = scores.sides(scores.ratio())
    return Loss.of((chosen - rejected.mean() - 1) ** 2)


coupled.whole_batch = True  # type: ignore[attr-defined]

PLAIN = TrainSettings(lr=0.05, max_steps=1, batch_size=8, optimizer="sgd", clip=None, warmup=0.0, schedule="constant")


def trained(
    objective: object = per_contrast, settings: TrainSettings = PLAIN, n: int = 8, dropout: float = 0.0, **more: object
) -> tuple[LetterPolicy, tuple[Metrics, ...]]:
    policy, contrasts = LetterPolicy(dropout), word_pairs(n)
    more.setdefault("references", {"reference": reference_of(LetterPolicy(), contrasts)})
    result = train(policy, contrasts, objective, settings=settings, **more)  # type: ignore[arg-type]
    return policy, result.metrics


def weights(policy: LetterPolicy | Tabular) -> list[Tensor]:
    return [p.detach().clone() for p in policy.module.parameters()]


def assert_close(a: LetterPolicy, b: LetterPolicy, tolerance: float = 1e-6) -> None:
    for x, y in zip(weights(a), weights(b), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


def assert_same_bits(a: LetterPolicy, b: LetterPolicy) -> None:
    assert all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def timeless(rows: Sequence[Metrics]) -> list[Metrics]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


# -- the step is the step however it is cut


@pytest.mark.parametrize("objective", [per_contrast, per_token])
@pytest.mark.parametrize("budget", [1, 24, 40])
def test_cutting_a_step_changes_nothing(objective: object, budget: int) -> None:
    whole, whole_rows = trained(objective, replace(PLAIN, tokens_per_microbatch=None))
    cut, cut_rows = trained(objective, replace(PLAIN, tokens_per_microbatch=budget))
    assert whole.forwards[-1] == 16 and len(cut.forwards) > 1, "the budget must really cut"
    assert_close(whole, cut)
    for key, value in whole_rows[0].items():
        if not key.startswith("time/"):
            assert cut_rows[0][key] == pytest.approx(value, rel=1e-5), key


def test_micro_batches_of_four_three_and_one_are_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = trained(per_token, replace(PLAIN, tokens_per_microbatch=None))
    monkeypatch.setattr("prefine.engine.train.cut", lambda policy, rows, budget: [[0, 1, 2, 3], [4, 5, 6], [7]])
    cut, _ = trained(per_token)
    assert cut.forwards == [8, 6, 2]
    assert_close(whole, cut)


def test_the_gradient_is_that_of_the_loss_written_by_hand() -> None:
    """Mean over contrasts and mean over tokens of the step, with autograd alone."""
    policy, _ = trained(per_token, replace(PLAIN, tokens_per_microbatch=24))
    byhand, contrasts = LetterPolicy(), word_pairs()
    pair_loss, token_sum, tokens = torch.zeros(()), torch.zeros(()), 0
    for i, contrast in enumerate(contrasts):
        rows = byhand.encode(contrast, Limits())
        chosen, rejected = byhand.logp(collate_contrasts([contrast], [rows]))[0].sum(-1)
        ratio = (chosen - chosen.detach()) - (rejected - rejected.detach())  # reference = start
        pair_loss = pair_loss - nn.functional.logsigmoid(ratio) * (1 + 0.1 * i)
        token_sum, tokens = token_sum + chosen, tokens + len(rows[0].response)
    (0.5 * pair_loss / 8 - token_sum / tokens).backward()
    with torch.no_grad():
        for p in byhand.module.parameters():
            p -= 0.05 * p.grad
    assert_close(policy, byhand)


def test_an_objective_that_couples_contrasts_gets_the_whole_step() -> None:
    policy, _ = trained(coupled, replace(PLAIN, tokens_per_microbatch=1))
    assert policy.forwards == [16]


def test_responses_count_by_their_sums_not_their_means() -> None:
    """The figures of a step against numpy: whole responses are token sums, and means are per token."""
    contrasts = word_pairs()
    logps = reference_of(LetterPolicy(), contrasts)
    _, (row,) = trained(references={"reference": [[0 * a - 1 for a in c] for c in logps]})
    chosen, rejected = [c[0] for c in logps], [c[1] for c in logps]
    assert row["chosen/logp"] == pytest.approx(np.mean([a.sum() for a in chosen]), rel=1e-5)
    assert row["rejected/logp_per_token"] == pytest.approx(np.mean([a.mean() for a in rejected]), rel=1e-5)
    assert row["chosen/length"] == np.mean([len(a) for a in chosen])
    margins = [(w + 1).sum() - (l + 1).sum() for w, l in zip(chosen, rejected, strict=True)]
    assert row["margin"] == pytest.approx(np.mean(margins), rel=1e-5)
    assert row["accuracy"] == np.mean([m > 0 for m in margins])


def test_points_have_figures_of_the_sides_there_are() -> None:
    contrasts = [point(Slate("a", (Candidate("bc"),)), 0, good=True)]
    result = train(
        LetterPolicy(),
        contrasts,
        _likelihood,
        settings=PLAIN,  # type: ignore[arg-type]
    )
    (row,) = result.metrics
    assert "chosen/logp" in row and not {"rejected/logp", "margin", "accuracy", "chosen/ratio"} & row.keys()


def _likelihood(scores: Scores) -> Loss:
    return Loss.of(-scores.sum())


_likelihood.references = ()  # type: ignore[attr-defined]


# -- what must not move


def test_the_reference_does_not_move() -> None:
    contrasts = word_pairs()
    reference = reference_of(LetterPolicy(), contrasts)
    for members in reference:
        for array in members:
            array.flags.writeable = False
    before = [[a.copy() for a in members] for members in reference]
    _, rows = trained(settings=replace(PLAIN, max_steps=5), references={"reference": reference})
    assert all((a == b).all() for x, y in zip(before, reference, strict=True) for a, b in zip(x, y, strict=True))
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-6) and rows[-1]["margin"] > 0.01


@pytest.mark.parametrize("asked", [False, True])
def test_dropout_is_off_unless_asked_for(asked: bool) -> None:
    policy, (row,) = trained(settings=replace(PLAIN, dropout=asked), dropout=0.5)
    assert set(policy.modes) == {asked}
    assert (abs(row["margin"]) > 1e-3) is asked, "with dropout off the policy agrees with its reference at the start"
    assert not policy.module.training


def test_frozen_parameters_stay_and_are_not_in_checkpoints(tmp_path: Path) -> None:
    policy = LetterPolicy()
    policy.module.embedding.requires_grad_(False)
    before = policy.module.embedding.clone()
    settings = replace(PLAIN, max_steps=2, save_every=1, optimizer="adamw", weight_decay=0.1)
    train(policy, word_pairs(), _likelihood, settings=settings, checkpoint_dir=tmp_path)  # type: ignore[arg-type]
    assert torch.equal(policy.module.embedding, before)
    (file,) = tmp_path.rglob("tensors.safetensors")
    saved = set(load_file(file))
    assert {"policy.head", "policy.bias"} <= saved and "policy.embedding" not in saved


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    wanted = (torch.rand(1), np.random.rand())
    torch.manual_seed(3)
    np.random.seed(3)
    trained(settings=replace(PLAIN, dropout=True), dropout=0.5)
    assert (torch.rand(1), np.random.rand()) == wanted


def test_an_objective_with_parameters_is_trained_along() -> None:
    class Learned(nn.Module):
        references = ()

        def __init__(self, lr: float | None = None) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))
            if lr is not None:
                self.lr = lr

        def forward(self, scores: Scores) -> Loss:
            return Loss.of((self.shift - 3.0) ** 2 + 0 * scores.over_group(scores.sum()))

    for lr, wanted in ((None, 0.05 * 6), (0.5, 0.5 * 6)):
        objective = Learned(lr)
        train(LetterPolicy(), word_pairs(), objective, settings=PLAIN)  # type: ignore[arg-type]
        assert objective.shift.item() == pytest.approx(wanted)


# -- order of the data


def test_every_epoch_sees_every_contrast_once_in_a_new_order() -> None:
    settings = TrainSettings(batch_size=3, seed=5)
    epochs = [[i for step in range(4) for i in step_indices(4 * e + step, 10, settings)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(10))
    assert step_indices(0, 10, replace(settings, seed=6)) != epochs[0][:3]


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    settings = TrainSettings(batch_size=4, shuffle=False)
    assert [step_indices(s, 6, settings) for s in range(3)] == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3]]


def test_contrasts_are_read_only_when_their_step_comes() -> None:
    class Lazy(Sequence):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return 1000

        def __getitem__(self, i: int) -> Contrast:  # type: ignore[override]
            self.read.append(i)
            return word_pairs()[i % 8]

    lazy = Lazy()
    train(LetterPolicy(), lazy, _likelihood, settings=replace(PLAIN, max_steps=3, batch_size=4))  # type: ignore[arg-type]
    assert len(lazy.read) == 12


# -- killed and run again


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 3, 6])
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd", "adafactor"])
def test_a_run_that_was_killed_ends_in_the_same_bits(tmp_path: Path, stop_after: int, optimizer: str) -> None:
    """With dropout, accumulation, momentum, a shuffled second epoch and figures averaged over several steps."""
    settings = TrainSettings(
        lr=0.01, epochs=2, batch_size=3, tokens_per_microbatch=24, optimizer=optimizer, momentum=0.9, dropout=True,
        save_every=2, save_seconds=None, log_every=3, seed=4, weight_decay=0.01,
    )  # fmt: skip
    straight, straight_rows = trained(per_token, settings, n=11, dropout=0.3)

    steps_seen: list[object] = []

    def killed_in_the_middle(scores: Scores) -> Loss:
        """Dies in the second micro-batch of the step after ``stop_after``; a step has totals of its own."""
        if any(totals is scores.totals for totals in steps_seen):
            if len(steps_seen) > stop_after:
                raise Killed
        else:
            steps_seen.append(scores.totals)
        return per_token(scores)

    with pytest.raises(Killed):
        trained(killed_in_the_middle, settings, n=11, dropout=0.3, checkpoint_dir=tmp_path)
    again, again_rows = trained(per_token, settings, n=11, dropout=0.3, checkpoint_dir=tmp_path)
    assert_same_bits(straight, again)
    assert timeless(again_rows) == timeless(straight_rows)
    assert len(again.forwards) < len(straight.forwards) or stop_after < 2, "it must not start from nothing"


def test_stopping_in_the_progress_callback_resumes_too(tmp_path: Path) -> None:
    settings = TrainSettings(lr=0.01, max_steps=5, batch_size=3, save_every=1)
    straight, _ = trained(settings=settings)

    with pytest.raises(Killed):
        trained(settings=settings, checkpoint_dir=tmp_path, progress=_stop_after_two)
    rows: list[Metrics] = []
    again, _ = trained(settings=settings, checkpoint_dir=tmp_path, progress=rows.append)
    assert [row["step"] for row in rows] == [3, 4, 5]
    assert_same_bits(straight, again)


def test_when_checkpoints_are_written_does_not_show_in_the_bits(tmp_path: Path) -> None:
    settings = TrainSettings(lr=0.01, max_steps=4, batch_size=3, save_every=100, save_seconds=None, log_every=3)
    never, never_rows = trained(settings=settings, checkpoint_dir=tmp_path / "never")
    always, always_rows = trained(settings=replace(settings, save_seconds=1e-9), checkpoint_dir=tmp_path / "always")
    assert not (tmp_path / "never").exists() and (tmp_path / "always").exists()
    assert_same_bits(never, always)
    assert timeless(never_rows) == timeless(always_rows)


def test_a_checkpoint_of_another_run_is_not_taken_up(tmp_path: Path) -> None:
    settings = TrainSettings(lr=0.01, max_steps=4, batch_size=3, save_every=1)
    trained(settings=settings, checkpoint_dir=tmp_path)
    other = replace(settings, seed=1)
    fresh, _ = trained(settings=other)
    again, rows = trained(settings=other, checkpoint_dir=tmp_path)
    assert len(rows) == 4
    assert_same_bits(fresh, again)


# -- several processes


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Odd batches, so that the processes have unequal shares, and in the last step one has none. The two are
    stopped after the second step, and go on from the checkpoint. Both for an objective that is a mean over
    tokens and for one that couples the contrasts of a step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"import runpy; runpy.run_path({__file__!r})['_worker']({str(tmp_path)!r})"
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **common, "RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    for name in SHARED_OUT:
        alone, alone_rows = _distributed_run(name, None)
        parts = [load_file(tmp_path / f"{name}.{rank}.safetensors") for rank in range(2)]
        for key, parameter in alone.module.named_parameters():
            assert torch.equal(parts[0][key], parts[1][key])
            torch.testing.assert_close(parts[0][key], parameter.detach(), rtol=0, atol=1e-6)
        for i, row in enumerate(alone_rows):
            assert parts[0]["loss"][i].item() == pytest.approx(row["loss"], rel=1e-5)
            assert parts[0]["length"][i].item() == pytest.approx(row["chosen/length"], rel=1e-6)


SHARED_OUT = {"per_token": per_token, "coupled": coupled}


def _distributed_run(name: str, checkpoints: Path | None) -> tuple[LetterPolicy, tuple[Metrics, ...]]:
    settings = TrainSettings(lr=0.01, epochs=1, batch_size=3, tokens_per_microbatch=24, weight_decay=0.1, save_every=1)
    if checkpoints is not None:
        with contextlib.suppress(Killed):
            trained(SHARED_OUT[name], settings, n=7, checkpoint_dir=checkpoints, progress=_stop_after_two)
    return trained(SHARED_OUT[name], settings, n=7, checkpoint_dir=checkpoints)


def _stop_after_two(row: Metrics) -> None:
    if row["step"] == 2:
        raise Killed


def _worker(out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for name in SHARED_OUT:
        policy, rows = _distributed_run(name, Path(out) / name)
        assert len(policy.forwards) <= 1  # only the last step, of one contrast, was left
        tensors = {key: p.detach() for key, p in policy.module.named_parameters()}
        tensors["loss"] = torch.tensor([row["loss"] for row in rows], dtype=torch.float64)
        tensors["length"] = torch.tensor([row["chosen/length"] for row in rows], dtype=torch.float64)
        save_file(tensors, f"{out}/{name}.{torch.distributed.get_rank()}.safetensors")
    torch.distributed.destroy_process_group()


# -- what stops a run


def test_nan_stops_the_run_before_the_step_and_names_the_contrast(tmp_path: Path) -> None:
    contrasts = word_pairs()
    reference = reference_of(LetterPolicy(), contrasts)
    reference[5][1][0] = np.nan
    policy = LetterPolicy()
    before = weights(policy)
    settings = replace(PLAIN, tokens_per_microbatch=1)
    with pytest.raises(RunStopped, match=r"step 1; .*: q5 \('f' -> '\w+'\)\n") as stopped:
        train(policy, contrasts, per_contrast, references={"reference": reference}, settings=settings)
    assert "q4" not in stopped.value.message and "lower lr" in stopped.value.remedy
    assert all(torch.equal(a, b) for a, b in zip(before, weights(policy), strict=True))
    assert all(p.grad is None for p in policy.module.parameters())


def test_an_infinite_gradient_of_a_finite_loss_stops_the_run() -> None:
    def steep(scores: Scores) -> Loss:
        x = scores.over_group(scores.sum())
        return Loss.of((x - x.detach()).clamp(min=0).sqrt())  # 0, with slope 1/0

    with pytest.raises(RunStopped, match="step 1"):
        trained(steep)


def test_a_run_stopped_by_nan_goes_on_from_the_step_before(tmp_path: Path) -> None:
    settings = TrainSettings(lr=0.01, max_steps=4, batch_size=3, save_every=100)
    straight, _ = trained(settings=settings)
    calls = 0

    def fails_once(scores: Scores) -> Loss:
        nonlocal calls
        calls += 1
        return per_contrast(scores) * (float("nan") if calls == 3 else 1.0)

    with pytest.raises(RunStopped, match="step 3"):
        trained(fails_once, settings, checkpoint_dir=tmp_path)
    calls = 10
    rows: list[Metrics] = []
    again, _ = trained(fails_once, settings, checkpoint_dir=tmp_path, progress=rows.append)
    assert [row["step"] for row in rows] == [3, 4]
    assert_same_bits(straight, again)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_stops_with_a_remedy(error: Exception) -> None:
    def hungry(scores: Scores) -> Loss:
        raise error

    with pytest.raises(RunStopped, match="out of memory in step 1") as stopped:
        trained(hungry)
    assert "tokens_per_microbatch" in stopped.value.remedy


def test_other_errors_are_not_taken_for_memory() -> None:
    def broken(scores: Scores) -> Loss:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained(broken)


def test_what_cannot_be_trained_says_why() -> None:
    pairs, reference = word_pairs(), reference_of(LetterPolicy(), word_pairs())

    def refuse(match: str, contrasts: list[Contrast], objective: object, **more: object) -> None:
        with pytest.raises(InputError, match=match) as refused:
            train(LetterPolicy(), contrasts, objective, settings=PLAIN, **more)  # type: ignore[arg-type]
        assert refused.value.remedy

    refuse("no contrasts", [], per_contrast, references={"reference": []})
    refuse("needs the reference 'reference'", pairs, per_contrast)
    refuse("of 7 contrasts", pairs, per_contrast, references={"reference": reference[:7]})
    short = [[array[:-1] for array in members] for members in reference]
    refuse("numbers for a response of", pairs, per_contrast, references={"reference": short})
    refuse(
        "responses where the contrasts have", pairs, per_contrast, references={"reference": [r[:1] for r in reference]}
    )
    points = [point(c.slate, 0, good=True) for c in pairs]
    refuse("needs pairs(.|\n)*extremes and all-pairs make pairs", points, _pairs_only)
    refuse(
        "needs the value 'weight'",
        [pair(c.slate, 0, 1) for c in pairs],
        per_contrast,
        references={"reference": reference},
    )
    frozen = LetterPolicy()
    frozen.module.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        train(frozen, pairs, _likelihood, settings=PLAIN)  # type: ignore[arg-type]


def _pairs_only(scores: Scores) -> Loss:
    return Loss.of(scores.sides(scores.sum())[0])


_pairs_only.references = ()  # type: ignore[attr-defined]


# -- the exact policy


def test_a_squared_loss_on_a_tabular_policy_finds_its_closed_form_minimiser() -> None:
    """Over all pairs, (h(w) - h(l) - t(w) + t(l))^2 with h the log-ratio is least where h = t + constant, so at
    pi proportional to pi_ref exp(t)."""
    actions = ("left", "right", "up", "down")
    target = {"left": 0.3, "right": -0.8, "up": 1.1, "down": 0.0}
    start = Tabular(["x", "y"], actions, [[0.0, 1.0, 0.5, -0.5], [0.2, 0.0, 0.0, 0.7]])
    policy = start.copy()
    slates = [Slate(p, tuple(Candidate(a) for a in actions)) for p in "xy"]
    pairs = [
        pair(s, i, j, gap=target[actions[i]] - target[actions[j]]) for s in slates for i in range(4) for j in range(i)
    ]

    def squared(scores: Scores) -> Loss:
        chosen, rejected = scores.sides(scores.ratio())
        return Loss.of((chosen - rejected - scores.value("gap")) ** 2)

    settings = TrainSettings(
        lr=0.5, max_steps=120, batch_size=12, optimizer="sgd", clip=None, schedule="constant", warmup=0.0
    )
    train(policy, pairs, squared, references={"reference": reference_of(start, pairs)}, settings=settings)
    wanted = start.tilted([[target[a] for a in actions]] * 2, beta=1.0)
    torch.testing.assert_close(policy.probabilities_PA(), wanted.probabilities_PA(), rtol=0, atol=1e-9)


# -- transformers models


def _tiny_llama(dropout: float = 0.0) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=26, n_embd=16, n_layer=2, n_head=2, n_positions=32, attn_pdrop=dropout, resid_pdrop=dropout,
        embd_pdrop=dropout, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


class ModelPolicy(LetterPolicy):
    """Letters through a transformers model."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forwards, self.modes = [], []

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        width = batch.mask_NT.shape[1]
        ids = torch.tensor([r.prompt + r.response + (0,) * (width - len(r.response)) for r in batch.rows])
        logp = self.module(input_ids=ids).logits.float().log_softmax(-1)
        return logp[:, :-1].gather(-1, ids[:, 1:, None])[..., 0] * batch.mask_NT, None


def test_gradient_checkpointing_changes_no_number_and_wakes_no_dropout() -> None:
    settings = TrainSettings(lr=1e-3, max_steps=2, batch_size=4, optimizer="sgd")
    plain, saving = ModelPolicy(_tiny_llama(dropout=0.4)), ModelPolicy(_tiny_llama(dropout=0.4))
    train(plain, word_pairs(), _likelihood, settings=settings)  # type: ignore[arg-type]
    train(saving, word_pairs(), _likelihood, settings=replace(settings, gradient_checkpointing=True))  # type: ignore[arg-type]
    assert_close(plain, saving, 1e-7)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in saving.module.modules())
    assert not any(m.training for m in saving.module.modules())
    with pytest.raises(InputError, match="no gradient checkpointing"):
        trained(settings=replace(PLAIN, gradient_checkpointing=True))


def test_an_adapter_is_all_that_moves() -> None:
    peft = pytest.importorskip("peft", reason="needs peft (prefine[lora])")
    model = peft.get_peft_model(_tiny_llama(), peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    policy = ModelPolicy(model)
    train(policy, word_pairs(), _likelihood, settings=TrainSettings(lr=1e-2, max_steps=3, batch_size=4))  # type: ignore[arg-type]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    policy = ModelPolicy(_tiny_llama())
    seen: list[torch.dtype] = []
    policy.module.transformer.h[0].attn.c_attn.register_forward_hook(  # type: ignore[union-attr,index]
        lambda module, inputs, output: seen.append(output.dtype)
    )
    settings = TrainSettings(lr=1e-3, max_steps=1, batch_size=4, precision="bfloat16")
    train(policy, word_pairs(), _likelihood, settings=settings)  # type: ignore[arg-type]
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in policy.module.parameters())
