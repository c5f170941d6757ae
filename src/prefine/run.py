"""A run: the durable verbs that recipes are written in.

Every verb takes artifacts and gives an artifact, stored under a key made of the verb's version, its arguments
and the keys of its inputs. A verb whose artifact is there and whole does nothing; a verb that was interrupted
goes on from its last finished part or training checkpoint. So running the same command again is all there is
to resuming and to caching, and the bits that come out do not depend on how often it was killed.

>>> import tempfile; from prefine.slate import Slate, Candidate, scores, pair
>>> run = Run(Path(tempfile.mkdtemp()) / "demo")
>>> slates = run.slates([Slate("2+2=", (Candidate("4"), Candidate("5")))])
>>> judged = run.judge(slates, lambda slates: [{"gold": scores([1.0, 0.0])} for _ in slates])
>>> pairs = run.curate(judged, lambda slates, rng: [pair(s, 0, 1) for s in slates])
>>> len(pairs), pairs[0].response(0)
(1, '4')
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from prefine.artifacts import Contrasts, Logps, PolicyHandle, Rows, Slates, contrasts_at, kind_of_rows, slates_at, sweep
from prefine.cluster import Cluster
from prefine.cluster.local import Here
from prefine.cluster.work import Judged, Sampled, Scored, Trained
from prefine.durable import (
    counted,
    in_parts,
    join_logps,
    line,
    logps_in_parts,
    over_steps,
    put_in_place,
    tokens_drawn,
    write_rows,
)
from prefine.errors import InputError
from prefine.fingerprint import key_of, seed_of
from prefine.judging.base import Judge, labels_given
from prefine.judging.people import answered
from prefine.policies.base import Sampling
from prefine.roles import judges, speaks, trains
from prefine.secrets import redact
from prefine.slate import Slate, beside, slate_of
from prefine.store import Store, append_json, lock, read_jsonl, room, write_text
from prefine.telling import Progress, Quiet, Stage

if TYPE_CHECKING:
    from prefine.engine.reference import Following
    from prefine.engine.settings import TrainSettings
    from prefine.evaluation import Yardstick
    from prefine.objectives.scores import Objective
    from prefine.report.trackers import Tracker

R = TypeVar("R", bound=Rows[Any])

VERSIONS: Mapping[str, int] = {
    "slates": 1, "sample": 1, "judge": 1, "curate": 1, "select": 1, "logps": 1, "train": 1, "merge": 1, "policy": 1,
}  # fmt: skip
"""Raised when a change to a verb changes what it gives for the same arguments."""

CHUNK = 512
"""Candidates a part of ``sample`` and ``judge`` holds: what a kill can cost at most."""


class Run:
    """One run in one directory. Use it as a context manager to hold the directory's lock."""

    def __init__(
        self,
        directory: Path | str,
        *,
        seed: int = 0,
        store: Path | str | None = None,
        settings: TrainSettings | None = None,
        sampling: Sampling | None = None,
        placement: Mapping[str, Any] | None = None,
        adapter: Any = None,
        progress: Progress | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        from prefine.engine.settings import TrainSettings

        self.dir = Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.seed = seed
        self.settings = settings or TrainSettings()
        self.sampling = sampling or Sampling()
        self.placement = dict(placement or {})
        self.adapter = adapter
        """LoRA settings: a policy without an adapter gets one when it is trained first."""
        self.progress: Progress = progress or Quiet()
        self.cluster: Cluster = cluster or Here()
        """Where sampling, judging, scoring and training are done: in this process unless told otherwise."""
        self.yardstick: Yardstick | None = None
        self.round: int | None = None
        self.alike = False
        """Whether trainings on as many contrasts see them in the same order, whatever they minimise and whatever values
        they carry: runs to be compared."""
        self.trackers: Sequence[Tracker] = ()
        self.tracked, self.final = 0, ""
        self._asked: dict[str, int] = {}
        root = store or os.environ.get("PREFINE_STORE") or self.dir.parent / ".store"
        self.store = Store(Path(root), self.progress.say)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Run:
        with contextlib.ExitStack() as stack:  # all of it, or nothing is held
            stack.enter_context(lock(self.dir))
            stack.enter_context(self.cluster.open([self.dir, self.store.root], self.progress.say))
            self._stack = stack.pop_all()
        for log in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "notes.jsonl"):
            (self.dir / log).unlink(missing_ok=True)  # written again from the artifacts, in the same order
        self.store.used_by(self.dir)
        self._journal("start", "run", store=str(self.store.root.resolve()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        said = "" if error is None else redact(str(error))[:500]
        event = "done" if error is None else getattr(error, "event", "failed")
        self._journal(event, "run", error=said, policy=self.final)
        self._stack.close()

    # --- bringing things in -------------------------------------------------------------------------------

    def policy(self, path: Path | str) -> PolicyHandle:
        """A handle on a model directory (or hub name) that exists outside the store."""
        from prefine.policies import fingerprint_policy

        return PolicyHandle(key_of(policy=fingerprint_policy(path)), Path(path), self.placement)

    def slates(self, slates: Iterable[Slate], label: str = "read") -> Slates:
        """Slates as an artifact, keyed by their contents."""
        work = self.dir / "work" / f"incoming-{os.getpid()}"
        work.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        count = 0
        try:
            with room():
                with (work / "slates.jsonl").open("wb") as out:
                    for slate in slates:
                        row = line(slate.to_json())
                        digest.update(row)
                        out.write(row)
                        count += 1
                key = key_of(verb="slates", version=VERSIONS["slates"], contents=digest.hexdigest())
                if self.store.get(key) is None:
                    self.store.commit(key, work, verb="slates", figures={"slates": count})
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._journal("done", "slates", label=label, key=key, figures={"slates": count})
        return slates_at(key, self.store.path(key))

    # --- the verbs ----------------------------------------------------------------------------------------

    def sample(
        self,
        policy: PolicyHandle,
        prompts: Slates,
        *,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        role: str = "current",
        label: str = "",
    ) -> Slates:
        """n candidates from the policy for every prompt, added to what is already on the slates.

        The randomness of a prompt depends on the run's seed, this call's key and the prompt's place alone.
        ``role`` says who speaks (current, past, future, start, teacher) and is noted on every candidate.
        """
        asked: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        sampling = dataclasses.replace(self.sampling, n=n, **{k: v for k, v in asked.items() if v is not None})
        about = {
            "policy": policy,
            "prompts": prompts,
            "sampling": sampling,
            "role": role,
            "round": self.round,
        }
        key = self._key("sample", seed=self.seed, **about)
        origin = {"policy": policy.key[:12], "role": role, "round": self.round}
        task = Sampled(policy, sampling, key, origin)

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            started, tokens = time.monotonic(), 0

            def tell(done: int, lines: Sequence[Mapping[str, Any]]) -> None:
                nonlocal tokens
                tokens += sum(tokens_drawn(line["candidates"][-n:]) for line in lines)
                stage.update(done, tokens_per_second=tokens / max(time.monotonic() - started, 1e-9))

            in_parts(self.cluster, task, prompts, max(1, CHUNK // n), work, out / "slates.jsonl", tell)
            drawn = sum(len(c.tokens or c.text.split()) for s in slates_at(key, out) for c in s.candidates[-n:])
            return {"slates": len(prompts), "candidates": n * len(prompts), "tokens": drawn}

        name = label or f"sample {n} a prompt"
        path = self._make("sample", key, make, label=name, total=len(prompts), role=role, who=speaks(role, policy))
        return slates_at(key, path)

    def judge(self, slates: R, judge: Judge, *, role: str = "annotator", label: str = "") -> R:
        """The slates (or contrasts) with the judge's columns added. Labels given and abstentions are counted.

        ``role``: an annotator's labels are on the run's meter (``labels``); a "view" is what the models themselves
        know (for selectors), an "evaluation" what a yardstick says of held-out samples, and nobody is asked for those.
        """
        judge = answered(judge, map(slate_of, slates), self)
        key, (kind, at) = self._key("judge", slates=slates, judge=judge), kind_of_rows(slates)
        first = slate_of(slates[0]) if len(slates) else Slate("")
        width = max(1, CHUNK // max(1, len(first)))

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            def tell(done: int, lines: Sequence[Mapping[str, Any]]) -> None:
                stage.update(done)

            in_parts(self.cluster, Judged(judge), slates, width, work, out / f"{kind}.jsonl", tell)
            return {"slates": len(slates), **labels_given(map(slate_of, at(key, out)), first.feedback)}

        title = label or f"judge {_name(judge)}"
        path = self._make("judge", key, make, label=title, total=len(slates), role=role, who=judges(judge))
        found = self.store.manifest(key)["figures"]
        if role == "annotator":
            self._asked[key] = found["labels"] + found["abstained"]
        if abstained := found["abstained"]:
            who = re.sub(r"^(?!.*\bjudge\b)", "judge ", _name(judge))
            what = "comparisons" if found.get("comparisons") else "candidates"
            self.progress.say(f"{who} abstained on {'' if found['labels'] else 'all '}{abstained} {what}")
        if unread := found.get("unread"):
            self.progress.say(f"{unread} answers of {_name(judge)} could not be read")
        return at(key, path)  # type: ignore[no-any-return]

    @property
    def labels(self) -> int:
        """Labels asked for so far, answered or not: one for each response graded, one for each pair compared. What is
        asked again of the same rows is asked once; what was selected away was never asked."""
        return sum(self._asked.values())

    def select(self, source: R | tuple[R, ...], selector: Callable[..., Iterable[Any]], *, label: str = "") -> R:
        """Some of the rows, slates or contrasts: those worth a label, or a place in training.

        The selector is called as ``selector(rows, rng)``, with one iterable for each artifact given, and gives rows of
        the first one's kind (``selecting``). Keeping nothing is an error.
        """
        sources = source if isinstance(source, tuple) else (source,)
        kind, at = kind_of_rows(sources[0])
        key = self._key("select", sources=sources, selector=selector, seed=self.seed, round=self.round)
        total = len(sources[0])

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            told = [counted(rows, stage.update) for rows in sources]
            kept = write_rows(out / f"{kind}.jsonl", selector(*told, random.Random(seed_of(key))))
            return {"from": total, "kept": kept}

        path = self._make("select", key, make, label=label or f"select {_name(selector)}", total=total)
        found = at(key, path)
        if not len(found):
            raise InputError(f"{_name(selector)} kept none of {total} rows", remedy="raise its budget, or bring more")
        return found  # type: ignore[no-any-return]

    def curate(
        self, source: Rows[Any] | tuple[Rows[Any], ...], curator: Callable[..., Iterable[Any]], *, label: str = ""
    ) -> Contrasts:
        """The contrasts that a curator finds in slates, or makes of contrasts, or of several of them.

        The curator is called as ``curator(rows, rng)``, with one iterable for each artifact given. Finding
        nothing at all is an error: there would be nothing to learn.
        """
        sources = source if isinstance(source, tuple) else (source,)
        key = self._key("curate", sources=sources, curator=curator, seed=self.seed)
        total = sum(len(rows) for rows in sources)

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            told = [counted(rows, stage.update) for rows in sources]
            found = write_rows(out / "contrasts.jsonl", curator(*told, random.Random(seed_of(key))))
            return {"from": total, "contrasts": found}

        path = self._make("curate", key, make, label=label or f"curate {_name(curator)}", total=total)
        contrasts = contrasts_at(key, path)
        if not len(contrasts):
            raise InputError(
                f"{_name(curator)} found no lesson in {total} rows",
                remedy="sample more or more varied candidates (n, temperature), or check what the judge says of "
                "them: when all score alike there is nothing to prefer, and responses cut at max_tokens may not count",
            )
        return contrasts

    def logps(
        self,
        policy: PolicyHandle,
        contrasts: Contrasts,
        *,
        settings: TrainSettings | None = None,
        label: str = "",
    ) -> Logps:
        """Token log-probabilities of the contrasts' responses under a policy: computed once, remembered.

        Lengths and precision are those of the training they are for (default: the run's settings).
        """
        settings = settings or self.settings
        limits, precision, budget = settings.limits, settings.precision, settings.tokens_per_microbatch
        key = self._key("logps", policy=policy, contrasts=contrasts, limits=limits, precision=precision)

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            task = Scored(policy, limits, budget, precision)
            parts = logps_in_parts(self.cluster, task, contrasts, CHUNK, work / "parts", stage.update)
            join_logps(parts, out)
            return {"contrasts": len(contrasts)}

        name, who = label or "score the reference", {"scored": policy.key[:12]}
        path = self._make("logps", key, make, label=name, total=len(contrasts), who=who)
        return Logps(key, path)

    def train(
        self,
        policy: PolicyHandle,
        contrasts: Contrasts,
        *,
        objective: Objective,
        reference: PolicyHandle | Mapping[str, PolicyHandle | Logps] | None = None,
        following: Following | str | None = None,
        label: str = "",
        **settings: Any,
    ) -> PolicyHandle:
        """A new policy, trained from this one on the contrasts.

        ``reference``: the policy the objective compares with (default: the policy as it starts), or several by
        name; frozen, or moving as ``following`` says (``engine.reference``). Numbers that are stored already
        (``logps`` of contrasts with the same responses) stand for their policy, as it was. ``settings`` override
        the run's training settings for this call.
        """
        from prefine.engine.reference import Loaded, Moving
        from prefine.engine.reference import following as follow
        from prefine.engine.settings import TrainSettings
        from prefine.objectives.readings import gathered
        from prefine.objectives.scores import traits

        wanted = traits(objective)[0]
        named = reference if isinstance(reference, Mapping) else dict.fromkeys(wanted, reference or policy)
        missing = [name for name in wanted if name not in named]
        if missing:
            raise InputError(f"the objective reads references {missing}", remedy="pass reference={name: policy, ...}")
        chosen = TrainSettings.of({**dataclasses.asdict(self.settings), **settings})
        how = follow(following)
        moves = how.moves_within(chosen.steps(len(contrasts)))
        looked_at = {name for reading in gathered(objective).values() for name in reading.of}

        def brought(name: str) -> Logps | Moving | Loaded:
            given = named[name]
            if isinstance(given, Logps):
                return given
            if moves:
                return Moving(how, start=given)
            return Loaded(given) if name in looked_at else self.logps(given, contrasts, settings=chosen)

        references = {name: brought(name) for name in wanted}
        # By their number alone, so that pairs which one method carries more values with come as the bare ones do.
        order = seed_of("order", self.seed, len(contrasts)) if self.alike else None
        key = self._key(
            "train", policy=policy, contrasts=contrasts, objective=objective, references=references,
            settings=chosen.fingerprint(), adapter=self.adapter, seed=self.seed,
            **({} if order is None else {"order": order}),
        )  # fmt: skip
        settings_here = dataclasses.replace(chosen, seed=(seed_of(key) if order is None else order) % 2**31)

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            def tell(row: Mapping[str, float]) -> None:
                stage.update(row["step"], **row)
                self.track(row)

            for handle in (policy, *named.values()):
                if isinstance(handle, PolicyHandle):
                    handle.release()  # while it trains, one copy of the weights is enough
            job = Trained(
                policy, self.adapter, contrasts, objective, references, settings_here, work / "checkpoints", out
            )
            result = self.cluster.train(job, tell)
            rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in result.metrics]
            write_text(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            totals = {"tokens": "step_tokens", "responses": "step_responses", "cut": "step_cut"}
            sums = {name: over_steps(rows, each) for name, each in totals.items() if rows and each in rows[0]}
            return {"contrasts": len(contrasts), "steps": result.steps, **sums}

        title = label or "train"
        steps, who = settings_here.steps(len(contrasts)), trains(policy, {name: named[name] for name in wanted})
        path = self._make("train", key, make, label=title, total=steps, who=who)
        figures = self.store.manifest(key)["figures"]
        if figures.get("cut"):
            self.progress.say(
                f"{figures['cut']:,} of {figures['responses']:,} responses trained on were cut to "
                f"max_length={chosen.max_length} tokens"
            )
        for row in read_jsonl(path / "metrics.jsonl"):
            append_json(self.dir / "metrics.jsonl", {"key": key, "label": title, "round": self.round, **row})
        return PolicyHandle(key, path, self.placement)

    def fit(
        self,
        policy: PolicyHandle,
        contrasts: Contrasts,
        *,
        objective: Objective | None = None,
        depth: float = 1.0,
        **settings: Any,
    ) -> PolicyHandle:
        """A reward model: the policy's backbone with a scalar head (or a reward model, refitted), trained on
        preferences (Bradley-Terry, the default) or on labelled points. ``depth``: the share of its layers that the
        backbone keeps."""
        from prefine.objectives import bradley_terry

        objective = objective or bradley_terry()
        headed = self._headed(policy, depth)
        return self.train(headed, contrasts, objective=objective, label="fit a reward model", **settings)

    def critic(self, model: PolicyHandle) -> PolicyHandle:
        """A value model: a reward model's backbone and head, or a policy's backbone under a fresh head, read before
        every response token. ``logps`` gives its values, and ``train`` fits it, as if they were log-probabilities."""
        from prefine.policies import ValueModel

        key = self._key("policy", backbone=model, head="value", seed=self.seed)
        return self._built(key, "value head", lambda: ValueModel.of(model.fresh()))

    def merge(self, weights: Mapping[PolicyHandle, float], *, label: str = "") -> PolicyHandle:
        """Weight arithmetic: the sum of weight x parameters, in float64, saved in the first policy's form."""
        from prefine.policies.merging import merged

        parts = list(weights.items())
        key = self._key("merge", policies=[[p.key, float(w)] for p, w in parts])

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            merged(parts).save(out)
            return {"policies": len(parts)}

        path = self._make("merge", key, make, label=label or f"merge {len(parts)} policies", total=None)
        return PolicyHandle(key, path, self.placement)

    def evaluate(
        self,
        policy: PolicyHandle,
        prompts: Slates,
        *,
        judge: Judge | None,
        start: PolicyHandle | None = None,
        n: int = 1,
        name: str = "held-out",
        temperature: float = 1.0,
    ) -> dict[str, float]:
        """Reward, win rate against ``start``, KL to it and length of fresh samples; noted for the report."""
        from prefine.evaluation import Yardstick

        return Yardstick(start, prompts, judge, n=n, temperature=temperature).measure(self, policy, name)

    def watch(self, policy: PolicyHandle) -> dict[str, float]:
        """Evaluate on the run's held-out prompts and pairs with its yardstick, where it has one."""
        figures = {} if self.yardstick is None else self.yardstick.measure(self, policy)
        self.track({f"held-out/{name}": value for name, value in figures.items()})
        return figures

    def rounds(self, n: int) -> Iterator[int]:
        """0 .. n-1, each marked in keys, seeds, journal and report."""
        try:
            for self.round in range(n):
                sweep()
                self._journal("start", "round", figures={"round": self.round, "of": n})
                yield self.round
        finally:
            self.round = None

    # --- small things recipes need --------------------------------------------------------------------------

    def slice(self, prompts: Slates, i: int, of: int) -> Slates:
        """The i-th of ``of`` disjoint parts of the prompts: fresh prompts for every round."""
        if len(prompts) < of:
            raise InputError(f"{len(prompts)} prompts cannot be split over {of} rounds", remedy="bring more prompts")
        return self._rewrite("slates", prompts, f"part {i + 1} of {of}", lambda rows: rows[i::of])

    def bare(self, slates: Slates) -> Slates:
        """Only the prompts of the slates: no candidates, no feedback."""
        return self._rewrite(
            "slates", slates, "prompts only", lambda rows: [Slate(s.prompt, meta=s.meta) for s in rows]
        )

    def join(self, first: Rows[Any], *more: Rows[Any]) -> Any:
        """Artifacts of one kind, one after the other (slates with slates, contrasts with contrasts)."""
        kind, at = kind_of_rows(first)
        key = self._key("slates", joined=[first, *more], kind=kind)

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            with (out / f"{kind}.jsonl").open("wb") as file:
                for part in (first, *more):
                    file.write(part.path.read_bytes())
            return {kind: sum(len(p) for p in (first, *more))}

        path = self._make("slates", key, make, label="join", total=None)
        return at(key, path)

    def combine(self, first: Slates, second: Slates) -> Slates:
        """The candidates of two slate artifacts over the same prompts, side by side (columns by None-padding)."""
        key = self._key("slates", combined=[first, second])

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            both = (beside(a, b) for a, b in zip(first, second, strict=True))
            return {"slates": write_rows(out / "slates.jsonl", both)}

        return slates_at(key, self._make("slates", key, make, label="combine", total=None))

    def note(self, **figures: float) -> None:
        """Anything a recipe wants in the report: a length penalty found, a share of prompts kept."""
        append_json(self.dir / "notes.jsonl", {"round": self.round, **figures})

    def record(self, file: str, row: Mapping[str, Any]) -> None:
        """One row of a log that the report reads."""
        append_json(self.dir / file, {"round": self.round, **row})

    def track(self, figures: Mapping[str, float]) -> None:
        """Live figures to the trackers in use (none by default), counted over the whole run: trackers want
        steps that only go up, and every training starts at 1."""
        self.tracked += 1
        for tracker in self.trackers:
            tracker.log(self.tracked, figures)

    def finish(self, policy: PolicyHandle) -> Path:
        """Put the final model under RUN/policy (links where the disk allows, else copies)."""
        target = self.dir / "policy"
        with room():
            put_in_place(policy.path, target, without=("manifest.json", "metrics.jsonl"))
        shutil.rmtree(self.dir / "work", ignore_errors=True)
        self.final = policy.key
        return target

    # --- how verbs are made durable -------------------------------------------------------------------------

    def _key(self, verb: str, **parts: Any) -> str:
        return key_of(verb=verb, version=VERSIONS[verb], **parts)

    def _make(
        self,
        verb: str,
        key: str,
        make: Callable[[Path, Path, Stage], dict[str, Any]],
        *,
        label: str,
        total: float | None,
        **about: Any,
    ) -> Path:
        """The artifact of this key: found, or made in RUN/work/<key> and committed whole."""
        started = time.monotonic()
        found = self.store.get(key)
        if found is not None:
            self._journal("reused", verb, label=label, key=key, figures=self.store.manifest(key)["figures"], **about)
            return found
        self._journal("start", verb, label=label, key=key, **about)
        work = self.dir / "work" / key
        stage = self.progress.stage(label if self.round is None else f"round {self.round + 1}: {label}", total)
        try:
            with room():
                shutil.rmtree(work / "out", ignore_errors=True)
                (work / "out").mkdir(parents=True)
                figures = make(work, work / "out", stage)
                path = self.store.commit(key, work / "out", verb=verb, figures=figures)
                shutil.rmtree(work, ignore_errors=True)
        except BaseException as error:
            self._journal("failed", verb, label=label, key=key, error=redact(str(error))[:500])
            raise
        finally:
            stage.end()
        seconds = time.monotonic() - started
        self._journal("done", verb, label=label, key=key, seconds=seconds, figures=figures, **about)
        return path

    def _rewrite(self, kind: str, rows: Rows[Any], label: str, change: Callable[[Any], Iterable[Any]]) -> Slates:
        key = self._key("slates", rows=rows, label=label)

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            return {"slates": write_rows(out / "slates.jsonl", change(rows))}

        return slates_at(key, self._make("slates", key, make, label=label, total=None))

    def _headed(self, policy: PolicyHandle, depth: float) -> PolicyHandle:
        """The policy's backbone with a fresh scalar head, or the reward model it already is."""
        from prefine.policies import RewardModel, kind_of

        if kind_of(policy.path) == RewardModel.kind:
            return policy
        part = {} if depth == 1 else {"depth": depth}
        key = self._key("policy", backbone=policy, head="scalar", seed=self.seed, **part)
        return self._built(key, "scalar head", lambda: RewardModel.from_policy(policy.fresh(), depth))

    def _built(self, key: str, label: str, build: Callable[[], Any]) -> PolicyHandle:
        """A policy made of another, not trained; what is random about it comes from the key."""

        def make(work: Path, out: Path, stage: Stage) -> dict[str, Any]:
            torch.manual_seed(seed_of(key) % 2**63)
            build().save(out)
            return {}

        return PolicyHandle(key, self._make("policy", key, make, label=label, total=None), self.placement)

    def _journal(self, event: str, verb: str, **row: Any) -> None:
        append_json(
            self.dir / "journal.jsonl",
            {"time": time.time(), "event": event, "verb": verb, "round": self.round, **row},
        )


def _name(part: Any) -> str:
    named = str(getattr(part, "__name__", None) or type(part).__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", named).strip("_").replace("_", " ").lower()
