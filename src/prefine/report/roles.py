"""Who did what: the roles that policies and judges played in a run, from its journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prefine.report.record import Record, Row, get

ORDER = (
    "start", "current", "training reference", "scoring reference", "judge", "past", "future", "teacher",
)  # fmt: skip
"""Roles with a place of their own; others come after them, by name."""

NOT_TOLD = ("evaluation", "scored")
"""Roles of the measuring, and links between artifacts."""


@dataclass(frozen=True)
class Part:
    """One role: who played it, what they did, and when."""

    role: str
    who: str
    did: str
    when: str


def who_did_what(record: Record) -> list[Part]:
    """Every role that was played, one line a role and player, in the order of ``ORDER``."""
    events = _last(record.verbs)
    names = _names(events, record.final[:12])
    stored = {str(e["key"])[:12]: (e.get("who") or {}).get("scored") for e in events if e.get("verb") == "logps"}
    played: dict[tuple[str, str], list[tuple[str, Row]]] = {}
    for event in events:
        for role, who, did in _played(event):
            key = stored.get(who) or who
            played.setdefault((role, names.get(key, key)), []).append((did, event))
    if "the start" in names.values():
        played["start", "the start"] = [("where the run began", {})]
    parts = [Part(role, who, _sum(rows), _when(event for _, event in rows)) for (role, who), rows in played.items()]
    return sorted(parts, key=lambda p: (_place(p.role), p.role))


def _played(event: Row) -> Iterator[tuple[str, str, str]]:
    """(role, key of who played it, what they did) of one verb."""
    who: Mapping[str, str] = event.get("who") or {}
    verb = event.get("verb")
    if verb == "judge" and event.get("role", "annotator") != "evaluation" and "judge" not in who:
        yield "judge", str(event.get("label") or "judge").removeprefix("judge "), "labels"
    if verb == "judge" and event.get("role") == "evaluation":
        return
    for role, key in who.items():
        if role in NOT_TOLD:
            continue
        if role == "learner":
            yield "current", key, "trained from"
        else:
            yield role, key, "opinions" if event.get("role") == "view" else DID.get(str(verb), "used")


DID: Mapping[str, str] = {"sample": "responses", "judge": "labels", "train": "compared with in training"}


def _names(events: Iterable[Row], final: str) -> dict[str, str]:
    """Key -> what a policy is called: the start, or by the training that made it."""
    made = {str(e["key"])[:12]: e for e in events if e.get("verb") in ("train", "merge", "policy") and e.get("key")}
    used = [(role, key) for e in events for role, key in (e.get("who") or {}).items() if role != "evaluation"]
    improved = [key for role, key in used if role in ("start", "learner", "current") and key not in made]
    names: dict[str, str] = {}
    for _, key in used:
        if key not in made:
            names[key] = "the start" if key in improved[:1] else f"given ({key[:6]})"
            continue
        place, label = made[key].get("round"), made[key].get("label") or made[key].get("verb")
        when = f"round {place + 1}: " if isinstance(place, int) else ""
        names[key] = f"{when}{label} ({key[:6]})" + (", the final policy" if key == final else "")
    return names


def _last(events: Iterable[Row]) -> list[Row]:
    """Verbs that came to an end, the last word on each."""
    found: dict[str, Row] = {}
    for event in events:
        if event.get("event") in ("done", "reused"):
            found[str(event.get("key") or event.get("label"))] = event
    return list(found.values())


def _sum(rows: Iterable[tuple[str, Row]]) -> str:
    """What was done, in few words."""
    counts: dict[str, float] = {}
    for did, event in rows:
        counts[did] = counts.get(did, 0) + (get(event, COUNTS[did]) or 0 if did in COUNTS else 1)
    said = {name: f"{{:,.0f}} {name}" for name in COUNTS}
    return ", ".join(said[did].format(n) if did in said else did for did, n in counts.items())


COUNTS = {"responses": "candidates", "labels": "labels", "opinions": "labels"}
"""What was done -> the figure that counts it. Opinions are a model's own view: nobody was asked."""


def _when(events: Iterable[Row]) -> str:
    """The rounds, in words.

    >>> _when([{"round": 0}, {"round": 1}, {"round": 1}]), _when([{"round": None}, {"round": 2}]), _when([{}])
    ('rounds 1-2', 'outside rounds, round 3', '')
    """
    found = [e.get("round") for e in events]
    places = sorted({n for n in found if isinstance(n, int)})
    if not places:
        return ""
    apart = ["outside rounds"] if any(not isinstance(n, int) for n in found) else []
    solid = len(places) > 1 and places == list(range(places[0], places[-1] + 1))
    named = f"rounds {places[0] + 1}-{places[-1] + 1}" if solid else "round " + ", ".join(str(n + 1) for n in places)
    return ", ".join([*apart, named])


def _place(role: str) -> int:
    known = [i for i, name in enumerate(ORDER) if role.startswith(name)]
    return known[0] if known else len(ORDER)
