"""Whatever the rows: trees give the plain computation's losses to 1e-5 and gradients to 1e-4 in float32, and both to
1e-10 in float64. Cases are generated, from a fixed seed (so that a change, and not the day, makes a test fail)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefine.engine import head, score
from prefine.engine.head import OutputHead, chunked_logp
from prefine.engine.score import logp_of, padded_logp
from prefine.engine.trees import layout
from prefine.engine.trees import route as tree_route
from prefine.engine.trees.tree import plant
from prefine.policies.base import Row
from prefine.policies.lora import LoraSettings, attach

V = 29
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
SHAPE: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED: dict[str, Any] = {**IDS, **SHAPE, "num_key_value_heads": 1}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "mistral, windows": lambda: MistralForCausalLM(MistralConfig(**GROUPED, head_dim=8, sliding_window=4)),
    "gemma2, caps and windows": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **GROUPED, head_dim=8, sliding_window=4, attn_logit_softcapping=1.0, final_logit_softcapping=2.0,
            attn_implementation="eager",
        )
    ),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **SHAPE)),
    "phi, a head with a bias": lambda: PhiForCausalLM(PhiConfig(**IDS, **SHAPE)),
}  # fmt: skip
ACCURACY = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-10, 1e-10)}
"""Relative, of losses and of gradients."""


def few(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )  # fmt: skip


# -- models


@cache
def made(family: str, dtype: torch.dtype, how: str = "plain") -> Any:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    with torch.no_grad():  # random start weights are so small that attention hardly matters: make it matter
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn(parameter.shape))
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = in_float64(module, plus_one=type(module).__name__.startswith("Gemma"))
    return HOW[how](model.to(dtype))


def in_float64(norm: Any, plus_one: bool) -> Callable[[Tensor], Tensor]:
    """The norm of these models goes through float32 whatever it is given, which would hide 1e-10."""
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))

    def forward(x: Tensor) -> Tensor:
        scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        return scaled * (norm.weight + 1 if plus_one else norm.weight)

    return forward


@pytest.fixture(scope="module", autouse=True)
def _softmax_in_float64() -> Iterator[None]:
    """So does the softmax of their eager attention."""
    real = torch.nn.functional.softmax
    wide = lambda x, dim=None, _stacklevel=3, dtype=None: real(  # noqa: E731
        x, dim, dtype=None if x.dtype == torch.float64 else dtype
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", wide)
        yield


def with_adapter(model: Any) -> Any:
    pytest.importorskip("peft", reason="needs peft (prefine[lora])")
    torch.manual_seed(1)
    adapted: Any = attach(model, LoraSettings(rank=2, alpha=4.0))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            parameter.normal_(std=0.3) if "lora_B" in name else None
    return adapted


def checkpointing(model: Any) -> Any:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


HOW: dict[str, Callable[[Any], Any]] = {
    "plain": lambda model: model,
    "adapter": with_adapter,
    "gradient checkpointing": checkpointing,
    "frozen head": lambda model: (model.get_output_embeddings().requires_grad_(False), model)[1],
}


# -- rows

token = st.integers(2, 5)
"""Few of them, so that prefixes coincide where nobody planned it."""


@st.composite
def masked(draw: st.DrawFn, prompt: tuple[int, ...], response: tuple[int, ...]) -> Row:
    """All tokens count, none, a part in the middle does not (tool output), the first do not (context), or any."""
    n = len(response)
    a, b = sorted((draw(st.integers(0, n)), draw(st.integers(0, n))))
    kind = draw(st.sampled_from(["all", "all", "none", "hole", "rest", "any"]))
    masks = {
        "all": [1.0] * n,
        "none": [0.0] * n,
        "hole": [float(not a <= t < b) for t in range(n)],
        "rest": [float(t >= a) for t in range(n)],
        "any": draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)),
    }
    return Row(prompt, response, tuple(masks[kind]))


@st.composite
def pairs(draw: st.DrawFn) -> list[Row]:
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        prompt = tuple(draw(st.lists(token, min_size=1, max_size=8)))
        rows += [draw(masked(prompt, tuple(draw(st.lists(token, max_size=6))))) for _ in range(2)]
    return rows


@st.composite
def lists(draw: st.DrawFn, size: int = 64) -> list[Row]:
    """Responses of one prompt, some of them the same, some beginnings of others."""
    prompt = tuple(draw(st.lists(token, min_size=1, max_size=6)))
    fresh = draw(st.lists(st.lists(token, max_size=5).map(tuple), min_size=size // 2, max_size=size - 4))
    again = [
        one[: draw(st.integers(0, len(one)))]
        for one in (draw(st.sampled_from(fresh)) for _ in range(size - len(fresh)))
    ]
    return [draw(masked(prompt, response)) for response in [*fresh, *again]]


@st.composite
def step_trees(draw: st.DrawFn, depth: int = 6, most: int = 14) -> list[Row]:
    """Steps that branch again and again, down to ``depth`` of them; branches end early too, and every step that is
    branched from may be a row of its own. Whether a step counts is the step's property."""
    prompt = tuple(draw(st.lists(token, min_size=1, max_size=4)))
    level: list[tuple[tuple[int, ...], tuple[float, ...]]] = [((), ())]
    rows: list[Row] = []
    for d in range(depth):
        below = []
        for ids, mask in level:
            for _ in range(draw(st.integers(1 if d else 2, 2))):
                step = tuple(draw(st.lists(token, min_size=1, max_size=3)))
                below.append((ids + step, mask + (draw(st.sampled_from([1.0, 1.0, 0.0])),) * len(step)))
        rows += [Row(prompt, *node) for node in level if draw(st.integers(0, 4)) == 0]
        level = below[:most]
    return [*rows, *(Row(prompt, *node) for node in level)]


@st.composite
def anything(draw: st.DrawFn) -> list[Row]:
    """Prompts that are beginnings of other prompts with their responses, and rows that ask for nothing."""
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        prompt = tuple(draw(st.lists(token, min_size=1, max_size=4)))
        rows.append(draw(masked(prompt, tuple(draw(st.lists(token, max_size=5))))))
    return rows


cases = st.one_of(pairs(), step_trees(), anything(), lists(size=10))


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """How trees are made and packed; none of it may show."""
    return {
        "budget": draw(st.sampled_from([None, 1, 8, 24])),
        "worth": draw(st.sampled_from([0, 8, 32, 1 << 30])),
        "block": draw(st.sampled_from([2, 5, 128])),
        "columns": draw(st.sampled_from([1, 7, V - 1, V, V + 1])),
        "keep": draw(st.sampled_from([0, 40, 1 << 26])),
        "side": draw(st.sampled_from(["left", "right"])),
    }


# -- the comparison


def loss_and_gradients(model: Any, rows: Sequence[Row], scored: tuple[Tensor, Tensor | None]) -> Any:
    """A loss that pulls every row its own way, with weights of its own on every token."""
    logp_NT, prompt_N = scored
    generator = torch.Generator().manual_seed(5)
    weight_NT = 0.5 + torch.rand(logp_NT.shape, generator=generator).to(logp_NT)
    sign_N = torch.tensor([(-1.0) ** n for n in range(len(rows))]).to(logp_NT)
    total_N = sign_N * (weight_NT * logp_NT).sum(-1)
    total_N = total_N if prompt_N is None else total_N + 0.1 * prompt_N
    loss = nn.functional.softplus(0.2 * total_N).sum()
    model.zero_grad()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(model: Any, rows: Sequence[Row], how: dict[str, Any], *, with_prompt: bool) -> None:
    """Values, loss and gradients of trees and the chunked head are those of padded rows and whole logits."""
    dtype = next(model.parameters()).dtype
    value, gradient = ACCURACY[dtype]
    width = max(len(row.response) for row in rows) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "output_head", lambda model: None)  # whole logits, by the model's own forward pass
        plain = padded_logp(model, rows, width, with_prompt=with_prompt, side=how["side"])
    loss, gradients = loss_and_gradients(model, rows, plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK", how["block"])
        patch.setattr(head, "LEAST_COLUMNS", how["columns"])
        patch.setattr(score, "chunked_logp", partial(chunked_logp, chunk=1, keep=how["keep"]))
        forest = plant(rows, with_prompt=with_prompt, budget=how["budget"], worth=how["worth"])
        ours = tree_route.tree_logp(model, rows, width, with_prompt=with_prompt, forest=forest)
        our_loss, our_gradients = loss_and_gradients(model, rows, ours)
    assert abs(our_loss - loss) <= value * abs(loss)
    for a, b in zip(ours, plain, strict=True):
        if b is not None:
            assert a is not None and a.shape == b.shape
            assert (a - b).norm() <= 10 * value * b.norm()
            assert bool(((a == 0) | (b != 0)).all()), "a token that does not count has a number"
    assert our_gradients.keys() == gradients.keys()
    size = torch.stack([g.norm() for g in gradients.values()]).norm()
    for name, expected in gradients.items():
        # (a gradient that is 0 but for rounding, as of the biases of keys, is compared with the others)
        assert (our_gradients[name] - expected).norm() <= gradient * max(expected.norm(), 1e-2 * size), name


PLAIN: dict[str, Any] = {"budget": None, "worth": 32, "block": 128, "columns": 256, "keep": 1 << 26, "side": "right"}
SAME = [Row((2, 3), (4, 5), (1.0, 1.0))] * 3
BEGINNING = [Row((2, 3), (4, 5, 2), (1.0, 0.0, 1.0)), Row((2, 3), (4,), (1.0,)), Row((2,), (3, 4, 5), (0.0, 1.0, 1.0))]
NOTHING = [Row((2, 3), (4, 5), (0.0, 0.0)), Row((2,), (), ()), Row((3,), (4,), (1.0,))]


@pytest.mark.parametrize("dtype", ACCURACY, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@given(rows=cases, how=layouts(), with_prompt=st.booleans())
@example(rows=SAME, how=PLAIN, with_prompt=True)
@example(rows=BEGINNING, how=PLAIN, with_prompt=True)
@example(rows=NOTHING, how=PLAIN, with_prompt=False)
@few(12)
def test_any_rows_in_any_layout(
    family: str, dtype: torch.dtype, rows: list[Row], how: dict[str, Any], with_prompt: bool
) -> None:
    assert_same(made(family, dtype), rows, how, with_prompt=with_prompt)


@pytest.mark.parametrize("dtype", ACCURACY, ids=str)
@pytest.mark.parametrize("what", ["lists of 64", "trees of depth 6"])
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), with_prompt=st.booleans())
@few(3)
def test_large_slates(family: str, what: str, dtype: torch.dtype, data: st.DataObject, with_prompt: bool) -> None:
    rows = data.draw({"lists of 64": lists(64), "trees of depth 6": step_trees(depth=6, most=24)}[what])
    assert_same(made(family, dtype), rows, PLAIN, with_prompt=with_prompt)


@pytest.mark.parametrize("dtype", ACCURACY, ids=str)
@pytest.mark.parametrize("way", [way for way in HOW if way != "plain"])
@pytest.mark.parametrize("family", ["llama", "gemma2, caps and windows", "gpt-neox"])
@given(rows=cases, how=layouts(), with_prompt=st.booleans())
@few(8)
def test_adapters_checkpointing_and_frozen_heads(
    family: str, way: str, dtype: torch.dtype, rows: list[Row], how: dict[str, Any], with_prompt: bool
) -> None:
    assert_same(made(family, dtype, way), rows, how, with_prompt=with_prompt)


@given(rows=step_trees(), order=st.randoms(use_true_random=False))
@few(15)
def test_a_rows_numbers_depend_on_no_other_row(rows: list[Row], order: Any) -> None:
    """Nor on the order in which they come: the tree is found from the ids alone."""
    model, width = made("llama", torch.float64), max(len(row.response) for row in rows)
    places = list(range(len(rows)))
    order.shuffle(places)
    with torch.no_grad():
        together = logp_of(model, rows, width=width, route="tree")[0]
        shuffled = logp_of(model, [rows[i] for i in places], width=width, route="tree")[0]
        alone = torch.cat([logp_of(model, [row], width=width, route="tree")[0] for row in rows])
    torch.testing.assert_close(shuffled, together[places], atol=1e-11, rtol=1e-10)
    torch.testing.assert_close(alone, together, atol=1e-11, rtol=1e-10)


@given(rows=cases)
@few(30)
def test_a_tree_reads_every_prefix_once_when_sharing_is_free(rows: list[Row]) -> None:
    """What goes through the model is counted: the prefixes that somebody reads, and no others."""
    read = set()
    for row in rows:
        counted = [t for t, counts in enumerate(row.mask) if counts]
        whole = row.prompt + row.response
        read |= {whole[:n] for n in range(1, len(row.prompt) + counted[-1] + 1)} if counted else set()
    assert plant(rows, worth=1 << 30).tokens == len(read)


# -- the head


@given(
    tokens=st.integers(0, 9),
    vocabulary=st.integers(1, 40),
    columns=st.integers(1, 12),
    keep=st.sampled_from([0, 30, 1 << 26]),
    form=st.fixed_dictionaries(
        {"scale": st.sampled_from([1.0, 0.25, 3.0]), "cap": st.sampled_from([None, 0.5, 30.0]), "bias": st.booleans()}
    ),
    trained=st.booleans(),
    seed=st.integers(0, 99),
)
@few(150)
def test_the_head_in_chunks_of_any_size(
    tokens: int, vocabulary: int, columns: int, keep: int, form: dict[str, Any], trained: bool, seed: int
) -> None:
    """Targets on both sides of every boundary; a last chunk of one column; a vocabulary smaller than a chunk."""
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(3, vocabulary, bias=form["bias"], dtype=torch.float64)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    linear.requires_grad_(trained)
    hidden = torch.randn(tokens, 3, generator=generator, dtype=torch.float64).requires_grad_()
    edges = sorted({x for c in range(0, vocabulary, columns) for x in (c - 1, c) if x >= 0} | {vocabulary - 1})
    target = torch.tensor([edges[(i + seed) % len(edges)] for i in range(tokens)], dtype=torch.long)
    upstream = torch.randn(tokens, generator=generator, dtype=torch.float64)
    output = OutputHead(linear, form["scale"], form["cap"])
    wanted = [hidden, *(linear.parameters() if trained else [])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "LEAST_COLUMNS", columns)
        ours = chunked_logp(output, hidden, target, chunk=1, keep=keep)
        our_gradients = torch.autograd.grad(ours, wanted, upstream)
    plain = output(hidden).log_softmax(-1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(ours, plain, atol=1e-11, rtol=1e-11)
    for a, b in zip(our_gradients, torch.autograd.grad(plain, wanted, upstream), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
