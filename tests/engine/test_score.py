"""Scoring: any transformers causal model gives the numbers its own forward pass gives, however rows are padded."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from prefine.engine import score
from prefine.engine.score import evaluating, log_softmax_at, logp_of, output_head, padded_logp, score_contrasts
from prefine.policies.base import Batch, Limits, Row
from prefine.slate import Candidate, Contrast, Slate, group, pair

V = 61
SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 1}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **SHAPE)),
    "gemma2 (caps its logits)": lambda: Gemma2ForCausalLM(
        Gemma2Config(**IDS, **SHAPE, head_dim=8, num_key_value_heads=2, sliding_window=4, final_logit_softcapping=0.3)
    ),
    "cohere (scales its logits)": lambda: CohereForCausalLM(
        CohereConfig(**IDS, **SHAPE, num_key_value_heads=2, logit_scale=0.0625)
    ),
    "granite (divides its logits)": lambda: GraniteForCausalLM(GraniteConfig(**IDS, **SHAPE, logits_scaling=8.0)),
    "bloom (takes no positions)": lambda: BloomForCausalLM(BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=4)),
}


def make(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():  # random start weights are so small that every token is about as likely: make it matter
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else None
    return model


def some_rows() -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 4), (1, 1), (6, 2), (2, 7)]
    ids = [torch.randint(2, V, (p + r,), generator=generator).tolist() for p, r in shapes]
    return [Row(tuple(i[:p]), tuple(i[p:]), (1.0,) * r) for i, (p, r) in zip(ids, shapes, strict=True)]


def by_hand(model: Any, row: Row) -> torch.Tensor:
    """All token log-probabilities of one row, unpadded, from the model's own logits: entry t is of token t + 1."""
    ids = torch.tensor([row.prompt + row.response])
    logp = model(ids).logits[0, :-1].float().log_softmax(-1)
    return logp.gather(-1, ids[0, 1:, None])[:, 0]


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_are_those_of_the_models_own_forward_pass(name: str) -> None:
    model, rows = make(name), some_rows()
    with torch.no_grad():
        logp_NT, prompt_N = logp_of(model, rows, with_prompt=True)
        for n, row in enumerate(rows):
            expected = by_hand(model, row)
            responses = len(row.response)
            torch.testing.assert_close(logp_NT[n, :responses], expected[-responses:], atol=2e-5, rtol=1e-5)
            assert logp_NT[n, responses:].abs().max() == 0 if responses < logp_NT.shape[1] else True
            torch.testing.assert_close(prompt_N[n], expected[:-responses].sum(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_output_head_alone_is_used_and_equals_full_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make(name), some_rows()
    assert output_head(model) is not None, "this family should not need its full logits"
    with torch.no_grad():
        fast = logp_of(model, rows)[0]
        monkeypatch.setattr(score, "output_head", lambda model: None)
        torch.testing.assert_close(fast, logp_of(model, rows)[0], atol=2e-5, rtol=1e-5)


def test_a_head_that_does_something_unknown_to_its_logits_is_not_trusted() -> None:
    class Squared(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 3.0
            return output

    torch.manual_seed(0)
    model, rows = Squared(LlamaConfig(**IDS, **SHAPE)).eval(), some_rows()
    assert output_head(model) is None
    with torch.no_grad():
        logp_NT = logp_of(model, rows)[0]
        torch.testing.assert_close(logp_NT[0, :4], by_hand(model, rows[0])[-4:], atol=2e-5, rtol=1e-5)


def test_only_response_positions_meet_the_output_head(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make("llama"), some_rows()
    logp_of(model, rows)  # the head has been tried by now
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[0]))
    logp_of(model, rows)
    assert sum(seen) == sum(len(row.response) for row in rows)


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox", "gemma2 (caps its logits)"])
def test_trap_left_and_right_padding_with_wrong_positions(name: str) -> None:
    """The same rows padded on either side give the same numbers, since positions come from the mask."""
    model, rows = make(name), some_rows()
    with torch.no_grad():
        right = padded_logp(model, rows, 7, with_prompt=True, side="right")
        left = padded_logp(model, rows, 7, with_prompt=True, side="left")
    for a, b in zip(right, left, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_positions_make_a_difference_so_the_padding_test_can_fail() -> None:
    model = make("gpt2")
    ids = torch.tensor([[5, 6, 7]])
    a, b = (model(ids, position_ids=torch.tensor([p])).logits for p in ([0, 1, 2], [3, 4, 5]))
    assert (a - b).abs().max() > 1e-2


class Plain:
    """The least policy that scores: texts are lists of ids, the prompt is [2, 3]."""

    kind = "plain"

    def __init__(self, module: nn.Module) -> None:
        self.module: nn.Module | None = module

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        answers = [tuple(int(i) for i in contrast.response(k).split()) for k in range(len(contrast.members))]
        return tuple(Row((2, 3), ids, (1.0,) * len(ids)) for ids in answers)

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        assert self.module is not None
        return logp_of(self.module, batch.rows, width=batch.mask_NT.shape[1])


def some_contrasts() -> list[Contrast]:
    rng = np.random.default_rng(0)
    texts = [" ".join(str(i) for i in rng.integers(2, V, rng.integers(1, 9))) for _ in range(24)]
    slates = [Slate("p", tuple(Candidate(t) for t in texts[i : i + 3])) for i in range(0, 24, 3)]
    return [group(s, (2, 0, 1), (1, 0, -1)) if i % 2 else pair(s, 1, 0) for i, s in enumerate(slates)]


@pytest.mark.parametrize("budget", [1, 40, None])
def test_scoring_many_contrasts_does_not_depend_on_the_budget(budget: int | None) -> None:
    model = make("llama")
    policy, contrasts = Plain(model), some_contrasts()
    scored = score_contrasts(policy, contrasts, Limits(), budget)  # type: ignore[arg-type]
    assert len(scored) == len(contrasts)
    for contrast, members in zip(contrasts, scored, strict=True):
        for row, logps in zip(policy.encode(contrast, Limits()), members, strict=True):
            with torch.no_grad():
                expected = by_hand(model, row)[-len(row.response) :]
            assert logps.dtype == np.float32
            np.testing.assert_allclose(logps, expected.numpy(), atol=2e-5)


def test_trap_dropout_alive_in_the_reference() -> None:
    """A reference is scored without dropout even if the trainer left the model in training mode."""
    torch.manual_seed(0)
    config = GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    model = GPT2LMHeadModel(config).train()
    contrasts = some_contrasts()[:3]
    row = Plain(model).encode(contrasts[0], Limits())[0]
    assert not torch.equal(by_hand(model, row), by_hand(model, row)), "no dropout: the test shows nothing"
    scored = score_contrasts(Plain(model), contrasts, Limits(), None)  # type: ignore[arg-type]
    assert model.training, "the mode is put back"
    with evaluating(model), torch.no_grad():
        expected = by_hand(model, row)[-len(row.response) :]
    np.testing.assert_allclose(scored[0][0], expected.numpy(), atol=2e-5)


def test_evaluating_puts_every_part_back_into_its_own_mode() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[1].eval()
    with evaluating(model):
        assert not (model.training or model[0].training or model[1].training)
    assert model.training and model[0].training and not model[1].training


def test_trap_log_softmax_in_bf16() -> None:
    """Logits in bfloat16 are widened before the log-softmax: its sum over a vocabulary needs the digits."""
    logits = torch.linspace(-2, 2, 5000).repeat(2, 1).to(torch.bfloat16)
    target = torch.tensor([0, 4999])
    exact = logits.double().log_softmax(-1).gather(-1, target[:, None])[:, 0]
    narrow = logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]
    assert (narrow.double() - exact).abs().max() > 1e-3, "bf16 is good enough here: the test shows nothing"
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            ours = log_softmax_at(logits, target)
        assert ours.dtype == torch.float32
        assert (ours.double() - exact).abs().max() < 1e-5


@pytest.mark.parametrize("head", [True, False])
def test_under_bf16_autocast_log_probabilities_are_float32(head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make("llama"), some_rows()
    plain = logp_of(model, rows)[0]
    if not head:
        monkeypatch.setattr(score, "output_head", lambda model: None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp_NT = logp_of(model, rows)[0]
    assert logp_NT.dtype == torch.float32
    assert 0 < (logp_NT - plain).abs().max() < 0.5


def test_float64_models_stay_float64() -> None:
    assert logp_of(make("llama").double(), some_rows())[0].dtype == torch.float64


def test_gradients_are_those_of_the_plain_computation() -> None:
    model, rows = make("llama"), some_rows()
    logp_of(model, rows)[0].sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    sum(by_hand(model, row)[-len(row.response) :].sum() for row in rows).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_tokens_that_do_not_count_are_zero() -> None:
    row = Row((2, 3), (4, 5, 6), (1.0, 0.0, 1.0))
    logp_NT = logp_of(make("llama"), [row])[0]
    assert logp_NT[0, 1] == 0 and (logp_NT[0, [0, 2]] < 0).all()


def test_rows_without_a_response_or_a_width_score_zero() -> None:
    logp_NT, prompt_N = logp_of(make("llama"), [Row((2, 3), (), ())], width=2, with_prompt=True)
    assert logp_NT.tolist() == [[0.0, 0.0]] and prompt_N is not None and prompt_N[0] < 0


def test_a_row_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="without a prompt"):
        logp_of(make("llama"), [Row((), (2,), (1.0,))])


def test_a_model_without_the_usual_parts_goes_through_its_full_logits() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(V, V))

        def forward(self, input_ids: torch.Tensor) -> Any:
            return SimpleNamespace(logits=self.table[input_ids])

    model, rows = Bare(), some_rows()
    with torch.no_grad():
        torch.testing.assert_close(logp_of(model, rows)[0][0, :4], by_hand(model, rows[0])[-4:])
