"""Tokenisation: each decision of ``policies.text``, and the field's old traps around it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from prefine.errors import InputError
from prefine.policies.base import Limits
from prefine.policies.text import TextCodec, plain_turns
from prefine.slate import Candidate, Contrast, Slate, pair, point

TEXT = ["the cat sat on the mat\n\nand the dog ran to the house of cards.\n\n"] * 4
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
BOS, EOS, UNK, TURN, TURN_END = range(5)


def byte_level(single: str | None = "<s> $A", template: str | None = None, **special: Any) -> Any:
    """A byte-level BPE tokenizer, as GPT-2, Llama 3 and Qwen have; ``single`` is what it writes around a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXT, trainer)
    if single is not None:
        ids = [("<s>", BOS), ("</s>", EOS), ("<|im_start|>", TURN)]
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    if template:
        tokenizer.chat_template = template
    return tokenizer


def sentence_piece() -> Any:
    """A tokenizer that writes a dummy space before every text, as Llama 2 and Mistral have."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = [*"abcdefghijklmnopqrstuvwxyz.:,\n▁ABCDEFGH"]
    backend.train_from_iterator(
        [t.replace("\n", "") for t in TEXT],
        trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def codec(tokenizer: Any = None, **options: Any) -> TextCodec:
    return TextCodec(byte_level() if tokenizer is None else tokenizer, **options)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def rows(c: TextCodec, contrast: Contrast, **limits: int) -> Any:
    return c.rows(contrast, Limits(**limits))


# -- prompt and response apart


def test_trap_prompt_and_response_tokenised_together_at_the_boundary() -> None:
    """A word is one token, so tokenised together the prompt's last token would change with the response.
    Tokenised apart, training sees the prompt that sampling saw."""
    c = codec()
    together = ids_of(c.tokenizer, "the c" + "at")
    slate = Slate("the c", (Candidate("at"), Candidate("ards")))
    first, second = rows(c, pair(slate, 0, 1))
    assert together[: len(first.prompt) - 1] != list(first.prompt[1:]), "nothing merges: the test shows nothing"
    assert first.prompt == second.prompt == c.prompt("the c")
    assert c.decode(first.response) == "at"


def test_a_response_is_a_continuation_without_a_dummy_space() -> None:
    """SentencePiece writes a space before every text. A response that got one would say something else."""
    c = codec(sentence_piece())
    ids = c.response("cat", finished=False)
    assert ids_of(c.tokenizer, "cat") == ids_of(c.tokenizer, " cat"), "no dummy space: the test shows nothing"
    assert ids != c.response(" cat", finished=False)
    for text in ("cat", " cat", "the cat", " the cat sat"):
        assert c.decode(c.response(text)) == text
    whole = [*c.prompt("the"), *c.response("cat", finished=False)]
    assert c.tokenizer.decode(whole, skip_special_tokens=True) == "thecat"


def test_sampled_ids_are_used_as_they_are() -> None:
    """The tokens as drawn, though the tokenizer would write the same text in fewer."""
    c = codec()
    drawn = tuple(i for letter in "the cat" for i in ids_of(c.tokenizer, letter))
    candidate = Candidate("the cat", tokens=(*drawn, EOS), stop="end", origin={"tokenizer": c.fingerprint})
    (row,) = rows(c, point(Slate("x", (candidate,)), 0, True))
    assert row.response == (*drawn, EOS) != c.response("the cat")


@pytest.mark.parametrize("origin, as_drawn", [({}, True), ({"tokenizer": "another"}, False)])
def test_ids_of_another_tokenizer_are_not(origin: dict[str, str], as_drawn: bool) -> None:
    c = codec()
    candidate = Candidate("the cat", tokens=(7, 8, 9), stop="end", origin=origin)
    (row,) = rows(c, point(Slate("x", (candidate,)), 0, True))
    assert row.response == ((7, 8, 9) if as_drawn else c.response("the cat"))


def test_fingerprints_tell_vocabularies_apart_and_nothing_else(tmp_path: Any) -> None:
    plain = byte_level()
    plain.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert codec(plain).fingerprint == codec(again).fingerprint == codec(byte_level(None)).fingerprint
    assert codec(plain).fingerprint != codec(sentence_piece()).fingerprint
    assert codec(plain).fingerprint != codec(byte_level(eos_token="<|im_end|>")).fingerprint


# -- beginnings and ends


def test_trap_doubled_bos_from_the_text() -> None:
    c = codec()
    assert c.prompt("the cat") == (BOS, *ids_of(c.tokenizer, "the cat"))
    assert c.prompt("<s>the cat") == c.prompt("<s><s>the cat") == c.prompt("the cat")
    other = codec(byte_level("<|im_start|> $A"))  # a beginning that the tokenizer does not call BOS
    assert other.prompt("<|im_start|>the cat") == other.prompt("the cat") and other.prompt("the cat")[0] == TURN


def test_trap_doubled_bos_from_a_chat_template() -> None:
    """A template that writes BOS itself, on a tokenizer that writes it too."""
    c = codec(byte_level(template="{{ bos_token }}" + CHATML))
    ids = c.prompt(({"role": "user", "content": "the cat"},))
    assert ids[0] == BOS and BOS not in ids[1:]


def test_a_template_without_bos_gets_none_as_in_plain_transformers() -> None:
    c = codec(byte_level(template=CHATML))
    messages = [{"role": "user", "content": "the cat"}]
    plain = c.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert list(c.prompt(tuple(messages))) == plain and plain[0] == TURN


@pytest.mark.parametrize("single", ["<s> $A </s>", "$A </s>", "<s> $A", "$A", None])
def test_an_end_token_that_the_tokenizer_appends_is_not_in_a_prompt(single: str | None) -> None:
    c = codec(byte_level(single))
    ids = c.prompt("the cat")
    assert EOS not in ids
    assert (ids[0] == BOS) == (single is not None and "<s>" in single)


def test_an_empty_prompt_is_one_token() -> None:
    assert codec(byte_level()).prompt("") == (BOS,)
    assert codec(byte_level(None)).prompt("") == (BOS,)
    assert codec(byte_level(None, bos_token=None)).prompt("") == (EOS,)


def test_trap_missing_eos() -> None:
    """A finished response ends with the end token, once; a cut one does not."""
    c = codec()
    bare = tuple(ids_of(c.tokenizer, "the cat"))
    slate = Slate("x", (Candidate("the cat"), Candidate("the cat", stop="end"), Candidate("the cat", stop="length")))
    written, ended, cut = (rows(c, point(slate, k, True))[0].response for k in range(3))
    assert written == ended == (*bare, EOS) and cut == bare
    assert c.response("the cat</s>") == (*bare, EOS), "an end token in the text is not doubled"
    assert rows(c, point(slate, 0, True))[0].mask == (1.0,) * (len(bare) + 1), "the end token counts"


def test_trap_tokenizer_without_an_end_token() -> None:
    with pytest.raises(InputError, match="no end token") as caught:
        codec(byte_level(eos_token=None))
    assert "eos_token" in caught.value.remedy


def test_trap_end_token_outside_of_the_embeddings() -> None:
    """An end token added to the tokenizer but not to the model could never be learnt."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"eos_token": "<|stop|>"})
    with pytest.raises(InputError, match="token embeddings"):
        codec(tokenizer, vocab_size=len(tokenizer) - 1)


def test_a_token_outside_of_the_embeddings_is_an_error_not_a_crash() -> None:
    c = codec(vocab_size=200)
    with pytest.raises(InputError, match="outside the model's vocabulary"):
        c.rows(point(Slate("the cat sat on", (Candidate("the dog ran"),)), 0, True), Limits())


def test_an_empty_response_is_just_the_end() -> None:
    (row,) = rows(codec(), point(Slate("x", (Candidate(""),)), 0, True))
    assert row.response == (EOS,) and row.mask == (1.0,)


# -- conversations

CHAT = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"})


def test_a_conversation_is_rendered_as_transformers_does() -> None:
    c = codec(byte_level(template=CHATML))
    rendered = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    assert list(c.prompt(CHAT)) == ids_of(c.tokenizer, rendered)


def test_an_answer_ends_as_the_template_ends_one_up_to_what_the_model_stops_on() -> None:
    answer = Slate(CHAT, (Candidate("sat"),))
    tuned = codec(byte_level(template=CHATML, eos_token="<|im_end|>"), stop_ids=[TURN_END, EOS])
    base = codec(byte_level(template=CHATML), stop_ids=[EOS])
    sat = tuple(ids_of(tuned.tokenizer, "sat"))
    assert rows(tuned, point(answer, 0, True))[0].response == (*sat, TURN_END)
    assert rows(base, point(answer, 0, True))[0].response == (*sat, TURN_END, EOS)
    assert rows(base, point(Slate("x", (Candidate("sat"),)), 0, True))[0].response == (*sat, EOS), "plain text"


def test_what_was_sampled_is_read_without_its_ending() -> None:
    c = codec(byte_level(template=CHATML), stop_ids=[EOS])
    sat = tuple(ids_of(c.tokenizer, " sat"))
    assert c.texts([(*sat, EOS), sat, (*sat, TURN_END, EOS), (EOS,), ()]) == [" sat", " sat", " sat", "", ""]


def test_a_conversation_that_ends_with_the_assistant_is_gone_on_from() -> None:
    c = codec(byte_level(template=CHATML))
    begun = (*CHAT, {"role": "assistant", "content": "it sat"})
    assert c.tokenizer.decode(c.prompt(begun)).endswith("<|im_start|>assistant\nit sat")


def test_without_a_template_turns_are_plain_and_it_is_said_once() -> None:
    c = codec()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ids = c.prompt(CHAT)
        c.prompt(CHAT)
    assert c.tokenizer.decode(ids[1:]) == "System:\nbe brief\n\nUser:\nthe cat\n\nAssistant:\n"
    assert ids[0] == BOS and len(said) == 1 and "no chat template" in str(said[0].message)


def test_plain_turns_can_be_gone_on_from() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}]
    assert plain_turns(turns) == "User:\nHi\n\nAssistant:\nOh"


@pytest.mark.filterwarnings("ignore:this tokenizer has no chat template")
@pytest.mark.parametrize("template", [CHATML, "{{ raise_exception('roles must alternate') }}", None])
def test_a_conversation_that_cannot_be_rendered_is_bad_input(template: str | None) -> None:
    c = codec(byte_level(template=template))
    with pytest.raises(InputError):
        c.prompt(({"role": "user"},))


# -- segments


def tree() -> Slate:
    """A question, a call to a tool, what the tool said, the answer; and another answer to what the tool said."""
    return Slate(
        "Q",
        (
            Candidate(" the call"),
            Candidate(" the cards", parent=0, counts=False),
            Candidate(" the answer", parent=1),
            Candidate(" the house", parent=1, stop="length"),
        ),
    )


def test_segments_follow_each_other_and_only_the_last_ends() -> None:
    c = codec()
    first, second = rows(c, pair(tree(), 2, 3))
    call, cards, answer, house = (tuple(ids_of(c.tokenizer, x.text)) for x in tree().candidates)
    assert first.response == (*call, *cards, *answer, EOS)
    assert second.response == (*call, *cards, *house)


def test_what_does_not_count_is_masked() -> None:
    c = codec()
    (row,) = rows(c, point(tree(), 2, True))
    call, cards, answer, _ = (len(ids_of(c.tokenizer, x.text)) for x in tree().candidates)
    assert row.mask == (*(1.0,) * call, *(0.0,) * cards, *(1.0,) * (answer + 1))


def test_the_context_of_a_contrast_is_masked() -> None:
    c = codec()
    steps = Slate("Q", (Candidate(" the cat"), Candidate(" sat", parent=0), Candidate(" ran", parent=0)))
    contrast = Contrast(steps, (1, 2), (1, -1), context=0)
    shared = len(ids_of(c.tokenizer, " the cat"))
    for row in rows(c, contrast):
        assert row.mask == (*(0.0,) * shared, *(1.0,) * (len(row.response) - shared))


def test_members_can_answer_prompts_of_their_own() -> None:
    c = codec()
    slate = Slate("the cat", (Candidate("sat"), Candidate("ran", prompt="the dog")))
    first, second = rows(c, pair(slate, 0, 1))
    assert first.prompt == c.prompt("the cat") and second.prompt == c.prompt("the dog")


# -- limits


def long_pair() -> Contrast:
    return pair(Slate("ABCDEFGHIJ", (Candidate("KLMN"), Candidate("OPQRSTUV"))), 0, 1)


def test_prompts_are_cut_on_the_left_together_and_keep_their_beginning_token() -> None:
    c = codec()
    first, second = rows(c, long_pair(), max_length=18)
    assert first.prompt == second.prompt == (BOS, *ids_of(c.tokenizer, "CDEFGHIJ")), "room for the longer response"
    assert len(second.prompt) + len(second.response) == 18
    swapped = Contrast(long_pair().slate, (1, 0), (1, -1))
    assert rows(c, swapped, max_length=18) == (second, first)
    assert first.response == c.response("KLMN") and second.response == c.response("OPQRSTUV")


def test_max_prompt_alone_cuts_prompts() -> None:
    c = codec()
    first, second = rows(c, long_pair(), max_prompt=4)
    assert first.prompt == second.prompt == (BOS, *ids_of(c.tokenizer, "HIJ"))
    assert second.response == c.response("OPQRSTUV")


@pytest.mark.parametrize("max_length", range(2, 24))
@pytest.mark.parametrize("max_prompt", [None, 1, 5, 30])
def test_trap_truncation_that_eats_the_response(max_length: int, max_prompt: int | None) -> None:
    """However tight, a row keeps prompt and response, fits, and loses its end token only when it is cut."""
    c = codec()
    contrast = long_pair()
    found = c.rows(contrast, Limits(max_length, max_prompt))
    for k, row in enumerate(found):
        whole = c.response(contrast.response(k))
        assert len(row.prompt) + len(row.response) <= max_length
        assert len(row.prompt) <= (max_prompt or 99)
        assert row.prompt and row.response and len(row.mask) == len(row.response)
        assert row.response == whole[: len(row.response)] and row.lost == len(whole) - len(row.response)
        assert (row.response[-1] == EOS) == (row.response == whole)
    assert found[0].prompt == found[1].prompt
    assert len(found[1].response) >= min(9, max_length // 2), "a prompt may not take more than half"


def test_members_with_other_prompts_are_cut_apart() -> None:
    c = codec()
    slate = Slate("ABCDEFGH", (Candidate("IJ"), Candidate("KLMNOPQR", prompt="STUVWX")))
    first, second = c.rows(pair(slate, 0, 1), Limits(max_length=12))
    assert first.prompt == c.prompt("ABCDEFGH") and len(second.prompt) < len(c.prompt("STUVWX"))


@pytest.mark.parametrize("limits", [Limits(max_length=1), Limits(max_prompt=0), Limits(max_length=8, max_prompt=-1)])
def test_limits_that_nothing_fits_in_are_bad_input(limits: Limits) -> None:
    with pytest.raises(InputError, match="no prompt and response fit"):
        codec().rows(long_pair(), limits)


def test_the_models_window_is_a_limit_and_it_is_said_once() -> None:
    c = codec(window=12)
    with pytest.warns(UserWarning, match="window of 12"):
        found = c.rows(long_pair(), Limits())
    assert all(len(row.prompt) + len(row.response) <= 12 for row in found)


# -- tokenizers of other shapes


def test_special_tokens_that_are_not_called_special_are_still_no_text() -> None:
    """Some tokenizers add their end token as an ordinary one; it ends a response and is not part of its text."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "cat": 2, "END": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_tokens([AddedToken("END", special=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokenizer._special_tokens_map["eos_token"] = None
    c = TextCodec(tokenizer, stop_ids=[3])
    assert c.response("the cat") == (1, 2, 3) and c.texts([(1, 2, 3)]) == ["the cat"]
