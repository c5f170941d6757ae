"""A run's configuration: what the command line and a YAML file say, and what every run writes down.

    system: sppo
    inputs: {world: assistant}  # or model, data, prompts, judge
    seed: 0
    options: {rounds: 3}        # of the recipe
    train: {lr: 1.0e-3}         # engine.settings.TrainSettings
    sampling: {temperature: 0.8}

RUN/run.yaml holds the complete configuration, so ``prefine run --config RUN/run.yaml`` is the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefine.errors import InputError
from prefine.store import write_text

FILE = "run.yaml"

PLACE = ("device", "threads", "cluster", "workers", "track")
"""Where and how a run computes: may differ when a run goes on, as it is the same run."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Lora(Part):
    """Low-rank adapters in place of full training."""

    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float = Field(32.0, gt=0, description="scale of the adapters: updates are multiplied by alpha / rank")


class Inputs(Part):
    """Where a run gets what its recipe needs: an embedded world, or a model with data, prompts and a judge."""

    world: str | None = Field(None, description="an embedded world (`prefine worlds` lists them)")
    annotator: str | None = Field(None, description="who judges in the world (default: perfect)")
    model: str | None = Field(None, description="a model directory, or a hub name")
    data: str | None = Field(None, description="pairs, labels or demonstrations: a file, directory or hub name")
    format: str | None = Field(None, description="what format the data has (default: found out)")
    columns: dict[str, str] | None = Field(None, description="names of columns: {chosen: good}")
    skip_problems: bool | None = Field(None, description="leave out rows that cannot be read")
    prompts: str | None = Field(None, description="prompts to answer (default: those of --data)")
    judge: str | None = Field(
        None, description="who scores or compares responses (in a world: in the annotator's place)"
    )
    eval_data: str | None = Field(None, description="data to measure on (default: a tenth of --data, held out)")
    train_prompts: int | None = Field(None, ge=1, description="how many prompts to learn from")
    eval_prompts: int | None = Field(None, ge=1, description="how many held-out prompts to measure on")
    candidates: int | None = Field(None, ge=2, description="responses a prompt that a world's annotator labels")


class RunConfig(Part):
    """One run: a system, its inputs, and every setting."""

    system: str
    inputs: Inputs = Inputs()
    seed: int = Field(0, ge=0)
    options: dict[str, Any] = {}
    train: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    lora: Lora | None = None
    device: str = "auto"
    threads: int | None = Field(None, ge=1)
    cluster: str | None = None
    workers: int | None = Field(None, ge=1)
    track: tuple[str, ...] = ()
    trust_remote_code: bool = False

    def plain(self) -> dict[str, Any]:
        """As plain values for YAML: what is not set is left out."""
        values = self.model_dump()
        values["inputs"] = {k: v for k, v in values["inputs"].items() if v is not None}
        return {k: _plain(v) for k, v in values.items() if v not in (None, {}, ())}


def parse(values: Mapping[str, Any], file: Path | None = None) -> RunConfig:
    """A configuration from plain values, or one message about the first thing that is wrong with them."""
    values = {k: tuple(v) if isinstance(v, list) and k == "track" else v for k, v in values.items()}
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _explained(error.errors()[0], file) from None


def read_config(path: Path | str) -> dict[str, Any]:
    """The values of a YAML file (checked by ``parse``)."""
    path = Path(path)
    if not path.is_file():
        raise InputError("there is no such configuration file", remedy="check the path after --config", file=path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise InputError("this is not a text file in UTF-8", remedy="give a YAML file", file=path) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(
            f"this is not YAML that can be read safely: {problem}",
            remedy="correct the line; plain values only, no tags",
            file=path,
            line=None if mark is None else mark.line + 1,
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            f"a configuration is a mapping of names to values, this is {_kind(values)}",
            remedy="start with a line such as `system: dpo`",
            file=path,
        )
    wrong = next((k for k in values if not isinstance(k, str)), None)
    if wrong is not None:
        raise InputError(f"the name {wrong!r} is not a text", remedy="put the name in quotes", file=path)
    return values


def write_config(config: RunConfig, run_dir: Path) -> None:
    """RUN/run.yaml, whole or not at all."""
    head = f"# This run, complete. The same run again: prefine run --config {run_dir / FILE} --out {run_dir}\n"
    write_text(run_dir / FILE, head + yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True))


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What two configurations disagree on, place aside: ``train.lr: 1e-05 -> 0.001``."""
    found = []
    for name in dict.fromkeys([*theirs, *ours]):
        old, new = theirs.get(name), ours.get(name)
        if old == new or (not prefix and name in PLACE):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(new, old, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}: {_shown(old)} -> {_shown(new)}")
    return found


def _explained(error: Any, file: Path | None) -> InputError:
    path = [str(part) for part in error["loc"]]
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        return _no_field(path, file)
    if error["type"] == "missing":
        return InputError(
            f"the configuration lacks {where!r}",
            remedy="name a system; `prefine systems` lists them" if where == "system" else f"give {where}",
            file=file,
        )
    wanted = error["msg"].replace("Input should be", "it should be")
    right = error["msg"].removeprefix("Input should be ").split(",")[0]
    remedy = f"give {right}" if right.startswith(("a ", "an ")) else f"give {path[-1]} a value {right}"
    return InputError(f"{where}={error['input']!r} cannot be used: {wanted}", remedy=remedy, file=file)


def _no_field(path: list[str], file: Path | None) -> InputError:
    *outer, name = path
    parts: dict[str, type[Part]] = {"inputs": Inputs, "lora": Lora}
    there = parts.get(".".join(outer), RunConfig).model_fields
    close = get_close_matches(name, there, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    if not outer and name in Inputs.model_fields:
        hint = f"put it under `inputs:`, as in inputs: {{{name}: ...}}; "
    elif not outer and not close:
        hint = "options of the recipe go under `options:`, training settings under `train:`; "
    names = ", ".join(there)
    return InputError(
        f"the configuration has no field {'.'.join(path)!r}", remedy=f"{hint}there are: {names}", file=file
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
