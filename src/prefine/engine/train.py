"""The trainer: one loop for every differentiable policy and every objective.

A step takes ``batch_size`` contrasts of a seeded permutation, cuts them into micro-batches by tokens, and
adds up their gradients. What a loss is averaged over (``Scores.totals``) is counted over the whole step
before the first forward, over all processes, so the gradient is that of the uncut step however it was cut.

    result = train(policy, contrasts, dpo(beta=0.1), references={"reference": logps})

The policy is trained in place. With a ``checkpoint_dir`` a run that was killed goes on where it was and ends
in the same bits. Rows of metrics are the same bits too, apart from the names that begin with "time/".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine import processes
from prefine.engine.allocator import keep_freed_memory
from prefine.engine.batch import collate_contrasts, cut, microbatches, row_lengths
from prefine.engine.checkpoint import random_state_kept, seeded
from prefine.engine.dry import unfit
from prefine.engine.learner import Learner, autocast, ready_to_train
from prefine.engine.metrics import Log, figure_names, figures
from prefine.engine.optim import factor
from prefine.engine.reference import Arrays, Moving, Reference, followings_of, references_of
from prefine.engine.score import laid_out
from prefine.engine.settings import TrainSettings
from prefine.engine.views import Readers
from prefine.errors import InputError, RunStopped
from prefine.objectives.scores import UNITS, Objective, Scores, traits
from prefine.policies.base import Batch, Policy, Row
from prefine.slate import Contrast, prompt_text

References = Mapping[str, Arrays | Policy | Moving]
"""What the objective compares with, by name: stored log-probabilities, another policy, or one that follows."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class TrainResult:
    """What training gives besides the trained policy: a row of metrics for every ``log_every`` steps."""

    metrics: tuple[Metrics, ...]
    steps: int
    readings: Mapping[str, Tensor] = field(default_factory=dict)
    """The parameters of the objective's readings, by the reading's name and theirs."""


def train(
    policy: Policy,
    contrasts: Sequence[Contrast],
    objective: Objective,
    *,
    references: References | None = None,
    settings: TrainSettings | None = None,
    checkpoint_dir: Path | None = None,
    progress: Callable[[Metrics], None] | None = None,
) -> TrainResult:
    """Minimise the mean of ``objective`` over ``contrasts``, changing ``policy`` in place.

    ``contrasts`` and the references are indexed, never copied: memory does not grow with the data.
    ``progress`` is called with every row of metrics, after the checkpoint of that step is safe.
    """
    keep_freed_memory()
    settings = settings or TrainSettings()
    references = dict(references or {})
    module = _check(policy, contrasts, objective, references)
    steps = settings.steps(len(contrasts))
    about = {"contrasts": len(contrasts), "references": sorted(references), **followings_of(references)}
    readers = Readers(objective, policy, settings.seed)
    learner = Learner(
        module, objective, settings, about, checkpoint_dir, readers.modules, looked_into="policy" in readers.looked_at
    )
    compared = references_of(policy, references, contrasts, settings.limits)
    learner.beside = {name: x for reference in compared.values() for name, x in reference.weights.items()}
    start, state = learner.restore()
    log = Log(figure_names(references), state)
    saved_at = time.perf_counter()

    with random_state_kept(), ready_to_train(module, settings), laid_out(settings.layout):
        for step in range(start, steps):
            seeded(settings.seed, step, processes.rank())
            lr_factor = factor(settings.schedule, step, steps, settings.warmup)
            learner.set_learning_rate(lr_factor)

            # This process's part of the step, and how much of every unit the whole step has.
            indices = step_indices(step, len(contrasts), settings)
            micros = _microbatches(policy, contrasts, indices, objective, settings, padded=bool(readers.looked_at))
            totals = step_totals([m.batch for m in micros], objective)

            measured: list[Tensor] = []
            try:
                for micro in micros:
                    with autocast(module, settings.precision):
                        scores = score(policy, micro, compared, objective, totals, readers)
                    loss = _loss(objective, scores)
                    learner.backward(loss)
                    measured.append(figures(scores, loss))
                gradient_norm = learner.gradient_norm()
            except (MemoryError, RuntimeError) as error:
                learner.optimizer.zero_grad()
                if not is_out_of_memory(error):
                    raise
                learner.save(step, log, alone=True)
                raise _out_of_memory(step, micros, settings) from error

            # One transfer from the device a step: [:, 0, 0] are the losses of the micro-batches.
            figures_KM2 = torch.stack(measured).cpu() if measured else torch.zeros(0, len(log.names), 2)
            bad = _not_finite(micros, figures_KM2[:, 0, 0], gradient_norm)
            rows = [row for m in micros for row in m.batch.rows]
            tokens_here, cut_here = sum(m.tokens for m in micros), sum(row.lost > 0 for row in rows)
            *sums, tokens, responses, shortened, stop = processes.summed(
                [*figures_KM2.sum(0).flatten().tolist(), tokens_here, len(rows), cut_here, len(bad)]
            )
            if stop:
                learner.optimizer.zero_grad()
                learner.save(step, log)
                raise _not_a_number(step, bad, contrasts)
            learner.step()

            done = step + 1
            for reference in compared.values():
                reference.after(done)
            log.add(sums, tokens=tokens, grad_norm=gradient_norm, lr=settings.lr * lr_factor, step_tokens=tokens)
            log.count(**learner.figures())
            if settings.max_length is not None:
                log.count(step_responses=responses, step_cut=shortened)
            row = None
            if done % settings.log_every == 0 or done == steps:
                epoch = done / settings.steps_per_epoch(len(contrasts))
                row = log.close_row(step=done, steps=steps, epoch=epoch)
            overdue = settings.save_seconds and time.perf_counter() - saved_at > settings.save_seconds
            if done < steps and (done % settings.save_every == 0 or processes.first(int(bool(overdue)))):
                learner.save(done, log)
                saved_at = time.perf_counter()
            if progress is not None and row is not None:
                progress(dict(row))
    learnt = {f"{name}.{n}": t.detach().cpu() for name, m in readers.modules.items() for n, t in m.state_dict().items()}
    return TrainResult(tuple(log.rows), steps, learnt)


@dataclass(frozen=True)
class Micro:
    """A micro-batch: which contrasts it holds, and their rows."""

    indices: tuple[int, ...]
    batch: Batch

    @property
    def tokens(self) -> int:
        return sum(len(row.prompt) + len(row.response) for row in self.batch.rows)


def step_indices(step: int, contrasts: int, settings: TrainSettings) -> list[int]:
    """The contrasts of a step: a slice of the epoch's permutation, which comes from (seed, epoch) alone."""
    epoch, place = divmod(step, settings.steps_per_epoch(contrasts))
    here = slice(place * settings.batch_size, (place + 1) * settings.batch_size)
    if not settings.shuffle:
        return list(range(contrasts))[here]
    return _permutation(settings.seed, epoch, contrasts)[here].tolist()


@lru_cache(maxsize=1)
def _permutation(seed: int, epoch: int, contrasts: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(contrasts)


def _microbatches(
    policy: Policy,
    contrasts: Sequence[Contrast],
    indices: Sequence[int],
    objective: Objective,
    settings: TrainSettings,
    padded: bool = False,
) -> list[Micro]:
    """This process's contrasts of the step, encoded and cut by the token budget."""
    whole = traits(objective)[2]
    mine = processes.share(indices, whole=whole)
    here = [contrasts[i] for i in mine]
    rows = [policy.encode(contrast, settings.limits) for contrast in here]
    budget = settings.tokens_per_microbatch
    cuts = microbatches(row_lengths(rows), budget) if padded else cut(policy, rows, budget)
    parts = [list(range(len(mine)))] if whole else cuts
    return [Micro(tuple(mine[i] for i in places), _collated(here, rows, places)) for places in parts if places]


def _collated(contrasts: Sequence[Contrast], rows: Sequence[Sequence[Row]], places: Sequence[int]) -> Batch:
    """Values in float64, since an exact policy computes in it; masks hold 0 and 1 and can be small."""
    batch = collate_contrasts(contrasts, rows, places, dtype=torch.float64)
    return replace(batch, mask_NT=batch.mask_NT.float())


def step_totals(batches: Sequence[Batch], objective: Objective) -> dict[str, float]:
    """Every unit a mean can be over, counted over the step's micro-batches and all processes."""
    reads_prompt = traits(objective)[1]
    bare = [_bare_scores(batch, reads_prompt) for batch in batches]
    counts = [sum(scores.count(unit) for scores in bare) for unit in UNITS]
    return dict(zip(UNITS, processes.summed(counts), strict=True))


def _bare_scores(batch: Batch, reads_prompt: bool) -> Scores:
    """Scores without any forward, to count with."""
    return Scores(
        logp_NT=torch.zeros_like(batch.mask_NT),
        mask_NT=batch.mask_NT,
        role_N=batch.role_N,
        group_N=batch.group_N,
        values=batch.values,
        prompt_tokens_N=_prompt_tokens(batch) if reads_prompt else None,
    )


def _prompt_tokens(batch: Batch) -> Tensor:
    """Prompt tokens that have a probability: all but the first, which follows nothing."""
    return torch.tensor([float(max(len(row.prompt) - 1, 0)) for row in batch.rows], dtype=batch.mask_NT.dtype)


def score(
    policy: Policy,
    micro: Micro,
    references: Mapping[str, Reference],
    objective: Objective,
    totals: Mapping[str, float],
    readers: Readers | None = None,
) -> Scores:
    """One forward a model, joined with what is known beforehand."""
    batch = micro.batch
    reads_prompt = traits(objective)[1]
    views = {} if readers is None else readers.views(policy, references, batch)
    reference_NT = {
        name: views[name].logp() if name in views else reference.logp(micro.indices, batch)
        for name, reference in references.items()
    }
    if "policy" in views and not reads_prompt:
        logp_NT, prompt_logp_N = views["policy"].logp(), None
    else:
        logp_NT, prompt_logp_N = policy.logp(batch, with_prompt=reads_prompt)
    like: dict[str, Any] = {"device": logp_NT.device, "dtype": logp_NT.dtype}
    return Scores(
        logp_NT=logp_NT,
        mask_NT=batch.mask_NT.to(**like),
        role_N=batch.role_N.to(logp_NT.device),
        group_N=batch.group_N.to(logp_NT.device),
        references={name: logp.to(**like) for name, logp in reference_NT.items()},
        values={name: value.to(**like) for name, value in batch.values.items()},
        prompt_logp_N=prompt_logp_N,
        prompt_tokens_N=_prompt_tokens(batch).to(**like) if reads_prompt else None,
        readings={} if readers is None else readers(views, **like),
        ids_N=tuple(row.response for row in batch.rows),
        totals=totals,
    )


def _loss(objective: Objective, scores: Scores) -> Tensor:
    """The objective's part of the step's mean; contrasts that it cannot read are the user's to mend."""
    try:
        return objective(scores).mean(scores)
    except (KeyError, ValueError) as error:
        raise unfit(error) from error


def _check(policy: Policy, contrasts: Sequence[Contrast], objective: Objective, references: References) -> nn.Module:
    """The module to train, once it is sure that there is something to train on."""
    if policy.module is None:
        raise InputError(f"a policy of kind {policy.kind!r} cannot be trained", remedy="train a model directory")
    if len(contrasts) == 0:
        raise InputError(
            "there are no contrasts to train on", remedy="look at what the curator kept: it may ask for too much"
        )
    for name in traits(objective)[0]:
        if name not in references:
            there = ", ".join(sorted(references)) or "none"
            raise InputError(
                f"the objective needs the reference {name!r} (there: {there})",
                remedy="give train() a reference: usually the policy that training starts from",
            )
    return policy.module


def is_out_of_memory(error: BaseException) -> bool:
    """Memory ran out, on a GPU or on the CPU (where torch says so in the text of a RuntimeError)."""
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in said)
    )


def _out_of_memory(step: int, micros: Sequence[Micro], settings: TrainSettings) -> RunStopped:
    longest = max((len(r.prompt) + len(r.response) for m in micros for r in m.batch.rows), default=0)
    return RunStopped(
        f"out of memory in step {step + 1} (tokens_per_microbatch={settings.tokens_per_microbatch}, "
        f"longest row {longest} tokens)",
        remedy="lower tokens_per_microbatch, set max_length or gradient_checkpointing=True, or free memory, "
        "and run again: what is done is kept",
    )


def _not_finite(micros: Sequence[Micro], loss_K: Tensor, gradient_norm: float) -> list[int]:
    """The contrasts to blame: those of the micro-batches whose loss is no number, else all of the step's."""
    bad = [m for m, is_finite in zip(micros, torch.isfinite(loss_K).tolist(), strict=True) if not is_finite]
    if not bad and not np.isfinite(gradient_norm):
        bad = list(micros)
    return [i for micro in bad for i in micro.indices]


def _not_a_number(step: int, indices: Sequence[int], contrasts: Sequence[Contrast]) -> RunStopped:
    shown = "; ".join(_named(contrasts[i]) for i in indices[:4]) or "in another process"
    more = f" and {len(indices) - 4} more" if len(indices) > 4 else ""
    return RunStopped(
        f"the loss or its gradient is not a number in step {step + 1}; contrasts of that batch: {shown}{more}",
        remedy="look at these contrasts (empty or extreme responses, infinite values), or lower lr; the weights "
        "from before the step are kept",
    )


def _named(contrast: Contrast) -> str:
    prompt = prompt_text(contrast.prompt(0))[-60:]
    return f"{contrast.slate.id} ({prompt!r} -> {contrast.response(0)[:60]!r})"
