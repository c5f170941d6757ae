"""New prompts written by the policy itself, shown some of those there are (arXiv 2212.10560, 2411.04109)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from prefine.artifacts import PolicyHandle, Slates
from prefine.fingerprint import seed_of
from prefine.run import Run
from prefine.slate import Prompt, Slate, prompt_text

ASK = "Here are some problems. Write one more like them, and nothing else.\n\n{shown}\n"
"""What a chat model is asked. A plain language model simply sees the problems, and goes on."""


def shown(examples: Sequence[Prompt]) -> Prompt:
    """The few-shot prompt: a request for conversations, the bare examples for plain text.

    >>> shown(["Problem: 1+1", "Problem: 2+2"])
    'Problem: 1+1\\n\\nProblem: 2+2\\n\\n'
    """
    if isinstance(examples[0], str):
        return "".join(f"{example.strip()}\n\n" for example in examples)  # type: ignore[union-attr]
    listed = "\n".join(f"- {prompt_text(example[-1:])}" for example in examples)
    return ({"role": "user", "content": ASK.format(shown=listed)},)


def new_problems(
    run: Run, policy: PolicyHandle, prompts: Slates, *, count: int, examples: int = 3, temperature: float = 1.0
) -> Slates:
    """Up to ``count`` new prompts: each written after seeing ``examples`` random ones, empty and known ones dropped.

    They have no gold answer: whoever uses them must do without, or filter (ScPO keeps those the votes agree on).
    A plain language model that writes on past the first blank line is cut there.
    """
    rng = random.Random(seed_of("new problems", prompts, run.seed, run.round))
    asked = [shown([prompts[rng.randrange(len(prompts))].prompt for _ in range(examples)]) for _ in range(count)]
    few_shot = [Slate(prompt, meta={"id": f"new-{i}"}) for i, prompt in enumerate(asked)]
    told = run.slates(few_shot, label="few-shot prompts")
    drawn = run.sample(policy, told, n=1, temperature=temperature, role="writer", label="write new problems")
    known = {prompt_text(slate.prompt).strip() for slate in prompts}
    found: dict[str, Slate] = {}
    like = prompts[0].prompt
    for slate in drawn:
        text = slate.response(0).split("\n\n")[0].strip()
        if text and text not in known and slate.candidates[0].stop != "length":
            found.setdefault(text, Slate(_as_prompt(text, like), meta={"source": "self-instruct"}))
    run.note(new_problems=len(found), new_problems_asked=count)
    return run.slates(found.values(), label="new problems")


def _as_prompt(text: str, like: Prompt) -> Prompt:
    """The text in the form of the prompts there are: same ending for plain text, one user turn for chat."""
    if not isinstance(like, str):
        return ({"role": "user", "content": text},)
    ending = like[len(like.rstrip()) :]
    return text + ending
