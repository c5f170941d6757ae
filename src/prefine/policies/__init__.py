"""Policies: what samples responses, scores them and is trained. ``load_policy`` opens any kind from its place.

A kind is one file here and one line in ``KINDS``; nothing is imported before it is needed.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefine.errors import InputError
from prefine.policies.base import Batch, Limits, Policy, Row, Sampling

__all__ = [
    "KINDS",
    "Batch",
    "CausalLM",
    "Endpoint",
    "Limits",
    "LoraSettings",
    "Policy",
    "RewardModel",
    "Row",
    "Sampling",
    "Tabular",
    "ValueModel",
    "fingerprint_policy",
    "kind_of",
    "load_policy",
    "policy_class",
    "with_adapter",
    "with_lora",
]

KINDS: Mapping[str, str] = {
    "causal-lm": "prefine.policies.causal_lm:CausalLM",
    "reward-model": "prefine.policies.reward_model:RewardModel",
    "value-model": "prefine.policies.value_model:ValueModel",
    "tabular": "prefine.policies.tabular:Tabular",
    "endpoint": "prefine.policies.endpoint:Endpoint",
    "refining": "prefine.policies.refining:Refining",
}
"""kind -> module:class. Each class has ``load(path, **options)``."""


def policy_class(kind: str) -> Any:
    """The class of a kind."""
    if kind not in KINDS:
        raise InputError(f"there is no policy kind {kind!r}", remedy=f"one of {', '.join(sorted(KINDS))}")
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


_MARKS: Mapping[str, str] = {"endpoint.json": "endpoint", "tabular.safetensors": "tabular"}
"""Files that only one kind writes."""


def kind_of(path: str | Path) -> str:
    """What kind of policy lives in a directory: its ``prefine.json`` says, or the files a kind writes, or what
    transformers and peft wrote. A hub name is a causal language model."""
    from prefine.policies import directory

    here = Path(path).expanduser()
    if not here.is_dir():
        return "causal-lm"  # a hub name, or a mistake that its loader explains
    said = directory.meta(here).get("kind")
    if said is not None:
        policy_class(str(said))
        return str(said)
    for name, kind in _MARKS.items():
        if (here / name).exists():
            return kind
    config = directory.read_json(here / "config.json") if (here / "config.json").exists() else {}
    classifier = any("ForSequenceClassification" in str(name) for name in config.get("architectures") or ())
    return "reward-model" if classifier else "causal-lm"


def load_policy(path: str | Path, **options: Any) -> Any:
    """The policy at a place. Options that its kind does not know (``dtype`` of a table) are left out."""
    load = policy_class(kind_of(path)).load
    known = inspect.signature(load).parameters
    here = Path(path).expanduser()
    chosen = {name: value for name, value in options.items() if name in known}
    return load(here if here.is_dir() else path, **chosen)


def fingerprint_policy(path: str | Path) -> str:
    """A name for the content at a place: equal content, equal name."""
    from prefine.policies import directory

    return directory.fingerprint(path)


_LAZY: Mapping[str, str] = {
    "CausalLM": "causal_lm",
    "RewardModel": "reward_model",
    "ValueModel": "value_model",
    "Tabular": "tabular",
    "Endpoint": "endpoint",
    "LoraSettings": "lora",
    "with_lora": "transformers_policy",
    "with_adapter": "transformers_policy",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
