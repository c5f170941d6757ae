"""The assistant world with instructions behind its questions that nobody follows. For claims about instructions.

The crowd is the assistant's; up to three instructions (``curating.instructions``) stand behind a question, made for
what somebody else wrote. So the base policy has read instructions of every kind, and pays no heed to them.
"""

from __future__ import annotations

import random
from pathlib import Path

from prefine.curating.instructions import GENERATORS, instructed
from prefine.worlds import assistant
from prefine.worlds.pretrain import pretrained


def write(rng: random.Random) -> tuple[str, str]:
    """One example: a question with instructions, and what the crowd answers without looking at them."""
    prompt, response = assistant.write(rng)
    _, other = assistant.write(rng)
    kinds = rng.sample(list(GENERATORS), rng.randint(0, 3))
    asked = [GENERATORS[kind](other, rng.random() < 0.5, rng) for kind in kinds]
    return str(instructed(prompt, asked)), response


def base(cache: Path) -> Path:
    """The base policy's directory."""
    modules = ("prefine.worlds.assistant", "prefine.worlds.assistant_text", "prefine.curating.instructions")
    return pretrained(cache, "instructed", write, assistant.SETTINGS, modules=modules)
