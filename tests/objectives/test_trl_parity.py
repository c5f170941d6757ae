"""The losses of a widely used library, on the same log-probabilities, without running one of its trainers.

Its loss functions are methods: an object of the class is made without its constructor, given the attributes
the method reads, and a "model" that hands out log-probabilities. Skipped where TRL is not installed.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.objectives.scores import Objective, Scores

pytest.importorskip("trl", reason="TRL is not installed: parity with its losses is not checked")
torch.set_num_threads(1)

ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
PAIRS, PROMPT, LONGEST = 4, 3, 5


def made(trainer: type, **attributes: Any) -> Any:
    it = trainer.__new__(trainer)
    vars(it).update(accelerator=ACCELERATOR, aux_loss_enabled=False, is_encoder_decoder=False, **attributes)
    it._metrics = defaultdict(lambda: defaultdict(list))
    it.model, it._total_train_tokens, it._tp_size = SimpleNamespace(training=True), 0, 1
    return it


class Rows:
    """Response log-probabilities in this library's order: all chosen, then all rejected; tokens after a prompt."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        N = 2 * PAIRS
        self.lengths = torch.randint(1, LONGEST + 1, (N,), generator=g)
        self.mask_NT = (torch.arange(LONGEST)[None] < self.lengths[:, None]).double()
        self.policy_NT, self.reference_NT = (
            -(torch.rand(N, LONGEST, generator=g, dtype=torch.float64) + 0.05) * self.mask_NT for _ in range(2)
        )
        self.policy_NT.requires_grad_()

    def scores(self, **values: Tensor) -> Scores:
        """The same rows in ours: chosen and rejected side by side."""
        order = torch.arange(2 * PAIRS).view(2, PAIRS).T.flatten()
        return Scores(
            logp_NT=self.policy_NT[order],
            mask_NT=self.mask_NT[order],
            role_N=torch.tensor([1, -1]).repeat(PAIRS),
            group_N=torch.arange(PAIRS).repeat_interleave(2),
            references={"reference": self.reference_NT[order]},
            values=values,
        )

    def outputs(self, logp_NT: Tensor) -> SimpleNamespace:
        """What a model would give: one log-probability for every token but the first (zero in the prompt)."""
        shifted = torch.cat([logp_NT.new_zeros(len(logp_NT), PROMPT - 1), logp_NT], 1)
        return SimpleNamespace(
            log_probs=shifted,
            entropy=torch.zeros_like(shifted),
            mean_logits=torch.zeros_like(shifted),
            is_top1=torch.zeros_like(shifted, dtype=torch.bool),
        )

    def inputs(self) -> dict[str, Tensor]:
        completion = torch.cat([torch.zeros(2 * PAIRS, PROMPT), self.mask_NT.float()], 1).long()
        return {
            "input_ids": torch.ones_like(completion),
            "attention_mask": torch.ones_like(completion),
            "completion_mask": completion,
        }


class Model:
    training = True

    def __init__(self, outputs: Any) -> None:
        self.outputs = outputs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.outputs


def same(theirs: Tensor, ours: Tensor, leaf: Tensor, atol: float = 1e-10) -> None:
    assert theirs.item() == pytest.approx(ours.item(), abs=atol)
    (a,), (b,) = torch.autograd.grad(theirs, leaf, retain_graph=True), torch.autograd.grad(ours, leaf)
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


TWICE = 2.0
DPO_TYPES: dict[str, Objective] = {
    "sigmoid": o.dpo(0.3),
    "ipo": o.ipo(0.3),
    "hinge": o.Pairs(link=o.hinge, beta=0.3),
    # They have no factor 1/2, and 1/beta for eta.
    "sppo_hard": o.scale(TWICE, o.sppo_single(1 / 0.3, hard=True)),
    "sigmoid_norm": o.Pairs(o.LogRatio(mean=True), beta=0.3),
    "sft": o.sft(),
    # Sums over the two sides, where ours are means over the labelled responses.
    "bco_pair": o.scale(TWICE, o.Points(beta=0.3)),
    "apo_zero": o.scale(TWICE, o.kto(0.3, reference_point="zero")),
}


@pytest.mark.parametrize("loss_type", DPO_TYPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_dpo_trainer(loss_type: str, seed: int) -> None:
    from trl.trainer import dpo_trainer

    rows = Rows(seed)
    trainer = made(
        dpo_trainer.DPOTrainer,
        beta=0.3, loss_types=[loss_type], loss_weights=[1.0], f_divergence_type="reverse_kl", ld_alpha=None,
        precompute_ref_logps=True, use_weighting=False, label_smoothing=0.0, args=SimpleNamespace(),
    )  # fmt: skip
    sums = (rows.reference_NT * rows.mask_NT).sum(-1)
    inputs = rows.inputs() | {"ref_chosen_logps": sums[:PAIRS], "ref_rejected_logps": sums[PAIRS:]}
    theirs = trainer._compute_loss(Model(rows.outputs(rows.policy_NT * rows.mask_NT)), inputs, False)
    scores = rows.scores()
    same(theirs, DPO_TYPES[loss_type](scores).mean(scores), rows.policy_NT)


@pytest.mark.parametrize("seed", range(4))
def test_kto_trainer(seed: int) -> None:
    from trl.trainer.kto_trainer import KTOTrainer

    rows, others = Rows(seed), Rows(seed + 100)
    N = 2 * PAIRS
    label = torch.tensor([True, False, False, True, True, False, True, True])
    trainer = made(
        KTOTrainer,
        beta=0.3, loss_type="kto", desirable_weight=1.2, undesirable_weight=0.7, calculate_KL=True,
        precompute_ref_logps=True,
    )  # fmt: skip
    trainer._compute_kl_logps = lambda model, batch: (others.policy_NT * others.mask_NT).sum(-1).detach()
    inputs = rows.inputs() | {
        "label": label,
        "ref_logps": (rows.reference_NT * rows.mask_NT).sum(-1),
        "ref_KL_logps": (others.reference_NT * others.mask_NT).sum(-1),
    }
    theirs = trainer._compute_loss(Model(rows.outputs(rows.policy_NT * rows.mask_NT)), inputs, False)

    def interleaved(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([a, b], 1).flatten(0, 1)

    scores = Scores(
        logp_NT=interleaved(rows.policy_NT, others.policy_NT),
        mask_NT=interleaved(rows.mask_NT, others.mask_NT),
        role_N=interleaved(torch.where(label, 1, -1), torch.zeros(N, dtype=torch.long)),
        group_N=torch.arange(N).repeat_interleave(2),
        references={"reference": interleaved(rows.reference_NT, others.reference_NT)},
    )
    same(theirs, o.kto(0.3, 1.2, 0.7)(scores).mean(scores), rows.policy_NT)


CPO_TYPES: dict[str, Objective] = {
    "simpo": o.simpo(2.0, 0.6, label_smoothing=0.1),
    "sigmoid": o.smoothed(o.Pairs(o.LogProbability(mean=False), beta=2.0), 0.1),
}


@pytest.mark.parametrize("loss_type", CPO_TYPES)
def test_cpo_trainer(loss_type: str) -> None:
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    rows = Rows(3)
    trainer = made(CPOTrainer, beta=2.0, simpo_gamma=0.6, label_smoothing=0.1, loss_type=loss_type, alpha=0.0)
    logps = (rows.policy_NT * rows.mask_NT).sum(-1)
    logps = logps / rows.lengths if loss_type == "simpo" else logps
    theirs = trainer.cpo_loss(logps[:PAIRS], logps[PAIRS:])[0].mean()
    scores = rows.scores()
    same(theirs, CPO_TYPES[loss_type](scores).mean(scores), rows.policy_NT)


def test_orpo_trainer_on_a_bigram_model() -> None:
    """The whole loss, prompts in its likelihood part: both from the logits of one bigram table."""
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    vocabulary, pad = 7, 0
    g = torch.Generator().manual_seed(0)
    table_VV = torch.randn(vocabulary, vocabulary, generator=g, requires_grad=True)
    prompts = [[1, 4, 2], [3, 5]]
    responses = [[2, 6], [5, 1, 1, 3], [4], [6, 6, 2]]  # chosen, chosen, rejected, rejected
    texts = [prompts[n % 2] + response for n, response in enumerate(responses)]
    width = max(map(len, texts))
    ids = torch.tensor([t + [pad] * (width - len(t)) for t in texts])
    real = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts])
    labels = torch.tensor([
        [-100] * len(prompts[n % 2]) + r + [-100] * (width - len(texts[n])) for n, r in enumerate(responses)
    ])  # fmt: skip

    trainer = made(ORPOTrainer, beta=0.4, padding_value=pad)
    trainer.concatenated_inputs = lambda *args, **kwargs: {
        "concatenated_input_ids": ids, "concatenated_attention_mask": real, "concatenated_labels": labels,
    }  # fmt: skip
    model = Model(SimpleNamespace(logits=table_VV[ids]))
    theirs, _ = trainer.get_batch_loss_metrics(model, {"chosen_labels": labels[:2]})

    log_VV = table_VV.log_softmax(-1)

    def logps(tokens: list[int], before: int) -> list[Tensor]:
        return [log_VV[a, b] for a, b in zip([before, *tokens], tokens)]

    rows = [(prompts[n % 2], responses[n]) for n in (0, 2, 1, 3)]  # chosen and rejected side by side
    longest = max(len(r) for _, r in rows)
    zero = log_VV.new_zeros(())
    scores = Scores(
        logp_NT=torch.stack([
            torch.stack(logps(r, p[-1]) + [zero] * (longest - len(r))) for p, r in rows
        ]),
        mask_NT=torch.tensor([[1.0] * len(r) + [0.0] * (longest - len(r)) for _, r in rows]),
        role_N=torch.tensor([1, -1, 1, -1]),
        group_N=torch.tensor([0, 0, 1, 1]),
        prompt_logp_N=torch.stack([torch.stack(logps(p[1:], p[0])).sum() for p, _ in rows]),
        prompt_tokens_N=torch.tensor([float(len(p) - 1) for p, _ in rows]),  # the first token follows nothing
    )  # fmt: skip
    same(theirs, o.orpo(0.4)(scores).mean(scores), table_VV, atol=1e-6)  # theirs computes in float32
