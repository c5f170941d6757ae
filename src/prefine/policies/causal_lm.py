"""A policy that is a transformers causal language model, with or without a LoRA adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from prefine.engine.sample import generate
from prefine.engine.score import logp_of
from prefine.engine.trees import route as tree_route
from prefine.engine.views import TokenView
from prefine.errors import InputError
from prefine.objectives.readings import Size
from prefine.policies import directory
from prefine.policies.base import Batch, Row, Sampling
from prefine.policies.lora import LoraSettings
from prefine.policies.transformers_policy import TransformersPolicy, with_adapter, with_lora
from prefine.slate import Candidate, Prompt

__all__ = ["CausalLM", "LoraSettings", "with_adapter", "with_lora"]


class CausalLM(TransformersPolicy):
    """Any transformers causal model.

    ``CausalLM(model, tokenizer)`` takes live objects; ``CausalLM.load`` a directory or a hub name, also of a
    peft adapter. Saved, it loads in plain transformers (or peft) and generates.
    """

    kind: ClassVar[str] = "causal-lm"
    what: ClassVar[str] = "causal language model"
    auto: ClassVar[str] = "AutoModelForCausalLM"
    task: ClassVar[str] = "CAUSAL_LM"

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        """((N, T) log-probabilities of response tokens, (N,) summed over prompt tokens or None)."""
        return logp_of(self.model, batch.rows, width=batch.mask_NT.shape[1], with_prompt=with_prompt)

    def view(self, batch: Batch, *, deep: bool = False) -> TokenView:
        """What ``objectives.readings`` see of a batch; ``deep``: the states of every layer too."""
        return TokenView(self.model, batch.rows, batch.mask_NT, deep=deep)

    @property
    def size(self) -> Size:
        config = self.model.config.get_text_config()
        return Size(int(config.hidden_size), int(config.num_hidden_layers))

    def cut(self, rows: Sequence[Sequence[Row]], budget: int | None) -> list[list[int]]:
        """Contrasts in micro-batches, by the tokens that ``logp`` will compute."""
        return tree_route.cut(self.model, rows, budget)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        """n candidates for every prompt; ``seeds[i]`` alone decides the randomness of prompt i.

        Prompts that leave no room for ``max_tokens`` in the model's window lose their beginning.
        """
        codec = self.codec
        room = (codec.window or 1 << 60) - sampling.max_tokens
        if room < 1:
            raise InputError(
                f"{sampling.max_tokens} new tokens do not fit in the model's window of {codec.window}",
                remedy="ask for fewer tokens",
            )
        ids = [codec.cut_prompt(codec.prompt(prompt), room) for prompt in prompts]
        drawn = generate(self.model, ids, sampling, seeds, stop_ids=codec.stops, decode=codec.decode)
        origin = {"tokenizer": codec.fingerprint, "temperature": sampling.temperature, "top_p": sampling.top_p}
        return [
            [
                Candidate(text, tokens=one.tokens, logps=one.logps, stop=one.stop, origin=origin)
                for one, text in zip(row, codec.texts([one.tokens for one in row]), strict=True)
            ]
            for row in drawn
        ]

    @classmethod
    def check(cls, path: Path, trust_remote_code: bool) -> None:
        """Refuse what transformers would load as a causal model without it being one (BERT, T5, classifiers)."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

        if not (path / "config.json").exists() or trust_remote_code:
            return  # the loader says the first; a model's own code knows best about the second
        config = directory.read_json(path / "config.json")
        named = set(config.get("architectures") or ())
        classes = {name for names in CAUSAL.values() for name in ([names] if isinstance(names, str) else names)}
        causal = config.get("model_type") in CAUSAL and (not named or bool(classes & named))
        if config.get("is_encoder_decoder") or not causal:
            what = ", ".join(sorted(named)) or config.get("model_type") or "its configuration names no model type"
            raise InputError(
                f"this is not a causal language model: {what}",
                remedy="give a decoder model (Llama, Qwen, GPT-2, ...); "
                "a model with its own code needs trust_remote_code",
                file=path,
            )
