"""What can be said of a model directory without loading its weights: its files are there and can be read."""

from __future__ import annotations

from pathlib import Path

from prefine.errors import InputError
from prefine.policies import directory, kind_of
from prefine.policies.causal_lm import CausalLM


def check_model(path: str, *, trust_remote_code: bool = False) -> None:
    """Raise InputError where loading would fail later, after other work was done."""
    here = directory.find(path, trust_remote_code=trust_remote_code)
    if kind_of(here) != CausalLM.kind:
        return
    if (here / "adapter_config.json").exists():
        directory.check_weights(here, "adapter_model")
        _check_safetensors(here)
        check_model(directory.adapter_base(here), trust_remote_code=trust_remote_code)
        return
    if not (here / "config.json").exists():
        raise InputError(
            "there is no config.json in this directory, so it is not a transformers model",
            remedy="give the directory that save_pretrained wrote",
            file=path,
        )
    CausalLM.check(here, trust_remote_code)
    directory.check_weights(here)
    _check_safetensors(here)
    directory.load_tokenizer(here, trust_remote_code=trust_remote_code)


def window_of(path: str) -> int | None:
    """How many tokens a model can see, where its configuration says so."""
    here = directory.find(path)
    if (here / "adapter_config.json").exists():
        return window_of(directory.adapter_base(here))
    if not (here / "config.json").exists():
        return None
    config = directory.read_json(here / "config.json")
    said = config.get("max_position_embeddings") or (config.get("text_config") or {}).get("max_position_embeddings")
    return said if isinstance(said, int) else None


def _check_safetensors(here: Path) -> None:
    from safetensors import SafetensorError, safe_open

    for file in sorted(here.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"the weights cannot be read: {str(error)[:200]}",
                remedy="the file is damaged or cut short: copy or download it again",
                file=file,
            ) from None
