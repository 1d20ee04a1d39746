"""The smallest network, training and study that still go the whole way; shared by the tests of training and steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pdamlib.config import NetworkConfig, PatchConfig, PredictConfig, SimulationConfig, TrainConfig, method, quick
from pdamlib.data.store import Patches
from pdamlib.engine.runtime import Runtime
from pdamlib.methods.pdam import PDAM
from pdamlib.study import Study

NETWORK = NetworkConfig(
    depth=10,
    width=8,
    fpn_channels=16,
    groups=4,
    anchor_sizes=((12, 20), (28, 40)),
    pre_nms=(50, 50),
    post_nms=(30, 30),
    rpn_samples=32,
    roi_samples=16,
    mask_channels=16,
    mask_convs=1,
    semantic_channels=16,
    discriminator_width=4,
    target_instances=5,
)
NUCLEI = ((4, 6), (30, 8), (12, 34), (40, 40))
"""Top left corners (row, column) of the 14 x 12 px rectangles in each of `squares`."""


def squares(count: int, seed: int = 0, grey: int = 90) -> Patches:
    """Return labelled patches of 64 px: four dark rectangles on a bright, noisy ground."""
    labels = np.zeros((count, 64, 64), np.uint16)
    for label, (row, column) in enumerate(NUCLEI, start=1):
        labels[:, row : row + 14, column : column + 12] = label
    images = np.where(labels[..., None] > 0, grey, 220) + np.random.default_rng(seed).normal(0, 6, (*labels.shape, 3))
    return Patches(images.clip(0, 255).astype(np.uint8), labels)


def training(iterations: int = 8, **changes: object) -> TrainConfig:
    """Return the settings of a short training."""
    settings = {"iterations": iterations, "learning_rate": 0.02, "warmup": 0, "clip": 10.0, "checkpoint_every": 2}
    return TrainConfig(**(settings | changes))


def task(
    method_id: str = "cyc_pdam", config: TrainConfig | None = None, runtime: Runtime | None = None, seed: int = 0
) -> PDAM:
    """Return a method in training on two source and two target patches."""
    source, target = squares(2), squares(2, seed=1, grey=140).images
    return PDAM(method(method_id), NETWORK, config or training(), source, target, seed, runtime or Runtime())


def study(runs_root: Path, say: Callable[[str], object] = lambda line: None) -> Study:
    """Return a study of simulated fields of 96 px that runs from beginning to end in seconds and learns nothing."""
    whole = quick()
    profile = replace(
        whole,
        patches=PatchConfig(size=64, source_count=8, target_count=8, validation_count=3),
        translator=replace(
            whole.translator, width=4, blocks=1, discriminator_width=4, crop=32, iterations=3, checkpoint_every=2
        ),
        network=NETWORK,
        train=training(3),
        predict=PredictConfig(tile=64, overlap=32, scores=(0.3, 0.6), detections=10),
        simulation=SimulationConfig(counts=(2, 2, 2), size=(96, 96)),
    )
    return Study(profile, None, runs_root, say=say)
