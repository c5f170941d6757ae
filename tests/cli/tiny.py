"""Tiny things that the command-line tests run on: a model, data files, and the command itself in-process."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

WORDS = ("yes", "no", "maybe", "say", "what", "is", "two", "plus", "good", "bad", "answer", "please", "thanks")


def make_model(directory: Path, **changes: Any) -> Path:
    """A Llama of a few thousand weights with a byte-level tokenizer, saved as ``save_pretrained`` does."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([f" {word}" for word in WORDS], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_data(directory: Path, count: int = 40) -> Path:
    """pairs.jsonl, labels.jsonl, prompts.jsonl and answers.jsonl (prompts with a gold answer)."""
    directory.mkdir(parents=True, exist_ok=True)
    prompts = [f"say yes please {i}" for i in range(count)]
    write(directory / "pairs.jsonl", [{"prompt": p, "chosen": " yes", "rejected": " no thanks"} for p in prompts])
    labels = [{"prompt": p, "completion": c, "label": c == " yes"} for p in prompts for c in (" yes", " no thanks")]
    write(directory / "labels.jsonl", labels)
    write(directory / "prompts.jsonl", [{"prompt": p} for p in prompts])
    write(directory / "answers.jsonl", [{"prompt": p, "answer": "yes"} for p in prompts])
    return directory


def write(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON lines, gzipped when the name says so."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, to see that nothing was written or changed."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()} | {
        f"{p.relative_to(directory)}/": b"" for p in directory.rglob("*") if p.is_dir()
    }
