"""One pass over data with any parts: objective and wrappers, curriculum, reference and what it does meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import system
from prefine.curating.base import as_is
from prefine.curating.curriculum import curriculum as read_curriculum
from prefine.curating.with_values import has, with_values
from prefine.engine.reference import following as read_following
from prefine.errors import InputError
from prefine.objectives.needs import Needs, needs
from prefine.registry import Part
from prefine.run import Run


@system(
    None, "offline", "Offline preference optimisation, any parts", family="objective",
    on_worlds={"lr": 1e-3, "epochs": 2, "batch_size": 32}, question="implicit-reward",
)  # fmt: skip
def offline(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts | None = None,
    labels: Contrasts | None = None,
    lists: Slates | None = None,
    *,
    objective: Part = Part("dpo"),  # noqa: B008 (a text)
    lessons: Literal["auto", "pairs", "labels", "lists"] = "auto",
    values: dict[str, str] | None = None,
    curriculum: Part = Part("shuffled"),  # noqa: B008
    reference: str = "start",
    stage_reference: Literal["start", "previous"] = "start",
    following: str = "fixed",
) -> PolicyHandle:
    """Train on data that is there, with any objective by name and any wrappers around it: DPO by default.

    Use it to try a combination that no paper has: ``--objective "lcpo:simpo(beta=2.5)" --curriculum similarity
    --following trailing:alpha=0.6,every=64``. When a published system is that combination, run the system: it
    brings its paper's settings and its claim.

    objective: name, name(option=value) or wrapper:name; see `docs/objectives.md`.
    lessons: what the data is read as; auto is the first of pairs, labels, lists that the objective can learn from.
    A list is a ranking, or, to an objective over sets, those above the mean score against those below.
    values: columns of the data that hold what the objective reads, as weight=confidence.
    curriculum: shuffled, plain, margin, length, similarity or value(name=level); with stages=3 in three stages.
    reference: start, none (every response equally likely), or the directory of another model.
    stage_reference: what a later stage is compared with: the start, or the policy as the stage before left it.
    following: what the reference does in training: fixed, synced:every=64 or trailing:alpha=0.6,every=64.
    """
    loss, order, how = objectives.read(objective), read_curriculum(curriculum), read_following(following)
    needed = needs(loss)
    given = {"pairs": pairs, "labels": labels, "lists": lists}
    contrasts = _lessons(run, _form(objective, needed, lessons), given, in_sets=needed.sets)
    columns = values or {}
    carried = (*needed.values, *(name for name in needed.takes if has(contrasts[0], name, columns)))
    if carried:
        contrasts = run.curate(contrasts, with_values(carried, columns), label=f"with {', '.join(carried)}")
    loss = objectives.reference_free(loss) if reference == "none" else loss
    anchor = policy if reference in ("start", "none") else run.policy(reference)
    for i in range(order.stages):
        part = contrasts if order.is_plain else run.curate(contrasts, order.stage(i), label=f"stage {i + 1}")
        against = policy if stage_reference == "previous" and i else anchor
        policy = run.train(policy, part, objective=loss, reference=against, following=how, shuffle=order.shuffles)
    return policy


def _form(objective: str, needed: Needs, lessons: str) -> str:
    """What the data is read as."""
    able = [form for form in ("pairs", "labels", "lists") if form in needed.forms]
    form = (able[0] if able else "pairs") if lessons == "auto" else lessons
    if able and form not in able:
        raise InputError(
            f"{objective} cannot learn from {form}: {needed.why or 'it needs another form'}",
            remedy=f"give --lessons {able[0]}, or leave it out",
        )
    return form


def _lessons(run: Run, form: str, given: Mapping[str, Contrasts | Slates | None], in_sets: bool) -> Contrasts:
    found = given[form]
    if found is None:
        raise InputError(f"this objective learns from {form}, and there are none", remedy=f"give data with {form}")
    of_lists = curating.sets("mean") if in_sets else curating.ranked("score")
    make = {"pairs": None, "labels": curating.mismatched(as_is), "lists": of_lists}[form]
    return found if make is None else run.curate(found, make)  # type: ignore[return-value]
