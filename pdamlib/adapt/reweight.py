"""Task re-weighting: how much a task loss counts, given how well its features hide their domain (Sec. 3.4)."""

import torch
from torch import Tensor

from pdamlib.adapt.losses import SOURCE


def task_weight(domain_logits: Tensor, cap: float) -> Tensor:
    """Return the weight of a task loss, min(p_target / p_source, cap) (Eq. 3): a scalar without gradient.

    Features that still look like the source get a small weight. No RoI at all says nothing about the domain: weight 1.

    domain_logits: (N, 2, ...) of source images, any real; p_source is their mean probability. cap: beta, 2 in Sec. 3.5.
    """
    if domain_logits.numel() == 0:
        return domain_logits.new_ones(())
    p_source = domain_logits.detach().float().softmax(dim=1)[:, SOURCE].mean()
    return ((1 - p_source) / p_source).clamp(min=0, max=cap)


def task_weight_released(
    domain_logits: Tensor, low: float = 0.5, high: float = 1.5, both_channels: bool = True
) -> Tensor:
    """Return the weight as the authors' later code has it, clamp(mean((1 - p) / p), low, high): a scalar, no gradient.

    With both channels the mean runs over p_source and p_target alike, so that it never falls below 1:
    features that look like the source are weighted up, against Eq. 3. That code does so for image and semantic level.

    domain_logits: (N, 2, ...) of source images, any real. both_channels: False takes p_source alone (instance level).
    """
    if domain_logits.numel() == 0:
        return domain_logits.new_ones(())
    p = domain_logits.detach().float().softmax(dim=1)
    p = p if both_channels else p[:, SOURCE]
    return torch.div(1 - p, p).mean().clamp(low, high)
