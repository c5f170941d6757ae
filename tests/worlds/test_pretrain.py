"""Making a base: the same bits every time, whole or not at all, and a new key when anything changes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prefine.errors import RunStopped
from prefine.worlds import assistant
from prefine.worlds.pretrain import Settings, made_once, pretrained

TINY = Settings(steps=4, rows=4, width=16, layers=1, heads=2, words=50)


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_training_twice_gives_the_same_bits(tmp_path: Path) -> None:
    """Whatever torch's global seed and thread count are, and they are left as they were."""
    first = pretrained(tmp_path / "a", "tiny", assistant.write, TINY)
    torch.manual_seed(123)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    random.seed(5)
    try:
        second = pretrained(tmp_path / "b", "tiny", assistant.write, TINY)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.name == second.name
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_other_settings_have_another_key(tmp_path: Path) -> None:
    first = pretrained(tmp_path, "tiny", assistant.write, TINY)
    other = pretrained(tmp_path, "tiny", assistant.write, replace(TINY, seed=1))
    assert first.name != other.name and weights(first) != weights(other)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([first.name, other.name])


def test_the_layout_is_bos_prompt_response_eos(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from prefine.worlds.pretrain import _pad, _rows

    tokenizer = AutoTokenizer.from_pretrained(pretrained(tmp_path, "tiny", assistant.write, TINY))
    (ids, begin), (_, second) = _rows([("Ana: Hi?\nAssistant:", " Sure."), ("a", " b")], tokenizer, prompt_every=2)
    prompt = tokenizer("Ana: Hi?\nAssistant:")["input_ids"]
    assert ids == [*prompt, *tokenizer(" Sure.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]
    assert begin == 0 and second == len(tokenizer("a")["input_ids"])
    ids_NT, counts_NT = _pad([([5, 6, 7], 1), ([8], 0)], pad=0)
    assert ids_NT.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert counts_NT.tolist() == [[False, True, True], [True, False, False]]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def breaks(directory: Path) -> None:
        (directory / "half").write_text("written")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path, "x", breaks, (__name__,))
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_takes_what_is_there(tmp_path: Path) -> None:
    def second(directory: Path) -> None:
        """While this one is at work, another process finishes."""
        (directory / "who").write_text("second")
        made_once(tmp_path, "x", first, (__name__,))

    def first(directory: Path) -> None:
        (directory / "who").write_text("first")

    made = made_once(tmp_path, "x", second, (__name__,))
    assert (made / "who").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == [made.name]


def test_no_place_to_write_is_a_stop_and_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunStopped, match="could not write the base policy"):
        made_once(tmp_path / "file", "x", lambda directory: None, (__name__,))
