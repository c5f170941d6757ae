"""Low-rank adapters (peft, an optional extra): the same weights with the adapter off are the reference."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prefine.errors import InputError
from prefine.policies.directory import quiet


@dataclass(frozen=True)
class LoraSettings:
    """W + (alpha / rank) B A with A: (rank, in), B: (out, rank), B = 0 at the start (Hu et al. 2021,
    arXiv:2106.09685). ``targets`` are module names, or "all-linear" for every linear layer but the head."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"


def need_peft() -> Any:
    """The peft library, or how to get it."""
    try:
        import peft
    except ImportError as error:
        raise InputError(
            "LoRA needs the peft library, which is not installed", remedy="pip install 'prefine[lora]'"
        ) from error
    return peft


def has_adapter(module: nn.Module) -> bool:
    return hasattr(module, "disable_adapter") and hasattr(module, "peft_config")


def attach(module: nn.Module, settings: LoraSettings, task: str = "CAUSAL_LM") -> nn.Module:
    """The module with a fresh adapter; everything else is frozen. Does not alter what the module computes."""
    peft = need_peft()
    if settings.rank < 1:
        raise InputError(f"LoRA rank {settings.rank} is not positive", remedy="use a rank of 1 or more, e.g. 16")
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type=task,
    )
    try:
        with warnings.catch_warnings():
            # GPT-2 keeps its weights transposed; peft sees it, sets it right and warns about it.
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            return peft.get_peft_model(module, config)
    except ValueError as error:
        raise InputError(
            f"the adapter does not fit this model: {str(error).splitlines()[0]}",
            remedy='name linear layers of the model in targets, or use "all-linear"',
        ) from error


def same_shape(module: nn.Module, settings: LoraSettings) -> bool:
    """Whether the adapter a module has is what these settings would make (so training can go on with it)."""
    config: Any = module.peft_config["default"]  # type: ignore[index,union-attr]
    asked = settings.targets if isinstance(settings.targets, str) else set(settings.targets)
    # peft replaces "all-linear" by the names it found.
    matches = asked == "all-linear" or asked == config.target_modules
    return config.r == settings.rank and config.lora_alpha == settings.alpha and matches


def merged(module: nn.Module) -> nn.Module:
    """The plain model with the adapter's change added into its weights (in place)."""
    return module.merge_and_unload() if has_adapter(module) else module  # type: ignore[operator]


def save_adapter(module: nn.Module, path: Path, base: str | None) -> None:
    """The adapter alone, naming the model it belongs to."""
    plain: Any = module
    plain.peft_config["default"].base_model_name_or_path = base
    with quiet():
        plain.save_pretrained(str(path), save_embedding_layers=False)


def load_adapter(model: nn.Module, path: Path) -> nn.Module:
    """A trainable adapter from its directory, on its base model."""
    peft = need_peft()
    try:
        return peft.PeftModel.from_pretrained(model, str(path), is_trainable=True, use_safetensors=True)
    except Exception as error:  # a damaged adapter surfaces as whatever its reader raises
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"the adapter cannot be loaded: {words}",
            remedy="it is damaged or belongs to another model: copy or save it again",
            file=path,
        ) from error
