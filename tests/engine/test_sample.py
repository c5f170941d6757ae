"""Sampling: what is drawn depends on its seed alone, and its log-probabilities are those of what drew it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from prefine.engine import sample as engine
from prefine.engine.sample import draw, generate, uniforms
from prefine.engine.score import logp_of
from prefine.policies.base import Row, Sampling

V, END = 31, 1
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": END}
SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **SHAPE)),
    "gemma2 (a window of 4)": lambda: Gemma2ForCausalLM(
        Gemma2Config(**IDS, **SHAPE, head_dim=8, num_key_value_heads=2, sliding_window=4)
    ),
}


def make(name: str = "llama") -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else None
    return model


def some_prompts(count: int = 16) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(2, V, rng.integers(1, 9)).tolist() for _ in range(count)]


def run(model: Any, prompts: list[list[int]], seeds: list[int] | None = None, **settings: Any) -> Any:
    budget, route = settings.pop("budget", 65536), settings.pop("route", "auto")
    sampling = Sampling(**{"max_tokens": 10, **settings})
    seeds = list(range(len(prompts))) if seeds is None else seeds
    words = lambda ids: " ".join(f"w{i}" for i in ids)  # noqa: E731
    return generate(model, prompts, sampling, seeds, stop_ids={END}, decode=words, budget=budget, route=route)


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_does_not_depend_on_what_shares_its_batch(name: str) -> None:
    model, prompts = make(name), some_prompts(16)
    together = run(model, prompts, n=2, temperature=0.9, top_p=0.95)
    for i, prompt in enumerate(prompts):
        alone = run(model, [prompt], [i], n=2, temperature=0.9, top_p=0.95)[0]
        assert [d.tokens for d in alone] == [d.tokens for d in together[i]]
        for a, b in zip(alone, together[i], strict=True):
            np.testing.assert_allclose(a.logps, b.logps, atol=1e-4)


@pytest.mark.parametrize("budget", [1, 100, 400])
def test_nor_on_the_token_budget(budget: int) -> None:
    model, prompts = make(), some_prompts(8)
    whole, cut = run(model, prompts, n=3), run(model, prompts, n=3, budget=budget)
    assert [[d.tokens for d in row] for row in whole] == [[d.tokens for d in row] for row in cut]


def test_nor_on_how_many_samples_are_asked_for() -> None:
    model, prompts = make(), some_prompts(4)
    few, many = run(model, prompts, n=2), run(model, prompts, n=5)
    assert [[d.tokens for d in row] for row in few] == [[d.tokens for d in row[:2]] for row in many]
    assert len({d.tokens for d in many[0]}) > 1, "samples of a prompt are drawn apart"


def test_the_seed_alone_decides() -> None:
    model, prompts = make(), [some_prompts(1)[0]] * 3
    same = run(model, prompts, [7, 7, 8])
    assert same[0][0].tokens == same[1][0].tokens != same[2][0].tokens


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_what_transformers_generates_without_any_batch(name: str) -> None:
    """So left padding, positions and the cache are right: transformers runs each prompt alone, unpadded."""
    model, prompts = make(name), some_prompts(6)
    drawn = run(model, prompts, temperature=0.0)
    for prompt, (one,) in zip(prompts, drawn, strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10, pad_token_id=0
        )
        assert list(one.tokens) == whole[0, len(prompt) :].tolist()
        assert set(one.logps) == {0.0}, "greedy draws are certain"


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.6, 1.0), (1.0, 0.7), (1.7, 0.8)])
def test_trap_sampling_temperature_left_out_of_stored_log_probabilities(temperature: float, top_p: float) -> None:
    """Stored log-probabilities, against the distribution worked out by hand from full logits."""
    model, prompts = make(), some_prompts(4)
    for prompt, row in zip(prompts, run(model, prompts, n=3, temperature=temperature, top_p=top_p), strict=True):
        for one in row:
            logits = model(torch.tensor([[*prompt, *one.tokens]])).logits[0, len(prompt) - 1 : -1].double()
            expected = []
            for p, token in zip((logits / temperature).softmax(-1).tolist(), one.tokens, strict=True):
                kept: list[float] = []
                for q in sorted(p, reverse=True):
                    if sum(kept) < top_p or not kept:
                        kept.append(q)
                assert p[token] >= kept[-1] - 1e-7, "a token outside of the nucleus"
                expected.append(math.log(p[token] / sum(kept)))
            np.testing.assert_allclose(one.logps, expected, atol=1e-4)


def test_at_temperature_one_they_are_the_scorers() -> None:
    model, prompts = make(), some_prompts(4)
    for prompt, (one,) in zip(prompts, run(model, prompts), strict=True):
        row = Row(tuple(prompt), one.tokens, (1.0,) * len(one.tokens))
        np.testing.assert_allclose(one.logps, logp_of(model, [row])[0][0].detach().numpy(), atol=2e-5)


def test_tokens_come_up_as_often_as_they_are_likely() -> None:
    """Inverse transform over a grid of uniform numbers meets every probability to the grid's width."""
    p = torch.tensor([0.05, 0.0, 0.5, 0.2, 0.25])
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens, logps = draw(p.log().repeat(10_000, 1), grid, 1.0, 1.0)
    shares = torch.bincount(tokens, minlength=5) / 10_000
    torch.testing.assert_close(shares, p, atol=2e-4, rtol=0)
    torch.testing.assert_close(logps, p[tokens].log())


@pytest.mark.parametrize(
    "top_p, kept", [(0.3, [2]), (0.5, [2]), (0.51, [2, 4]), (0.75, [2, 4]), (0.9, [2, 3, 4]), (1.0, [0, 2, 3, 4])]
)
def test_top_p_keeps_the_smallest_set_that_holds_it(top_p: float, kept: list[int]) -> None:
    p = torch.tensor([0.0625, 0.0, 0.5, 0.1875, 0.25], dtype=torch.float64)
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    tokens, logps = draw(p.log().repeat(2000, 1), grid, 1.0, top_p)
    assert sorted(set(tokens.tolist())) == kept
    torch.testing.assert_close(logps.double(), (p[tokens] / p[kept].sum()).log(), atol=1e-6, rtol=0)


def plain_draw(logits_BV: torch.Tensor, uniform_B: torch.Tensor, temperature: float, top_p: float) -> Any:
    """``draw`` by sorting and adding up the whole vocabulary in double precision."""
    p_BV = (logits_BV.double() / temperature).softmax(-1)
    sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
    outside_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p
    outside_BV[:, 0] = False
    p_BV = p_BV.masked_fill(outside_BV.scatter(-1, order_BV, outside_BV), 0.0)
    p_BV = p_BV / p_BV.sum(-1, keepdim=True)
    token_B1 = torch.searchsorted(p_BV.cumsum(-1), uniform_B[:, None], right=True)
    return token_B1[:, 0], p_BV.gather(-1, token_B1)[:, 0].log()


@pytest.mark.parametrize("vocabulary", [2, 127, 128, 129, 1000])
@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 1.0), (1.3, 0.9), (1.0, 0.05), (1.0, 0.999)])
@pytest.mark.parametrize("sharpness", [0.01, 3.0, 30.0])
def test_two_levels_draw_what_one_would(vocabulary: int, temperature: float, top_p: float, sharpness: float) -> None:
    rng = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(500, vocabulary, generator=rng, dtype=torch.float64) * sharpness
    uniform = torch.rand(500, generator=rng, dtype=torch.float64)
    ours, theirs = draw(logits, uniform, temperature, top_p), plain_draw(logits, uniform, temperature, top_p)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], atol=2e-6, rtol=0)
    narrow = draw(logits.float(), uniform, temperature, top_p)[0]
    assert (narrow == theirs[0]).double().mean() > 0.99, "but where rounding decides"


def test_of_equally_likely_tokens_the_nucleus_keeps_the_first() -> None:
    logits = torch.zeros(1000, 300)
    logits[:, 7] = 1.0  # e of 299 + e
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens, _ = draw(logits, grid, 1.0, 10.0 / (299 + math.e))
    assert sorted(set(tokens.tolist())) == [0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_a_draw_does_not_depend_on_the_rows_beside_it(top_p: float) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 700, generator=rng) * torch.logspace(-2, 1, 64)[:, None]
    uniform = torch.rand(64, generator=rng, dtype=torch.float64)
    together = draw(logits, uniform, 1.0, top_p)
    for b in range(64):
        alone = draw(logits[b : b + 1], uniform[b : b + 1], 1.0, top_p)
        assert alone[0] == together[0][b] and alone[1] == together[1][b]


def test_a_low_temperature_sharpens() -> None:
    logits = torch.tensor([[0.0, 1.0]]).repeat(4000, 1)
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for temperature in (0.25, 1.0, 3.0):
        share = draw(logits, grid, temperature, 1.0)[0].double().mean()
        assert abs(float(share) - 1 / (1 + math.exp(-1 / temperature))) < 1e-3


@pytest.mark.parametrize("u", [0.0, 1.0, 1 - 2**-53])
def test_the_ends_of_the_uniform_interval_pick_possible_tokens(u: float) -> None:
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf]])
    token, logp = draw(logits, torch.tensor([u], dtype=torch.float64), 1.0, 1.0)
    assert token.item() == (1 if u == 0 else 2) and torch.isfinite(logp).all()


def test_uniform_numbers_are_keyed_by_seed_and_sample() -> None:
    assert uniforms(1, 2, 5).tolist() == uniforms(1, 2, 5).tolist()
    assert uniforms(1, 2, 3).tolist() == uniforms(1, 2, 5)[:3].tolist(), "one a step, whatever the limit"
    assert len({tuple(uniforms(s, k, 3)) for s in (-1, 0, 1, 2**63) for k in (0, 1)}) == 8


class Script(nn.Module):
    """A model that says the same whatever it is given: token t of its script after t + ``prompt`` tokens."""

    def __init__(self, script: list[int], prompt: int) -> None:
        super().__init__()
        self.script, self.prompt = script, prompt
        self.dummy = nn.Parameter(torch.zeros(()))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool = False) -> Any:
        logits = torch.full((*input_ids.shape, V), -1e9)
        step = int(attention_mask[0].sum()) - self.prompt
        logits[:, -1, self.script[step]] = 0.0
        return SimpleNamespace(logits=logits)


def test_the_end_token_is_kept_and_stops() -> None:
    ((one,),) = run(Script([5, 6, END, 7], 2), [[2, 3]])
    assert one.tokens == (5, 6, END) and one.stop == "end" and len(one.logps) == 3


def test_what_is_cut_says_so_and_has_no_end_token() -> None:
    ((one,),) = run(Script([5, 6, 7, END], 2), [[2, 3]], max_tokens=3)
    assert one.tokens == (5, 6, 7) and one.stop == "length"


def test_an_end_token_in_the_last_place_is_an_end() -> None:
    ((one,),) = run(Script([5, END], 2), [[2, 3]], max_tokens=2)
    assert one.tokens == (5, END) and one.stop == "end"


def test_every_end_token_of_the_model_stops() -> None:
    ((one,),) = generate(Script([5, 9, END], 2), [[2, 3]], Sampling(max_tokens=9), [0], stop_ids={END, 9})
    assert one.tokens == (5, 9) and one.stop == "end"


def test_a_stop_string_ends_a_response_and_stays_in_it() -> None:
    ((one,),) = run(Script([5, 6, 7, 8, END], 2), [[2, 3]], stop=("zzz", "w6 w7"))
    assert one.tokens == (5, 6, 7) and one.stop == "end"


def test_only_rows_whose_last_token_can_end_a_stop_string_are_decoded() -> None:
    decoded: list[int] = []

    def words(ids: Any) -> str:
        decoded.append(len(ids))
        return "".join("abcdefghij"[i % 10] for i in ids)

    script = [10, 11, 12, 13, 14, 15, END]
    model = Script(script, 2)
    (one,) = generate(model, [[2, 3]], Sampling(max_tokens=9, stop=("de",)), [0], stop_ids={END}, decode=words)[0]
    assert one.tokens == (10, 11, 12, 13, 14) and one.stop == "end"
    assert [length for length in decoded if length > 1] == [5, 5], "its end and then the whole, once"


@pytest.mark.parametrize("stop", ["b ", "it's", "\u00e9"])
def test_stop_strings_whose_end_no_token_shows_alone(stop: str) -> None:
    """A decoder that joins words with spaces, and one whose characters span tokens."""
    texts = {5: b"b", 6: b" ", 7: b"it", 8: b"'s", 9: b"\xc3", 10: b"\xa9"}
    script = {"b ": [5, 6, 7, END], "it's": [7, 8, 5, END], "\u00e9": [9, 10, 5, END]}[stop]

    def decode(ids: Any) -> str:
        text = b"".join(texts.get(i, b"") for i in ids).decode(errors="replace")
        return text.lstrip() if len(ids) == 1 else text

    drawn = generate(
        Script(script, 2), [[2, 3]], Sampling(max_tokens=9, stop=(stop,)), [0], stop_ids={END}, decode=decode
    )
    assert drawn[0][0].tokens == tuple(script[:2]) and drawn[0][0].stop == "end"


def test_models_without_a_cache_give_the_same() -> None:
    model, prompts = make(), some_prompts(5)

    class Uncached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, use_cache: bool) -> Any:
            output = self.inner(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
            return SimpleNamespace(logits=output.logits)

    cached, plain = run(model, prompts, n=2), run(Uncached(), prompts, n=2)
    assert [[d.tokens for d in row] for row in cached] == [[d.tokens for d in row] for row in plain]


def shapes_of(model: Any) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return seen


def test_on_the_plain_way_a_prompt_is_read_once_for_all_its_samples_and_every_step_reads_one_token() -> None:
    model, prompts = make(), some_prompts(3)
    seen = shapes_of(model)
    run(model, prompts, n=8, max_tokens=3, route="padded")
    assert seen[0] == (3, max(len(p) for p in prompts))
    assert all(rows <= 24 and tokens == 1 for rows, tokens in seen[1:])


def test_finished_rows_leave_the_batch_on_the_plain_way() -> None:
    model = make()
    with torch.no_grad():
        model.lm_head.weight[END] *= 3  # some rows end early
    seen = shapes_of(model)
    drawn = run(model, some_prompts(16), n=4, max_tokens=30, route="padded")
    alive = [sum(len(d.tokens) > t for row in drawn for d in row) for t in range(1, len(seen))]
    assert alive[-1] < alive[0]
    for (rows, _), living in zip(seen[1:], alive, strict=True):
        assert living <= rows <= living / engine.COMPACT_AT + 1


def test_dropout_is_off_while_sampling() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.9)).train()
    assert run(model, some_prompts(2), temperature=0.0) == run(model, some_prompts(2), temperature=0.0)
    assert model.training


def test_sampling_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    run(make_quietly(), some_prompts(2))
    after = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    assert torch.equal(before[0], after[0]) and before[1] == after[1]


def make_quietly() -> Any:
    with torch.random.fork_rng():
        return make()


def test_no_prompts_no_samples() -> None:
    assert run(make(), []) == []
