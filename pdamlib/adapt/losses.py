"""The domain losses, the entropy map and the sum of all losses (Sec. 3.3, Eq. 4 and 5)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

# channel of `domain_logits`, and at once the class index of the domain loss
TARGET, SOURCE = 0, 1

# Eq. 4: the weight in front of each term
TERM_WEIGHT = {
    "rpn_objectness": "img",
    "rpn_box": "img",
    "det_class": "ins",
    "det_box": "ins",
    "det_mask": "ins",
    "sem_seg": "sem",
    "img_da": "da",
    "sem_da": "da",
    "ins_da": "da",
}


def domain_loss(domain_logits: Tensor, domain: int) -> Tensor:
    """Return the mean cross entropy of one domain's predictions, L_(img-da), L_(sem-da) or L_(ins-da): a scalar.

    Every position or RoI counts as one sample. Without any RoI the loss is zero.

    domain_logits: (N, 2, ...), any real. domain: TARGET or SOURCE, where the features came from.
    """
    if domain_logits.numel() == 0:
        return domain_logits.sum()
    truth = torch.full(domain_logits.shape[:1] + domain_logits.shape[2:], domain, device=domain_logits.device)
    return F.cross_entropy(domain_logits, truth)


def entropy_map(logits: Tensor, normalised: bool = False) -> Tensor:
    """Return -p log(p) of the softmax of `logits`, class by class: same shape, in nats (Sec. 3.3).

    The channels are kept apart, as the semantic discriminator takes one a class (Table 2).

    logits: (B, C, H, W), any real. normalised: divide by log(C), which is the released code's base 2 for two classes.
    """
    log_p = F.log_softmax(logits, dim=1)
    entropy = -log_p.exp() * log_p
    return entropy / math.log(logits.shape[1]) if normalised else entropy


def adversarial_weight(t: float) -> float:
    """Return alpha_da, from 0 at the start to almost 1 at the end (Eq. 5).

    t: training progress, iteration / iterations, 0..1.
    """
    return 2 / (1 + math.exp(-10 * t)) - 1


def total_loss(losses: Mapping[str, Tensor], weights: Mapping[str, Tensor | float]) -> Tensor:
    """Return the weighted sum of the loss terms that are present (Eq. 4): a scalar.

    losses: named as in TERM_WEIGHT; a method without some branch leaves its terms out.
    weights: `img`, `sem`, `ins` (Eq. 3) and `da` (Eq. 5); one that is left out is 1.
    """
    terms = [weights.get(TERM_WEIGHT[name], 1.0) * loss for name, loss in losses.items()]
    return torch.stack([torch.as_tensor(term) for term in terms]).sum()
