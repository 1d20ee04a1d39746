"""Gradient reversal, the switch that turns a discriminator's gradient against the features (Sec. 3.1)."""

from typing import Any

import torch
from torch import Tensor


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        return -ctx.scale * grad_outputs[0], None


def gradient_reversal(x: Tensor, scale: float = 1.0) -> Tensor:
    """Return `x` unchanged; on the way back its gradient is multiplied by -scale.

    The discriminator behind it learns to tell the domains apart while the features in front of it learn to be alike.

    x: any shape. scale: 1 where alpha_da weighs the losses (Eq. 4); Eq. 5 itself where alpha_da acts on the gradient.
    """
    out: Tensor = _Reverse.apply(x, scale)
    return out
