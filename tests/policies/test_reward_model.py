"""RewardModel: one number a response, read where plain transformers reads it, fitted by the ordinary trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefine.engine import ends
from prefine.engine.batch import collate, collate_contrasts, encode_contrasts
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.engine.trees import route as tree_route
from prefine.errors import InputError
from prefine.objectives import bradley_terry
from prefine.objectives.scores import Scores
from prefine.policies import CausalLM, LoraSettings, Policy, RewardModel, kind_of, load_policy, with_lora
from prefine.policies.base import Limits, Row, Sampling
from prefine.slate import Candidate, Slate, pair

V, EOS = 300, 1
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": EOS}
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SHAPE, max_position_embeddings=64)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **SHAPE)),
}
PADS: dict[str, dict[str, str]] = {"no padding token": {}, "padding is the end": {"pad_token": "</s>"}}
SLATES = [
    Slate("the cat", (Candidate(" sat on the mat"), Candidate(" ran"), Candidate(" sat", stop="length"))),
    Slate("the dog"),
    Slate("the house of cards and the dog", (Candidate(" ran"),)),
]


def tokenizer(**special: str) -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    settings: Any = {"vocab_size": V, "special_tokens": ["<s>", "</s>"], "show_progress": False}
    backend.train_from_iterator(
        ["the cat sat on the mat and the dog ran to the house of cards"] * 4,
        trainers.BpeTrainer(**settings, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **special)


def policy(name: str = "llama", **special: str) -> CausalLM:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    model.config.pad_token_id = EOS if special else None
    return CausalLM(model, tokenizer(**special))


def reward_model(name: str = "llama", **special: str) -> RewardModel:
    model = RewardModel.from_policy(policy(name, **special))
    with torch.no_grad():  # a head that has learnt something
        model.model.score.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model


def test_it_is_a_policy() -> None:
    assert isinstance(reward_model(), Policy)


def test_it_begins_with_the_policys_backbone_and_no_opinion() -> None:
    source = policy()
    fresh = RewardModel.from_policy(source)
    assert fresh.reward(SLATES) == [[0.0, 0.0, 0.0], [], [0.0]]
    ours, theirs = fresh.model.base_model.state_dict(), source.model.base_model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_fitting_it_leaves_the_policy_alone() -> None:
    source = policy()
    before = {name: p.clone() for name, p in source.model.state_dict().items()}
    fitted = RewardModel.from_policy(source)
    with torch.no_grad():
        for parameter in fitted.model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(p, before[name]) for name, p in source.model.state_dict().items())


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("name", MODELS)
def test_trap_reward_read_at_padding_or_before_the_end(name: str, pad: str, tmp_path: Path) -> None:
    """The number is what plain transformers reads from the saved directory: one by one, unpadded, and in a
    padded batch, where the token before the end is read if padding and end are the same."""
    ours = reward_model(name, **PADS[pad])
    rewards = [r for rs in ours.reward(SLATES) for r in rs]
    ours.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    plain = AutoTokenizer.from_pretrained(tmp_path)
    texts = [slate.prompt + c.text + ("" if c.stop else "</s>") for slate in SLATES for c in slate.candidates]  # type: ignore[operator]
    with torch.no_grad():
        alone = [
            float(model(plain(text, return_tensors="pt", return_token_type_ids=False)["input_ids"]).logits)
            for text in texts
        ]
        padded = plain(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
        together = model(**padded).logits[:, 0].tolist()
    assert rewards == pytest.approx(alone, abs=1e-5) and rewards == pytest.approx(together, abs=1e-5)
    assert len({round(r, 4) for r in rewards}) == 4, "all the same: the test shows nothing"


@pytest.mark.parametrize("pad", PADS)
def test_a_model_of_ours_sees_whether_a_response_ended(pad: str) -> None:
    slate = Slate("the cat", (Candidate(" sat"), Candidate(" sat", stop="length")))
    ((ended, cut),) = reward_model(**PADS[pad]).reward([slate])
    assert abs(ended - cut) > 1e-3


def test_a_published_model_whose_padding_is_its_end_is_read_where_it_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**IDS, **SHAPE, num_labels=1, pad_token_id=EOS)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer(pad_token="</s>").save_pretrained(tmp_path)
    ids = [tokenizer()(text)["input_ids"] for text in ("the cat sat on the mat</s>", "the cat ran</s>")]
    with torch.no_grad():
        expected = [float(model(torch.tensor([i])).logits) for i in ids]
    first, second, _ = load_policy(tmp_path).reward(SLATES)[0]
    assert [first, second] == pytest.approx(expected, abs=1e-5)


def test_a_row_is_one_number_wide() -> None:
    model, contrast = reward_model(), pair(SLATES[0], 0, 1)
    rows = encode_contrasts(model, [contrast], Limits())
    batch = collate_contrasts([contrast], rows)
    assert [row.mask for row in rows[0]] == [(1.0,), (1.0,)]
    assert batch.mask_NT.tolist() == [[1.0], [1.0]]
    reward_N1, prompt = model.logp(batch)
    assert reward_N1.shape == (2, 1) and prompt is None and reward_N1.requires_grad


def test_bradley_terry_is_learnt_through_ordinary_scores() -> None:
    """-log sigmoid of the difference, from sums over masks of ones: what the ordinary trainer computes."""
    model = RewardModel.from_policy(policy())
    contrasts = [pair(SLATES[0], 1, 0), pair(SLATES[0], 1, 2)]
    batch = collate_contrasts(contrasts, encode_contrasts(model, contrasts, Limits()))
    optimizer = torch.optim.Adam(model.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        scores = Scores(model.logp(batch)[0], batch.mask_NT, batch.role_N, batch.group_N)
        chosen, rejected = scores.sides(scores.sum())
        loss = -logsigmoid(chosen - rejected).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < 0.2
    first, second, third = model.reward(SLATES)[0]
    assert second > first and second > third


@pytest.mark.parametrize("name", MODELS)
def test_saving_and_loading_changes_nothing(name: str, tmp_path: Path) -> None:
    model = reward_model(name)
    model.save(tmp_path)
    assert json.loads((tmp_path / "prefine.json").read_text())["kind"] == "reward-model"
    again = load_policy(tmp_path)
    assert isinstance(again, RewardModel) and again.reward(SLATES) == model.reward(SLATES)


def test_one_that_transformers_saved_is_recognised(tmp_path: Path) -> None:
    LlamaForSequenceClassification(LlamaConfig(**IDS, **SHAPE, num_labels=1)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert kind_of(tmp_path) == "reward-model" and isinstance(load_policy(tmp_path), RewardModel)


def test_a_classifier_of_several_classes_is_refused(tmp_path: Path) -> None:
    LlamaForSequenceClassification(LlamaConfig(**IDS, **SHAPE, num_labels=3)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="3 outputs"):
        load_policy(tmp_path)


def test_a_language_model_is_not_a_reward_model(tmp_path: Path) -> None:
    policy().save(tmp_path)
    with pytest.raises(InputError):
        RewardModel.load(tmp_path)


def test_an_architecture_without_classifiers_is_refused() -> None:
    model = GraniteForCausalLM(GraniteConfig(**IDS, **SHAPE))
    with pytest.raises(InputError, match="granite"):
        RewardModel.from_policy(CausalLM(model, tokenizer()))


def test_it_has_nothing_to_say() -> None:
    with pytest.raises(InputError, match="does not write"):
        reward_model().sample(["the cat"], Sampling(), [0])


def test_it_trains_with_an_adapter_too(tmp_path: Path) -> None:
    reward_model().save(tmp_path / "base")
    adapted = with_lora(RewardModel.load(tmp_path / "base"), LoraSettings(rank=2))
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    assert adapted.reward(SLATES) != reward_model().reward(SLATES)
    adapted.save(tmp_path / "adapter")
    again = load_policy(tmp_path / "adapter")
    assert isinstance(again, RewardModel) and again.has_adapter
    assert again.reward(SLATES) == adapted.reward(SLATES)


def test_one_can_grow_on_a_policy_with_an_adapter() -> None:
    adapted = with_lora(policy(), LoraSettings(rank=2))
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    grown = RewardModel.from_policy(adapted)
    assert not grown.has_adapter and adapted.has_adapter
    ids = torch.tensor([[5, 6, 7]])
    theirs = adapted.model.get_base_model().model(ids).last_hidden_state
    torch.testing.assert_close(grown.model.model(ids).last_hidden_state, theirs, atol=1e-4, rtol=1e-4)


# -- responses that share a prompt share its computation

GROUPED: dict[str, Any] = {**IDS, **SHAPE, "num_key_value_heads": 2}
FAMILIES: dict[str, Callable[[], Any]] = {
    **MODELS,
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "mistral, windows": lambda: MistralForCausalLM(MistralConfig(**GROUPED, head_dim=8, sliding_window=4)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**GROUPED, head_dim=8, sliding_window=4, attn_implementation="eager")
    ),
}
LAYER_NORMS = ("gpt2", "neox")
"""Families whose norms go through float64 if they are given it."""


def scalar(family: str, dtype: torch.dtype = torch.float32, pad: int | None = None) -> RewardModel:
    """A reward model whose attention and head matter."""
    torch.manual_seed(0)
    source = FAMILIES[family]().eval()
    model = RewardModel.from_policy(CausalLM(source, tokenizer()))
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else None
            parameter.normal_(generator=torch.Generator().manual_seed(1)) if name == "score.weight" else None
    model.model.to(dtype)
    model.pad = model.pad if pad is None else pad
    return model


def rows_of(*texts: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[Row, ...]:
    return tuple(Row(prompt, response, (1.0,)) for prompt, response in texts)


PAD = 3
ROWS: dict[str, tuple[Row, ...]] = {
    "a pair": rows_of(((5, 6, 7, 8), (9, 10, 1)), ((5, 6, 7, 8), (11, 1))),
    "a list": rows_of(*(((5, 6, 7, 8, 9), (10 + i, *range(20, 20 + i % 4), 1)) for i in range(16))),
    "the same, and a beginning": rows_of(((5, 6), (7, 8, 1)), ((5, 6), (7, 8, 1)), ((5, 6), (7,)), ((5,), ())),
    "padding": rows_of(((5, 6), (7, PAD, 8, PAD, PAD)), ((5, 6), (7, PAD)), ((PAD,), (PAD, PAD)), ((PAD, 5), (6,))),
    "steps": rows_of(*(((5, 6), (7 + a, 20, 9 + b, 21, 11 + c, 1)) for a in (0, 1) for b in (0, 1) for c in (0, 1))),
}


def rewards_and_gradients(
    model: RewardModel, rows: tuple[Row, ...], route: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, dict[str, Tensor]]:
    batch = collate([rows], [(0,) * len(rows)])
    with monkeypatch.context() as patch:
        patch.setitem(ends.ROUTES, "auto", ends.ROUTES[route])  # type: ignore[arg-type]
        reward_N1 = model.logp(batch)[0]
    model.model.zero_grad()
    pulls = torch.linspace(-1.0, 2.0, len(rows), dtype=reward_N1.dtype)
    logsigmoid(reward_N1[:, 0] * pulls).sum().backward()
    return reward_N1.detach(), {n: p.grad for n, p in model.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_and_gradients_in_trees_are_those_of_padded_rows(
    family: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [(torch.float32, 1e-5, 1e-4), *([(torch.float64, 1e-10, 1e-10)] if family in LAYER_NORMS else [])]
    for dtype, value, gradient in kinds:
        model = scalar(family, dtype, PAD)
        plain, expected = rewards_and_gradients(model, ROWS[case], "padded", monkeypatch)
        ours, found = rewards_and_gradients(model, ROWS[case], "tree", monkeypatch)
        torch.testing.assert_close(ours, plain, atol=value, rtol=value)
        assert found.keys() == expected.keys()
        size = torch.stack([g.norm() for g in expected.values()]).norm()
        for name, g in expected.items():
            assert (found[name] - g).norm() <= gradient * max(g.norm(), 1e-2 * size), name


def test_rewards_go_in_trees_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """... and in padded rows where it does not, or where the model cannot."""
    taken: list[str] = []
    for name in ("tree_ends", "padded_ends"):
        real = getattr(ends, name)
        monkeypatch.setattr(ends, name, lambda *a, name=name, real=real, **k: (taken.append(name), real(*a, **k))[1])
    model, slates = scalar("llama"), [SLATES[0]]
    model.reward(slates)
    monkeypatch.setitem(tree_route.COSTS, "cpu", tree_route.Costs(piece=0, fixed=0, share=0))  # type: ignore[arg-type]
    model.reward(slates)
    alike = [model.encode(pair(SLATES[0], 0, i), Limits()) for i in (1, 2)]
    tokens = sum(len(row.prompt) + len(row.response) for rows in alike for row in rows) - 1
    assert model.cut(alike, tokens) == [[0, 1]], "what is shared counts once"
    cannot = scalar("llama")
    monkeypatch.setitem(tree_route._REFUSALS, cannot.model, {False: "it may not"})  # type: ignore[arg-type]
    cannot.reward(slates)
    assert len(cannot.cut(alike, tokens)) == 2
    assert taken == ["padded_ends", "tree_ends", "padded_ends"]


def test_an_adapted_reward_model_goes_in_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = with_lora(scalar("neox", torch.float64), LoraSettings(rank=2))
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            parameter.normal_(std=0.3) if "lora_B" in name else None
    plain, expected = rewards_and_gradients(adapted, ROWS["steps"], "padded", monkeypatch)
    ours, found = rewards_and_gradients(adapted, ROWS["steps"], "tree", monkeypatch)
    torch.testing.assert_close(ours, plain, atol=1e-10, rtol=1e-10)
    assert any("lora_" in name for name in found) and any("score" in name for name in found)
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, atol=1e-10, rtol=1e-9, msg=name)


def test_gradient_checkpointing_computes_the_tree_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scalar("llama")
    expected = rewards_and_gradients(model, ROWS["steps"], "padded", monkeypatch)[1]
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.model.train()
    found = rewards_and_gradients(model, ROWS["steps"], "tree", monkeypatch)[1]
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, atol=1e-5, rtol=1e-3, msg=name)


def test_training_in_trees_is_training_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tree_route.COSTS, "cpu", tree_route.Costs(piece=0, fixed=0, share=0))  # type: ignore[arg-type]
    contrasts = [pair(SLATES[0], 1, 0), pair(SLATES[0], 1, 2), pair(SLATES[0], 2, 0)]
    how = TrainSettings(lr=1e-2, max_steps=4, batch_size=3, optimizer="sgd")

    def losses(route: str) -> list[float]:
        with monkeypatch.context() as patch:
            patch.setitem(ends.ROUTES, "auto", ends.ROUTES[route])  # type: ignore[arg-type]
            return [row["loss"] for row in train(scalar("llama"), contrasts, bradley_terry(), settings=how).metrics]

    trees = losses("tree")
    assert trees == losses("tree"), "the same bits again"
    assert trees == pytest.approx(losses("padded"), rel=1e-4) and trees[-1] < trees[0]
