"""What to try next: rules of thumb of the field, each a function of the figures that speaks up or keeps quiet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefine.report.figures import (
    Estimate,
    Evaluated,
    Segment,
    change,
    main_evaluation,
    segments,
    side_moved,
)
from prefine.report.record import Record, get


@dataclass(frozen=True)
class Advice:
    """What was seen, and what to do about it."""

    title: str
    seen: str
    try_: str


@dataclass(frozen=True)
class Seen:
    """What the rules look at."""

    record: Record
    evaluations: Sequence[Evaluated]
    policies: Sequence[Segment]

    @property
    def start(self) -> Evaluated | None:
        first = self.evaluations[0] if self.evaluations else None
        return first if first is not None and first.position == 0 else None

    @property
    def end(self) -> Evaluated | None:
        last = self.evaluations[-1] if self.evaluations else None
        return last if last is not None and last.position > 0 else None

    def ends(self, name: str) -> tuple[Estimate, Estimate] | None:
        """A figure at the start and at the end, when both are known."""
        if self.start is None or self.end is None:
            return None
        before, after = self.start.of(name), self.end.of(name)
        return None if before is None or after is None else (before, after)


Rule = Callable[[Seen], Advice | None]


def advice(record: Record) -> list[Advice]:
    """Everything the rules have to say, the most pressing first."""
    seen = Seen(record, main_evaluation(record), [s for s in segments(record) if not s.rewards])
    return [said for rule in RULES if (said := rule(seen)) is not None]


def did_not_end(seen: Seen) -> Advice | None:
    record = seen.record
    if record.state not in ("failed", "stopped"):
        return None
    why = record.failure or "it was interrupted"
    return Advice(
        "Finish it", f"The run did not come to its end: {why}.",
        "Run the same command again: what is done is reused, and it goes on inside the training it was in.",
    )  # fmt: skip


def not_a_number(seen: Seen) -> Advice | None:
    for training in seen.policies:
        bad = [r for r in training.rows if isinstance(r.get("loss"), float) and get(r, "loss") is None]
        if bad:
            return Advice(
                "Stop the divergence", f"The loss became NaN or infinite in “{training.label}”.",
                "Lower the learning rate, lengthen the warm-up, and look at the batch named in the message.",
            )  # fmt: skip
    return None


def both_fell(seen: Seen) -> Advice | None:
    fell = _fell_on_held_out(seen) or _fell_in_training(seen)
    if fell is None:
        return None
    where, chosen, rejected = fell
    return Advice(
        "Hold the chosen responses up",
        f"Both log-probabilities fell {where} (chosen {chosen:+.2f}, rejected {rejected:+.2f}): likelihood "
        "displacement. The margin grew because the rejected fell faster.",
        "Add a likelihood term on the chosen responses (`rpo-regularized`, `orpo`), or regress each side on its "
        "own target instead of their difference (`sppo`); pairs whose two responses differ more also help.",
    )


def _fell_on_held_out(seen: Seen) -> tuple[str, float, float] | None:
    if seen.start is None or seen.end is None:
        return None
    moves = [m for side in ("chosen", "rejected") if (m := side_moved(seen.start, seen.end, side)) is not None]
    if len(moves) < 2 or not all(m.clear and m.value < 0 for m in moves):
        return None
    return "on held-out pairs", moves[0].value, moves[1].value


def _fell_in_training(seen: Seen) -> tuple[str, float, float] | None:
    chosen, rejected = change(seen.policies, "chosen_logp"), change(seen.policies, "rejected_logp")
    if chosen is None or rejected is None or (chosen.direction, rejected.direction) != (-1, -1):
        return None
    return "during training", chosen.amount, rejected.amount


def grew_longer(seen: Seen) -> Advice | None:
    ends = seen.ends("length")
    if ends is None or ends[0].value <= 0 or ends[1].value < 1.10 * ends[0].value:
        return None
    return Advice(
        "Take length out of the preference",
        f"Responses grew by {ends[1].value / ends[0].value - 1:.0%}; part of the gain in wins may be length.",
        "Use a length-regularised margin (`ilr-dpo`) or a length-normalised objective (`simpo`), and compare at "
        "equal length.",
    )  # fmt: skip


def overoptimised(seen: Seen) -> Advice | None:
    points = [(e, e.of("reward")) for e in seen.evaluations]
    known = [(e, r) for e, r in points if r is not None]
    if len(known) < 3:
        return None
    best = max(known, key=lambda pair: pair[1].value)
    last = known[-1]
    if best[0].position in (0, last[0].position) or not (best[1] - last[1]).clear:
        return None
    return Advice(
        "Stop at the best round",
        f"The reward was best after {best[0].label} and fell since.",
        "Run fewer rounds, or keep the policy closer to its start: a larger beta or a lower learning rate.",
    )


def far_for_nothing(seen: Seen) -> Advice | None:
    if len(seen.evaluations) < 3 or overoptimised(seen) is not None:
        return None
    a, b = seen.evaluations[-2:]
    pairs = [(a.of("kl"), b.of("kl")), (a.of("reward"), b.of("reward"))]
    if any(x is None or y is None for x, y in pairs):
        return None
    (kl_a, kl_b), (reward_a, reward_b) = pairs
    assert kl_a and kl_b and reward_a and reward_b
    if kl_b.value < 5.0 or kl_b.value < 1.2 * kl_a.value or (reward_b - reward_a).clear:
        return None
    return _spend_less(f"from {kl_a.value:.1f} to {kl_b.value:.1f} in the last round and the reward did not follow")


def far_in_one_go(seen: Seen) -> Advice | None:
    kl = seen.end.of("kl") if seen.end else None
    if len(seen.evaluations) != 2 or kl is None or kl.value < 20.0 or not _unsure(seen):
        return None
    return _spend_less(f"to {kl.value:.0f} nats a response, and nothing that was measured clearly gained")


def _spend_less(went: str) -> Advice:
    return Advice(
        "Spend less KL",
        f"KL to the start went {went}.",
        "Raise beta, lower the learning rate, train for fewer steps, or take a fresh reference less often.",
    )


def nothing_moved(seen: Seen) -> Advice | None:
    if not _unsure(seen):
        return None
    return Advice(
        "Tell the end from the start",
        "The end cannot be told from the start by the evaluation: the interval includes no change.",
        "Evaluate on more prompts or pairs first. If it stays so: more data, another learning rate or beta.",
    )


def _unsure(seen: Seen) -> bool:
    """Whether everything that could tell the end from the start fails to."""
    if seen.end is None:
        return False
    shares = [e for name in ("win_rate", "pair_accuracy") if (e := seen.end.of(name)) is not None]
    even = [e.low <= 0.5 <= e.high for e in shares if e.se is not None]
    rewards = seen.ends("reward")
    if rewards is not None and rewards[1].se is not None:
        even.append(not (rewards[1] - rewards[0]).clear)
    return bool(even) and all(even)


def learnt_at_once(seen: Seen) -> Advice | None:
    for training in seen.policies:
        values = training.values("accuracy")
        early = values[: max(2, len(values) // 4)]
        if len(values) >= 12 and sum(early[-3:]) / len(early[-3:]) >= 0.99:
            return Advice(
                "Make the pairs harder",
                f"“{training.label}” told chosen from rejected almost perfectly within a quarter of its steps.",
                "Fewer epochs or a lower learning rate; pairs with a smaller gap (a quantile or margin curator); "
                "or a bounded target (`ipo`), which does not push a won pair further.",
            )  # fmt: skip
    return None


def barely_learnt(seen: Seen) -> Advice | None:
    last = seen.policies[-1].values("accuracy") if seen.policies else []
    tail = last[-max(1, len(last) // 5) :]
    if len(last) < 8 or sum(tail) / len(tail) > 0.56:
        return None
    return Advice(
        "Check the preferences",
        f"Training ended with {sum(tail) / len(tail):.0%} of the pairs ranked right: hardly more than chance.",
        "More steps or a higher learning rate; if it stays so the labels are noisy or near ties: ask the judge "
        "twice, drop small gaps, or use an objective that expects noise (`dpo` with label smoothing, `kto`).",
    )


def spiky(seen: Seen) -> Advice | None:
    for training in seen.policies:
        norms = sorted(training.values("grad_norm"))
        if len(norms) >= 12 and norms[-1] > 10 * max(norms[len(norms) // 2], 1e-12):
            return Advice(
                "Calm the gradient",
                f"The gradient norm of “{training.label}” peaked at {norms[-1]:.3g}, its median is "
                f"{norms[len(norms) // 2]:.3g}.",
                "Clip at about the median, lengthen the warm-up, or look for broken rows with "
                "`prefine data check`.",
            )  # fmt: skip
    return None


def few_lessons(seen: Seen) -> Advice | None:
    for event in reversed(seen.record.verbs):
        slates, without = get(event, "slates"), get(event, "without")
        if event.get("verb") == "curate" and slates and without is not None:
            if without / slates < 0.4:
                return None
            return Advice(
                "Get a lesson from more prompts",
                f"{without / slates:.0%} of the prompts gave no pair in the last round: their responses were alike "
                "to the judge.",
                "Sample more responses a prompt (n), at a higher temperature, or drop prompts already mastered.",
            )  # fmt: skip
    return None


def cut_off(seen: Seen) -> Advice | None:
    finished = seen.end.of("finished") if seen.end else None
    if finished is None or finished.value > 0.8:
        return None
    return Advice(
        "Let it finish",
        f"{1 - finished.value:.0%} of the responses were cut by the token limit.",
        "Raise the limit on new tokens; a policy that lost its end token needs it in the chosen responses.",
    )


def judge_abstained(seen: Seen) -> Advice | None:
    labels = sum(get(e, "labels") or 0 for e in seen.record.verbs if e.get("verb") == "judge")
    silent = sum(get(e, "abstained") or 0 for e in seen.record.verbs if e.get("verb") == "judge")
    if silent <= 0.1 * (labels + silent):
        return None
    return Advice(
        "Look at what the judge would not judge",
        f"It abstained on {silent / (labels + silent):.0%} of the responses.",
        "See those responses: often they were cut by the token limit or broke the format the judge expects.",
    )


def still_rising(seen: Seen) -> Advice | None:
    if len(seen.evaluations) < 3:
        return None
    a, b = (e.of("reward") or e.of("win_rate") for e in seen.evaluations[-2:])
    if a is None or b is None or not (b - a).clear or b.value <= a.value:
        return None
    return Advice(
        "Go on",
        f"The last round still gained (from {a.value:.3g} to {b.value:.3g}).",
        "Run more rounds: the same command with a larger number goes on from here and pays for nothing twice.",
    )


def went_well(seen: Seen) -> Advice | None:
    win = seen.end.of("win_rate") if seen.end else None
    if win is None or win.se is None or win.low <= 0.5:
        return None
    return Advice(
        "Make sure of it",
        f"It beats its start in {win.value:.0%} of the comparisons, clearly more than half.",
        "Repeat with two other seeds and with prompts of another source before building on it.",
    )


RULES: tuple[Rule, ...] = (
    did_not_end, not_a_number, both_fell, grew_longer, overoptimised, far_for_nothing, far_in_one_go, nothing_moved,
    learnt_at_once, barely_learnt, spiky, few_lessons, cut_off, judge_abstained, still_rising, went_well,
)  # fmt: skip
