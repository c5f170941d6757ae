"""Objectives: pure functions from scores to a loss, one small family a file.

measures     what a response is worth: LogRatio, LogProbability, LogOdds, Reward
links        how a margin becomes a loss: logistic, hinge, squared, saturating, Smoothed
margins      constants of a pair: LengthGap, ValueGap, Valued
pairwise     the pair kernel ``Pairs``: dpo, ipo, simpo, length_regularised, bradley_terry
regression   a target for every response, ``Regression``: sppo, sppo_single
pointwise    labelled responses, ``Points``: kto, binary_cross_entropy
likelihood   ``Likelihood``: sft, likelihood; with a pair loss: regularised, scpo, orpo
combine      add, scale, weighted, smoothed, soft_labels
annotated    what is known of the responses: prior_gap and mappo (rewards), factual (F-DPO), irepo (votes)
distributions  the policy's distribution over K candidates against rewards' or labels': exo, exo_rewards
discovered   losses a search found: discopop, discovered
levels       groups on preference levels: trpa
policy_gradient  a clipped surrogate on own samples: ppo (and its value model's ppo_value), grpo
calibrated   a signed value of calibration responses beside a pair loss: vpo, xpo
critic       an adversarial critic on the policy's own samples: spac
sampled      the reverse KL from own samples, by its score function: hypo
hinged       pair losses of a temperature of their own, hinge or logistic: rso
noise        wrong labels, over any pair loss: robust, lcpo
wrap         over any pair loss: penalised (length), with_margin, reference_free, plus_likelihood
slots        a pair loss as one choice in every slot: slots
needs        which contrasts and values an objective can learn from
guided       two half losses against frozen, thinned copies of the other side: self_guided
matching     supervised fine-tuning by an f-divergence, with a reference: matching
constrained  a margin from the reference's own preference: constrained
reward_gaps  the policy's reward gaps towards explicit ones, pairs or groups: reward_aware
differing    token weights where responses differ, under any objective: correlated, reweighted
readings     what an objective sees of the models besides log-probabilities, fixed or learnt along
self_refined  self-given labels, smoothed where the policy trusts them least, over any pair loss: self_refined
refining     answering and refining at once: evolve
steering     a pair loss with the pair under principles beside it: steered, sso
on_policy    the weight of a pair by the policy's own likelihood of it: on_policy, wpo
anchored     labels against a learnt anchor: uapo
token_masks  weights of tokens, learnt along or from activations: sparsepo
degrees      telling how much of a response is gone, beside any loss: aware_of_degree, spo_degree
stages       several dimensions in turn, earlier ones kept: sequential
doubly_robust  a preference model on fresh samples, corrected on logged pairs: doubly_robust
several_references  one virtual reference of several, or a loss each: mrpo, multi_dpo
rationales   a rationale beside the pair: with_rationale, rationale_dpo, rationale_orpo

sets         accepted against rejected sets: mpo_set, pmpo (and its optimum), SetContrast
agreeing     several judges inside one model, made to agree: scir
label_distribution  a list of samples towards a soft label: label_distribution
one_against_many  one accepted response against several, offset by rewards: ampo
listwise     rankings: pro, plackett_luce
orders       the distribution over all orders of K responses, towards a teacher's: pad, ranked_by
relative     contrasts across the prompts of a step: rpo_relative
multilevel   differences of differences: mapl, mapl_reward

``find("simpo")`` gives a factory by name, ``make("simpo", beta=2.5)`` the objective, and ``read`` an objective
with any wrappers around it from its text: ``read("robust(eps=0.2):simpo(beta=2.5)")`` is
``robust(simpo(beta=2.5), eps=0.2)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from prefine import registry
from prefine.errors import InputError
from prefine.objectives.agreeing import Agreeing, scir
from prefine.objectives.anchored import Anchored, uapo
from prefine.objectives.annotated import factual, irepo, mappo, prior_gap
from prefine.objectives.calibrated import Expected, explored, vpo, xpo
from prefine.objectives.combine import add, scale, smoothed, soft_labels, weighted
from prefine.objectives.constrained import Rarity, Shortfall, constrained, diagnosis
from prefine.objectives.critic import Excess, spac
from prefine.objectives.degrees import Degree, aware_of_degree, spo_degree
from prefine.objectives.differing import Differing, correlated, reweighted
from prefine.objectives.discovered import discopop, discovered
from prefine.objectives.distributions import exo, exo_rewards
from prefine.objectives.doubly_robust import doubly_robust
from prefine.objectives.guided import RandomTokens, SelfGuided, self_guided
from prefine.objectives.hinged import rso
from prefine.objectives.label_distribution import label_distribution
from prefine.objectives.levels import trpa
from prefine.objectives.likelihood import Likelihood, likelihood, orpo, regularised, scpo, sft
from prefine.objectives.links import Smoothed, hinge, logistic, saturating, squared
from prefine.objectives.listwise import RankedSoftmax, plackett_luce, pro
from prefine.objectives.margins import LengthGap, Valued, ValueGap
from prefine.objectives.matching import DIVERGENCES, Matched, matching
from prefine.objectives.measures import LogOdds, LogProbability, LogRatio, Measure, Reward
from prefine.objectives.multilevel import SignedSum, mapl, mapl_reward
from prefine.objectives.noise import lcpo, robust
from prefine.objectives.on_policy import OnPolicy, on_policy, wpo
from prefine.objectives.one_against_many import AroundMean, ampo
from prefine.objectives.orders import OrdersTaught, OrderTaught, over_orders, pad, ranked_by
from prefine.objectives.pairwise import Pairs, bradley_terry, dpo, ipo, length_regularised, simpo
from prefine.objectives.pointwise import Points, binary_cross_entropy, kto
from prefine.objectives.policy_gradient import (
    AgainstGroup,
    Generalised,
    Nearby,
    Surrogate,
    ValueFit,
    grpo,
    ppo,
    ppo_value,
)
from prefine.objectives.rationales import Explained, rationale_dpo, rationale_orpo, with_rationale
from prefine.objectives.refining import evolve
from prefine.objectives.regression import Regression, sppo, sppo_single
from prefine.objectives.relative import Crossed, rpo_relative
from prefine.objectives.reward_gaps import RewardGaps, reward_aware
from prefine.objectives.sampled import ReverseKL, hypo
from prefine.objectives.scores import Loss, Objective, Scores, Term, traits
from prefine.objectives.self_refined import SelfRefined, self_refined
from prefine.objectives.sets import ReferenceKL, SetContrast, SetLikelihood, mpo_set, pmpo, pmpo_optimum
from prefine.objectives.several_references import OneEach, VirtualRatio, mrpo, multi_dpo
from prefine.objectives.slots import Divergent, slots
from prefine.objectives.stages import sequential
from prefine.objectives.steering import Steered, sso, steered
from prefine.objectives.token_masks import Masked, sparsepo
from prefine.objectives.wrap import penalised, plus_likelihood, reference_free, with_margin

FACTORIES: Mapping[str, Callable[..., Objective]] = {
    "dpo": dpo,
    "ipo": ipo,
    "simpo": simpo,
    "length-regularised": length_regularised,
    "bradley-terry": bradley_terry,
    "sppo": sppo,
    "sppo-single": sppo_single,
    "kto": kto,
    "binary-cross-entropy": binary_cross_entropy,
    "sft": sft,
    "likelihood": likelihood,
    "regularised": regularised,
    "scpo": scpo,
    "orpo": orpo,
    "mpo-set": mpo_set,
    "ampo": ampo,
    "scir": scir,
    "label-distribution": label_distribution,
    "pmpo": pmpo,
    "pro": pro,
    "plackett-luce": plackett_luce,
    "rpo-relative": rpo_relative,
    "mapl": mapl,
    "mapl-reward": mapl_reward,
    "slots": slots,
    "self-guided": self_guided,
    "matching": matching,
    "constrained": constrained,
    "reward-aware": reward_aware,
    "vpo": vpo,
    "xpo": xpo,
    "spac": spac,
    "sso": sso,
    "hypo": hypo,
    "rso": rso,
    "discopop": discopop,
    "discovered": discovered,
    "evolve": evolve,
    "exo": exo,
    "exo-rewards": exo_rewards,
    "irepo": irepo,
    "mappo": mappo,
    "trpa": trpa,
    "ppo": ppo,
    "grpo": grpo,
    "factual": factual,
    "wpo": wpo,
    "uapo": uapo,
    "sequential": sequential,
    "sparsepo": sparsepo,
    "spo-degree": spo_degree,
    "doubly-robust": doubly_robust,
    "mrpo": mrpo,
    "multi-dpo": multi_dpo,
    "rationale-dpo": rationale_dpo,
    "rationale-orpo": rationale_orpo,
    "pad": pad,
    "ranked-by": ranked_by,
}
"""By name, for the command line and YAML."""


WRAPPERS: Mapping[str, Callable[..., Objective]] = {
    "robust": robust,
    "prior-gap": prior_gap,
    "lcpo": lcpo,
    "smoothed": smoothed,
    "soft-labels": soft_labels,
    "weighted": weighted,
    "length": penalised,
    "margin": with_margin,
    "reference-free": reference_free,
    "plus-likelihood": plus_likelihood,
    "correlated": correlated,
    "on-policy": on_policy,
    "wpo": on_policy,
    "aware-of-degree": aware_of_degree,
    "rationale": with_rationale,
    "self-refined": self_refined,
    "steered": steered,
}
"""What can be put around an objective, by name: the objective is a factory's first argument. A name may be both:
``wpo`` is DPO with the weights that ``wpo:ipo`` puts on IPO."""


def read(part: str | Mapping[str, Any] | registry.Spec) -> Objective:
    """An objective from its text, or from YAML: any wrappers around a loss.

    >>> read("lcpo:dpo(beta=0.2)").objective == dpo(0.2)
    True
    >>> read({"robust": {"eps": 0.2, "of": "simpo"}}) == robust(simpo(), 0.2)
    True
    """
    spec = part if isinstance(part, registry.Spec) else registry.read(part)
    name = spec.name.lower().replace("_", "-")
    if spec.of is None and (name in FACTORIES or name not in WRAPPERS):
        if name not in FACTORIES:
            registry.look_up("objective", {**FACTORIES, **WRAPPERS}, name)
        return make(spec.name, **spec.options)
    if spec.of is None:
        raise InputError(
            f"{spec.name} is put around an objective, and none is named",
            remedy=f"write {spec.name}:dpo, or another objective: {', '.join(sorted(FACTORIES))}",
        )
    if name in FACTORIES and name not in WRAPPERS:
        raise InputError(
            f"{spec.name} is an objective, nothing that is put around {spec.of.text}",
            remedy=f"what can be put around an objective: {', '.join(sorted(WRAPPERS))}",
        )
    factory = registry.look_up("wrapper", WRAPPERS, name)
    inner, *_ = inspect.signature(factory).parameters
    if inner in spec.options:
        raise InputError(f"{inner!r} is no option of {spec.name}", remedy=f"write {spec.name}:OBJECTIVE")
    wrapped: Objective = registry.make("wrapper", factory, spec.name, {inner: read(spec.of), **spec.options})
    return wrapped


def find(name: str) -> Callable[..., Objective]:
    """The factory of that name; its signature says what can be set."""
    factory: Callable[..., Objective] = registry.look_up("objective", FACTORIES, name)
    return factory


def make(name: str, **options: Any) -> Objective:
    """The objective of that name with these options, checked."""
    objective: Objective = registry.make("objective", find(name), name, options)
    return objective


__all__ = [
    "DIVERGENCES",
    "FACTORIES",
    "WRAPPERS",
    "AgainstGroup",
    "Agreeing",
    "Anchored",
    "AroundMean",
    "Crossed",
    "Degree",
    "Differing",
    "Divergent",
    "Excess",
    "Expected",
    "Explained",
    "Generalised",
    "LengthGap",
    "Likelihood",
    "LogOdds",
    "LogProbability",
    "LogRatio",
    "Loss",
    "Masked",
    "Matched",
    "Measure",
    "Nearby",
    "Objective",
    "OnPolicy",
    "OneEach",
    "OrderTaught",
    "OrdersTaught",
    "Pairs",
    "Points",
    "RandomTokens",
    "RankedSoftmax",
    "Rarity",
    "ReferenceKL",
    "Regression",
    "ReverseKL",
    "Reward",
    "RewardGaps",
    "Scores",
    "SelfGuided",
    "SelfRefined",
    "SetContrast",
    "SetLikelihood",
    "Shortfall",
    "SignedSum",
    "Smoothed",
    "Steered",
    "Surrogate",
    "Term",
    "ValueFit",
    "ValueGap",
    "Valued",
    "VirtualRatio",
    "add",
    "ampo",
    "aware_of_degree",
    "binary_cross_entropy",
    "bradley_terry",
    "constrained",
    "correlated",
    "diagnosis",
    "discopop",
    "discovered",
    "doubly_robust",
    "dpo",
    "evolve",
    "exo",
    "exo_rewards",
    "explored",
    "factual",
    "find",
    "grpo",
    "hinge",
    "hypo",
    "ipo",
    "irepo",
    "kto",
    "label_distribution",
    "lcpo",
    "length_regularised",
    "likelihood",
    "logistic",
    "make",
    "mapl",
    "mapl_reward",
    "mappo",
    "matching",
    "mpo_set",
    "mrpo",
    "multi_dpo",
    "on_policy",
    "orpo",
    "over_orders",
    "pad",
    "penalised",
    "plackett_luce",
    "plus_likelihood",
    "pmpo",
    "pmpo_optimum",
    "ppo",
    "ppo_value",
    "prior_gap",
    "pro",
    "ranked_by",
    "rationale_dpo",
    "rationale_orpo",
    "read",
    "reference_free",
    "regularised",
    "reward_aware",
    "reweighted",
    "robust",
    "rpo_relative",
    "rso",
    "saturating",
    "scale",
    "scir",
    "scpo",
    "self_guided",
    "self_refined",
    "sequential",
    "sft",
    "simpo",
    "slots",
    "smoothed",
    "soft_labels",
    "spac",
    "sparsepo",
    "spo_degree",
    "sppo",
    "sppo_single",
    "squared",
    "sso",
    "steered",
    "traits",
    "trpa",
    "uapo",
    "vpo",
    "weighted",
    "with_margin",
    "with_rationale",
    "wpo",
    "xpo",
]
