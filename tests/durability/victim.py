"""A small run that uses every verb, to be killed at any moment and started again.

Imported by the fork server of the harness, so that a process starts in milliseconds.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import prefine.engine.sample
import prefine.engine.score
import prefine.engine.train
import prefine.evaluation
import prefine.policies.causal_lm
from prefine.objectives import binary_cross_entropy, dpo
from prefine.policies import load_policy
from prefine.policies.base import Limits, Sampling
from prefine.policies.reward_model import RewardModel
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Feedback, Slate, pair, point, scores

WORDS = ["red", "green", "blue", "one", "two", "three", "up", "down", "left", "right", "yes", "no"]
VERBS = ("sample", "judge", "curate", "logps", "train", "merge")


def make_base(path: Path) -> Path:
    """A random two-layer Llama with dropout, so that random states matter."""
    if path.exists():
        return path
    torch.manual_seed(0)
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        attention_dropout=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    beside = path.with_name(path.name + ".partial")
    LlamaForCausalLM(config).save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    beside.rename(path)
    return path


def liking_red(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
    """Counts red, takes off for blue."""
    return [
        {"score": scores([s.response(i).count("red") - 0.5 * s.response(i).count("blue") for i in range(len(s))])}
        for s in slates
    ]


def best_worst(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    for slate in slates:
        values = slate.column("score")
        best, worst = values.index(max(values)), values.index(min(values))
        if values[best] > values[worst]:
            yield pair(slate, best, worst)


def as_labels(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    for slate in slates:
        for i, value in enumerate(slate.column("score")):
            yield point(slate, i, value > 0)


def main(root: str, name: str = "victim") -> None:
    """Two rounds: sample, judge, curate, train (reference scored on the way), merge, a reward model, evaluate."""
    from prefine.engine.settings import TrainSettings

    torch.set_num_threads(1)
    folder = Path(root)
    settings = TrainSettings(lr=3e-3, batch_size=4, max_steps=12, save_every=2, dropout=True, tokens_per_microbatch=128)
    with Run(folder / name, seed=5, settings=settings, sampling=Sampling(max_tokens=6)) as run:
        start = policy = run.policy(make_base(folder / "base"))
        rng = random.Random(1)
        prompts = run.slates([Slate(" ".join(rng.choices(WORDS, k=3))) for _ in range(300)])
        for _ in run.rounds(2):
            judged = run.judge(run.sample(policy, prompts, n=2), liking_red)
            pairs = run.curate(judged, best_worst)
            trained = run.train(policy, pairs, objective=dpo(0.1))
            policy = run.merge({trained: 1.2, policy: -0.2})
            run.evaluate(policy, run.slice(prompts, 0, 30), judge=liking_red, start=start)
        run.fit(start, run.curate(judged, as_labels), objective=binary_cross_entropy())
        run.finish(policy)


def warm_up() -> None:
    """Everything that is imported on first use, imported here: in the fork server, once for all processes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        policy = load_policy(make_base(Path(folder) / "base"))
        RewardModel.from_policy(policy)
        slate = Slate("red one", (Candidate("up"),))
        policy.sample(["red one"], Sampling(max_tokens=2), [0])
        prefine.engine.score.score_contrasts(policy, [point(slate, 0, True)], Limits())


warm_up()
