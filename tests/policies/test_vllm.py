"""Sampling through vLLM, against a stand-in with vLLM's interface (the package needs a GPU)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefine import artifacts
from prefine.artifacts import PolicyHandle
from prefine.engine.score import logp_of
from prefine.errors import InputError
from prefine.fingerprint import key_of
from prefine.policies import CausalLM, LoraSettings, Sampling, fingerprint_policy, with_lora
from prefine.policies import vllm as ours
from prefine.policies.base import Row
from prefine.policies.samplers import SAMPLERS, sampler_of

V = 300
PROMPTS = ["the cat", "the dog ran to the house", "cards"]


def tokenizer() -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=V,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat and the dog ran to the house of cards"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def policy() -> CausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 64}
    return CausalLM(LlamaForCausalLM(LlamaConfig(**shape, **ids)).eval(), tokenizer())


# -- what vLLM looks like from outside


@dataclass
class SamplingParams:
    """Its names, its defaults, what it refuses."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"n must be 1 when using greedy sampling, got {self.n}.")
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")
        if self.seed is not None and not 0 <= self.seed + self.n < 2**63:
            raise ValueError("the seed does not fit in 64 bits")


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class LLM:
    """A model that is sampled token by token; responses of a prompt come back in the wrong order."""

    model: str
    tokenizer: str
    dtype: str
    generation_config: str
    logprobs_mode: str
    gpu_memory_utilization: float
    trust_remote_code: bool = False
    enable_lora: bool = False
    max_lora_rank: int = 16
    tensor_parallel_size: int = 1
    requests: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = LlamaForCausalLM.from_pretrained(self.model).eval()
        self.shut = False
        core = SimpleNamespace(shutdown=lambda: setattr(self, "shut", True))
        self.llm_engine = SimpleNamespace(engine_core=core)
        OPENED.append(self)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[Any]:
        assert not self.shut
        self.requests.append(lora_request)
        return [
            SimpleNamespace(outputs=[self.one(p["prompt_token_ids"], asked, k) for k in reversed(range(asked.n))])
            for p, asked in zip(prompts, sampling_params, strict=True)
        ]

    def one(self, prompt: list[int], asked: SamplingParams, k: int) -> Any:
        generator = torch.Generator().manual_seed((asked.seed or 0) + k)
        ids: list[int] = []
        logprobs: list[dict[int, Any]] = []
        reason = "length"
        for _ in range(asked.max_tokens or 16):
            z_V = self.network(torch.tensor([prompt + ids])).logits[0, -1]
            logp_V = (z_V / (asked.temperature or 1.0)).log_softmax(-1)
            greedy = asked.temperature == 0
            token = int(z_V.argmax() if greedy else logp_V.exp().multinomial(1, generator=generator))
            ids.append(token)
            logprobs.append({token: SimpleNamespace(logprob=float(logp_V[token]))})
            if token in (asked.stop_token_ids or ()):
                reason = "stop"
                break
        given = logprobs if asked.logprobs is not None else None
        return SimpleNamespace(index=k, text="", token_ids=ids, logprobs=given, finish_reason=reason, stop_reason=None)


OPENED: list[LLM] = []


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package: Any = ModuleType("vllm")
    package.LLM, package.SamplingParams = LLM, SamplingParams
    lora: Any = ModuleType("vllm.lora.request")
    lora.LoRARequest = LoRARequest
    for name, module in {"vllm": package, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": lora}.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield
    ours.close()
    OPENED.clear()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    policy().save(path)
    return path


def handle(path: Path) -> PolicyHandle:
    return PolicyHandle(key_of(policy=fingerprint_policy(path)), path, {"device": "cpu"})


# -- what comes out


def test_candidates_are_the_engines_own_kind_of_record(saved: Path) -> None:
    """Ids and their log-probabilities under the very model and prompt that training conditions on."""
    sampling = Sampling(n=3, max_tokens=12, sampler="vllm")
    drawn = sampler_of(handle(saved), "vllm").sample(PROMPTS, sampling, [5, 6, 7])
    model = policy()
    assert [len(candidates) for candidates in drawn] == [3, 3, 3]
    for prompt, candidates in zip(PROMPTS, drawn, strict=True):
        for one in candidates:
            assert one.tokens and one.logps and len(one.tokens) == len(one.logps)
            row = Row(model.codec.prompt(prompt), one.tokens, (1.0,) * len(one.tokens))
            expected, _ = logp_of(model.model, [row], route="padded")
            torch.testing.assert_close(torch.tensor(one.logps), expected[0].detach(), rtol=1e-4, atol=1e-4)
            assert one.text == model.codec.texts([one.tokens])[0]
            assert one.stop == ("end" if one.tokens[-1] == 1 else "length")
            assert one.origin["tokenizer"] == model.codec.fingerprint, "the ids are used as they are in training"
            assert one.origin["sampler"] == "vllm"
    assert len({one.tokens for one in drawn[0]}) > 1


def test_the_seed_of_a_prompt_decides_its_samples(saved: Path) -> None:
    sampler = sampler_of(handle(saved), "vllm")
    sampling = Sampling(n=2, max_tokens=8, sampler="vllm")
    seeds = [2**63 - 1, 3, 2**62]
    together = sampler.sample(PROMPTS, sampling, seeds)
    assert [sampler.sample([p], sampling, [s])[0] for p, s in zip(PROMPTS, seeds, strict=True)] == together
    assert sampler.sample(PROMPTS, sampling, [1, 2, 4])[1] != together[1]


def test_a_greedy_answer_is_asked_for_once_and_was_certain(saved: Path) -> None:
    (row,) = sampler_of(handle(saved), "vllm").sample(["the"], Sampling(n=3, temperature=0.0, max_tokens=5), [0])
    assert len(row) == 3
    assert len({one.tokens for one in row}) == 1
    assert row[0].logps == (0.0,) * len(row[0].tokens or ())


def test_stop_texts_and_long_prompts(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, SamplingParams]] = []
    real = LLM.one
    monkeypatch.setattr(
        LLM, "one", lambda s, ids, asked, k: (sent.append((len(ids), asked)), real(s, ids, asked, k))[1]
    )
    sampler = sampler_of(handle(saved), "vllm")
    sampler.sample(["the cat " * 60], Sampling(max_tokens=10, stop=("dog",)), [0])
    length, asked = sent[0]
    assert length == 64 - 10, "the beginning is cut so that what is asked for fits"
    assert (asked.stop, asked.detokenize, asked.include_stop_str_in_output) == (["dog"], True, True)
    assert asked.stop_token_ids == [1]
    with pytest.raises(InputError, match="window of 64"):
        sampler.sample(["the"], Sampling(max_tokens=64), [0])


# -- the engine


def test_one_engine_is_open_and_it_makes_room_first(saved: Path, tmp_path: Path) -> None:
    handle(saved).load()
    assert artifacts._LIVE
    sampler_of(handle(saved), "vllm")
    assert not artifacts._LIVE
    sampler_of(handle(saved), "vllm")
    assert len(OPENED) == 1, "the same model is not opened again"
    policy().save(tmp_path / "other")
    sampler_of(handle(tmp_path / "other"), "vllm")
    assert [engine.shut for engine in OPENED] == [True, False]
    assert OPENED[0].logprobs_mode == "processed_logprobs"
    ours.close()
    assert OPENED[1].shut


def test_a_model_that_is_loaded_to_train_gets_the_memory(saved: Path) -> None:
    sampler_of(handle(saved), "vllm")
    handle(saved).fresh()
    assert OPENED[0].shut


def test_adapters_share_the_engine_of_their_base(saved: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        torch.manual_seed(seed)
        with_lora(CausalLM.load(saved, device="cpu"), LoraSettings(rank=4)).save(tmp_path / name)
    for name in ("a", "b", "a"):
        sampler_of(handle(tmp_path / name), "vllm").sample(["the"], Sampling(max_tokens=2), [0])
    (engine,) = OPENED
    assert (engine.model, engine.enable_lora, engine.max_lora_rank) == (str(saved), True, 8)
    first, second, third = engine.requests
    assert first == third != second
    assert first.lora_int_id != second.lora_int_id > 0
    assert first.lora_path == str(tmp_path / "a")


# -- what goes wrong


def test_without_the_package_there_is_a_remedy(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError) as caught:
        sampler_of(handle(saved), "vllm")
    assert "prefine[vllm]" in str(caught.value.remedy)


def test_an_engine_that_does_not_open_is_told_in_its_own_words(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LLM) -> None:
        raise ValueError("No available memory for the cache blocks.\nTry increasing it")

    monkeypatch.setattr(LLM, "__post_init__", broken)
    with pytest.raises(InputError, match="No available memory for the cache blocks") as caught:
        sampler_of(handle(saved), "vllm")
    assert "Try increasing" not in str(caught.value)


def test_only_language_models(tmp_path: Path) -> None:
    (tmp_path / "endpoint.json").write_text("{}")
    with pytest.raises(InputError, match="endpoint"):
        sampler_of(handle(tmp_path), "vllm")


def test_a_sampler_is_named_and_part_of_the_key(saved: Path) -> None:
    with pytest.raises(InputError, match=r"'llama\.cpp'"):
        Sampling(sampler="llama.cpp")
    assert Sampling().sampler == "own"
    assert len({key_of(sampling=Sampling(sampler=name)) for name in SAMPLERS}) == len(SAMPLERS)
    assert sampler_of(handle(saved), "own") is handle(saved).load()
