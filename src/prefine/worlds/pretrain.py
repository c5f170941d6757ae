"""Base policies for the worlds: a small Llama trained from nothing on what a world's writers write.

A world gives a function that writes one (prompt, response) at a time; this module trains a byte-level BPE
tokenizer and a two-layer Llama on it, in seconds, and keeps the result in a directory that plain
``transformers`` loads. Rows are ``<bos> prompt response <eos>``; prompt and response are tokenised apart, as
``policies.CausalLM`` does, and the writers see to it that a response starts with a space or a new line, where
the tokenizer splits anyway, so together or apart gives the same ids.

The directory's name holds a hash of everything that decides the weights (the world's source, this file, the
settings), so a changed world gets a new base and an unchanged one is never trained twice.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import random
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefine.errors import RunStopped
from prefine.worlds import splits

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '' if loop.first else '\\n' }}"
    "{% if m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] | trim + eos_token }}"
    "{% else %}{{ m['role'] | capitalize + ': ' + m['content'] }}{% endif %}"
    "{% endfor %}{{ '\\nAssistant:' if add_generation_prompt }}"
)
"""Renders ``[{"role": "user", "content": ...}]`` the way the assistant world writes its prompts."""

POOL = 16

Writer = Callable[[random.Random], tuple[str, str]]
"""Writes one training example: (prompt, response)."""


@dataclass(frozen=True)
class Settings:
    """What decides the base besides the text. ``steps x rows`` examples are seen, each once."""

    steps: int = 300
    rows: int = 48
    width: int = 96
    layers: int = 2
    heads: int = 4
    context: int = 256
    peak_lr: float = 4e-3
    warmup: int = 20
    prompt_every: int = 8
    """The prompts of every so many rows count too, so that prompts have sensible probabilities."""
    words: int = 2000
    """How many examples the tokenizer learns its words from."""
    seed: int = 0
    threads: int = 1
    """Fixed, because the order of sums (and so the last bits) depends on it."""


def pretrained(
    cache: Path, name: str, write: Writer, settings: Settings = Settings(), *, modules: Sequence[str] = ()
) -> Path:
    """The directory of the base policy ``name``, trained now unless it is there.

    ``modules`` are those that decide what is written, besides the writer's own."""

    def make(directory: Path) -> None:
        with fixed_threads(settings.threads):
            tokenizer = make_tokenizer(write, settings)
            model = train(tokenizer, write, settings)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    # a function is known by its module's source, a writer with settings of its own by its fields as well
    about = f"{getattr(write, '__name__', repr(write))} {settings}"
    return made_once(cache, name, make, (write.__module__, *modules), about)


def made_once(cache: Path, name: str, make: Callable[[Path], None], modules: Sequence[str], about: str = "") -> Path:
    """The directory ``cache/name-key`` that ``make`` fills, made now unless it is there.

    The key is a hash of the modules' sources, this file, the splits and ``about``. Safe to call at once from several
    processes: each makes a directory of its own, a rename puts it in place, and the first one stays."""
    sources = [inspect.getsource(sys.modules[m]) for m in (*modules, __name__, splits.__name__)]
    key = hashlib.sha256("\x00".join([*sources, about]).encode()).hexdigest()[:12]
    directory = Path(cache) / f"{name}-{key}"
    if directory.exists():
        return directory
    making = directory.with_name(f".{directory.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        making.mkdir(parents=True)
        make(making)
        with suppress(FileExistsError):  # somebody else was first, with the same bits
            _rename(making, directory)
    except OSError as error:
        raise RunStopped(
            f"could not write the base policy {directory} ({error})", remedy="check the disk's room and permissions"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return directory


def _rename(made: Path, directory: Path) -> None:
    """``rename``, with one error for "it is there already" on every system."""
    try:
        made.rename(directory)
    except OSError:
        if directory.exists():
            raise FileExistsError(directory) from None
        raise


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Run with a fixed number of torch threads, and leave torch's global random state as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def make_tokenizer(write: Writer, settings: Settings) -> PreTrainedTokenizerFast:
    """Every word of the world is one token, with the space before it; any other text is spelled in bytes.

    A unigram model over byte-level text, in which a word costs 1 and a byte 20, finds the fewest tokens, and
    decoding gives back every text exactly."""
    rng = random.Random(f"words {settings.seed}")
    words = sorted({w for _ in range(settings.words) for w in _words("".join(write(rng)))})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [(s, 0.0) for s in (PAD, BOS, EOS)] + [(b, -20.0) for b in letters]
    vocabulary += [(w, -1.0) for w in words if w not in letters]
    raw = Tokenizer(models.Unigram(vocabulary, unk_id=None, byte_fallback=False))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(s, special=True) for s in (PAD, BOS, EOS)])
    raw.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, raw.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=settings.context,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
    )


def _words(text: str) -> Iterable[str]:
    """The pieces of a text in the byte-level alphabet, a space belonging to the word after it."""
    return (piece for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text))


def train(tokenizer: PreTrainedTokenizerFast, write: Writer, settings: Settings) -> LlamaForCausalLM:
    """Cross-entropy with AdamW and a linear warm-up and decay, one pass over freshly written rows."""
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(_config(tokenizer, settings))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.peak_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    model.train()
    for step, (ids_NT, counts_NT) in enumerate(_batches(tokenizer, write, settings)):
        rate = min((step + 1) / settings.warmup, 1 - step / settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.peak_lr * rate
        hidden_NTD = model.model(input_ids=ids_NT[:, :-1], use_cache=False).last_hidden_state
        counts = counts_NT[:, 1:]
        loss = cross_entropy(model.lm_head(hidden_NTD[counts]), ids_NT[:, 1:][counts])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def _batches(
    tokenizer: PreTrainedTokenizerFast, write: Writer, settings: Settings
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of rows of similar length, so that little is padding: written POOL batches at a time."""
    rng = random.Random(f"rows {settings.seed}")
    for first in range(0, settings.steps, POOL):
        batches = min(POOL, settings.steps - first)
        rows = _rows([write(rng) for _ in range(batches * settings.rows)], tokenizer, settings.prompt_every)
        rows.sort(key=lambda row: len(row[0]))
        order = list(range(batches))
        rng.shuffle(order)
        for b in order:
            yield _pad(rows[b * settings.rows : (b + 1) * settings.rows], tokenizer.pad_token_id)


def _rows(
    examples: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, prompt_every: int
) -> list[tuple[list[int], int]]:
    """(ids of ``<bos> prompt response <eos>``, where what counts begins)."""
    prompts = tokenizer([p for p, _ in examples])["input_ids"]
    responses = tokenizer([r for _, r in examples], add_special_tokens=False)["input_ids"]
    return [
        (p + r + [tokenizer.eos_token_id], 0 if n % prompt_every == 0 else len(p))
        for n, (p, r) in enumerate(zip(prompts, responses, strict=True))
    ]


def _pad(rows: Sequence[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_NT, counts_NT), padded on the right. Causal attention, so no real token ever sees a pad."""
    width = max(len(ids) for ids, _ in rows)
    ids_NT = torch.full((len(rows), width), pad)
    counts_NT = torch.zeros(len(rows), width, dtype=torch.bool)
    for n, (ids, begin) in enumerate(rows):
        ids_NT[n, : len(ids)] = torch.tensor(ids)
        counts_NT[n, begin : len(ids)] = True
    return ids_NT, counts_NT


def _config(tokenizer: PreTrainedTokenizerFast, settings: Settings) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.width * 8 // 3,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        initializer_range=0.05,  # 0.02 suits wide models; a narrow one starts faster with more
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},  # rows are short: sharp positions
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
