"""The same losses written out in plain torch, the way TRL's trainers have them inside. In the peers' environment."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import logsigmoid

from benchmarks.sides.given import given, per_call


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    them = given(settings["pairs"], settings["length"])
    logp, reference, mask = them.logp_NT, them.reference_NT, them.mask_NT

    def sums(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whole = (x * mask).sum(-1)
        return whole[0::2], whole[1::2]

    lengths = mask.sum(-1)
    length_w, length_l = lengths[0::2], lengths[1::2]

    def ratios() -> tuple[torch.Tensor, torch.Tensor]:
        (w, l), (rw, rl) = sums(logp), sums(reference)
        return w - rw, l - rl

    def dpo() -> torch.Tensor:
        w, l = ratios()
        return -logsigmoid(0.1 * (w - l)).mean()

    def ipo() -> torch.Tensor:
        w, l = ratios()
        return ((w / length_w - l / length_l - 1 / (2 * 0.1)) ** 2).mean()

    def simpo() -> torch.Tensor:
        w, l = sums(logp)
        return -logsigmoid(2.0 * (w / length_w - l / length_l) - 1.0).mean()

    def sppo() -> torch.Tensor:
        w, l = ratios()
        return (0.5 * ((w - 10.0 * 0.5) ** 2 + (l + 10.0 * 0.5) ** 2)).mean()

    def orpo() -> torch.Tensor:
        w, l = sums(logp)
        mean_w, mean_l = w / length_w, l / length_l
        odds = (mean_w - mean_l) - (torch.log1p(-mean_w.exp()) - torch.log1p(-mean_l.exp()))
        return -w.sum() / length_w.sum() - 0.1 * logsigmoid(odds).mean()

    return per_call(
        {"dpo": dpo, "ipo": ipo, "simpo": simpo, "sppo-single": sppo, "orpo": orpo}, logp, settings["times"]
    )
