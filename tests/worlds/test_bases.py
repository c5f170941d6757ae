"""The base policies: made in seconds, loaded by plain transformers, and in the regime their worlds promise.

Each base is trained once for the whole file, on one thread.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import correlation, mean, pstdev

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefine.slate import Candidate, Slate
from prefine.worlds import arithmetic, assistant, find_world, reviews

WRITERS = {"arithmetic": arithmetic.Pupils(), "assistant": assistant.write, "reviews": reviews.write}


@dataclass(frozen=True)
class Made:
    directory: Path
    seconds: float


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    cache_directory = tmp_path_factory.mktemp("bases")

    @cache
    def make(name: str) -> Made:
        start = time.process_time()
        directory = find_world(name).base(cache_directory)
        return Made(directory, time.process_time() - start)

    return make


def sampled(directory: Path, slates: list[Slate], n: int, temperature: float, max_tokens: int) -> list[Slate]:
    """n responses a prompt by plain ``generate`` (temperature 0: greedy)."""
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    batch = tokenizer([str(s.prompt) for s in slates for _ in range(n)], return_tensors="pt", padding=True)
    torch.manual_seed(0)
    with torch.no_grad():
        ids = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=max_tokens, **how
        )[:, batch["input_ids"].shape[1] :]
    candidates = []
    for row in ids.tolist():
        ended = tokenizer.eos_token_id in row
        tokens = row[: row.index(tokenizer.eos_token_id) + 1] if ended else row
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        candidates.append(Candidate(text, tokens=tuple(tokens), stop="end" if ended else "length"))
    return [replace(s, candidates=tuple(candidates[i * n : (i + 1) * n])) for i, s in enumerate(slates)]


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_base_is_small_quick_and_safe(name: str, made) -> None:
    base = made(name)
    assert base.seconds < 40
    files = {p.name for p in base.directory.iterdir()}
    assert "model.safetensors" in files and "tokenizer.json" in files and "config.json" in files
    assert not [f for f in files if f.endswith((".bin", ".pt", ".pkl"))]
    assert sum(p.stat().st_size for p in base.directory.iterdir()) < 5_000_000


@pytest.mark.parametrize("name", list(WRITERS))
def test_prompt_and_response_have_the_same_ids_together_and_apart(name: str, made) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made(name).directory)
    rng = random.Random(1)
    for _ in range(200):
        prompt, response = WRITERS[name](rng)
        together = tokenizer(prompt + response)["input_ids"]
        assert together == tokenizer(prompt)["input_ids"] + tokenizer(response, add_special_tokens=False)["input_ids"]
        assert together.count(tokenizer.bos_token_id) == 1 and together[0] == tokenizer.bos_token_id
        assert tokenizer.decode(together, skip_special_tokens=True) == prompt + response


@pytest.mark.parametrize("name", list(WRITERS))
def test_the_tokenizer_gives_back_any_text(name: str, made) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made(name).directory)
    for text in ("", "Grüße, 北京 🙂\t\n  two  spaces ", "<b>\x00\x7f"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_conversation_is_rendered_like_the_worlds_own_prompts(made) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made("assistant").directory)
    turns = [{"role": "user", "content": "What is the capital of Norway?"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<bos>User: What is the capital of Norway?\nAssistant:"
    whole = [*turns, {"role": "assistant", "content": " The capital of Norway is Oslo."}]
    assert tokenizer.apply_chat_template(whole, tokenize=False) == f"{text} The capital of Norway is Oslo.<eos>"


@pytest.mark.parametrize(("name", "low", "high", "spread"), [("assistant", 0.1, 0.6, 0.2), ("reviews", -0.3, 0.3, 0.2)])
def test_the_start_is_mediocre_and_varied(name: str, low: float, high: float, spread: float, made) -> None:
    """Gold between bounds that leave room above, responses to one prompt that differ in gold, and lengths
    that say little about gold."""
    world = find_world(name)
    slates = sampled(made(name).directory, world.prompts("test", 100, 0), 4, 1.0, world.max_tokens)
    gold = [columns["gold"].values for columns in world.gold(slates)]
    values = [v for row in gold for v in row]
    lengths = [len(c.tokens or ()) for s in slates for c in s.candidates]
    assert low < mean(values) < high
    assert mean(pstdev(row) for row in gold) > spread
    assert 5 < mean(lengths) < 30
    assert abs(correlation(values, lengths)) < 0.25
    assert mean(c.stop == "end" for s in slates for c in s.candidates) > 0.97


def test_the_assistant_falls_short_in_every_attribute(made) -> None:
    world = find_world("assistant")
    slates = sampled(made("assistant").directory, world.prompts("test", 100, 1), 4, 1.0, world.max_tokens)
    for name, judge in world.attributes.items():
        values = [v for columns in judge(slates) for v in columns[name].values]
        assert mean(values) < 0.9 and pstdev(values) > 0.2


def test_the_pupil_gets_about_half_right_and_votes_help(made) -> None:
    """Greedy accuracy leaves room, some answers are malformed, votes beat the single greedy answer, and how
    sure the vote is goes along with being right."""
    world = find_world("arithmetic")
    problems = world.prompts("test", 150, 0)
    directory = made("arithmetic").directory
    greedy = sampled(directory, problems, 1, 0.0, world.max_tokens)
    verified = [columns["verified"].values[0] for columns in world.verifier(greedy)]
    accuracy = mean(v == 1 for v in verified)
    assert 0.35 < accuracy < 0.75
    assert any(v == -1 for v in verified)

    slates = sampled(directory, problems, 8, 0.7, world.max_tokens)
    levels = Counter(v for columns in world.verifier(slates) for v in columns["verified"].values)
    assert all(levels[level] > 0.03 * 8 * 150 for level in (1, 0, -1))
    shares, right = [], []
    for slate in slates:
        answers = Counter(a for i in range(8) if (a := arithmetic.final_answer(slate.response(i))) is not None)
        answer, votes = answers.most_common(1)[0] if answers else (None, 0)
        shares.append(votes / 8)
        right.append(float(answer == slate.meta["answer"]))
    assert mean(right) > accuracy
    assert correlation(shares, right) > 0.2


def test_the_pupil_can_write_problems(made) -> None:
    world = find_world("arithmetic")
    asked = [Slate(arithmetic.invent(world.prompts("train", 3, seed))) for seed in range(40)]
    slates = sampled(made("arithmetic").directory, asked, 1, 1.0, world.max_tokens)
    problems = {p for s in slates if (p := arithmetic.Problem.parse(s.response(0))) is not None}
    assert len(problems) >= 8
