"""Follow-up likelihood as reward: is a pleased user's next turn likelier than a displeased one's? arXiv 2409.13948.

    ell(u | x, y) = (1/|u|) sum_i log p(u_i | x, y, u_<i)
    r_d(x, y)     = mean over pleased u of ell(u | x, y)  -  mean over displeased u of ell(u | x, y)
    r(x, y)       = mean over the kinds d of r_d(x, y)

u stands where the user's next turn would: after the chat template's own opening of one, or after ``turn`` where the
prompt is plain text. No label and no grade is asked for, so nothing can be unreadable; the order of utterances means
nothing. A dialogue that does not fit in the model's window loses its beginning.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prefine.errors import InputError
from prefine.judging.followup_texts import HELPFULNESS, SHORT, Utterances
from prefine.judging.models import NO_LIMITS, live
from prefine.policies.base import Limits
from prefine.registry import one_of
from prefine.slate import Candidate, Contrast, Feedback, Message, Prompt, Slate, group, scores

Columns = Mapping[str, Feedback]

TURN = "\n{user}:"
"""How the user's next turn begins after plain text; {user} is the prompt's ``meta["user"]``, or User."""

OPENING = "Please ask me a question and provide feedback to my answer."
"""The first words to a scorer that plays the user (roles swapped)."""

_MARK = "xPREFINEx"


# -- where a follow-up stands


def after_dialogue(model: Any, slate: Slate, index: int, turn: str = TURN) -> tuple[Prompt, str]:
    """(everything before the user's next turn, what stands in front of its words)."""
    asked, answer = slate.prompt_of(index), slate.response(index)
    if isinstance(asked, str):
        return f"{asked}{answer}{turn.replace('{user}', str(slate.meta.get('user', 'User')))}", " "
    turns = (*asked, {"role": "assistant", "content": answer})
    tokenizer = getattr(model, "tokenizer", None)
    if getattr(tokenizer, "chat_template", None):
        marked = [dict(t) for t in (*turns, {"role": "user", "content": _MARK})]
        return str(tokenizer.apply_chat_template(marked, tokenize=False)).rpartition(_MARK)[0], ""  # type: ignore[union-attr]
    return "".join(f"{t['role'].capitalize()}:\n{t['content']}\n\n" for t in turns) + "User:\n", ""


def swapped(model: Any, slate: Slate, index: int, turn: str = "") -> tuple[Prompt, str]:
    """The same for a scorer that was taught to play the user: it asks, is answered, and says what it thinks."""
    return feedback_prompt(slate.prompt_of(index), slate.response(index)), ""


def feedback_prompt(asked: Prompt, answer: str) -> Prompt:
    """A dialogue with its roles swapped, up to where the feedback on the answer comes; system turns stay in front."""
    turns: tuple[Message, ...] = ({"role": "user", "content": asked},) if isinstance(asked, str) else asked
    system = tuple(t for t in turns if t["role"] == "system")
    other = {"user": "assistant", "assistant": "user"}
    said = [{"role": other[t["role"]], "content": t["content"]} for t in turns if t["role"] in other]
    return (*system, {"role": "user", "content": OPENING}, *said, {"role": "user", "content": answer})


ROLES: Mapping[str, Callable[..., tuple[Prompt, str]]] = {"user": after_dialogue, "swapped": swapped}


# -- how likely it is


def mean_logp(model: Any, asked: Sequence[Contrast], limits: Limits) -> list[list[float]]:
    """ell of every utterance: the mean log-probability of its tokens."""
    if hasattr(model, "response_logps"):  # a server: one utterance a call
        texts = [[(c.prompt(i), c.response(i)) for i in range(len(c.members))] for c in asked]
        return [[float(np.mean(model.response_logps(*each))) for each in row] for row in texts]
    from prefine.engine.score import score_contrasts

    scored = score_contrasts(model, asked, limits) if asked else []
    return [[float(row_T.mean(dtype=np.float64)) for row_T in rows] for rows in scored]


def first_logp(model: Any, asked: Sequence[Contrast], limits: Limits) -> list[list[float]]:
    """The released code's proxy: every token of an utterance is read at the place of its first one.

    It averages raw logits there. All utterances begin at the same place, so their normaliser drops out of the
    difference of the two means, and log-probabilities give the same reward."""
    if hasattr(model, "response_logps"):
        raise InputError("a server does not give the logits that the proxy reads", remedy="use read=mean")
    from prefine.engine.score import score_contrasts

    said = [[row.response for row in model.encode(contrast, limits)] for contrast in asked]
    single = []
    for contrast, rows in zip(asked, said, strict=True):
        words = sorted({token for row in rows for token in row})
        each = tuple(Candidate("", tokens=(token,), stop="length") for token in words)
        single.append(group(Slate(contrast.slate.prompt, each), range(len(words)), [0] * len(words)))
    scored = score_contrasts(model, single, limits) if single else []
    found = []
    for contrast, rows, logps in zip(single, said, scored, strict=True):
        of = {c.tokens: float(logp_T[0]) for c, logp_T in zip(contrast.slate.candidates, logps, strict=True)}
        found.append([float(np.mean([of[token,] for token in row])) for row in rows])
    return found


READS: Mapping[str, Callable[[Any, Sequence[Contrast], Limits], list[list[float]]]] = {
    "mean": mean_logp,
    "first": first_logp,
}


# -- the judge


@dataclass(frozen=True)
class FollowUps:
    """r(x, y) as "score", and r_d of every kind as "score_KIND" where there are several. ``model`` None: the policy of
    the moment, which a recipe binds with ``spoken_by``."""

    model: Any
    sets: tuple[Utterances, ...] = HELPFULNESS
    read: str = "mean"
    roles: str = "user"
    turn: str = TURN
    name: str = "score"
    limits: Limits = NO_LIMITS

    def spoken_by(self, policy: Any) -> FollowUps:
        """With this policy as its model, where it has none of its own."""
        return self if self.model is not None else replace(self, model=policy)

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        if self.model is None:
            raise InputError(
                "this recipe has no policy whose follow-ups could be scored",
                remedy="name the model: --judge follow-ups:DIR",
            )
        model = live(self.model)
        asked = [self._asked(model, slate, i) for slate in slates for i in range(len(slate))]
        found = iter(READS[self.read](model, asked, self.limits))
        return [self._columns([list(self._rewards(next(found))) for _ in range(len(slate))]) for slate in slates]

    def _asked(self, model: Any, slate: Slate, index: int) -> Contrast:
        """All utterances after one response; "length": no end token follows what is only the beginning of a turn."""
        before, space = ROLES[self.roles](model, slate, index, self.turn)
        texts = [space + u for s in self.sets for u in (*s.positive, *s.negative)]
        said = tuple(Candidate(text, stop="length") for text in texts)
        return group(Slate(before, said), range(len(said)), [0] * len(said))

    def _rewards(self, ells: Sequence[float]) -> Iterator[float]:
        rest = iter(ells)
        for s in self.sets:
            good, bad = ([next(rest) for _ in side] for side in (s.positive, s.negative))
            yield float(np.mean(good) - np.mean(bad))

    def _columns(self, rewards: Sequence[Sequence[float]]) -> Columns:
        kinds = self.sets if len(self.sets) > 1 else ()
        each = {f"{self.name}_{s.name}": scores([row[d] for row in rewards]) for d, s in enumerate(kinds)}
        # The whole comes last: the last column of scores is what a judge is read by.
        return {**each, self.name: scores([float(np.mean(row)) for row in rewards])}


SETS: Mapping[str, tuple[Utterances, ...]] = {"helpfulness": HELPFULNESS, "short": SHORT}


def utterances(named: str = "helpfulness", kinds: Sequence[str] = ()) -> tuple[Utterances, ...]:
    """The follow-ups of that name, or of a file {KIND: {"positive": [...], "negative": [...]}}; some kinds only."""
    sets = _read(Path(named)) if named.endswith(".json") else one_of("utterances", named, SETS)
    there = {s.name: s for s in sets}
    return tuple(one_of("kinds", kind, there) for kind in kinds) or sets


def _read(path: Path) -> tuple[Utterances, ...]:
    remedy = 'write {"correctness": {"positive": ["That is right."], "negative": ["That is wrong."]}}'
    if not path.is_file():
        raise InputError(f"there is no file {path}", remedy=remedy, file=path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, Mapping) or not found:
            raise ValueError("the file is no object of kinds, or an empty one")
        return tuple(Utterances(name, *(_side(name, both, key) for key in SIDES)) for name, both in found.items())
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        why = f"it is no JSON ({error})" if line else str(error)
        if isinstance(error, UnicodeDecodeError):
            why = "it is not written in UTF-8"
        raise InputError(f"these are not follow-ups: {why}", remedy=remedy, file=path, line=line) from error


SIDES = ("positive", "negative")


def _side(kind: str, both: Any, key: str) -> tuple[str, ...]:
    """The texts of one side of a kind; a ValueError says what is wrong with them."""
    if not isinstance(both, Mapping):
        raise ValueError(f'"{kind}" is no object with "positive" and "negative": {reprlib.repr(both)}')
    if key not in both:
        raise ValueError(f'"{kind}" has no "{key}"')
    texts = both[key]
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise ValueError(f'"{key}" of "{kind}" must be a list of texts, none of them empty: {reprlib.repr(texts)}')
    return tuple(texts)


def follow_ups(
    model: Any = None,
    named: str = "helpfulness",
    kinds: Sequence[str] = (),
    read: str = "mean",
    roles: str = "user",
    turn: str = TURN,
    name: str = "score",
) -> FollowUps:
    """How much likelier pleased follow-ups are than displeased ones, under a model."""
    one_of("read", read, READS)
    one_of("roles", roles, ROLES)
    return FollowUps(model, utterances(named, kinds), read, roles, turn, name)
