"""Text to ids and back: how prompts, responses and conversations become rows for a language model.

Decisions, each with a test:

- **Prompt and response are tokenised apart.** The ids of a prompt never depend on what was said after it, so
  training sees exactly the prompt that sampling saw. Ids stored with a candidate are used as they are when the
  same tokenizer drew them; text is tokenised only where there are none.
- **One beginning, no end.** A prompt gets what the tokenizer puts in front of a text (BOS) exactly once, also
  when a template or the text itself already has it, and never what it puts behind a text (EOS). An empty
  prompt is the single token BOS (or EOS, as GPT-2 does it), since a first token needs something to follow.
- **A finished response ends as the model ends one**: with the end token, or, in a conversation, with what the
  chat template writes after an answer, up to the token the model stops on. A response that was cut
  (``stop == "length"``, or by a limit here) has no end token.
- **Limits** cut prompts on the left (BOS stays, and members that share a prompt keep the same part of it), then
  responses on the right. A prompt gives way until it is down to half of ``max_length``; only then are responses
  cut, so neither is ever emptied.
- SentencePiece tokenizers write a dummy space before a text; a response is a continuation and gets none.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from prefine.errors import InputError
from prefine.policies.base import Limits, Row
from prefine.slate import Candidate, Contrast, Prompt

_MARK = "xPREFINEx"
"""Stands for the answer when a template is asked what it writes after one."""

_ANCHOR = "\n"
"""A text that SentencePiece's dummy space can go in front of, so that the response behind it gets none."""


class TextCodec:
    """A transformers tokenizer with the decisions above. ``stop_ids`` are the tokens the model stops on."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        stop_ids: Sequence[int] = (),
        vocab_size: int | None = None,
        window: int | None = None,
    ) -> None:
        own = tokenizer.eos_token_id
        if own is None and not stop_ids:
            raise InputError(
                "the tokenizer has no end token, so a model could never learn to stop",
                remedy='set it once: tokenizer.eos_token = "..." (a token of the vocabulary), then save_pretrained',
                file=getattr(tokenizer, "name_or_path", None) or None,
            )
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.window = window
        # A tokenizer and a model can disagree on the end token; what the model stops on is what must be learnt.
        self.end: int = own if own is not None and (not stop_ids or own in stop_ids) else stop_ids[0]
        self.stops: frozenset[int] = frozenset([*stop_ids, self.end])
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._warned: set[str] = set()
        self._appends_end = bool(plain := self._ids("a")) and plain[-1] == self.end
        self._prefix = self._written_before()
        self._anchor = tuple(self._ids(_ANCHOR)) if self._writes_dummy_space() else None
        if vocab_size is not None and max(self.stops) >= vocab_size:
            raise InputError(
                f"the end token has id {max(self.stops)}, but the model has only {vocab_size} token embeddings",
                remedy="use the tokenizer the model was trained with, or resize the model's embeddings",
                file=getattr(tokenizer, "name_or_path", None) or None,
            )

    @cached_property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give every id the same meaning (so stored ids can be used as they are)."""
        vocabulary = sorted((i, token) for token, i in self.tokenizer.get_vocab().items())
        return hashlib.sha256(json.dumps([vocabulary, self.end]).encode()).hexdigest()[:16]

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids that sampling starts from and training conditions on."""
        if isinstance(prompt, str):
            ids = self._begun(prompt)
        elif self.tokenizer.chat_template:
            ids = self._ids(self._rendered(prompt))
        else:
            self._warn(
                "template",
                "this tokenizer has no chat template; conversations are written as plain turns "
                "('User:', the text, an empty line, ..., 'Assistant:')",
            )
            ids = self._begun(plain_turns(prompt))
        while len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_token_id:
            ids = ids[1:]
        if not ids:
            bos = self.tokenizer.bos_token_id
            ids = [self.end if bos is None else bos]
        return self._known(tuple(ids))

    def response(self, text: str, *, finished: bool = True, chat: bool = False) -> tuple[int, ...]:
        """The ids of something said after a prompt, with the end of a response when it is finished."""
        ids = self._ids(text)
        if self._anchor is not None:
            joined = self._ids(_ANCHOR + text)
            if tuple(joined[: len(self._anchor)]) == self._anchor:
                ids = joined[len(self._anchor) :]
        if finished and not (ids and ids[-1] in self.stops):
            ids = [*ids, *self.ending(chat)]
        return self._known(tuple(ids))

    def ending(self, chat: bool) -> tuple[int, ...]:
        """What ends a finished response: the end token, or the chat template's own end of a turn."""
        return self._turn_end if chat else (self.end,)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of response ids, without special tokens."""
        return self.decode_all([ids])[0]

    def decode_all(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """``decode`` of many responses at once."""
        anchor = list(self._anchor or ())
        texts = self._decoded([[*anchor, *row] for row in rows])
        if not anchor:
            return texts
        skip = len(self._decoded([anchor])[0])
        return [text[skip:] for text in texts]

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """What sampled responses say: their text without what ends them."""
        return self.decode_all([self._unended(tuple(row)) for row in rows])

    def _unended(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        for ending in (self._turn_end, (self.end,)):
            if ids[-len(ending) :] == ending:
                return ids[: -len(ending)]
        return ids[:-1] if ids and ids[-1] in self.stops else ids

    def cut_prompt(self, ids: tuple[int, ...], keep: int) -> tuple[int, ...]:
        """The last ``keep`` tokens of a prompt; a beginning-of-text token keeps its place in front."""
        if len(ids) <= keep:
            return ids
        if keep > 1 and ids[0] == self.tokenizer.bos_token_id:
            return (ids[0], *ids[len(ids) - keep + 1 :])
        return ids[len(ids) - keep :]

    def rows(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        """One row a member: prompt, then the segments from the prompt down to the member.

        Masked 0: segments that do not count (tool output), and everything up to the contrast's context.
        """
        context = set() if contrast.context is None else set(contrast.slate.path(contrast.context))
        asked = [contrast.prompt(k) for k in range(len(contrast.members))]
        shared = self.prompt(asked[0])
        whole = [
            Row(
                shared if prompt == asked[0] else self.prompt(prompt),
                *self._answer(contrast, member, context, chat=not isinstance(prompt, str)),
            )
            for member, prompt in zip(contrast.members, asked, strict=True)
        ]
        return self._limited(whole, limits)

    # -- how it is done

    def _answer(
        self, contrast: Contrast, member: int, context: set[int], *, chat: bool
    ) -> tuple[tuple[int, ...], tuple[float, ...]]:
        ids: list[int] = []
        mask: list[float] = []
        for i in contrast.slate.path(member):
            candidate = contrast.slate.candidates[i]
            segment = self._segment(candidate, last=i == member, chat=chat)
            counts = candidate.counts and i not in context
            ids.extend(segment)
            mask.extend([float(counts)] * len(segment))
        return tuple(ids), tuple(mask)

    def _segment(self, candidate: Candidate, *, last: bool, chat: bool) -> tuple[int, ...]:
        drawn_by = candidate.origin.get("tokenizer")
        if candidate.tokens is not None and drawn_by in (None, self.fingerprint):
            return self._known(tuple(candidate.tokens))
        return self.response(candidate.text, finished=last and candidate.stop != "length", chat=chat)

    def _limited(self, rows: Sequence[Row], limits: Limits) -> tuple[Row, ...]:
        window = min(limits.max_length or _ENDLESS, self.window or _ENDLESS)
        if window < 2 or (limits.max_prompt is not None and limits.max_prompt < 1):
            raise InputError(
                f"no prompt and response fit in max_length={limits.max_length}, max_prompt={limits.max_prompt}",
                remedy="allow at least 2 tokens for a row and 1 for its prompt",
            )
        longest: dict[tuple[int, ...], int] = {}
        for row in rows:
            if limits.max_length is None and len(row.prompt) + len(row.response) > window:
                self._warn("window", f"some responses do not fit in the model's window of {window} tokens: cut")
            longest[row.prompt] = max(longest.get(row.prompt, 0), len(row.response))
        return tuple(self._limit_row(row, longest[row.prompt], window, limits.max_prompt) for row in rows)

    def _limit_row(self, row: Row, longest: int, window: int, max_prompt: int | None) -> Row:
        keep = min(len(row.prompt), max_prompt or _ENDLESS)
        if keep + longest > window:
            # Half of the room is the prompt's if it wants it: the longest response cannot push it out.
            keep = max(window - longest, min(keep, window // 2))
        room = window - keep
        if keep == len(row.prompt) and len(row.response) <= room:
            return row
        lost = max(len(row.response) - room, 0)
        return Row(self.cut_prompt(row.prompt, keep), row.response[:room], row.mask[:room], lost)

    def _known(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if self.vocab_size is not None and ids and max(ids) >= self.vocab_size:
            raise InputError(
                f"token {max(ids)} is outside the model's vocabulary of {self.vocab_size}",
                remedy="use the tokenizer the model was trained with, or resize the model's embeddings",
            )
        return ids

    def _ids(self, text: str) -> list[int]:
        """The bare ids: nothing in front, nothing behind."""
        backend = self._backend
        if backend is not None and backend.truncation is None and backend.padding is None:
            ids = list(backend.encode(text, add_special_tokens=False).ids)
        else:
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids[:-1] if getattr(self, "_appends_end", False) and ids[-1:] == [self.end] else ids

    def _decoded(self, rows: Sequence[Sequence[int]]) -> list[str]:
        if self._backend is not None:
            return list(self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=True))
        clean = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return [self.tokenizer.decode(list(row), **clean) for row in rows]

    def _begun(self, text: str) -> list[int]:
        ids = self._ids(text)
        return ids if ids[: len(self._prefix)] == self._prefix else [*self._prefix, *ids]

    def _written_before(self) -> list[int]:
        """What the tokenizer puts in front of a text, found by asking it."""
        bare = self._ids("a")
        full = list(self.tokenizer("a", add_special_tokens=True)["input_ids"])
        for start in range(len(full) - len(bare) + 1):
            if bare and full[start : start + len(bare)] == bare:
                return full[:start]
        return full[:1] if full[:1] == [self.tokenizer.bos_token_id] else []

    def _writes_dummy_space(self) -> bool:
        bare = self._ids("a")
        return bool(bare) and str(self.tokenizer.convert_ids_to_tokens(bare[0])).startswith("▁")

    def _rendered(self, messages: Sequence[Any]) -> str:
        # A conversation that ends with the assistant's words is one the answer goes on from.
        going_on = bool(messages) and messages[-1].get("role") == "assistant"
        turns = {"continue_final_message": True} if going_on else {"add_generation_prompt": True}
        return self._template(messages, **turns)

    def _template(self, messages: Sequence[Any], **options: Any) -> str:
        try:
            turns = [dict(m) for m in messages]
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except Exception as error:  # templates raise whatever their authors wrote
            raise InputError(
                f"the chat template cannot render a conversation of {[m.get('role') for m in messages]}: {error}",
                remedy="every turn needs a role and a content, in an order that the model's template allows",
            ) from error

    @cached_property
    def _turn_end(self) -> tuple[int, ...]:
        if not self.tokenizer.chat_template:
            return (self.end,)
        try:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
            after = self._template(turns).rpartition(_MARK)[2]
        except InputError:
            return (self.end,)
        ids = self._ids(after)
        stops = [place for place, token in enumerate(ids) if token in self.stops]
        return tuple(ids[: stops[0] + 1]) if stops else (*self._ids(after.rstrip()), self.end)

    def _warn(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(message, stacklevel=3)


_ENDLESS = 1 << 60


def plain_turns(messages: Sequence[Any]) -> str:
    """A conversation as plain text, for models without a chat template. It ends where the answer begins.

    >>> plain_turns([{"role": "user", "content": "Hi"}])
    'User:\\nHi\\n\\nAssistant:\\n'
    """
    try:
        turns = [(str(m["role"]).capitalize(), m["content"]) for m in messages]
    except KeyError as error:
        raise InputError(
            f"a turn of a conversation lacks {error}", remedy="give every turn a role and a content"
        ) from error
    if turns and turns[-1][0] == "Assistant":
        opening, (role, last) = turns[:-1], turns[-1]
        return "".join(f"{r}:\n{c}\n\n" for r, c in opening) + f"{role}:\n{last}"
    return "".join(f"{role}:\n{content}\n\n" for role, content in turns) + "Assistant:\n"
