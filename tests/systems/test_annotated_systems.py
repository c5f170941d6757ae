"""049, 053, 059, 158, 161 as loops: who samples, who is the reference, what is taught, on exact tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prefine.artifacts import PolicyHandle
from prefine.binding.rehearsal import rehearse, wanted
from prefine.catalogue import find
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.base import Compared, Scored
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, labels, pair, scores
from prefine.systems.iteration.irepo import irepo
from prefine.systems.objectives.exo import exo
from prefine.systems.objectives.f_dpo import f_dpo
from prefine.systems.objectives.mappo import mappo
from prefine.systems.reasoning.trpa import trpa

ACTIONS = ["a", "b", "c"]
REWARD = np.array([1.0, 0.2, -0.6])


def start(tmp_path: Path, **settings: object) -> tuple[Run, PolicyHandle]:
    torch.set_num_threads(1)
    plain = {"lr": 0.05, "schedule": "constant", "warmup": 0.0, "clip": None, "batch_size": 128, "save_every": 10_000}
    Tabular(["p"], ACTIONS, [[0.1, 0.0, -0.1]]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({**plain, **settings}))
    return run, run.policy(tmp_path / "base")


def asked(run: Run, n: int = 64):  # type: ignore[no-untyped-def]
    return run.slates([Slate("p", meta={"id": str(i)}) for i in range(n)])


def logp(policy: PolicyHandle) -> np.ndarray:
    return policy.load().logp_PA().detach().numpy()[0]  # type: ignore[attr-defined]


def reward_of(slate: Slate) -> list[float]:
    return [float(REWARD[ACTIONS.index(c.text)]) for c in slate.candidates]


def preferred(slate: Slate) -> list[list[float]]:
    r = np.array(reward_of(slate))
    return (1 / (1 + np.exp(r[None, :] - r[:, None]))).tolist()


def test_rounds_of_irepo_multiply_by_the_exponential_of_the_reward(tmp_path: Path) -> None:
    """T rounds from exact probabilities: pi_0 exp(T r / beta), as reference and sampler move."""
    run, policy = start(tmp_path, epochs=400)
    beta = 2.0
    done = irepo(run, policy, asked(run, 120), Compared(preferred), rounds=2, n=2, beta=beta)
    want = torch.tensor(logp(policy) + 2 * REWARD / beta).log_softmax(0).numpy()
    assert logp(done) == pytest.approx(want, abs=1e-4)


def test_exo_learns_from_pairs_lists_and_samples(tmp_path: Path) -> None:
    run, policy = start(tmp_path, epochs=40)
    judge = Scored(reward_of)
    drawn = run.judge(run.sample(policy, asked(run), n=6), judge)
    pairs = run.curate(drawn, lambda rows, rng: [pair(Slate("p", (Candidate("a"), Candidate("c"))), 0, 1)] * 8)
    for inputs in ({"pairs": pairs}, {"lists": drawn}, {"samples": (asked(run), judge)}):
        ((name, given),) = inputs.items()
        more = {"prompts": given[0], "judge": given[1]} if name == "samples" else {name: given}
        done = exo(run, policy, **more, learn_from=name, n=6, size=3)  # type: ignore[arg-type]
        moved = logp(done) - logp(policy)
        assert moved[0] > 0 > moved[2], name


def test_exo_from_rewards_reaches_the_tilted_optimum(tmp_path: Path) -> None:
    """beta log pi/ref = r/beta_r + const, from lists that hold every action once."""
    run, policy = start(tmp_path, epochs=300)
    everything = Slate("p", tuple(map(Candidate, ACTIONS))).with_feedback("score", scores(REWARD.tolist()))
    done = exo(run, policy, lists=run.slates([everything]), learn_from="lists", beta=1.0, beta_r=0.5)
    want = torch.tensor(logp(policy) + REWARD / 0.5).log_softmax(0).numpy()
    assert logp(done) == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(("reference", "same"), [("start", True), ("previous", False)])
def test_mappo_samples_anew_and_keeps_its_reference_unless_told(tmp_path: Path, reference: str, same: bool) -> None:
    run, policy = start(tmp_path)
    seen: list[str] = []
    train = run.train

    def noted(policy, contrasts, *, reference, **more):  # type: ignore[no-untyped-def]
        seen.append(reference.key)
        assert all(set(c.values) == {"score"} and c.values["score"][0] > c.values["score"][1] for c in contrasts)
        return train(policy, contrasts, reference=reference, **more)

    run.train = noted  # type: ignore[method-assign]
    done = mappo(run, policy, asked(run), Scored(reward_of), rounds=3, n=4, reference=reference)  # type: ignore[arg-type]
    assert len(seen) == 3 and (len(set(seen)) == 1) == same and seen[0] == policy.key
    assert logp(done)[0] > logp(policy)[0]


def test_mappo_learns_from_pairs_with_scores_and_says_when_they_have_none(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    both = Slate("p", (Candidate("a"), Candidate("b")))
    bare = run.curate(run.slates([both]), lambda rows, rng: [pair(s, 0, 1) for s in rows])
    scored = run.curate(
        run.slates([both.with_feedback("score", scores([2.0, -1.0]))]), lambda rows, rng: [pair(s, 0, 1) for s in rows]
    )
    assert logp(mappo(run, policy, pairs=scored, learn_from="pairs"))[0] > logp(policy)[0]
    with pytest.raises(InputError, match="has no 'score'"):
        mappo(run, policy, pairs=bare, learn_from="pairs")
    with pytest.raises(InputError, match="has no 'score'"):  # found out beforehand, too
        rehearse(find("mappo"), {"learn_from": "pairs"}, given={"pairs": list(bare)})


def test_only_the_inputs_that_the_options_ask_for_are_wanted() -> None:
    for key, options, needed in (
        ("mappo", {}, {"prompts", "judge"}), ("mappo", {"learn_from": "pairs"}, {"pairs"}),
        ("exo", {}, {"pairs"}), ("exo", {"learn_from": "lists"}, {"lists"}),
        ("exo", {"learn_from": "samples"}, {"prompts", "judge"}),
        ("discopop", {}, set()), ("discopop", {"generations": 2}, {"prompts", "judge"}),
    ):  # fmt: skip
        entry = find(key)
        defaults = {name: p.default for name, p in entry.options.items()}
        assert wanted(entry, {**defaults, **options}, frozenset(entry.optional)) == needed, (key, options)


def test_trpa_refers_to_the_first_policy_and_stays_near_the_last(tmp_path: Path) -> None:
    run, policy = start(tmp_path, lr=0.3)
    seen: list[tuple[str, str]] = []
    train = run.train

    def noted(policy, contrasts, *, reference, **more):  # type: ignore[no-untyped-def]
        seen.append((reference["reference"].key, reference["old"].key))
        assert all(len(c.members) == 8 and len(c.values["level"]) == 8 for c in contrasts)
        return train(policy, contrasts, reference=reference, **more)

    run.train = noted  # type: ignore[method-assign]
    verifier = Scored(lambda slate: [{"a": 1.0, "b": 0.0, "c": -1.0}[c.text] for c in slate.candidates], "verified")
    done = trpa(run, policy, asked(run, 24), verifier, rounds=3, n=8, beta=1.0)
    assert {first for first, _ in seen} == {policy.key}
    assert seen[0][1] == policy.key and len({old for _, old in seen}) == 3
    moved = logp(done) - logp(policy)
    assert moved[0] > 0 > moved[2]


def test_rewards_by_any_monotone_map_leave_trpa_unchanged(tmp_path: Path) -> None:
    """(d) only levels are taught: the very same artifact comes out."""
    run, policy = start(tmp_path)
    keys = []
    for verdicts in ({"a": 1.0, "b": 0.0, "c": -1.0}, {"a": 1.0, "b": 0.0, "c": -2.0}):
        judge = Scored(lambda slate, verdicts=verdicts: [verdicts[c.text] for c in slate.candidates], "verified")
        done = trpa(run, policy, asked(run, 8), judge, rounds=1, n=8)
        keys.append(logp(done).tolist())
    assert keys[0] == keys[1]


def test_f_dpo_turns_pairs_round_by_flags_or_by_a_judge(tmp_path: Path) -> None:
    """The label prefers the false answer c; told which is false, the policy learns a over c."""
    run, policy = start(tmp_path)
    wrong = Slate("p", (Candidate("c"), Candidate("a")))
    flagged = wrong.with_feedback("hallucinated", labels([True, False]))
    bare, told = (
        run.curate(run.slates([s]), lambda rows, rng: [pair(s, 0, 1) for s in rows] * 8) for s in (wrong, flagged)
    )
    by_flags = logp(f_dpo(run, policy, told)) - logp(policy)
    assert by_flags[0] > 0 > by_flags[2]
    by_judge = logp(f_dpo(run, policy, bare, factuality=f"python:{_judge(tmp_path)}:fine")) - logp(policy)
    assert by_judge == pytest.approx(by_flags, abs=1e-12)
    with pytest.raises(InputError, match="hallucinated_chosen"):
        f_dpo(run, policy, bare)
    with pytest.raises(InputError, match="hallucinated"):
        rehearse(find("f-dpo"), {}, given={"pairs": list(bare)})


def test_f_dpo_learns_from_corrupted_answers_too(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    clean = Slate("p", (Candidate("a"), Candidate("b"))).with_feedback("hallucinated", labels([False, True]))
    pairs = run.curate(run.slates([clean]), lambda rows, rng: [pair(s, 0, 1) for s in rows])
    from prefine.curating.factual import ToCorrupt

    (question,) = ToCorrupt(5)(pairs, run.seed)
    Tabular([question.prompt], ["c"]).save(tmp_path / "corrupter")
    done = f_dpo(run, policy, pairs, corrupter=str(tmp_path / "corrupter"))
    moved = logp(done) - logp(policy)
    assert moved[0] > 0 and moved[2] < 0, "c was only ever seen as a corrupted answer"


@pytest.mark.parametrize(
    "wrong", [{"at_most": (1, 2)}, {"corrupter": "nowhere"}, {"factuality": "nobody"}, {"lam": -1.0}]
)
def test_f_dpo_says_what_is_wrong_before_it_starts(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        rehearse(find("f-dpo"), wrong)


def _judge(tmp_path: Path) -> Path:
    file = tmp_path / "facts.py"
    file.write_text("def fine(prompt, response):\n    return float(response != 'c')\n")
    return file
