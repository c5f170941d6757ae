"""TRL trains: DPOTrainer on the same rows, already tokenised before the clock starts.

Best settings for a CPU: SDPA attention, no gradient checkpointing, no logging, evaluation or saving, batches made
in the process, the fused AdamW that is its default. (``padding_free`` falls back to padding in this version, and
Liger kernels need Triton.) Runs in the peers' environment.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from benchmarks.worker import timed


class Trainer(DPOTrainer):
    """DPOTrainer on rows that are tokenised, in the order they come."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
        rows: Any = self.train_dataset if dataset is None else dataset
        return SequentialSampler(rows)


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    device = settings.get("device", "cpu")
    bf16 = settings.get("precision") == "bfloat16"
    rows = [json.loads(line) for line in Path(settings["ids"]).read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(settings["policy"])
    folder = tempfile.mkdtemp(prefix="bench-trl-")
    how = {"dtype": torch.float32, "attn_implementation": settings.get("attention", "sdpa")}
    load = AutoModelForCausalLM.from_pretrained
    policy = load(settings["policy"], **how).to(device)
    reference = load(settings["reference"], **how).to(device)
    accumulate = settings.get("accumulate", 1)

    each = settings.get("contrasts_an_index", 1)

    def trainer(model: Any, indices: list[int], bf16: bool = bf16) -> Trainer:
        """A trainer for these pairs. With precomputed references it computes them here, before the clock."""
        config = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=settings["batch"] // accumulate,
            gradient_accumulation_steps=accumulate,
            num_train_epochs=1,
            learning_rate=settings["lr"],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            beta=settings["beta"],
            max_length=settings["max_length"],
            bf16=bf16,
            use_cpu=device == "cpu",
            gradient_checkpointing=False,
            precompute_ref_log_probs=settings["precomputed"],
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=device != "cpu",
            seed=settings.get("seed", 0),
        )
        dataset = Dataset.from_list(
            [
                {
                    "prompt_ids": rows[i]["prompt"],
                    "chosen_ids": rows[i]["responses"][0],
                    "rejected_ids": rows[i]["responses"][1],
                }
                for i in (index * each + k for index in indices for k in range(each))
            ]
        )
        return Trainer(model, reference, args=config, train_dataset=dataset, processing_class=tokenizer)

    def check(indices: list[int]) -> dict[str, Any]:
        """The loss of the first step in float32, from the policy's own weights, on weights that are thrown away."""
        model = load(settings["policy"], **how).to(device)
        return {"numbers": [trainer(model, indices, bf16=False).train().training_loss]}

    def round(indices: list[int]) -> dict[str, Any]:
        here = trainer(policy, indices)
        _synchronise(device)
        with timed() as t:
            result = here.train()
            _synchronise(device)
        return {**t.taken, "loss": result.training_loss}

    return {"check": check, "round": round, "device_peak": lambda: _device_peak(device)}


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _device_peak(device: str) -> dict[str, Any]:
    return {"bytes": torch.cuda.max_memory_allocated() if device != "cpu" else 0}
