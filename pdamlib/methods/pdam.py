"""CyC-PDAM's detector, and every row that leaves some of it out (Sec. 3.1, 3.3-3.5).

A Mask R-CNN learns from labelled source patches and hides, at image, semantic and instance level, which domain its
features come from.
"""

from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdamlib.adapt.grl import gradient_reversal
from pdamlib.adapt.losses import SOURCE, TARGET, adversarial_weight, domain_loss, entropy_map, total_loss
from pdamlib.adapt.reweight import task_weight, task_weight_released
from pdamlib.config import Method, NetworkConfig, TrainConfig
from pdamlib.data.pairs import flipped, flips_at, index_at
from pdamlib.data.store import Patches
from pdamlib.engine.runtime import Runtime
from pdamlib.errors import UserError
from pdamlib.labels import detection_masks, nucleus_boxes
from pdamlib.models.discriminators import pooled_pyramid
from pdamlib.models.panoptic import PanopticDA, TrainingOutputs, panoptic_network

SOURCE_STREAM, TARGET_STREAM = 0, 1


def build_network(method: Method, config: NetworkConfig) -> PanopticDA:
    """Return the network of a method, with only those branches and discriminators it uses."""
    settings = asdict(config) | {"levels": method.levels}
    return panoptic_network(**settings if method.semantic else settings | {"semantic_channels": None})


def image_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Return float32 (3, H, W) in 0..1 of an RGB image uint8 (H, W, 3)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def learning_rate_factor(iteration: int, config: TrainConfig) -> float:
    """Return the share of the learning rate: linear warm-up, then 1, then a tenth from `decay_at` on (Sec. 3.5)."""
    warm = min(1.0, (iteration + 1) / config.warmup) if config.warmup else 1.0
    return warm * (0.1 if iteration >= config.decay_at * config.iterations else 1.0)


class PDAM:
    """The detector in training; a `Task` of the loop in pdamlib.engine.fit.

    source: patches with label maps. target: uint8 (N, S, S, 3) without labels, or None for a method that aligns
    nothing. The seed fixes weights, order, flips and sampled RoIs.
    """

    def __init__(
        self,
        method: Method,
        network: NetworkConfig,
        config: TrainConfig,
        source: Patches,
        target: NDArray[np.uint8] | None,
        seed: int,
        runtime: Runtime,
    ) -> None:
        if config.reweighting not in ("paper", "released"):
            raise UserError(f"unknown reweighting '{config.reweighting}'; choose paper or released")
        if config.adversarial not in ("loss", "reversal"):
            raise UserError(f"unknown adversarial '{config.adversarial}'; choose loss or reversal")
        torch.manual_seed(seed)
        self.method, self.config, self.seed, self.runtime = method, config, seed, runtime
        self.source, self.target = source, target if method.levels else None
        self.network = build_network(method, network).to(runtime.device).train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
        )

    def source_at(self, iteration: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return image (3, S, S), torchvision's detection target and semantic mask (S, S) of the source."""
        index = index_at(self.seed, SOURCE_STREAM, len(self.source), iteration)
        flips = flips_at(self.seed, SOURCE_STREAM, iteration)
        labels = flipped(self.source.labels[index], flips).astype(np.int32)
        boxes = torch.from_numpy(nucleus_boxes(labels))
        target = {
            "boxes": boxes,
            "labels": torch.ones(len(boxes), dtype=torch.int64),
            "masks": torch.from_numpy(detection_masks(labels)),
        }
        return image_tensor(flipped(self.source.images[index], flips)), target, torch.from_numpy(labels > 0).long()

    def target_at(self, iteration: int) -> Tensor | None:
        """Return the image (1, 3, S, S) of the target, None for a method that does not look at it."""
        if self.target is None:
            return None
        index = index_at(self.seed, TARGET_STREAM, len(self.target), iteration)
        image = flipped(self.target[index], flips_at(self.seed, TARGET_STREAM, iteration))
        return image_tensor(image)[None].to(self.runtime.device)

    def step(self, iteration: int) -> dict[str, Tensor]:
        """Update the network once by Eq. 4; return its terms, unweighted, and the weights of Eq. 3 and 5."""
        device = self.runtime.device
        image, target, mask = self.source_at(iteration)
        target = {name: value.to(device) for name, value in target.items()}
        with self.runtime.autocast():
            outputs = self.network(image[None].to(device), [target], mask[None].to(device), self.target_at(iteration))
            progress = adversarial_weight(iteration / self.config.iterations)
            losses, weights = self.adapt(outputs, progress)
            total = total_loss(losses, weights)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * learning_rate_factor(iteration, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        shown = {f"weight_{name}": torch.as_tensor(weight, device=device) for name, weight in weights.items()}
        return {name: loss.detach() for name, loss in losses.items()} | shown

    def adapt(self, outputs: TrainingOutputs, progress: float) -> tuple[dict[str, Tensor], dict[str, Tensor | float]]:
        """Return all loss terms of Eq. 4 and their weights. progress: alpha_da of Eq. 5."""
        by_loss = self.config.adversarial == "loss"
        losses = dict(outputs.losses)
        weights: dict[str, Tensor | float] = {"da": progress if by_loss else 1.0} if self.method.levels else {}
        for level in self.method.levels:
            judge = self.network.discriminators[level]
            logits = [
                judge(gradient_reversal(features, 1.0 if by_loss else progress))
                for features in domain_features(outputs, level)
            ]
            losses[f"{level}_da"] = (domain_loss(logits[0], SOURCE) + domain_loss(logits[1], TARGET)) / 2
            if self.method.reweight:
                weights[level] = self.task_weight(logits[0], level)
        return losses, weights

    def task_weight(self, source_logits: Tensor, level: str) -> Tensor:
        """Return the weight of the task losses of a level: Eq. 3, or what the released code makes of it."""
        if self.config.reweighting == "paper":
            return task_weight(source_logits, self.config.cap)
        return task_weight_released(source_logits, both_channels=level != "ins")

    def state(self) -> dict:
        """Return network and optimiser."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        """Take back what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def domain_features(outputs: TrainingOutputs, level: str) -> tuple[Tensor, Tensor]:
    """Return what the discriminator of a level sees of (source, target): Sec. 3.1 for img and ins, 3.3 for sem."""
    if level == "img":
        assert outputs.pyramid_target is not None
        return pooled_pyramid(outputs.pyramid_source), pooled_pyramid(outputs.pyramid_target)
    if level == "sem":
        assert outputs.semantic_source is not None and outputs.semantic_target is not None
        return entropy_map(outputs.semantic_source), entropy_map(outputs.semantic_target)
    assert outputs.instance_target is not None
    return outputs.instance_source, outputs.instance_target
