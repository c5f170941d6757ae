"""Decoding from prefix trees: the numbers of the plain way, from prompts and keys that are computed once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
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

from prefine.engine import decode
from prefine.engine.decode import TreeDecoder, refusal
from prefine.engine.decode_attention import NOWHERE
from prefine.engine.sample import generate
from prefine.engine.score import backbone, logp_of
from prefine.policies.base import Row, Sampling

V, END = 31, 1
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": END}
SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED: dict[str, Any] = {**IDS, **SHAPE, "num_key_value_heads": 2}
EXPERTS: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 1, "pad_token_id": 0}
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SHAPE)),
    "llama, grouped": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=16)),
    "mistral, a window of 5": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=5)),
    "gemma2, a window of 4": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, head_dim=8, sliding_window=4)),
    "gpt-oss, sinks": lambda: GptOssForCausalLM(GptOssConfig(**GROUPED, **EXPERTS, head_dim=8, sliding_window=4)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4)),
}
SYSTEM = [2, 3, 4, 5, 6, 7, 8, 9, 10]
PROMPTS = [
    [*SYSTEM, 11, 12],
    [20, 21, 22],
    [*SYSTEM, 11, 13, 14, 15],
    [5],
    SYSTEM,
    [*SYSTEM, 11, 13, 14, 15],
]
"""Of unequal length: a shared beginning, one that is a whole prompt, and one prompt twice."""


@pytest.fixture(autouse=True)
def every_prefix_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short ones too, so that small tests are of trees."""
    monkeypatch.setattr(decode, "SPLIT_SAVES", 1)


def make(name: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def run(model: Any, prompts: list[list[int]] = PROMPTS, *, route: str = "tree", **settings: Any) -> Any:
    budget = settings.pop("budget", 65536)
    sampling = Sampling(**{"max_tokens": 9, "n": 2, **settings})
    words = lambda ids: " ".join(f"w{i}" for i in ids)  # noqa: E731
    seeds = list(range(len(prompts)))
    return generate(model, prompts, sampling, seeds, stop_ids={END}, decode=words, budget=budget, route=route)


def scored(model: Any, prompts: list[list[int]], drawn: Any) -> list[np.ndarray]:
    """Log-probabilities of what was said, by the plain scorer."""
    rows = [Row(tuple(p), d.tokens, (1.0,) * len(d.tokens)) for p, ds in zip(prompts, drawn, strict=True) for d in ds]
    with torch.no_grad():
        logp_NT = logp_of(model, rows, route="padded")[0]
    return [logp[: len(row.response)].double().numpy() for row, logp in zip(rows, logp_NT, strict=True)]


def said(drawn: Any) -> list[Any]:
    return [(d.tokens, d.stop) for ds in drawn for d in ds]


@pytest.mark.parametrize("name", MODELS)
def test_no_model_here_is_refused(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal(make(name)) is None


DOUBLE = [name for name in MODELS if name.split(",")[0] not in ("gemma2", "gpt-oss")]
"""Those that compute in double precision throughout."""


@pytest.mark.parametrize(
    "name, dtype, atol",
    [*((name, torch.float32, 1e-4) for name in MODELS), *((name, torch.float64, 1e-6) for name in DOUBLE)],
)
def test_samples_have_the_log_probabilities_that_scoring_gives_them(name: str, dtype: torch.dtype, atol: float) -> None:
    model = make(name, dtype)
    drawn = run(model)
    ours = [np.asarray(d.logps) for ds in drawn for d in ds]
    for a, b in zip(ours, scored(model, PROMPTS, drawn), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.9, "n": 5}])
def test_the_plain_way_says_the_same(name: str, settings: dict[str, Any]) -> None:
    model = make(name)
    assert said(run(model, **settings)) == said(run(model, **settings, route="padded"))


@pytest.mark.parametrize("name", ["llama, grouped", "mistral, a window of 5"])
def test_hidden_states_are_those_of_whole_rows_in_double_precision(name: str) -> None:
    model = make(name, torch.float64)
    prompts = sorted({tuple(p) for p in PROMPTS})
    row_B = [0, 0, 1, 2, 2, 2, 3, 4]
    tokens_BT = torch.randint(2, V, (len(row_B), 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        decoder = TreeDecoder(model, prompts, row_B, room=12)
        for t in range(12):
            decoder.step(tokens_BT[:, t])
            if t == 6:  # rows 0 and 1 were the only ones of their prompt
                kept = torch.tensor([2, 3, 5, 7])
                decoder.keep(kept)
                tokens_BT, row_B = tokens_BT[kept], [row_B[i] for i in kept.tolist()]
        for b, i in enumerate(row_B):
            whole = torch.tensor([[*prompts[i], *tokens_BT[b].tolist()]])
            torch.testing.assert_close(decoder.hidden_BD[b], backbone(model)(whole).last_hidden_state[0, -1])


@pytest.mark.parametrize("filled", [0, 2, 128])
@pytest.mark.parametrize("name", ["llama, grouped", "mistral, a window of 5", "gemma2, a window of 4"])
@pytest.mark.parametrize("n", [1, 3])
def test_filling_up_changes_nothing(name: str, n: int, filled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefixes of other lengths side by side, rows that leave, and single rows behind their own prompt."""
    monkeypatch.setattr(decode, "FILLED", filled)
    model = make(name)
    model.get_output_embeddings().weight.data[END] *= 2
    assert refusal(model) is None
    drawn = run(model, n=n, max_tokens=12)
    ours = [np.asarray(d.logps) for ds in drawn for d in ds]
    for a, b in zip(ours, scored(model, PROMPTS, drawn), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def tokens_read(model: Any) -> list[int]:
    """Fills up with how many tokens each forward pass reads."""
    seen: list[int] = []

    def look(module: Any, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].numel())

    backbone(model).get_input_embeddings().register_forward_pre_hook(look)  # type: ignore[operator]
    return seen


def test_what_prompts_share_is_read_once_for_all_of_them_and_all_samples() -> None:
    model = make()
    refusal(model)
    seen = tokens_read(model)
    run(model, n=8, max_tokens=3)
    different = {tuple(p[: i + 1]) for p in PROMPTS for i in range(len(p))}
    assert seen[0] == len(different), "one packed row of a prefix tree, without padding"
    assert all(tokens <= 8 * len(PROMPTS) for tokens in seen[1:]), "then a token a row"


def tokens_held(decoder: TreeDecoder) -> int:
    """Tokens of prompts whose keys and values are kept, without what blocks are filled up with."""
    return sum(int((block.position_bC[:, : block.used] != NOWHERE).sum()) for block in decoder.past.blocks)


def test_what_is_shared_is_kept_once() -> None:
    model = make()
    prompts = sorted({tuple(p) for p in PROMPTS})
    with torch.no_grad():
        decoder = TreeDecoder(model, prompts, [i for i in range(len(prompts)) for _ in range(3)], room=4)
    different = {p[: i + 1] for p in prompts for i in range(len(p))}
    assert tokens_held(decoder) == len(different)


def test_steps_of_a_search_continue_what_others_said() -> None:
    """Prompts that extend one another: a prompt, and the prompt with the beginning of a sample of it."""
    model = make("llama, grouped")
    ((one,),) = run(model, [PROMPTS[0]], n=1, max_tokens=6)
    prompts = [PROMPTS[0], *([*PROMPTS[0], *one.tokens[:i]] for i in range(1, 5))]
    seen = tokens_read(model)
    drawn = run(model, prompts, n=3)
    assert seen[0] == len(prompts[-1]), "only the longest is read"
    for a, b in zip((d.logps for ds in drawn for d in ds), scored(model, prompts, drawn), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("budget", [1, 40, 150])
@pytest.mark.parametrize("n", [1, 7])
def test_samples_do_not_depend_on_the_budget(budget: int, n: int) -> None:
    model = make()
    assert said(run(model, n=n)) == said(run(model, n=n, budget=budget))


def test_a_batch_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    class Watched(TreeDecoder):
        def __init__(self, model: Any, prompts: Any, row_B: Any, room: int) -> None:
            super().__init__(model, prompts, row_B, room)
            held.append(tokens_held(self) + len(row_B) * room)

    monkeypatch.setattr("prefine.engine.sample.TreeDecoder", Watched)
    run(make(), n=16, budget=200)
    assert len(held) > 1 and max(held) <= 200
    assert min(held) > 100, "batches of like size"


def test_many_samples_of_each_do_not_depend_on_each_other() -> None:
    model = make("qwen3")
    many, few = run(model, n=64, max_tokens=5), run(model, n=1, max_tokens=5)
    assert [ds[0].tokens for ds in many] == [ds[0].tokens for ds in few]
    alone = run(model, PROMPTS[:1], n=64, max_tokens=5)
    assert said(alone) == said(many[:1])
    assert len({d.tokens for d in many[0]}) > 8


@pytest.mark.parametrize("name", ["llama", "gemma2, a window of 4"])
def test_rows_that_end_early_leave_and_the_others_stay_right(name: str) -> None:
    model = make(name)
    model.get_output_embeddings().weight.data[END] *= 3
    seen = tokens_read(model)
    drawn = run(model, n=8, max_tokens=30)
    lengths = [len(d.tokens) for ds in drawn for d in ds]
    assert min(lengths) < 5 and max(lengths) > 10 and min(seen) < max(seen[1:])
    ours = [np.asarray(d.logps) for ds in drawn for d in ds]
    for a, b in zip(ours, scored(model, PROMPTS, drawn), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_stop_strings() -> None:
    model = make()
    whole = run(model, n=4)
    stop = f"w{whole[0][0].tokens[2]} w{whole[0][0].tokens[3]}"
    drawn = run(model, n=4, stop=(stop,))
    assert drawn[0][0].tokens == whole[0][0].tokens[:4] and drawn[0][0].stop == "end"
    assert said(drawn) == said(run(model, n=4, stop=(stop,), route="padded"))


def test_an_adapter_takes_part() -> None:
    from peft import LoraConfig, get_peft_model

    plain = make()
    before = said(run(plain))
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(plain, lora).eval()
    drawn = run(model, route="auto")
    assert refusal(model) is None and said(drawn) != before
    ours = [np.asarray(d.logps) for ds in drawn for d in ds]
    for a, b in zip(ours, scored(model, PROMPTS, drawn), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    with model.disable_adapter():
        assert said(run(model)) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_models(dtype: torch.dtype) -> None:
    model = make("llama, grouped", dtype)
    drawn = run(model, route="auto")
    assert refusal(model) is None
    ours = np.concatenate([np.asarray(d.logps) for ds in drawn for d in ds])
    assert np.abs(ours - np.concatenate(scored(model, PROMPTS, drawn))).mean() < 0.1


def test_a_model_that_cannot_goes_the_plain_way_and_says_so() -> None:
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=4)).eval()
    with pytest.warns(UserWarning, match="takes no positions"):
        drawn = run(model, route="auto")
    assert said(drawn) == said(run(model, route="padded"))


def test_a_model_whose_numbers_differ_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    write = decode.Block.write
    monkeypatch.setattr(decode.Block, "write", lambda self, layer, k, v: write(self, layer, k * 1.01, v))
    with pytest.warns(UserWarning, match="a trial was off"):
        assert refusal(model) is not None


def test_the_models_own_attention_is_back_afterwards() -> None:
    model = make()
    before = model.config._attn_implementation
    run(model)
    assert model.config._attn_implementation == before
    ids = torch.tensor([PROMPTS[0]])
    assert model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] > len(PROMPTS[0])
