"""Instructions that a program can check, made for a response that is there: kept by it, or broken by it.

A generator is a function (response, kept, rng) -> Instruction. ``GENERATORS`` holds one for every kind, and each can
do both for any response that is not empty: with ``kept`` the response follows the instruction, without it does not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from prefine.slate import Candidate, Prompt, Slate

Argument = int | str


@dataclass(frozen=True)
class Instruction:
    """One instruction: what is checked, with which number or word.

    >>> Instruction("include", "apple").holds("An Apple a day."), Instruction("include", "apple").text
    (True, 'Use the word "apple".')
    """

    check: str
    argument: Argument = 0

    @property
    def text(self) -> str:
        return CHECKS[self.check][0].format(self.argument)

    def holds(self, response: str) -> bool:
        """Whether the response follows it."""
        return CHECKS[self.check][1](response.strip(), self.argument)


def words(text: str) -> list[str]:
    """Words as they are checked: in lower case, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def sentences(text: str) -> int:
    """Pieces that hold a word, ended by . ! or ? or by the text's end."""
    return sum(bool(words(piece)) for piece in re.split(r"[.!?]+(?:\s+|$)", text))


def paragraphs(text: str) -> int:
    return sum(bool(piece.strip()) for piece in re.split(r"\n\s*\n", text))


def _edge(place: int) -> Callable[[str, Argument], bool]:
    return lambda text, word: bool(words(text)) and words(text)[place] == word


def _not_edge(place: int) -> Callable[[str, Argument], bool]:
    return lambda text, word: not (bool(words(text)) and words(text)[place] == word)


CHECKS: Mapping[str, tuple[str, Callable[[str, Argument], bool]]] = {
    "at most": ("Use at most {} words.", lambda text, n: len(words(text)) <= int(n)),
    "at least": ("Use at least {} words.", lambda text, n: len(words(text)) >= int(n)),
    "include": ('Use the word "{}".', lambda text, word: word in words(text)),
    "avoid": ('Do not use the word "{}".', lambda text, word: word not in words(text)),
    "sentences": ("Write exactly {} sentences.", lambda text, n: sentences(text) == n),
    "paragraphs": ("Write exactly {} paragraphs.", lambda text, n: paragraphs(text) == n),
    "start": ('Start with the word "{}".', _edge(0)),
    "not start": ('Do not start with the word "{}".', _not_edge(0)),
    "end": ('End with the word "{}".', _edge(-1)),
    "not end": ('Do not end with the word "{}".', _not_edge(-1)),
    "lower": ("Write everything in lower case.", lambda text, _: text == text.lower()),
    "capital": ("Use a capital letter.", lambda text, _: text != text.lower()),
    "comma": ("Use a comma.", lambda text, _: "," in text),
    "no comma": ("Use no commas.", lambda text, _: "," not in text),
    "question": ("Ask a question.", lambda text, _: "?" in text),
    "no question": ("Ask no question.", lambda text, _: "?" not in text),
    "digit": ("Use a digit.", lambda text, _: bool(re.search(r"\d", text))),
    "no digit": ("Use no digits.", lambda text, _: not re.search(r"\d", text)),
    "stop": ("End with a full stop.", lambda text, _: text.endswith(".")),
    "no stop": ("Do not end with a full stop.", lambda text, _: not text.endswith(".")),
    "list": ("Write a list with dashes.", lambda text, _: bool(re.search(r"^\s*- ", text, re.MULTILINE))),
    "no list": ("Write no list.", lambda text, _: not re.search(r"^\s*- ", text, re.MULTILINE)),
}
"""What is checked -> (how it is asked for, whether a response follows it)."""

OTHER_WORDS = (
    "today", "river", "music", "window", "winter", "garden", "paper", "silver", "morning", "letter", "summer",
    "kitchen", "mountain", "story", "yellow", "bridge", "market", "simple", "quiet", "always",
)  # fmt: skip

Generator = Callable[[str, bool, random.Random], Instruction]


def length(response: str, kept: bool, rng: random.Random) -> Instruction:
    """A bound on the number of words."""
    n, away = len(words(response)), rng.randint(0, 3)
    if kept:
        return Instruction("at most", n + away) if rng.random() < 0.5 or n == 0 else Instruction(
            "at least", max(1, n - away)
        )  # fmt: skip
    if n >= 2 and rng.random() < 0.5:
        return Instruction("at most", max(1, n - 1 - away))
    return Instruction("at least", n + 1 + away)


def keyword(response: str, kept: bool, rng: random.Random) -> Instruction:
    """A word to use, or not to."""
    own, other = _own_word(response, rng), _other_word(response, rng)
    if own is None or rng.random() < 0.5:
        return Instruction("avoid" if kept else "include", other)
    return Instruction("include" if kept else "avoid", own)


@dataclass(frozen=True)
class Counted:
    """An exact number of something that the response has, or another number."""

    check: str
    count: Callable[[str], int]

    def __call__(self, response: str, kept: bool, rng: random.Random) -> Instruction:
        n = self.count(response.strip())
        return Instruction(self.check, n if kept else rng.choice([m for m in (n - 1, n + 1, n + 2) if m > 0]))


@dataclass(frozen=True)
class AtEdge:
    """The first or the last word."""

    check: str
    place: int

    def __call__(self, response: str, kept: bool, rng: random.Random) -> Instruction:
        there = words(response)
        if there and rng.random() < 0.5:
            return Instruction(self.check if kept else f"not {self.check}", there[self.place])
        return Instruction(f"not {self.check}" if kept else self.check, _other_word(response, rng))


@dataclass(frozen=True)
class EitherOr:
    """One of two checks of which a response passes exactly one."""

    check: str
    opposite: str

    def __call__(self, response: str, kept: bool, rng: random.Random) -> Instruction:
        first = Instruction(self.check)
        return first if first.holds(response) == kept else Instruction(self.opposite)


def _own_word(response: str, rng: random.Random) -> str | None:
    there = sorted(set(words(response)))
    return rng.choice([w for w in there if len(w) > 3] or there) if there else None


def _other_word(response: str, rng: random.Random) -> str:
    there = set(words(response))
    absent = [word for word in OTHER_WORDS if word not in there]
    word = rng.choice(absent or OTHER_WORDS)
    while word in there:
        word += "s"
    return word


GENERATORS: Mapping[str, Generator] = {
    "length": length,
    "keyword": keyword,
    "sentences": Counted("sentences", sentences),
    "paragraphs": Counted("paragraphs", paragraphs),
    "start": AtEdge("start", 0),
    "end": AtEdge("end", -1),
    "casing": EitherOr("lower", "capital"),
    "comma": EitherOr("comma", "no comma"),
    "question": EitherOr("question", "no question"),
    "digit": EitherOr("digit", "no digit"),
    "stop": EitherOr("stop", "no stop"),
    "list": EitherOr("list", "no list"),
}
"""Kind -> what makes an instruction of it for a response."""

TURN = re.compile(r"\n+[ \t]*[A-Z]\w*:[ \t]*$")
"""The marker of the answer's turn at the end of a prompt written as text."""


def instructed(prompt: Prompt, instructions: Sequence[Instruction]) -> Prompt:
    """A prompt with instructions as a list behind what the user says; none: the prompt itself.

    >>> instructed("Ana: Hello\\nAssistant:", [Instruction("comma")])
    'Ana: Hello\\n- Use a comma.\\nAssistant:'
    """
    if not instructions:
        return prompt
    text = "".join(f"\n- {instruction.text}" for instruction in instructions)
    if isinstance(prompt, str):
        marker = TURN.search(prompt)
        cut = len(prompt) if marker is None else marker.start()
        return prompt[:cut] + text + (prompt[cut:] or "\n")
    last = max((i for i, turn in enumerate(prompt) if turn["role"] == "user"), default=len(prompt) - 1)
    turn = {**prompt[last], "content": prompt[last]["content"] + text}
    return (*prompt[:last], turn, *prompt[last + 1 :])


def under(slate: Slate, member: int, prompt: Prompt) -> Candidate:
    """A slate's response as the answer to another prompt."""
    path = [slate.candidates[i] for i in slate.path(member)]
    if len(path) == 1:
        return replace(path[0], prompt=prompt, logps=None)
    return Candidate(slate.response(member), stop=path[-1].stop, prompt=prompt)
