"""CausalLM: what is saved loads in plain transformers and peft; what cannot be used is refused with a remedy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from prefine.engine.batch import collate_contrasts, encode_contrasts
from prefine.errors import InputError
from prefine.policies import CausalLM, LoraSettings, fingerprint_policy, kind_of, load_policy, with_adapter, with_lora
from prefine.policies.base import Limits, Policy, Sampling
from prefine.slate import Candidate, Slate, pair, point

V = 300
SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 1}
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SHAPE, max_position_embeddings=64)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SHAPE, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **SHAPE)),
}
PAIR = pair(Slate("the cat", (Candidate(" sat on the mat"), Candidate(" ran"))), 0, 1)


def tokenizer(**special: Any) -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=V,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat and the dog ran to the house of cards"] * 4, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", **special}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def make(name: str = "llama") -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(MODELS[name]().eval(), tokenizer())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make().save(tmp_path / "model")
    return tmp_path / "model"


def scored(policy: CausalLM) -> torch.Tensor:
    rows = encode_contrasts(policy, [PAIR], Limits())
    with torch.no_grad():
        return policy.logp(collate_contrasts([PAIR], rows))[0]


def move(policy: CausalLM, only_trainable: bool = False) -> None:
    """Stands for training: other weights, the same every time."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad or not only_trainable:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


# -- the protocol


def test_it_is_a_policy() -> None:
    assert isinstance(make(), Policy)


def test_samples_are_candidates_that_training_takes_as_they_are() -> None:
    """What was sampled comes back as the same ids, with the log-probabilities that the scorer finds."""
    policy = make()
    with torch.no_grad():
        policy.model.lm_head.weight[1] += 0.3 * policy.model.model.norm.weight  # end tokens come up
    prompts = ["the cat", "the dog ran to the house"]
    slates = policy.sample(prompts, Sampling(n=4, max_tokens=12), [3, 4])
    for prompt, candidates in zip(prompts, slates, strict=True):
        assert len(candidates) == 4
        for candidate in candidates:
            assert candidate.tokens is not None and candidate.logps is not None
            assert candidate.origin == {"tokenizer": policy.codec.fingerprint, "temperature": 1.0, "top_p": 1.0}
            assert (candidate.tokens[-1] == 1) == (candidate.stop == "end") and "</s>" not in candidate.text
            contrast = point(Slate(prompt, (candidate,)), 0, True)
            rows = encode_contrasts(policy, [contrast], Limits())
            assert rows[0][0].response == candidate.tokens
            logp_NT = policy.logp(collate_contrasts([contrast], rows))[0]
            torch.testing.assert_close(logp_NT[0].detach(), torch.tensor(candidate.logps), atol=2e-5, rtol=1e-5)


def test_a_prompt_that_fills_the_window_loses_its_beginning() -> None:
    policy = make()
    ((one,),) = policy.sample(["the cat sat " * 40], Sampling(max_tokens=8), [0])
    assert one.tokens is not None and 1 <= len(one.tokens) <= 8
    with pytest.raises(InputError, match="window of 64"):
        policy.sample(["the cat"], Sampling(max_tokens=64), [0])


# -- saving and loading


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_loads_in_plain_transformers_and_generates(name: str, tmp_path: Path) -> None:
    policy = make(name)
    move(policy)
    policy.save(tmp_path)
    model, plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    inputs = plain("the cat", return_tensors="pt", return_token_type_ids=False)
    assert torch.equal(model(**inputs).logits, policy.model(**inputs).logits)
    greedy = model.generate(**inputs, do_sample=False, max_new_tokens=6, pad_token_id=0)[0, inputs.input_ids.shape[1] :]
    ((ours,),) = policy.sample(["the cat"], Sampling(max_tokens=6, temperature=0), [0])
    assert greedy.tolist() == list(ours.tokens or ())


@pytest.mark.parametrize("name", MODELS)
def test_saving_and_loading_changes_nothing(name: str, tmp_path: Path) -> None:
    policy = make(name)
    move(policy)
    policy.save(tmp_path / "a")
    again = load_policy(tmp_path / "a")
    assert isinstance(again, CausalLM) and torch.equal(scored(policy), scored(again))
    assert again.codec.fingerprint == policy.codec.fingerprint
    again.save(tmp_path / "b")
    assert fingerprint_policy(tmp_path / "a") == fingerprint_policy(tmp_path / "b")


def test_only_safetensors_are_written(saved: Path) -> None:
    assert {f.suffix for f in saved.iterdir()} <= {".safetensors", ".json", ".jinja"}
    assert json.loads((saved / "prefine.json").read_text()) == {"kind": "causal-lm"}


def test_directories_that_prefine_did_not_write_are_recognised(tmp_path: Path) -> None:
    MODELS["llama"]().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert kind_of(tmp_path) == "causal-lm" and isinstance(load_policy(tmp_path), CausalLM)


@pytest.mark.parametrize("dtype, expected", [("float32", torch.float32), ("auto", torch.bfloat16)])
def test_weights_are_kept_in_float32_unless_asked(tmp_path: Path, dtype: str, expected: torch.dtype) -> None:
    """Small updates vanish in bfloat16, so that is not what training starts from by default."""
    policy = make()
    policy.model.to(torch.bfloat16)
    policy.save(tmp_path)
    assert CausalLM.load(tmp_path, dtype=dtype).model.dtype == expected
    assert CausalLM.load(tmp_path).model.dtype == torch.float32


def test_the_model_stops_where_training_taught_it_to(tmp_path: Path) -> None:
    """A configuration made without the tokenizer says 2, an ordinary token; the tokenizer says 1."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=V, **SHAPE))
    assert model.generation_config.eos_token_id == 2
    policy = CausalLM(model, tokenizer())
    assert policy.codec.end == 1 and policy.codec.stops == {1}
    policy.save(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == 1


def test_every_special_end_token_of_the_generation_configuration_stops() -> None:
    model = MODELS["llama"]()
    model.generation_config.eos_token_id = [0, 1]
    policy = CausalLM(model, tokenizer())
    assert policy.codec.end == 1 and policy.codec.stops == {0, 1}


def test_a_contradictory_generation_configuration_does_not_stop_a_save(tmp_path: Path) -> None:
    policy = make()
    policy.model.generation_config.temperature = 0.6
    policy.model.generation_config.do_sample = False
    policy.save(tmp_path)
    assert CausalLM.load(tmp_path).model.generation_config.temperature == 0.6


# -- fingerprints


def test_a_fingerprint_is_the_content_not_the_place(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("about")
    (tmp_path / "copy" / "prefine.json").unlink()
    assert CausalLM.fingerprint(saved) == CausalLM.fingerprint(tmp_path / "copy")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_fingerprint_changes_with_weights_configuration_and_tokenizer(saved: Path, name: str) -> None:
    before = CausalLM.fingerprint(saved)
    content = bytearray((saved / name).read_bytes())
    content[-3] ^= 1
    (saved / name).write_bytes(content)
    assert CausalLM.fingerprint(saved) != before


def test_files_are_hashed_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = CausalLM.fingerprint(saved)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert CausalLM.fingerprint(saved) == before


# -- adapters

LORA = LoraSettings(rank=2, alpha=8.0)


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains() -> None:
    policy = make()
    before = scored(policy)
    adapted = with_lora(policy, LORA)
    assert torch.equal(scored(adapted), before)
    assert all("lora_" in name for name, p in adapted.model.named_parameters() if p.requires_grad)
    assert any(p.requires_grad for p in adapted.model.parameters())


def test_with_the_adapter_off_it_is_the_reference() -> None:
    policy = make()
    before = scored(policy)
    adapted = with_lora(policy, LORA)
    move(adapted, only_trainable=True)
    after = scored(adapted)
    assert (after - before).abs().max() > 1e-3
    with adapted.adapter_off() as reference:
        assert torch.equal(scored(reference), before)
    assert torch.equal(scored(adapted), after), "it is on again"
    assert any(p.requires_grad for p in adapted.model.parameters()), "and still trains"


def test_a_saved_adapter_loads_in_peft_transformers_and_here(saved: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    adapted = with_lora(CausalLM.load(saved), LORA)
    move(adapted, only_trainable=True)
    adapted.save(tmp_path / "adapter")
    expected = scored(adapted)
    again = load_policy(tmp_path / "adapter")
    assert again.has_adapter and torch.equal(scored(again), expected)
    assert any(p.requires_grad for p in again.model.parameters()), "a loaded adapter can be trained on"
    assert not (tmp_path / "adapter" / "model.safetensors").exists(), "the adapter alone"
    inputs = tokenizer()("the cat", return_tensors="pt", return_token_type_ids=False)
    for plain in (AutoPeftModelForCausalLM, AutoModelForCausalLM):
        model = plain.from_pretrained(tmp_path / "adapter").eval()
        torch.testing.assert_close(model(**inputs).logits, adapted.model(**inputs).logits)
        assert model.generate(**inputs, do_sample=False, max_new_tokens=3, pad_token_id=0).shape[1] <= 6


def test_an_adapters_fingerprint_has_its_base_in_it(saved: Path, tmp_path: Path) -> None:
    with_lora(CausalLM.load(saved), LORA).save(tmp_path / "adapter")
    before = fingerprint_policy(tmp_path / "adapter")
    changed = CausalLM.load(saved)
    move(changed)
    changed.save(saved)
    assert fingerprint_policy(tmp_path / "adapter") != before


def test_an_adapter_on_weights_that_are_nowhere_is_saved_merged(tmp_path: Path) -> None:
    adapted = with_lora(make(), LORA)
    move(adapted, only_trainable=True)
    adapted.save(tmp_path)
    again = CausalLM.load(tmp_path)
    assert not again.has_adapter and adapted.has_adapter
    torch.testing.assert_close(scored(again), scored(adapted), atol=1e-4, rtol=1e-4)


def test_an_adapter_of_the_same_shape_goes_on_and_of_another_is_merged_first(saved: Path, tmp_path: Path) -> None:
    adapted = with_lora(CausalLM.load(saved), LORA)
    move(adapted, only_trainable=True)
    before = scored(adapted)
    assert with_lora(adapted, LORA) is adapted
    wider = with_lora(adapted, LoraSettings(rank=4, alpha=8.0))
    assert wider is not adapted
    wider.save(tmp_path / "wider")  # the directory it was loaded from does not have the first adapter in it
    torch.testing.assert_close(scored(CausalLM.load(tmp_path / "wider")), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scored(wider), before, atol=1e-4, rtol=1e-4)
    with wider.adapter_off():
        torch.testing.assert_close(scored(wider), before, atol=1e-4, rtol=1e-4)


def test_the_start_of_an_adapter_is_decided_by_its_seed() -> None:
    first, same, other = (
        [p.clone() for n, p in with_adapter(make(), LORA, seed).model.named_parameters() if "lora_A" in n]
        for seed in (1, 1, 2)
    )
    assert all(map(torch.equal, first, same)) and not any(map(torch.equal, first, other))
    assert not with_adapter(make(), None).has_adapter


def test_without_an_adapter_there_is_none_to_turn_off() -> None:
    with pytest.raises(ValueError, match="no adapter"), make().adapter_off():
        pass


def test_targets_that_do_not_exist_are_bad_input() -> None:
    with pytest.raises(InputError, match="does not fit"):
        with_lora(make(), LoraSettings(targets=("no_such_layer",)))
    with pytest.raises(InputError, match="rank"):
        with_lora(make(), LoraSettings(rank=0))


def test_without_peft_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match="peft") as caught:
        with_lora(make(), LORA)
    assert "prefine[lora]" in caught.value.remedy


# -- directories that cannot be used


def damage(name: str) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])

    return cut


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def pickled(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04")


def becomes(model: Any) -> Callable[[Path], None]:
    return lambda path: model().save_pretrained(path)


def config(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        now = json.loads((path / "config.json").read_text()) | changes
        (path / "config.json").write_text(json.dumps(now))

    return change


def headless(path: Path) -> None:
    """A backbone saved alone, under a configuration that promises a head."""
    MODELS["llama"]().model.save_pretrained(path)
    config(architectures=["LlamaForCausalLM"])(path)


def endless(path: Path) -> None:
    """Neither the tokenizer nor the model names an end token (one of them would serve)."""
    tokenizer(eos_token=None).save_pretrained(path)
    assert load_policy(path).codec.end == 1
    config(eos_token_id=None)(path)
    (path / "generation_config.json").unlink()


def writes(name: str, content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / name).write_text(content)

    return write


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (remove("model.safetensors"), "no weights"),
    "pickled weights": (pickled, "pickled"),
    "cut weights": (damage("model.safetensors"), "cannot be loaded"),
    "empty weights": (writes("model.safetensors", ""), "cannot be loaded"),
    "no configuration": (remove("config.json"), "no config.json"),
    "cut configuration": (damage("config.json"), "cannot be read"),
    "a configuration that is a list": (writes("config.json", "[]"), "not a JSON object"),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer"),
    "cut tokenizer": (damage("tokenizer.json"), "tokenizer cannot be read"),
    "no end token anywhere": (endless, "no end token"),
    "an encoder": (
        becomes(
            lambda: BertForMaskedLM(
                BertConfig(
                    vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
                )
            )
        ),
        "not a causal language model: BertForMaskedLM",
    ),
    "an encoder with a decoder": (
        becomes(
            lambda: T5ForConditionalGeneration(
                T5Config(vocab_size=V, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
            )
        ),
        "not a causal language model",
    ),
    "a classifier": (
        becomes(lambda: LlamaForSequenceClassification(LlamaConfig(**IDS, **SHAPE, num_labels=1))),
        "not a causal language model: LlamaForSequenceClassification",
    ),
    "a backbone without a head": (headless, "lack 1 of the parameters"),
    "weights of another width": (config(hidden_size=48), "cannot be loaded|lack"),
    "weights of fewer layers": (config(num_hidden_layers=3), "lack"),
    "an unknown architecture": (config(model_type="nobody", architectures=["Nobody"]), "not a causal language model"),
    "an unknown kind": (writes("prefine.json", '{"kind": "oracle"}'), "no policy kind"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_directory_that_cannot_be_used_is_refused_with_a_remedy(what: str, saved: Path) -> None:
    spoil, message = BAD[what]
    spoil(saved)
    with pytest.raises(InputError, match=message) as caught:
        CausalLM.load(saved) if what != "an unknown kind" else load_policy(saved)
    assert caught.value.remedy and len(str(caught.value)) < 1200


@pytest.mark.parametrize("path, message", [("no/such/dir", "no model|no directory|no such"), ("./nowhere", "no such")])
def test_a_place_that_does_not_exist_is_refused(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_policy(path)


def test_a_hub_name_without_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="hub") as caught:
        load_policy("nobody/no-such-model")
    assert "network" in caught.value.remedy


def test_a_file_is_not_a_model_directory(saved: Path) -> None:
    with pytest.raises(InputError, match="a file"):
        load_policy(saved / "config.json")


@pytest.mark.parametrize("spoil", [remove("adapter_model.safetensors"), damage("adapter_model.safetensors")])
def test_a_damaged_adapter_is_refused(spoil: Callable[[Path], None], saved: Path, tmp_path: Path) -> None:
    with_lora(CausalLM.load(saved), LORA).save(tmp_path / "adapter")
    spoil(tmp_path / "adapter")
    with pytest.raises(InputError):
        load_policy(tmp_path / "adapter")


def test_an_adapter_whose_base_is_gone_is_refused(saved: Path, tmp_path: Path) -> None:
    with_lora(CausalLM.load(saved), LORA).save(tmp_path / "adapter")
    shutil.rmtree(saved)
    with pytest.raises(InputError, match="no such model directory"):
        load_policy(tmp_path / "adapter")


@pytest.mark.parametrize("options", [{"dtype": "float7"}, {"device": "abacus"}])
def test_unknown_dtypes_and_devices_are_bad_input(saved: Path, options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="there is no"):
        load_policy(saved, **options)


def test_code_in_a_model_directory_is_not_run(saved: Path, tmp_path: Path) -> None:
    (saved / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config(model_type="own", architectures=["Model"], auto_map=auto)(saved)
    with pytest.raises(InputError) as caught:
        load_policy(saved)
    assert "trust_remote_code" in caught.value.remedy and not (tmp_path / "ran").exists()
