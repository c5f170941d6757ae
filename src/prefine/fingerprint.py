"""Keys: what a thing is, as a short hash, so that the same question is never answered twice.

A value becomes a *spec*, plain JSON that says everything that can change a result: numbers and texts as they
are, artifacts by their key, dataclasses by type and fields, functions by their source, their closure and the
prefine (or same-module) functions they call. Editing an equation therefore makes new keys; editing a comment
in another file does not.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import types
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch


def key_of(**parts: Any) -> str:
    """A 32-digit key of named parts.

    >>> key_of(verb="sample", n=5) == key_of(n=5, verb="sample") != key_of(verb="sample", n=6)
    True
    """
    text = json.dumps(spec(parts), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that depends on all parts and on nothing else.

    >>> 0 <= seed_of("key", 3) < 2**63 and seed_of("key", 3) != seed_of("key", 4)
    True
    """
    digest = hashlib.sha256(json.dumps([spec(p) for p in parts], sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def spec(value: Any) -> Any:
    """The JSON that stands for a value in keys."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, Enum):
        return {"enum": f"{type(value).__qualname__}.{value.name}"}
    if isinstance(getattr(value, "key", None), str):
        return {"key": value.key}
    if isinstance(value, Mapping):
        return {"map": [[spec(k), spec(v)] for k, v in sorted(value.items(), key=lambda kv: str(kv[0]))]}
    if isinstance(value, set | frozenset):
        return {"set": sorted(json.dumps(spec(v), sort_keys=True) for v in value)}
    if isinstance(value, list | tuple):
        return [spec(v) for v in value]
    if isinstance(value, torch.Tensor):
        return {
            "tensor": _hash(value.detach().cpu().contiguous().numpy().tobytes()),
            "shape": list(value.shape),
        }
    if isinstance(value, np.ndarray):
        return {"array": _hash(np.ascontiguousarray(value).tobytes()), "shape": list(value.shape)}
    if isinstance(value, functools.partial):
        return {"partial": [spec(value.func), spec(value.args), spec(value.keywords)]}
    if isinstance(value, types.MethodType):
        return {
            "method": value.__func__.__qualname__,
            "of": spec(value.__self__),
            "code": _code_of(value.__func__),
        }
    if isinstance(value, types.FunctionType):
        return _function(value)
    if isinstance(value, types.BuiltinFunctionType | type):
        return {"name": f"{value.__module__}.{value.__qualname__}", "code": _code_of(value)}
    if is_dataclass(value):
        return {
            "type": f"{type(value).__module__}.{type(value).__qualname__}",
            "code": _code_of(type(value)),
            "fields": {f.name: spec(getattr(value, f.name)) for f in fields(value)},
        }
    if isinstance(value, torch.nn.Module):
        plain = {n: v for n, v in vars(value).items() if not n.startswith("_") and n != "training"}
        inner = dict(value.named_children())
        return {"module": _code_of(type(value)), "state": spec(dict(value.state_dict())), "of": spec([plain, inner])}
    state = getattr(value, "__dict__", None)
    if state is None:
        raise TypeError(f"cannot make a key of {value!r}: use plain values, functions or dataclasses")
    return {"object": _code_of(type(value)), "state": spec(state)}


def _function(function: types.FunctionType) -> dict[str, Any]:
    cells = function.__closure__ or ()
    closure = {}
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        content = cell.cell_contents
        closure[name] = "itself" if content is function else spec(content)
    return {
        "function": f"{function.__module__}.{function.__qualname__}",
        "code": _code_of(function),
        "closure": closure,
        "defaults": spec(function.__defaults__),
        "keywords": spec(function.__kwdefaults__),
    }


def _code_of(thing: Any) -> str:
    """Hash of the source of a function or class and of the prefine code it reaches by name."""
    return _code_once(cast(Hashable, thing))


@functools.lru_cache(maxsize=4096)
def _code_once(thing: Any) -> str:
    seen: dict[str, str] = {}
    _collect(thing, seen)
    return _hash(json.dumps(sorted(seen.items())).encode())


def _collect(thing: Any, seen: dict[str, str]) -> None:
    name = f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', thing)}"
    if name in seen:
        return
    seen[name] = _source(thing)
    for called in _calls(thing):
        _collect(called, seen)


def _source(thing: Any) -> str:
    code = getattr(thing, "__code__", None)
    if code is not None and code.co_name == "<lambda>":
        return _hash(_bytecode(code))  # several can share a line, and then their source
    try:
        return _hash(inspect.getsource(thing).encode())
    except (OSError, TypeError):
        return "builtin" if code is None else _hash(_bytecode(code))


def _bytecode(code: types.CodeType) -> bytes:
    parts = [code.co_code, repr(code.co_names).encode()]
    for constant in code.co_consts:
        parts.append(_bytecode(constant) if isinstance(constant, types.CodeType) else repr(constant).encode())
    return b"\0".join(parts)


def _calls(thing: Any) -> Iterator[Any]:
    """Functions and classes of prefine, or of the thing's own module, that its code names."""
    if isinstance(thing, type):
        for member in vars(thing).values():
            inner = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(inner, types.FunctionType):
                yield from _calls(inner)
        return
    if not isinstance(thing, types.FunctionType):
        return
    for name in _names(thing.__code__):
        found = thing.__globals__.get(name)
        module = getattr(found, "__module__", "") or ""
        ours = module == thing.__module__ or module.split(".")[0] == "prefine"
        if ours and isinstance(found, types.FunctionType | type):
            yield found


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
