"""Rows out of Parquet files, `datasets` directories, folders of files and hub datasets (the ``data`` extra)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prefine.errors import InputError
from prefine.formats.problems import Problem
from prefine.formats.sources import DATA_SUFFIXES, Row, Source, checked, open_source

BATCH = 256
EXTRA = "install the extra: pip install 'prefine[data]'"


def need(module: str, file: str | Path) -> Any:
    """Import an optional library, or say how to get it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        what = module.split(".")[0]
        raise InputError(f"reading this needs {what}, which is not installed", remedy=EXTRA, file=file) from None


def plain(value: Any) -> Any:
    """Columnar files say "absent" with null: such fields are left out."""
    if isinstance(value, dict):
        kept = {k: plain(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value


def parquet(path: Path) -> Source:
    """Streamed by row group, ``BATCH`` rows at a time."""
    pq = need("pyarrow.parquet", path)
    arrow = need("pyarrow", path)
    try:
        pq.ParquetFile(path).close()
    except (arrow.ArrowException, OSError) as error:
        raise InputError(
            f"is damaged Parquet ({_first_line(error)})", remedy="write or fetch it again", file=path
        ) from None

    def stream() -> Iterator[Row | Problem]:
        line = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BATCH):
                    for value in batch.to_pylist():
                        line += 1
                        yield checked(plain(value), str(path), line, surrogates=False)
        except (arrow.ArrowException, OSError) as error:
            message = f"the Parquet file is damaged ({_first_line(error)}); what follows could not be read"
            yield Problem("damaged", message, "write or fetch the file again", str(path), line + 1)

    return Source(str(path), "Parquet", stream)


def directory(path: Path, split: str = "") -> Source:
    """A directory made by ``save_to_disk``, or a folder of data files read one after the other."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved(path, split)
    files = sorted(p for p in path.iterdir() if p.name.endswith(DATA_SUFFIXES))
    if not files:
        suffixes = ", ".join(DATA_SUFFIXES)
        raise InputError(
            "holds no data: neither a `datasets` directory nor files we read",
            remedy=f"name a file, or a folder with {suffixes}",
            file=path,
        )
    sources = [open_source(p) for p in files]
    kinds = " and ".join(sorted({s.kind for s in sources}))
    return Source(str(path), f"{len(files)} files of {kinds}", lambda: itertools.chain.from_iterable(sources))


def _saved(path: Path, split: str) -> Source:
    datasets = need("datasets", path)
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        raise InputError(
            f"the `datasets` directory cannot be opened ({_first_line(error)})",
            remedy="save it again with save_to_disk",
            file=path,
        ) from None
    if isinstance(found, dict):
        found = found[_split(list(found), split, path)]
    return Source(str(path), "datasets directory", _streamer(lambda: found, str(path)))


def _split(names: list[str], asked: str, path: str | Path) -> str:
    """The split asked for, else the only one, else "train"."""
    if asked and asked not in names:
        raise InputError(f"has no split {asked!r} (there: {', '.join(names)})", remedy=f"{path}:{names[0]}", file=path)
    if asked:
        return asked
    if len(names) == 1 or "train" in names:
        return "train" if "train" in names else names[0]
    raise InputError(
        f"has several splits and none called train: {', '.join(names)}",
        remedy=f"name one: {path}:{names[0]}",
        file=path,
    )


def hub(name: str) -> Source:
    """A dataset on the Hugging Face hub, streamed: ``owner/name`` or ``owner/name:split``."""
    datasets = need("datasets", name)
    reach_hub(name)
    place, _, split = name.partition(":")
    try:
        found = datasets.load_dataset(place, split=split or None, streaming=True)
    except Exception as error:  # the library raises many unrelated types; all mean "cannot be had"
        raise _no_dataset(name, error) from None
    if isinstance(found, dict):
        found = found[_split(list(found), "", place)]
    return Source(name, "hub dataset", _streamer(lambda: found, name))


def reach_hub(name: str) -> None:
    """Find out at once that there is no connection, instead of after minutes of retries."""
    import httpx

    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        return  # what is cached may do; the library makes no connection then
    try:
        httpx.head(os.environ.get("HF_ENDPOINT") or "https://huggingface.co", timeout=10)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _no_dataset(name, error) from None


def _no_dataset(name: str, error: Exception) -> InputError:
    return InputError(
        f"there is no such file, and no hub dataset of that name can be reached ({_first_line(error)})",
        remedy="check the name and the connection (HF_HUB_OFFLINE, HF_TOKEN), or give a local file",
        file=name,
    )


def _streamer(dataset: Callable[[], Any], name: str) -> Callable[[], Iterator[Row | Problem]]:
    def stream() -> Iterator[Row | Problem]:
        line = 0
        try:
            for value in dataset():
                line += 1
                yield checked(plain(value), name, line, surrogates=False)
        except (OSError, ConnectionError) as error:
            message = f"the dataset broke off ({_first_line(error)})"
            yield Problem("damaged", message, "try again", name, line + 1)

    return stream


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text[:160]
