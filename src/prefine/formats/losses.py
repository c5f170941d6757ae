"""What rows no longer say about the slate they were made of: found by reading them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefine.formats.lessons import GOODNESS, column_of
from prefine.formats.parts import as_turns
from prefine.slate import Candidate, Slate


def losses(slate: Slate, back: Sequence[Slate]) -> set[str]:
    """Names of what the rows, read back, no longer say about the slate."""
    lost: set[str] = set()
    said = {b.response(i): (b, i) for b in back for i in b.leaves()}
    if any(as_turns(b.prompt) != as_turns(slate.prompt) for b in back):
        lost.add("prompt")
    elif any(b.prompt != slate.prompt for b in back):
        lost.add("prompt as plain text (it is a turn of the user now)")
    if any(slate.response(i) not in said for i in slate.leaves()):
        lost.add("responses")
    if any(c.parent is not None for c in slate.candidates) and all(
        c.parent is None for b in back for c in b.candidates
    ):
        lost.add("steps inside responses")
    for name in slate.feedback:
        if not _kept(slate, name, back, said):
            lost.add(f"feedback {name}")
    for i in slate.leaves():
        if slate.response(i) in said:
            other, j = said[slate.response(i)]
            lost |= _candidate_losses(slate.candidates[i], other.candidates[j])
    theirs = [{**b.meta, **b.meta.get("extra", {})} for b in back]
    ours = {**slate.meta, **slate.meta.get("extra", {})}
    for name, value in ours.items():
        if name not in ("extra", "layout") and any(t.get(name) != value for t in theirs):
            lost.add(f"column {name}")
    return lost


def _candidate_losses(ours: Candidate, theirs: Candidate) -> set[str]:
    lost = {f"origin {k}" for k, v in ours.origin.items() if theirs.origin.get(k) != v}
    for name in ("tokens", "logps", "stop", "counts", "prompt"):
        if getattr(ours, name) != getattr(theirs, name):
            lost.add(name if name != "prompt" else "prompts of single responses")
    return lost


def _kept(slate: Slate, name: str, back: Sequence[Slate], said: Mapping[str, tuple[Slate, int]]) -> bool:
    """A column is kept if its values are; one of labels also if what replaced it puts the responses in the
    same order (``preferred`` as ranks 1 and 2), for a label says no more than that."""
    ours = slate.feedback[name]
    if ours.kind == "table":
        return any(b.feedback.get(name) == ours for b in back)
    theirs = {
        (b.response(j), value) for b in back if name in b.feedback for j, value in enumerate(b.feedback[name].values)
    }
    if all((slate.response(i), value) in theirs for i, value in enumerate(ours.values) if value is not None):
        return True
    if ours.kind != "label":
        return False
    good = {slate.response(i): bool(ours.values[i]) for i in slate.leaves() if ours.values[i] is not None}
    order: dict[str, float] = {}
    for text in good.keys() & said.keys():
        b, j = said[text]
        column = column_of(b) if b.feedback else None
        value = None if column is None else GOODNESS[b.feedback[column].kind](b.feedback[column], j)
        if value is not None:
            order[text] = value
    alike = len(back) == 1 or all("label" in b.feedback for b in back)
    return (
        alike
        and good.keys() == order.keys()
        and all((good[x] > good[y]) == (order[x] > order[y]) for x in good for y in good)
    )
