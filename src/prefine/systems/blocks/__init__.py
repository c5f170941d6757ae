"""Building blocks that papers compare with: SFT, DPO, KTO, SimPO, a reward model, and the generic loop."""
