"""Ways of sampling beyond one temperature: rejection sampling to a target, turns of self-refinement, new prompts from
the policy itself."""

from prefine.sampling.principles import contrasted, principles
from prefine.sampling.refine import by_turn, refined
from prefine.sampling.rejection import ladder, rejection_sample, rejection_sampled
from prefine.sampling.self_instruct import new_problems

__all__ = [
    "by_turn",
    "contrasted",
    "ladder",
    "new_problems",
    "principles",
    "refined",
    "rejection_sample",
    "rejection_sampled",
]
