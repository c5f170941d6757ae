"""Model directories: finding them, refusing the ones that cannot be used, and naming their content.

Everything that reads weights from disk goes through here, so that the rules are in one place: safetensors only,
no code from a model directory unless asked, every weight of the model present, and one clear message with a
remedy for each way a directory can be wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prefine.errors import InputError

META = "prefine.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_CONTENT = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def find(path: str | Path, *, trust_remote_code: bool = False) -> Path:
    """The directory itself, or the local copy of a hub name ("owner/model", downloaded when online)."""
    here = Path(path).expanduser()
    if here.is_dir():
        return here
    if here.exists():
        raise InputError("this is a file, not a model directory", remedy="name the directory it is in", file=path)
    if not (isinstance(path, str) and _HUB_NAME.fullmatch(path)):
        raise InputError(
            "there is no such model directory", remedy="check the path, or give a hub name: owner/model", file=path
        )
    wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", *(["*.py"] if trust_remote_code else [])]
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(path, allow_patterns=wanted))
    except Exception as error:  # offline, not found, gated, out of space: the hub's own words say which
        raise InputError(
            f"there is no directory {path!r}, and no model of that name could be had from the hub: {_first(error)}",
            remedy="check the name and the network (HF_TOKEN for gated models), or give a directory",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a model directory, or what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read: {_first(error)}",
            remedy="the directory is damaged: copy or save the model again",
            file=path,
        ) from error
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", remedy="copy or save the model again", file=path)
    return value


def write_meta(path: Path, kind: str, **more: Any) -> None:
    """Say what kind of policy a directory holds."""
    (path / META).write_text(json.dumps({"kind": kind, **more}, indent=2) + "\n", encoding="utf-8")


def fingerprint(path: str | Path) -> str:
    """A hash of the content of a model directory: weights, configuration, tokenizer, and an adapter's base.

    Two directories with the same content have the same fingerprint, wherever they are.
    """
    here = find(path)
    digest = hashlib.sha256()
    for file in sorted(here.iterdir()):
        if file.is_file() and file.suffix in _CONTENT and file.name != META:
            digest.update(f"{file.name}\0{_file_hash(file)}\n".encode())
    if (here / "adapter_config.json").exists():
        digest.update(f"base\0{fingerprint(adapter_base(here))}\n".encode())
    return digest.hexdigest()[:32]


def adapter_base(path: Path) -> str:
    """What a peft adapter directory was trained on."""
    base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise InputError(
            "the adapter does not say which model it belongs to",
            remedy='set "base_model_name_or_path" in adapter_config.json',
            file=path,
        )
    return str(base)


_HASHES: dict[tuple[str, int, int], str] = {}


def _file_hash(file: Path) -> str:
    """The hash of a file, remembered as long as its time and size stay the same."""
    stat = file.stat()
    key = (str(file.resolve()), stat.st_mtime_ns, stat.st_size)
    if key not in _HASHES:
        with file.open("rb") as stream:
            _HASHES[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _HASHES[key]


def check_weights(path: Path, stem: str = "model") -> None:
    """Refuse a directory without safetensors weights. Pickled weights can run code when they are opened."""
    if any(path.glob("*.safetensors")):
        return
    pickled = sorted(f.name for f in path.iterdir() if f.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    if pickled:
        raise InputError(
            f"the weights are pickled ({pickled[0]}), which is not safe to open; prefine reads safetensors only",
            remedy="where you trust the file, load it with transformers once and save_pretrained it again",
            file=path,
        )
    raise InputError(
        f"there are no weights ({stem}*.safetensors) in this directory",
        remedy="give the directory that save_pretrained wrote",
        file=path,
    )


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a directory."""
    from transformers import AutoTokenizer

    if not any((path / name).exists() for name in TOKENIZER_FILES) and not trust_remote_code:
        raise InputError(
            f"there is no tokenizer in this directory (none of {', '.join(TOKENIZER_FILES)})",
            remedy="save the model's tokenizer into it: AutoTokenizer.from_pretrained(...).save_pretrained(DIR)",
            file=path,
        )
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers fail in as many ways as there are formats
        raise InputError(
            f"the tokenizer cannot be read: {_first(error)}",
            remedy="copy or save it again, or set trust_remote_code for a tokenizer with its own code",
            file=path,
        ) from error


def load_model(
    auto: Any, path: Path, *, dtype: torch.dtype | str, device: torch.device | str, trust_remote_code: bool, what: str
) -> Any:
    """A transformers model with every one of its weights found, or what is wrong."""
    if not (path / "config.json").exists():
        raise InputError(
            "there is no config.json in this directory, so it is not a transformers model",
            remedy="give the directory that save_pretrained wrote",
            file=path,
        )
    read_json(path / "config.json")
    check_weights(path)
    try:
        with quiet():
            model, found = auto.from_pretrained(
                path,
                dtype="auto" if dtype == "auto" else as_dtype(dtype),
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=True,
            )
    except InputError:
        raise
    except Exception as error:  # a damaged file surfaces as whatever its reader raises
        raise InputError(
            f"the {what} cannot be loaded: {_first(error)}",
            remedy="the weights or the configuration are damaged or of another kind: copy or save the model again "
            "(models with their own code need trust_remote_code)",
            file=path,
        ) from error
    lacking = sorted([*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])])
    if lacking:
        raise InputError(
            f"the weights lack {len(lacking)} of the parameters of a {what} ({lacking[0]}, ...)",
            remedy=f"give the directory of a complete {what}; headless and damaged models cannot be used",
            file=path,
        )
    return model.to(device)


def save_model(model: Any, path: Path, *, stops: Collection[int] = ()) -> None:
    """``save_pretrained`` with a generation configuration that stops where training taught the model to."""
    settings = getattr(model, "generation_config", None)
    if settings is not None:
        if stops:
            settings.eos_token_id = next(iter(stops)) if len(stops) == 1 else sorted(stops)
        if not settings.do_sample and (settings.temperature is not None or settings.top_p is not None):
            # Many published models carry this contradiction, and transformers refuses to write it again.
            settings.do_sample = True
    with quiet():
        model.save_pretrained(str(path))


def save_tokenizer(tokenizer: Any, path: Path) -> None:
    """``save_pretrained`` without what it notes about where the tokenizer was loaded from: equal tokenizers are
    equal files."""
    tokenizer.save_pretrained(str(path))
    settings = read_json(path / "tokenizer_config.json")
    kept = {name: value for name, value in settings.items() if name not in ("is_local", "local_files_only")}
    text = json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False)
    (path / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A torch dtype from its name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise InputError(f"there is no dtype {dtype!r}", remedy=f"one of {', '.join(_DTYPES)}, auto")
    return _DTYPES[dtype]


def pick_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, else the accelerator if there is one."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"there is no device {device!r}", remedy="cpu, cuda, cuda:0, ... or mps") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is visible here", remedy="use --device cpu, or check the driver")
    return chosen


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without progress bars and loading reports: what matters is raised."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens a model stops on, the tokenizer's own end token first.

    A configuration made without thinking of the tokenizer names a default (2 for Llama) that may be an ordinary
    word; such an id is believed only if the tokenizer calls it special or has no end token of its own.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if named is None:
        named = model.config.get_text_config().eos_token_id
    ids = [named] if isinstance(named, int) else list(named or ())
    own = tokenizer.eos_token_id
    if own is None:
        return tuple(ids)
    special = {own, *tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return tuple(dict.fromkeys([own, *(i for i in ids if i in special)]))


def meta(path: Path) -> Mapping[str, Any]:
    """What ``write_meta`` wrote, or nothing."""
    return read_json(path / META) if (path / META).exists() else {}


def _first(error: BaseException) -> str:
    """The first line of an error's words."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
