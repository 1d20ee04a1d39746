"""A full training step of CyC-PDAM against torchvision's plain Mask R-CNN with the same parts and settings.

Ours takes an image of each domain, the semantic branch and three discriminators; the peer one source image. Both have
the backbone, heads, anchors, sampling numbers and optimiser of the `cpu` profile and learn from the same patches, one
thread each. Prints one line, then where our time goes; exits 1 when our step takes over 1.6 times as long.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from time import process_time

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from pdamlib.config import PatchConfig, Profile, cpu, method
from pdamlib.data.patches import as_source, source_patch, target_patch
from pdamlib.data.simulate import fluorescence, histology
from pdamlib.data.store import Patches
from pdamlib.engine.runtime import Runtime
from pdamlib.methods.pdam import PDAM
from pdamlib.models.backbone import LEVELS, group_norm, resnet_fpn
from pdamlib.models.mask_rcnn import BoxHead

TARGET = 1.6


def patches_of_both_domains(settings: PatchConfig, count: int) -> tuple[Patches, np.ndarray]:
    """Return simulated source patches with labels, and target patches uint8 (count, S, S, 3)."""
    rng, images, labels, target = np.random.default_rng(0), [], [], []
    while len(images) < count:
        field, label_map = fluorescence(rng, (256, 256))
        grey = as_source(field, settings.percentiles, settings.invert)
        image, found = source_patch(rng, grey, label_map, settings.size, settings.scale, settings.smallest)
        if found.max() >= settings.minimum_nuclei:
            images.append(image)
            labels.append(found.astype(np.uint16))
            target.append(target_patch(rng, histology(rng, (256, 256))[0], settings.size)[0])
    return Patches(np.stack(images), np.stack(labels)), np.stack(target)


class FirstLevels(nn.Module):
    """torchvision's proposal network on the finest levels alone, as ours has it."""

    def __init__(self, rpn: nn.Module, levels: int) -> None:
        super().__init__()
        self.rpn, self.levels = rpn, levels

    def forward(self, images: object, features: dict[str, Tensor], targets: object) -> object:
        return self.rpn(images, dict(list(features.items())[: self.levels]), targets)


def torchvision_model(profile: Profile) -> MaskRCNN:
    """Return torchvision's model with the parts of our network."""
    net, size = profile.network, profile.patches.size
    anchors = AnchorGenerator(net.anchor_sizes, ((0.5, 1.0, 2.0),) * len(net.anchor_sizes))
    features = 4 * net.mask_channels
    model = MaskRCNN(
        resnet_fpn(net.depth, net.width, net.fpn_channels, net.groups),
        min_size=size,
        max_size=size,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(net.fpn_channels, anchors.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=net.pre_nms[0],
        rpn_post_nms_top_n_train=net.post_nms[0],
        rpn_batch_size_per_image=net.rpn_samples,
        box_roi_pool=MultiScaleRoIAlign(list(LEVELS), 7, 2),
        box_head=BoxHead(net.fpn_channels * 49, features, net.groups),
        box_predictor=FastRCNNPredictor(features, 2),
        box_batch_size_per_image=net.roi_samples,
        mask_roi_pool=MultiScaleRoIAlign(list(LEVELS), 14, 2),
        mask_head=MaskRCNNHeads(
            net.fpn_channels, (net.mask_channels,) * net.mask_convs, 1, partial(group_norm, groups=net.groups)
        ),
        mask_predictor=MaskRCNNPredictor(net.mask_channels, net.mask_channels, 2),
        _skip_resize=True,
    )
    model.rpn = FirstLevels(model.rpn, len(net.anchor_sizes))
    return model.train()


def torchvision_step(task: PDAM, model: MaskRCNN) -> Callable[[int], None]:
    """Return torchvision's training step on the source patches of a task."""
    config = task.config
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
    )

    def step(iteration: int) -> None:
        image, target, _ = task.source_at(iteration)
        loss = sum(model([image], [target]).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def measure(calls: list[Callable[[int], object]], steps: int, warm_up: int = 3) -> np.ndarray:
    """Return the CPU seconds of each call in each step, (steps, calls); they take turns, so that load falls on all."""
    taken = np.empty((warm_up + steps, len(calls)))
    for iteration, turn in enumerate(taken):
        for place, call in enumerate(calls):
            start = process_time()
            call(iteration)
            turn[place] = process_time() - start
    return taken[warm_up:]


def where(task: PDAM, steps: int) -> dict[str, float]:
    """Return the share of each part of our step, largest first."""
    spent: dict[str, float] = {}

    def watch(owner: object, name: str, part: str) -> None:
        inner = getattr(owner, name)

        def timed(*arguments: object, **named: object) -> object:
            start = process_time()
            result = inner(*arguments, **named)
            spent[part] = spent.get(part, 0.0) + process_time() - start
            return result

        setattr(owner, name, timed)

    network, backward = task.network, Tensor.backward
    for owner, name, part in (
        (network.backbone, "forward", "backbone of both images"),
        (network.rpn, "losses", "proposals of the source"),
        (network.roi_heads, "losses", "heads on the source"),
        (network, "_target_instances", "instances of the target"),
        (network.semantic, "forward", "semantic branch"),
        (task, "adapt", "discriminators"),
        (Tensor, "backward", "backward"),
        (task.optimizer, "step", "optimiser"),
        (task, "source_at", "patches"),
        (task, "target_at", "patches"),
    ):
        watch(owner, name, part)
    start = process_time()
    for iteration in range(steps):
        task.step(iteration)
    total = process_time() - start
    Tensor.backward = backward
    spent["rest"] = total - sum(spent.values())
    return {part: seconds / total for part, seconds in sorted(spent.items(), key=lambda item: -item[1])}


def main() -> int:
    """Return the exit code: 0 within the target, 1 over it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    steps = 5 if parser.parse_args().quick else 30
    torch.set_num_threads(1)
    profile = cpu()
    source, target = patches_of_both_domains(profile.patches, 16)
    task = PDAM(method("cyc_pdam"), profile.network, profile.train, source, target, 0, Runtime())
    peer = torchvision_step(task, torchvision_model(profile))
    ours_seconds, peer_seconds = np.median(measure([task.step, peer], steps), axis=0)
    ratio = ours_seconds / peer_seconds
    print(
        f"train_step: ratio {ratio:.2f} (target <= {TARGET}) "
        f"ours {1e3 * ours_seconds:.0f} ms, torchvision {1e3 * peer_seconds:.0f} ms, median of {steps} steps"
    )
    print("of our step: " + ", ".join(f"{part} {share:.0%}" for part, share in where(task, steps).items()))
    return int(ratio > TARGET)


if __name__ == "__main__":
    sys.exit(main())
