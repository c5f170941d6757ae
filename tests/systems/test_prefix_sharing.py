"""096 against the paper's own layout, written from its rules: one row P + C + [last of P] + R with a mask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from prefine import objectives
from prefine.engine.score import logp_of
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.engine.trees.tree import plant
from prefine.errors import InputError
from prefine.policies.base import Row
from prefine.policies.causal_lm import CausalLM
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair
from prefine.systems.systems.prefix_sharing import compared, prefix_sharing, random_pairs
from prefine.worlds.assistant import write
from prefine.worlds.pretrain import Settings, make_tokenizer

torch.set_num_threads(1)
IDS: dict[str, Any] = {"vocab_size": 53, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
LLAMA = {**IDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS: dict[str, Callable[[], Any]] = {
    "rotary": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, attn_implementation="sdpa")),
    "learned positions": lambda: GPT2LMHeadModel(
        GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4, attn_implementation="sdpa")
    ),
}
P, C, R = (7, 8, 9, 10, 11), (12, 13, 14, 1), (15, 16, 1)
TWO = Slate("p", (Candidate(" a"), Candidate(" b")))
ROWS = [Row(P, side, (1.0,) * len(side)) for side in (C, R)]


def made(name: str) -> Any:
    torch.manual_seed(3)
    model = MODELS[name]().eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else None
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":  # goes through float32 whatever it is given
            module.forward = MethodType(in_float64, module)
    return model


def in_float64(self: Any, x: Tensor) -> Tensor:
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def of_the_paper(model: Any, *, repeat: bool = True, restart: bool = True, mask: bool = True) -> Tensor:
    """(2,) log-probabilities of C and R from one row; each flag left out is one of the sheet's deliberate errors."""
    p, c, r = len(P), len(C), len(R)
    ids = torch.tensor([[*P, *C, *(P[-1:] if repeat else ()), *R]])
    length = ids.shape[1]
    first = p + c  # of the rejected branch
    after = range(p - 1, p + r) if repeat else range(p, p + r)
    position = torch.tensor([[*range(p + c), *after]]) if restart else torch.arange(length)[None]
    q, k = torch.arange(length)[:, None], torch.arange(length)[None, :]
    hidden = (q >= first) & (k >= (p - 1 if repeat else p)) & (k < first)
    allowed = (q >= k) & ~hidden if mask else q >= k
    logits = model(
        ids,
        attention_mask=torch.where(allowed, 0.0, -1e30).double()[None, None],
        position_ids=position,
        use_cache=False,
    ).logits[0]
    logp = logits.log_softmax(-1)
    own = logp[torch.arange(p - 1, p + c - 1), torch.tensor(C)].sum()
    other = logp[torch.arange(length - r - 1, length - 1), torch.tensor(R)].sum()
    return torch.stack([own, other])


def dpo_gradient(model: Any, logp_2: Tensor) -> tuple[Tensor, list[Tensor]]:
    """-log sigma( 0.1 [ (lp_w - ref_w) - (lp_l - ref_l) ] ), references (-20, -17)."""
    loss = torch.nn.functional.softplus(-0.1 * ((logp_2[0] + 20.0) - (logp_2[1] + 17.0)))
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_and_gradients_are_those_of_the_papers_row(name: str) -> None:
    model = made(name)
    for layout in ("tree", "padded"):
        ours, theirs = logp_of(model, ROWS, route=layout)[0].sum(-1), of_the_paper(model)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
        (loss, slopes), (want, wanted) = dpo_gradient(model, ours), dpo_gradient(model, theirs)
        assert float(loss) == pytest.approx(float(want), abs=1e-9)
        for slope, expected in zip(slopes, wanted, strict=True):
            assert (slope is None) == (expected is None)
            if slope is not None and expected is not None:
                torch.testing.assert_close(slope, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("left_out", ["repeat", "restart", "mask"])
@pytest.mark.parametrize("name", MODELS)
def test_each_part_of_the_papers_row_matters(name: str, left_out: str) -> None:
    """Without the repeated token the last of C "predicts" R; it, positions that run on and branches that see each
    other all give other numbers than two passes do."""
    model = made(name)
    plain = logp_of(model, ROWS, route="padded")[0].sum(-1)
    wrong = of_the_paper(model, **{left_out: False})
    assert float((wrong - plain).detach().abs().max()) > 1e-3


def test_tokens_are_those_of_the_formula() -> None:
    """p + c + r - 2: of the paper's p + c + 1 + r the repeated token and the two last ones, which predict nothing."""
    for p, c, r in ((5, 4, 3), (40, 7, 9), (3, 30, 21)):
        prompt = tuple(range(100, 100 + p))
        rows = [Row(prompt, tuple(range(s, s + n)), (1.0,) * n) for s, n in ((200, c), (300, r))]
        assert plant(rows, worth=1 << 30).tokens == p + c + r - 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights, and a tokenizer of words."""
    tokenizer = make_tokenizer(write, Settings(words=200))
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**LLAMA, "vocab_size": len(tokenizer), "max_position_embeddings": 128}))
    path = tmp_path_factory.mktemp("base")
    CausalLM(model, tokenizer).save(path)
    return path


def test_random_pairs_have_the_tokens_they_are_asked_for(base: Path, tmp_path: Path) -> None:
    live: Any = Run(tmp_path / "run").policy(base).load()
    for contrast in random_pairs(live.tokenizer, 40, 9, 3, seed=1):
        rows = live.codec.rows(contrast, TrainSettings().limits)
        assert [len(row.prompt) for row in rows] == [40, 40] and [len(row.response) for row in rows] == [9, 9]
        assert rows[0].response[0] != rows[1].response[0]


def test_the_recipe_trains_the_same_model_in_either_layout(base: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", settings=TrainSettings(lr=1e-4, batch_size=8, max_steps=2))
    start = run.policy(base)
    live: Any = start.load()
    pairs = run.curate(run.slates([Slate("p")]), _given(random_pairs(live.tokenizer, 60, 12, 8, seed=0)))
    shared, whole = (prefix_sharing(run, start, pairs, layout=layout) for layout in ("tree", "padded"))
    assert shared.key != whole.key, "both are trained, nothing is taken for the other"
    for a, b in zip(_weights(shared), _weights(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    noted = json.loads((run.dir / "notes.jsonl").read_text().splitlines()[0])
    assert noted["tokens_whole"] == 8 * 2 * (60 + 12) and noted["tokens_shared"] == 8 * (60 + 12 + 12 - 2)
    assert noted["largest_logp_difference"] < 1e-4


def _given(contrasts: list[Any]) -> Callable[[Any, Any], Any]:
    return lambda rows, rng: contrasts


def _weights(handle: Any) -> list[Tensor]:
    return [p.detach() for p in handle.load().module.parameters()]


def test_the_layout_that_is_asked_for_is_taken(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from prefine.engine import score

    taken: list[str] = []
    for name in ("tree", "padded"):
        real = score.ROUTES[name]
        spy = lambda *a, real=real, name=name, **k: (taken.append(name), real(*a, **k))[1]  # noqa: E731
        monkeypatch.setitem(score.ROUTES, name, spy)  # type: ignore[call-overload]
    live: Any = Run(tmp_path / "run").policy(base).fresh()
    contrasts = random_pairs(live.tokenizer, 20, 6, 2, seed=0)
    for layout in ("tree", "padded"):
        taken.clear()
        compared(live, contrasts, TrainSettings().limits)
        assert taken == ["tree", "padded"]
        taken.clear()
        how = TrainSettings(layout=layout, max_steps=1, batch_size=2)
        train(live, contrasts, objectives.simpo(), settings=how)
        assert taken == [layout]


def test_asked_of_a_model_that_cannot_it_is_refused(base: Path, tmp_path: Path) -> None:
    tokenizer: Any = Run(tmp_path / "run").policy(base).load().tokenizer  # type: ignore[attr-defined]
    model = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=4))
    CausalLM(model, tokenizer).save(tmp_path / "bloom")
    run = Run(tmp_path / "run", settings=TrainSettings(max_steps=1))
    start, pairs = run.policy(tmp_path / "bloom"), run.curate(run.slates([TWO]), _given([pair(TWO, 0, 1)]))
    with pytest.raises(InputError, match="it takes no positions") as error:
        prefix_sharing(run, start, pairs)
    assert "padded" in error.value.remedy
    assert run.train(start, pairs, objective=objectives.simpo(), layout="auto").key


def test_a_table_has_nothing_to_share(tmp_path: Path) -> None:
    Tabular(["p"], [" a", " b"]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings(max_steps=1))
    pairs = run.curate(run.slates([TWO]), _given([pair(TWO, 0, 1)]))
    assert prefix_sharing(run, run.policy(tmp_path / "base"), pairs).key


def test_the_layout_is_a_setting_like_others() -> None:
    with pytest.raises(InputError, match="layout"):
        TrainSettings.of({"layout": "flat"})
    assert "layout" not in TrainSettings().fingerprint(), "what was trained before this setting is still found"
    assert TrainSettings(layout="tree").fingerprint()["layout"] == "tree"
