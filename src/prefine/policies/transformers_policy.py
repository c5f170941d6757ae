"""What policies on transformers models share: loading, saving, the adapter, the tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn

from prefine.policies import directory, lora
from prefine.policies.base import Limits, Row
from prefine.policies.lora import LoraSettings
from prefine.policies.text import TextCodec
from prefine.slate import Contrast


class TransformersPolicy:
    """A transformers model with its tokenizer. ``module`` holds the trainable parameters."""

    kind: ClassVar[str]
    what: ClassVar[str]
    """What errors call a model of this kind."""
    auto: ClassVar[str]
    """The transformers class that loads one."""
    task: ClassVar[str]
    """What peft calls the task."""

    module: nn.Module | None

    def __init__(self, model: nn.Module, tokenizer: Any, *, base: str | None = None) -> None:
        self.module = model
        plain: Any = model
        self.codec = TextCodec(
            tokenizer,
            stop_ids=directory.stop_ids(model, tokenizer),
            vocab_size=int(plain.get_input_embeddings().weight.shape[0]),
            window=getattr(plain.config.get_text_config(), "max_position_embeddings", None),
        )
        self.base = base
        """Where the weights under an adapter can be read from again (None: nowhere, so they are saved too)."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | str = "float32",
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """From a directory of a transformers model or of a peft adapter, or a hub name.

        ``dtype`` is what the weights are kept in: float32 by default, since small updates of a trained model
        are lost in bfloat16 ("auto": as they were saved). ``device``: the accelerator by default.
        """
        import transformers

        here = directory.find(path, trust_remote_code=trust_remote_code)
        is_adapter = (here / "adapter_config.json").exists()
        named = directory.adapter_base(here) if is_adapter else str(path)
        base = directory.find(named, trust_remote_code=trust_remote_code) if is_adapter else here
        cls.check(base, trust_remote_code)
        own_tokenizer = any((here / name).exists() for name in directory.TOKENIZER_FILES)
        model = directory.load_model(
            getattr(transformers, cls.auto),
            base,
            dtype=dtype,
            device=directory.pick_device(device),
            trust_remote_code=trust_remote_code,
            what=cls.what,
        )
        tokenizer = directory.load_tokenizer(here if own_tokenizer else base, trust_remote_code=trust_remote_code)
        if is_adapter:
            directory.check_weights(here, "adapter_model")
            model = lora.load_adapter(model, here)
        return cls(model, tokenizer, base=str(base.resolve()) if Path(named).expanduser().is_dir() else named)

    @classmethod
    def check(cls, path: Path, trust_remote_code: bool) -> None:
        """Refuse a directory that transformers would load without it being a model of this kind."""

    @staticmethod
    def fingerprint(path: str | Path) -> str:
        """A hash of the directory's content: weights, configuration, tokenizer, an adapter's base."""
        return directory.fingerprint(path)

    @property
    def model(self) -> Any:
        """``module``, typed as what it is."""
        return self.module

    @property
    def tokenizer(self) -> Any:
        return self.codec.tokenizer

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def has_adapter(self) -> bool:
        return lora.has_adapter(self.model)

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        """One row a member of the contrast (see ``policies.text`` for how)."""
        return self.codec.rows(contrast, limits)

    def save(self, path: Path) -> None:
        """Write a directory that plain transformers (or peft, for an adapter) loads."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        model = self.model
        if self.has_adapter and self.base is None:
            model = lora.merged(copy.deepcopy(model))
        if lora.has_adapter(model):
            lora.save_adapter(model, path, self.base)
        else:
            directory.save_model(model, path, stops=self.codec.stops)
        directory.save_tokenizer(self.tokenizer, path)
        directory.write_meta(path, self.kind)

    @contextmanager
    def adapter_off(self) -> Iterator[Self]:
        """The same weights without the adapter: the reference of an adapter that began at zero."""
        if not self.has_adapter:
            raise ValueError("this policy has no adapter to turn off")
        with self.model.disable_adapter():
            yield self


P = TypeVar("P", bound=TransformersPolicy)


def with_lora(policy: P, settings: LoraSettings) -> P:
    """The policy with an adapter to train, everything else frozen. What it computes is the same at first.

    A policy that already has an adapter of this shape goes on with it (its reference is then the policy it
    started from, not the adapter switched off). One with another shape has it merged into its weights first.
    The policy given must not be used afterwards: its layers are the new one's.
    """
    if policy.has_adapter and lora.same_shape(policy.model, settings):
        return policy
    base = None if policy.has_adapter else policy.base
    model = lora.attach(lora.merged(policy.model), settings, policy.task)
    return type(policy)(model, policy.tokenizer, base=base)


def with_adapter(policy: Any, settings: LoraSettings | None, seed: int = 0) -> Any:
    """``with_lora`` with its random start decided by a seed. Without settings, and for policies that are not
    transformers models (a table has nothing to adapt), the policy as it is."""
    if settings is None or not isinstance(policy, TransformersPolicy):
        return policy
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return with_lora(policy, settings)
