"""DRIFT's data (arXiv 2510.02341): the disliked response stays, the complaint is in the sampling prompt alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from prefine import objectives
from prefine.curating.dissatisfaction import (
    Complaints,
    FromLogs,
    disliked,
    fresh_over_disliked,
    need_feedback,
    users_turn,
    with_complaints,
)
from prefine.errors import InputError
from prefine.judging.followups import OPENING
from prefine.objectives import Scores
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Contrast, Slate, point
from prefine.worlds import complaints, dialogues

DICE = random.Random(0)
ROW = point(
    Slate("Ana: Q?\nAssistant:", (Candidate(" Bad."),), meta={"id": "1", "user": "Ana", "feedback": "Rude!"}), 0, False
)
CHAT = point(
    Slate(({"role": "user", "content": "Q?"},), (Candidate("Bad."),), meta={"extra": {"feedback": "Rude!"}}), 0, False
)


def drawn(*texts: str) -> list[Slate]:
    return [Slate("elsewhere", (Candidate(text, tokens=(1, 2), logps=(-1.0, -2.0), stop="end"),)) for text in texts]


def test_the_complaint_is_in_the_sampling_prompt_alone() -> None:
    plain, chat = Complaints(instruction="Again.")([ROW, CHAT])
    assert plain.prompt == "Ana: Q?\nAssistant: Bad.\nAna: Rude! Again.\nAssistant:"
    assert [m["content"] for m in chat.prompt] == ["Q?", "Bad.", "Rude! Again."]  # type: ignore[index]
    assert [m["role"] for m in chat.prompt] == ["user", "assistant", "user"]  # type: ignore[index]
    assert next(Complaints(guided=False)([ROW])).prompt == ROW.prompt(0)
    (lesson,) = fresh_over_disliked([ROW], drawn(" Good."), DICE)
    assert lesson.prompt(0) == lesson.prompt(1) == ROW.prompt(0)
    assert "Rude" not in str(lesson.prompt(0)) and lesson.slate.candidates[0].tokens == (1, 2)
    assert lesson.slate.candidates[0].logps is None, "they were under the prompt with the complaint"


def test_the_rejected_response_is_the_same_in_every_round() -> None:
    rounds = [list(fresh_over_disliked([ROW, CHAT], drawn(*texts), DICE)) for texts in (("a", "b"), ("c", "d"))]
    assert [[c.response(1) for c in found] for found in rounds] == [[" Bad.", "Bad."]] * 2
    assert [[c.response(0) for c in found] for found in rounds] == [["a", "b"], ["c", "d"]]
    assert list(fresh_over_disliked([ROW], drawn("  "), DICE)) == []


def test_records_are_the_bad_labels_and_need_the_users_words() -> None:
    good = replace(ROW, roles=(1,))
    assert list(disliked([good, ROW], DICE)) == [ROW]
    with pytest.raises(InputError, match="no response is labelled bad"):
        list(disliked([good], DICE))
    with pytest.raises(InputError, match="user's message"):
        need_feedback([point(Slate("x", (Candidate("a"),)), 0, False)])
    need_feedback([CHAT])


def talk(*turns: str) -> Contrast:
    roles = ("user", "assistant")
    said = tuple({"role": roles[k % 2], "content": text} for k, text in enumerate(turns[:-1]))
    return point(Slate(said, (Candidate(turns[-1]),), meta={"id": "t"}), 0, True)


def test_complaints_are_found_in_conversations_and_repairs_make_seeds() -> None:
    log = talk("Q?", "5", "No, that's wrong.", "4", "Thanks, that works!", "You are welcome.")
    (row,) = FromLogs()([log], DICE)
    assert (row.prompt(0), row.response(0), row.roles) == (({"role": "user", "content": "Q?"},), "5", (-1,))
    assert row.slate.meta["feedback"] == "No, that's wrong."
    (seed,) = FromLogs(repaired=True)([log], DICE)
    assert (seed.response(0), seed.response(1), seed.prompt(0)) == ("4", "5", row.prompt(0))
    assert list(FromLogs(repaired=True)([talk("Q?", "5", "No, that's wrong.", "4", "Still wrong?", "3")], DICE)) == []
    with pytest.raises(InputError, match="dissatisfaction"):
        list(FromLogs()([talk("Q?", "4", "Thanks!", "Bye.")], DICE))


def test_a_model_may_write_the_complaints() -> None:
    plain, chat = users_turn([ROW, CHAT])
    assert plain.prompt == "Ana: Q?\nAssistant: Bad.\nAna:"
    assert [m["content"] for m in chat.prompt] == [OPENING, "Q?", "Bad."]  # type: ignore[index]
    (told,) = with_complaints([ROW], drawn(" Too short.\nmore"), DICE)
    assert told.slate.meta["feedback"] == "Too short."


def test_the_loss_is_dpo_when_the_likelihood_has_no_weight() -> None:
    torch.manual_seed(1)
    s = Scores.of_pairs(*(-torch.rand(4, dtype=torch.float64) * 5 for _ in range(4)), chosen_length=[2, 3, 4, 5])
    plain, ours = objectives.dpo(0.1)(s), objectives.regularised(0.1, 0.0, average=True)(s)
    assert torch.allclose(plain.per_contrast, ours.per_contrast, atol=1e-6)


def test_the_gradient_is_the_lemmas_and_does_not_vanish_where_the_negative_stays() -> None:
    """At the start of a round s = 0, and the gradient is -beta/2 (grad log pi(y+) - grad log pi(y-)). On a table that
    is -beta/2 (e_+ - e_-), whatever the policy: its norm is beta/sqrt(2). For SPIN at its fixed point it is 0."""
    policy = Tabular(["x"], ["good", "bad"], [[6.0, -6.0]])  # trained already: bad is hardly ever said

    def norm(chosen: str, rejected: str) -> float:
        from prefine.engine.batch import collate
        from prefine.policies.base import Limits
        from prefine.slate import pair

        contrast = pair(Slate("x", (Candidate(chosen), Candidate(rejected))), 0, 1)
        logp_NT, _ = policy.logp(collate([policy.encode(contrast, Limits())], [contrast.roles]))
        w, l = logp_NT[0, 0], logp_NT[1, 0]
        s = Scores.of_pairs(w[None], l[None], w.detach()[None], l.detach()[None])
        policy.module.zero_grad()
        objectives.dpo(0.1)(s).mean(s).backward()
        (grad,) = [p.grad for p in policy.module.parameters()]
        return float(grad.norm())  # type: ignore[union-attr]

    assert norm("good", "bad") == pytest.approx(0.1 / 2**0.5)
    assert norm("good", "good") == 0.0


def test_the_world_of_complaints(tmp_path) -> None:  # type: ignore[no-untyped-def]
    policy = Tabular.load(complaints.start(tmp_path / "start"))
    plain, shown = policy.probabilities("context 0"), policy.probabilities(complaints.hinted(0, "rude 1"))
    assert complaints.complaint("rude 1") == "That is rude."
    assert shown[:4].sum() > plain[:4].sum() and shown[4:6].sum() < plain[4:6].sum()
    rows = complaints.disliked(policy, 20, 0)
    assert all(not row.response(0).startswith("good") for row in rows)
    made = Complaints(instruction="")(complaints.as_bad(rows, DICE))
    assert all(slate.prompt in policy.prompts for slate in made)
    assert complaints.entropy(policy) == pytest.approx(torch.log(torch.tensor(4.0)).item())


def test_users_of_the_dialogues_world_name_the_worst_defect() -> None:
    slate = next(s for s in dialogues.WORLD.prompts("train", 50, 0) if s.meta["kind"] == "fact")
    good = dialogues.WORLD.demonstrate(slate, random.Random(0))  # type: ignore[misc]
    assert dialogues.defect(slate, good) is None
    assert dialogues.defect(slate, f"{good} Do not ask me again.") == "rude"
    assert dialogues.defect(slate, " I am not sure.") == "evasive"
    assert dialogues.reaction(slate, " I am not sure.", random.Random(0)) == "That does not answer my question."
