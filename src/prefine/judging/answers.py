"""Final answers in text: finding them, normalising them, and telling when two are equal. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

Extract = Callable[[str], str | None]
"""A response -> its final answer; "" where the place for one is empty, None where there is none."""

NUMBER = r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+(?:\.\d+)?)?"


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}, braces matched.

    >>> boxed(r"so \boxed{\frac{1}{2}}."), boxed(r"\boxed{}"), boxed("so 2")
    ('\\frac{1}{2}', '', None)
    """
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len(r"\boxed")
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin + 1 : at].strip()
    return None


@dataclass(frozen=True)
class After:
    """What follows the last marker, up to the end of the line and without a closing full stop.

    >>> After("####")("3 + 4 = 7\\n#### 7"), After("answer is")("The answer is 7."), After("####")("7")
    ('7', '7', None)
    """

    marker: str

    def __call__(self, text: str) -> str | None:
        at = text.lower().rfind(self.marker.lower())
        if at < 0:
            return None
        rest = text[at + len(self.marker) :].lstrip(" :=").split("\n")[0].strip()
        return rest[:-1].rstrip() if rest.endswith(".") else rest


def last_number(text: str) -> str | None:
    """The last number or fraction in the text.

    >>> last_number("first 3, then 1,024."), last_number("none")
    ('1,024', None)
    """
    found = re.findall(NUMBER, text)
    return found[-1].rstrip(",") if found else None


def final_answer(text: str) -> str | None:
    r"""The final answer by the usual marks: \boxed{}, "####", "answer is" or "answer:", else the last number.

    >>> final_answer(r"\boxed{4}"), final_answer("#### 4"), final_answer("The answer is 4."), final_answer("2+2=4")
    ('4', '4', '4', '4')
    """
    for extract in (boxed, After("####"), After("answer is"), After("answer:"), last_number):
        found = extract(text)
        if found is not None:
            return found
    return None


def normal(answer: str) -> str:
    r"""An answer without what does not change it: spaces, case, $, \left, units of money, LaTeX fractions.

    >>> normal(r" $ \frac{1}{2} $ "), normal("1,024"), normal("x =  3")
    ('1/2', '1024', 'x=3')
    """
    text = answer.strip().lower()
    text = re.sub(r"\\d?t?frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2", text)
    text = re.sub(r"\\(?:left|right|,|;|!|text)|[$\s{}]", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return text.removesuffix(".").removesuffix("\\%").removesuffix("%")


def value(answer: str) -> Fraction | None:
    """The number an answer is, exactly: an integer, a decimal or a fraction; None if it is something else.

    >>> value("0.50"), value("3/6"), value("-1,000"), value("x+1"), value("1/0")
    (Fraction(1, 2), Fraction(1, 2), Fraction(-1000, 1), None, None)
    """
    text = normal(answer)
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(/[-+]?(\d+\.?\d*|\.\d+))?", text) or len(text) > 200:
        return None
    top, _, bottom = text.partition("/")
    try:
        return Fraction(top) / Fraction(bottom or "1")
    except ZeroDivisionError:
        return None


def same(a: str, b: str) -> bool:
    """Whether two answers are one: as exact numbers, else as normalised texts.

    >>> same("0.5", r"\\frac{1}{2}"), same("X = 3", "x=3"), same("3", "4"), same("2", "2.0")
    (True, True, False, True)
    """
    x, y = value(a), value(b)
    if x is not None and y is not None:
        return x == y
    return normal(a) == normal(b)


def canonical(answer: str) -> str:
    """A text that is the same for answers that are the same: what votes are counted by.

    >>> canonical("0.5"), canonical(" Yes. ")
    ('1/2', 'yes')
    """
    number = value(answer)
    return normal(answer) if number is None else str(number)
