"""Prefix trees: shared prefixes are computed once, and every number is that of the plain padded computation."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefine.engine.score import logp_of
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.engine.trees import attention, layout
from prefine.engine.trees import route as tree_route
from prefine.engine.trees.attention import NotInTrees
from prefine.engine.trees.layout import Layout
from prefine.engine.trees.tree import Segment, Tree, grow, join, pack, plant
from prefine.objectives.scores import Loss, Scores
from prefine.policies.base import Batch, Limits, Row
from prefine.policies.lora import LoraSettings, attach
from prefine.slate import Candidate, Contrast, Slate, pair

V = 47
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED: dict[str, Any] = {**IDS, **SHAPE, "num_key_value_heads": 2}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "qwen3, windows in one layer": lambda: Qwen3ForCausalLM(
        Qwen3Config(**GROUPED, head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ),
    "mistral, windows": lambda: MistralForCausalLM(MistralConfig(**GROUPED, head_dim=8, sliding_window=5)),
    "gemma2, caps and windows": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **GROUPED, head_dim=8, sliding_window=4, attn_logit_softcapping=1.0, final_logit_softcapping=2.0,
            attn_implementation="eager",
        )
    ),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **SHAPE)),
    "gpt2, learned positions": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4)),
    "gpt-oss, sinks and windows": lambda: GptOssForCausalLM(
        GptOssConfig(
            **GROUPED, head_dim=8, sliding_window=4, num_local_experts=2, num_experts_per_tok=1,
            attn_implementation="eager", experts_implementation="eager",
        )
    ),
}  # fmt: skip
FUSED = ("llama", "gpt2, learned positions")


def make(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():  # random start weights are so small that attention hardly matters: make it matter
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else None
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = in_float64(module, plus_one=type(module).__name__.startswith("Gemma"))
    return model.to(dtype)


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


def ids(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(int(i) for i in rng.integers(2, V, count))


def row(prompt: tuple[int, ...], response: tuple[int, ...], rng: np.random.Generator | None = None) -> Row:
    mask = np.ones(len(response)) if rng is None else rng.integers(0, 2, len(response))
    return Row(prompt, response, tuple(float(m) for m in mask))


def pairs() -> list[Row]:
    rng = np.random.default_rng(0)
    prompts = [ids(rng, n) for n in (9, 3, 12)]
    return [row(p, ids(rng, n)) for p in prompts for n in rng.integers(1, 7, 2)]


def long_list() -> list[Row]:
    """64 responses of one prompt, some the same, some beginnings of others."""
    rng = np.random.default_rng(1)
    prompt = ids(rng, 8)
    rows = [row(prompt, ids(rng, int(rng.integers(1, 5)))) for _ in range(60)]
    return [*rows, rows[0], rows[3], row(prompt, (*rows[5].response, 4, 5)), row(prompt, rows[7].response[:1])]


def deep() -> list[Row]:
    """Two trees of depth 6 that branch in two at every step; which tokens count differs from row to row."""
    rng = np.random.default_rng(2)
    rows: list[Row] = []
    for _ in range(2):
        prompt, level = ids(rng, 5), [()]
        for _ in range(4):
            level = [before + ids(rng, int(rng.integers(1, 3))) for before in level for _ in range(2)][:12]
        rows += [row(prompt, response, rng) for response in level]
    return rows


def masked() -> list[Row]:
    rng = np.random.default_rng(3)
    prompt = ids(rng, 6)
    tool = ids(rng, 4)
    return [
        Row(prompt, (5, *tool, 6), (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)),
        Row(prompt, (5, *tool, 7, 8), (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
        Row(prompt, (9, 9), (0.0, 0.0)),
        Row(prompt, (), ()),
        Row((3,), (4,), (1.0,)),
    ]


CASES: dict[str, Callable[[], list[Row]]] = {"pairs": pairs, "list of 64": long_list, "depth 6": deep, "masks": masked}


def loss_and_gradients(
    model: Any, rows: Sequence[Row], route: str, with_prompt: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss that pulls every row its own way, with weights of its own on every token."""
    logp_NT, prompt_N = logp_of(model, rows, route=route, with_prompt=with_prompt)
    generator = torch.Generator().manual_seed(5)
    weight_NT = 0.5 + torch.rand(logp_NT.shape, generator=generator).to(logp_NT)
    sign_N = torch.tensor([(-1.0) ** n for n in range(len(rows))]).to(logp_NT)
    total_N = sign_N * (weight_NT * logp_NT).sum(-1)
    if prompt_N is not None:
        total_N = total_N + 0.1 * prompt_N
    loss = torch.nn.functional.softplus(0.2 * total_N).sum()
    model.zero_grad()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(model: Any, rows: Sequence[Row], loss: float, gradient: float, with_prompt: bool = True) -> None:
    plain, plain_gradients = loss_and_gradients(model, rows, "padded", with_prompt)
    ours, our_gradients = loss_and_gradients(model, rows, "tree", with_prompt)
    assert abs(ours - plain) <= loss * abs(plain)
    assert our_gradients.keys() == plain_gradients.keys()
    size = torch.stack([g.norm() for g in plain_gradients.values()]).norm()
    for name, expected in plain_gradients.items():
        # (a gradient that is 0 but for rounding, as of the biases of keys, is compared with the others)
        assert (our_gradients[name] - expected).norm() <= gradient * max(expected.norm(), 1e-2 * size), name


# -- the trees themselves


def test_a_pair_is_a_prompt_with_two_branches() -> None:
    (tree,) = grow([(5, 6, 7, 8), (5, 6, 9)])
    assert tree.ids_L.tolist() == [5, 6, 7, 8, 9]
    assert tree.segments == (Segment(0, 2, 5, 0, -1), Segment(2, 4, 4, 2, 0), Segment(4, 5, 5, 2, 0))
    assert tree.position_L.tolist() == [0, 1, 2, 3, 2]
    assert [tree.columns[n].tolist() for n in (0, 1)] == [[0, 1, 2, 3], [0, 1, 4]]


def test_nothing_is_repeated_and_what_nobody_reads_is_left_out() -> None:
    """The last token predicts nothing that is asked for; where a tree branches one column predicts both."""
    forest = plant([Row((5, 6), (7, 8), (1.0, 1.0)), Row((5, 6), (9, 4, 4), (1.0, 1.0, 0.0))])
    (scored,) = forest.scored
    assert scored.tree.ids_L.tolist() == [5, 6, 7, 9]
    asked = list(zip(scored.column_U.tolist(), scored.target_U.tolist(), strict=True))
    assert [asked[i] for i in forest.which_M] == [(1, 7), (2, 8), (1, 9), (3, 4)]
    assert (forest.row_M.tolist(), forest.slot_M.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])


def test_a_token_that_several_rows_share_is_scored_once() -> None:
    forest = plant([Row((5, 6), (7, 8, 1), (1.0,) * 3), Row((5, 6), (7, 8, 2), (1.0,) * 3)], with_prompt=True)
    assert len(forest.which_M) == 2 * 3 + 2 * 1
    assert len(forest.scored[0].column_U) == 2 + 2 + 1


def test_a_prefix_too_short_to_be_worth_it_is_not_shared() -> None:
    """All rows begin with the same token (a start token), which should not tie them into one tree."""
    rng = np.random.default_rng(0)
    paths = [(0, *ids(rng, 100)) for _ in range(4)]
    assert len(grow(paths)) == 4
    assert len(grow(paths, worth=1 << 30)) == 1


@pytest.mark.parametrize("worth", [0, 8, 1 << 30])
@given(st.lists(st.lists(st.integers(0, 2), max_size=9).map(tuple), max_size=12))
@settings(max_examples=60, deadline=None)
def test_every_row_is_a_path_of_its_tree(worth: int, paths: list[tuple[int, ...]]) -> None:
    trees = pack(grow(paths, worth), budget=None)
    home = {n: tree for tree in trees for n in tree.columns}
    assert home.keys() == {n for n, path in enumerate(paths) if path}
    for n, tree in home.items():
        columns = tree.columns[n]
        assert tuple(tree.ids_L[columns]) == paths[n]
        assert tree.position_L[columns].tolist() == list(range(len(columns)))
        last = next(i for i, s in enumerate(tree.segments) if s.start <= columns[-1] < s.end)
        path = [tree.segments[i] for i in tree.path(last)]
        assert np.concatenate([np.arange(s.start, s.end) for s in path])[: len(columns)].tolist() == columns.tolist()
        assert all(a.start < a.end <= b.start and b.stop <= a.stop for a, b in pairwise(path))
    prefixes = {path[: i + 1] for path in paths for i in range(len(path))}
    tokens = sum(len(tree.ids_L) for tree in trees)
    assert len(prefixes) <= tokens <= sum(map(len, paths))
    if worth == 1 << 30:
        assert tokens == len(prefixes), "every prefix exactly once"


def test_trees_are_packed_into_rows_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    trees = grow([ids(rng, n) for n in (50, 30, 40, 20, 60, 10)])
    rows = pack(trees, budget=70)
    assert sorted(len(r.ids_L) for r in rows) == [70, 70, 70], "first-fit-decreasing fills them"
    assert [len(r.ids_L) for r in pack(trees, budget=45)][:2] == [60, 50], "too long a tree has a row of its own"
    assert [len(r.ids_L) for r in pack(trees, budget=None)] == [210]


# -- the numbers


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_the_padded_route(name: str, case: str) -> None:
    rows = CASES[case]()
    assert_same(make(name), rows, loss=1e-5, gradient=1e-4)
    assert_same(make(name, torch.float64), rows, loss=1e-10, gradient=1e-10, with_prompt=False)


@pytest.mark.parametrize("name", MODELS)
def test_every_single_number_is_that_of_the_padded_route(name: str) -> None:
    model = make(name, torch.float64)
    with torch.no_grad():
        for make_rows in CASES.values():
            ours, our_prompts = logp_of(model, make_rows(), route="tree", with_prompt=True, width=9)
            plain, plain_prompts = logp_of(model, make_rows(), route="padded", with_prompt=True, width=9)
            torch.testing.assert_close(ours, plain, atol=1e-10, rtol=1e-10)
            torch.testing.assert_close(our_prompts, plain_prompts, atol=1e-10, rtol=1e-10)


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    """Rows over few tokens, so that prefixes of prompts and responses coincide in every way."""
    token = st.integers(2, 4)
    rows = []
    for _ in range(draw(st.integers(1, 7))):
        prompt = tuple(draw(st.lists(token, min_size=1, max_size=5)))
        response = tuple(draw(st.lists(token, max_size=6)))
        mask = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(response), max_size=len(response)))
        rows.append(Row(prompt, response, tuple(mask)))
    return rows


MADE = {name: make(name, torch.float64) for name in ("llama", "gemma2, caps and windows", "mistral, windows")}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("block", [2, 256])
@given(rows=some_rows())
@settings(max_examples=25, deadline=None)
def test_any_rows_at_all(name: str, block: int, rows: list[Row]) -> None:
    before, layout.BLOCK = layout.BLOCK, block
    try:
        assert_same(MADE[name], rows, loss=1e-10, gradient=1e-9)
    finally:
        layout.BLOCK = before


@pytest.mark.parametrize("name", FUSED)
def test_long_blocks_are_halved_without_a_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BLOCK", 3)
    assert_same(make(name, torch.float64), pairs(), loss=1e-10, gradient=1e-10)


def test_several_packed_rows_give_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make("llama", torch.float64), pairs()
    one = plant(rows, budget=None)
    several = plant(rows, budget=1)
    assert (len(one.scored), len(several.scored)) == (1, 3)
    a, b = (tree_route.tree_logp(model, rows, 6, with_prompt=False, forest=f)[0] for f in (one, several))
    torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["llama", "gemma2, caps and windows"])
def test_gradient_checkpointing_computes_the_tree_again(name: str) -> None:
    model = make(name, torch.float64)
    expected = loss_and_gradients(model, deep(), "padded")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    calls: list[int] = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    tree_route.refusal(model)
    calls.clear()
    loss, gradients = loss_and_gradients(model, deep(), "tree")
    assert len(calls) == 2, "nothing was computed again: the test shows nothing"
    torch.testing.assert_close(loss, expected[0], atol=0, rtol=1e-10)
    for n, g in gradients.items():
        torch.testing.assert_close(g, expected[1][n], atol=1e-10, rtol=1e-9, msg=n)
    assert model.config._attn_implementation != attention.NAME


def test_lora() -> None:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model: Any = attach(make("llama", torch.float64), LoraSettings(rank=2, alpha=4.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_() if "lora_B" in name else None
    assert_same(model, pairs(), loss=1e-10, gradient=1e-10)
    trained = logp_of(model, pairs(), route="tree")[0]
    with model.disable_adapter():
        off = logp_of(model, pairs(), route="tree")[0]
        torch.testing.assert_close(off, logp_of(model, pairs(), route="padded")[0], atol=1e-10, rtol=1e-10)
    assert (trained - off).abs().max() > 1e-3


def test_bfloat16_stays_close() -> None:
    model, rows = make("llama"), pairs()
    with torch.no_grad():
        exact = logp_of(model, rows, route="padded")[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, plain = (logp_of(model, rows, route=r)[0] for r in ("tree", "padded"))
    assert ours.dtype == torch.float32
    assert (ours - exact).norm() <= 1.5 * (plain - exact).norm() + 1e-3


@pytest.mark.parametrize("name", FUSED)
def test_trap_positions_that_do_not_restart_and_branches_that_see_each_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either mistake shows in the numbers (learned positions and rotary), so the tests above can fail."""
    model, rows = make(name, torch.float64), pairs()
    plain = logp_of(model, rows, route="padded")[0]
    assert (logp_of(model, rows, route="tree")[0] - plain).abs().max() < 1e-10
    with monkeypatch.context() as m:
        m.setattr(Tree, "position_L", property(lambda self: np.arange(len(self.ids_L))))
        assert (logp_of(model, rows, route="tree")[0] - plain).abs().max() > 1e-4
    with monkeypatch.context() as m:
        one = lambda tree: Layout(tree, ((0, len(tree.ids_L)) * 2,), (), 1)  # noqa: E731
        m.setattr(Layout, "of", staticmethod(one))
        assert (logp_of(model, rows, route="tree")[0] - plain).abs().max() > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_every_time(name: str) -> None:
    model, rows = make(name), deep()
    first, second = (loss_and_gradients(model, rows, "tree") for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][n], second[1][n]) for n in first[1])


# -- which route


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees cost nothing, so that tiny models take them."""
    monkeypatch.setitem(tree_route.COSTS, "cpu", tree_route.Costs(piece=0.0, fixed=0.0, share=0.0))


def routes_taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    taken: list[str] = []
    real = tree_route.tree_logp
    monkeypatch.setattr(tree_route, "tree_logp", lambda *a, **k: (taken.append("tree"), real(*a, **k))[1])
    return taken


def test_auto_is_the_default() -> None:
    assert inspect.signature(logp_of).parameters["route"].default == "auto"


def test_auto_takes_trees_where_they_save_and_padded_rows_where_they_do_not(
    eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = routes_taken(monkeypatch)
    model = make("llama")
    logp_of(model, pairs(), route="auto")
    assert taken == ["tree"]
    logp_of(model, [Row((2, 3), (4, 5), (1.0, 1.0))], route="auto")
    assert taken == ["tree"], "one row shares nothing"
    monkeypatch.setitem(tree_route.COSTS, "cpu", tree_route.Costs(piece=2e6, fixed=0.0, share=0.0))
    logp_of(model, pairs(), route="auto")
    assert taken == ["tree"], "a tiny model is done with padded rows before trees are made"


def test_dropout_is_drawn_row_by_row(eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = routes_taken(monkeypatch)
    torch.manual_seed(0)
    logp_of(GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=1, n_head=2)).train(), pairs(), route="auto")
    assert taken == []


class Smeared(LlamaForCausalLM):
    """Every embedding gets something of the token before it: state outside attention."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model.embed_tokens.register_forward_hook(lambda m, given, out: out + 0.5 * out.roll(1, 1))


def conv() -> nn.Module:
    model = LlamaForCausalLM(LlamaConfig(**GROUPED))
    model.model.layers[0].mixer = nn.Conv1d(2, 2, 2)
    return model


def hidden_windows() -> nn.Module:
    """A configuration that speaks of windows under attention that is told nothing of them."""
    model = LlamaForCausalLM(LlamaConfig(**GROUPED))
    model.config.sliding_window = 4
    return model


CANNOT: dict[str, tuple[Callable[[], Any], str]] = {
    "takes no positions": (
        lambda: BloomForCausalLM(BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=4)),
        "no positions",
    ),
    "state outside attention": (lambda: Smeared(LlamaConfig(**GROUPED)), "off by"),
    "convolution": (conv, "state outside attention"),
    "hidden windows": (hidden_windows, "windows are hidden"),
}


@pytest.mark.parametrize("what", CANNOT)
def test_a_model_that_cannot_takes_the_padded_route_and_says_so_once(
    what: str, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    make_model, why = CANNOT[what]
    model, taken = make_model().eval(), routes_taken(monkeypatch)
    with torch.no_grad(), pytest.warns(UserWarning, match=why):
        ours = logp_of(model, pairs(), route="auto")[0]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(ours, logp_of(model, pairs(), route="padded")[0], atol=0, rtol=0)
        logp_of(model, pairs(), route="auto")
        assert taken == []
        with pytest.raises(NotInTrees, match=why):
            logp_of(model, pairs(), route="tree")


def test_padded_rows_know_nothing_of_trees_before_or_after() -> None:
    """The model's own attention is back after a tree, the same to the bit; also after one that failed."""
    model, rows = make("gemma2, caps and windows"), pairs()
    before = logp_of(model, rows, route="padded")[0]
    logp_of(model, rows, route="tree")
    handle = model.model.layers[1].register_forward_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        logp_of(model, rows, route="tree")
    handle.remove()
    assert torch.equal(logp_of(model, rows, route="padded")[0], before)


# -- in training


class Plain:
    """The least policy: texts are lists of ids, the prompt too."""

    kind = "plain"

    def __init__(self, route: str) -> None:
        self.module: nn.Module | None = make("llama")
        self.route = route

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        prompt = tuple(int(i) for i in str(contrast.slate.prompt).split())
        answers = [tuple(int(i) for i in contrast.response(k).split()) for k in range(len(contrast.members))]
        return tuple(row(prompt, a) for a in answers)

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        assert self.module is not None
        return logp_of(self.module, batch.rows, width=batch.mask_NT.shape[1], route=self.route)


def logistic(scores: Scores) -> Loss:
    chosen, rejected = scores.sides(scores.sum())
    return Loss.of(torch.nn.functional.softplus(0.1 * (rejected - chosen)))


logistic.references = ()  # type: ignore[attr-defined]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_is_the_same_by_either_route_and_the_same_bits_again(checkpointing: bool, eager: None) -> None:
    rng = np.random.default_rng(0)
    text = lambda n: " ".join(map(str, ids(rng, n)))  # noqa: E731
    contrasts = [pair(Slate(text(10), (Candidate(text(5)), Candidate(text(3)))), 0, 1) for _ in range(6)]
    how = TrainSettings(lr=1e-2, optimizer="sgd", batch_size=3, epochs=2, gradient_checkpointing=checkpointing)

    def trained(route: str) -> tuple[list[float], list[Tensor]]:
        policy = Plain(route)
        result = train(policy, contrasts, logistic, settings=how)  # type: ignore[arg-type]
        return [m["loss"] for m in result.metrics], [p.detach().clone() for p in policy.module.parameters()]  # type: ignore[union-attr]

    (losses, weights), (again, same), (plain, others) = trained("auto"), trained("auto"), trained("padded")
    assert losses == again and all(map(torch.equal, weights, same))
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    for a, b in zip(weights, others, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_trees_side_by_side_do_not_see_each_other() -> None:
    one, two = grow([(5, 6, 7)]), grow([(5, 6, 8, 9)])
    both = join([*one, *two])
    assert [s.parent for s in both.segments] == [-1, -1]
    assert Layout.of(both).whole == ()
