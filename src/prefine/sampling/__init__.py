"""Ways of sampling beyond one temperature: rejection sampling to a target, new prompts from the policy itself."""

from prefine.sampling.rejection import ladder, rejection_sample, rejection_sampled
from prefine.sampling.self_instruct import new_problems

__all__ = ["ladder", "new_problems", "rejection_sample", "rejection_sampled"]
