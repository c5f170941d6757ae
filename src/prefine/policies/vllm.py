"""Sampling through vLLM (``prefine[vllm]``): a model's directory in, candidates out. It is not trained.

vLLM batches and shares prefixes by itself, so all prompts are handed over at once. Prompts go as the ids that
training conditions on, and responses come back as ids with the log-probability of each under what drew it
(temperature and top-p included), so a candidate is the same record as one of the engine's own. Seeds go along, one
a prompt; whether the same seed gives the same text depends on vLLM's batching and arithmetic, which prefine does
not decide.

One engine is open at a time, since it takes what memory the GPU has left; ``close`` gives it back.
"""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from prefine.errors import InputError
from prefine.policies import directory, kind_of
from prefine.policies.base import Sampling
from prefine.policies.text import TextCodec
from prefine.slate import Candidate, Prompt

PRECISION = "bfloat16"
"""What vLLM computes in: that of training on a GPU."""

SEEDS = 2**62
"""vLLM gives sample k of a prompt the seed s + k, and takes 63 bits."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM has room for."""

STOPS: Mapping[str, str] = {"stop": "end", "length": "length"}
"""vLLM's ``finish_reason`` as a candidate's ``stop``; what is not named here was cut short."""


@dataclass(frozen=True)
class Vllm:
    """A language model's directory behind a vLLM engine. An adapter goes along with each request."""

    engine: Any
    codec: TextCodec
    adapter: Any = None

    @classmethod
    def load(cls, path: str | Path, *, trust_remote_code: bool = False, **options: Any) -> Vllm:
        """A directory of a transformers model or of a peft adapter, or a hub name. ``options`` are vLLM's own
        (``tensor_parallel_size=2``)."""
        need_vllm()
        if (kind := kind_of(path)) != "causal-lm":
            raise InputError(
                f"vLLM samples language models, and this is a policy of kind {kind}",
                remedy="leave out --sampler",
                file=Path(path),
            )
        here = directory.find(path, trust_remote_code=trust_remote_code)
        is_adapter = (here / "adapter_config.json").exists()
        base = directory.find(directory.adapter_base(here), trust_remote_code=trust_remote_code) if is_adapter else here
        words = _first_with_tokenizer(here, base)
        # The engine needs a tokenizer for stop texts alone: the base's, which adapters share.
        asked: dict[str, Any] = {"trust_remote_code": trust_remote_code, **options}
        asked["tokenizer"] = str(_first_with_tokenizer(base, here))
        adapter = None
        if is_adapter:
            rank = int(directory.read_json(here / "adapter_config.json")["r"])
            asked |= {"enable_lora": True, "max_lora_rank": next((r for r in RANKS if r >= rank), rank)}
            mark = directory.fingerprint(here)
            request = importlib.import_module("vllm.lora.request").LoRARequest
            adapter = request(mark, int(mark[:7], 16) + 1, str(here))
        return cls(open_engine(base, asked), _codec(base, words, trust_remote_code), adapter)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        """n candidates for every prompt, in order; prompts too long for the model lose their beginning."""
        codec = self.codec
        room = (codec.window or 1 << 60) - sampling.max_tokens
        if room < 1:
            raise InputError(
                f"{sampling.max_tokens} new tokens do not fit in the model's window of {codec.window}",
                remedy="ask for fewer tokens",
            )
        ids = [codec.cut_prompt(codec.prompt(prompt), room) for prompt in prompts]
        answers = self.engine.generate(
            [{"prompt_token_ids": list(row)} for row in ids],
            [_parameters(sampling, seed, codec.stops) for seed in seeds],
            use_tqdm=False,
            **({} if self.adapter is None else {"lora_request": self.adapter}),
        )
        return [self._candidates(answer.outputs, sampling) for answer in answers]

    def _candidates(self, outputs: Sequence[Any], sampling: Sampling) -> list[Candidate]:
        outputs = sorted(outputs, key=lambda output: output.index)
        rows = [tuple(int(i) for i in output.token_ids) for output in outputs]
        origin: dict[str, Any] = {
            "tokenizer": self.codec.fingerprint,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "sampler": "vllm",
        }
        found = [
            Candidate(
                text,
                tokens=row,
                logps=_logps(output, row, sampling),
                stop=STOPS.get(str(output.finish_reason), "length"),  # type: ignore[arg-type]
                origin=origin,
            )
            for output, row, text in zip(outputs, rows, self.codec.texts(rows), strict=True)
        ]
        return found * sampling.n if sampling.temperature == 0 else found


def _parameters(sampling: Sampling, seed: int, stop_ids: frozenset[int]) -> Any:
    greedy = sampling.temperature == 0
    return importlib.import_module("vllm").SamplingParams(
        n=1 if greedy else sampling.n,  # n greedy answers are one
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed % SEEDS,
        stop=list(sampling.stop),
        stop_token_ids=sorted(stop_ids),
        include_stop_str_in_output=True,
        detokenize=bool(sampling.stop),  # for stop texts; what was said is decoded from the ids
        logprobs=0,  # of the token drawn alone
    )


def _logps(output: Any, row: tuple[int, ...], sampling: Sampling) -> tuple[float, ...] | None:
    """Under what drew the tokens: a greedy one was certain."""
    if sampling.temperature == 0:
        return (0.0,) * len(row)
    if output.logprobs is None or len(output.logprobs) != len(row):
        return None
    return tuple(float(at[token].logprob) for at, token in zip(output.logprobs, row, strict=True))


def _first_with_tokenizer(*places: Path) -> Path:
    there = (p for p in places if any((p / name).exists() for name in directory.TOKENIZER_FILES))
    return next(there, places[-1])


def _codec(base: Path, words: Path, trust_remote_code: bool) -> TextCodec:
    """The model's way with texts, from its files alone."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = directory.load_tokenizer(words, trust_remote_code=trust_remote_code)
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    settings = GenerationConfig.from_pretrained(base) if (base / "generation_config.json").exists() else None
    text: Any = config.get_text_config()
    model: Any = SimpleNamespace(config=config, generation_config=settings)
    return TextCodec(
        tokenizer,
        stop_ids=directory.stop_ids(model, tokenizer),
        vocab_size=int(text.vocab_size),
        window=getattr(text, "max_position_embeddings", None),
    )


# -- the engine


def need_vllm() -> None:
    """Refuse in words where vLLM is not installed."""
    try:
        importlib.import_module("vllm")
    except ImportError as error:
        raise InputError(
            f"sampling through vLLM needs the package vllm ({error})",
            remedy="pip install 'prefine[vllm]' on a machine with a GPU, or leave out --sampler",
        ) from None


_OPEN: dict[str, Any] = {}
"""The engine that is open, by what it was opened with: at most one."""


def open_engine(base: Path, options: Mapping[str, Any]) -> Any:
    """The engine of a model, opened if another one or none is."""
    key = json.dumps([str(base.resolve()), options], sort_keys=True, default=str)
    if key not in _OPEN:
        close()
        make_room()
        try:
            _OPEN[key] = importlib.import_module("vllm").LLM(
                model=str(base),
                **{
                    "dtype": PRECISION,
                    "generation_config": "vllm",  # what a sample depends on is said in each request, and only there
                    "logprobs_mode": "processed_logprobs",
                    "gpu_memory_utilization": _share_left(),
                    **options,
                },
            )
        except Exception as error:  # out of memory, an unknown architecture, a driver: each in its own words
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise InputError(
                f"vLLM does not open this model: {first}",
                remedy="look at its log above; leave out --sampler to sample without it, or serve the model "
                "(`vllm serve`) and name the server",
                file=base,
            ) from error
    return _OPEN[key]


def close() -> None:
    """Shut the open engine and give its memory back."""
    while _OPEN:
        _, engine = _OPEN.popitem()
        core: Any = getattr(getattr(engine, "llm_engine", None), "engine_core", None)
        if hasattr(core, "shutdown"):
            core.shutdown()
        del engine, core
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def make_room() -> None:
    """Let go of the models that are kept loaded for reading (they load again when they are asked for)."""
    from prefine import artifacts

    artifacts.forget()
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _share_left() -> float:
    """The part of the GPU's memory that vLLM may take: nine tenths of what is free."""
    if not torch.cuda.is_available():
        return 0.9
    free, total = torch.cuda.mem_get_info()
    return round(0.9 * free / total, 3)
