"""The second half of the road: train a detector, predict label maps of the test images, score them."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pdamlib.config import Method, PredictConfig, TrainConfig
from pdamlib.data.splits import split, subset
from pdamlib.data.store import Patches, open_patches
from pdamlib.engine.fit import fit
from pdamlib.engine.infer import Detections, detect, merge
from pdamlib.labelfiles import read_label_map, write_label_map
from pdamlib.methods.pdam import PDAM, build_network
from pdamlib.metrics.scores import MEASURES, aji, score
from pdamlib.progress import progress
from pdamlib.runs import Run, manifest
from pdamlib.steps.pixels import (
    WEIGHTS,
    inpainted_patches,
    keep_weights,
    simulated_data,
    source_patches,
    target_patches,
    translated_patches,
)
from pdamlib.study import Study

SCORES = "scores.csv"


def labelled_patches(study: Study, method: Method, target: str, which: str = "train") -> Run:
    """The labelled patches a method learns from, as far down the road as its row of the table says."""
    if method.source == "patches":
        return source_patches(study, which)
    step = {"translated": translated_patches, "inpainted": inpainted_patches}[method.source]
    return step(study, target, which)


def detector(study: Study, method: Method, target: str, train: TrainConfig | None = None) -> Run:
    """A trained detector (Sec. 3.5). One that neither translates nor aligns is the same run for every target.

    train: other settings than the profile's, to measure what one of them does.
    """
    profile = study.profile
    settings = train or profile.train
    config = {"network": asdict(profile.network), "train": asdict(settings), "method": _essence(method)}
    sees_target = bool(method.levels)

    def make(folder: Path, inputs: list[Path]) -> dict[str, Any]:
        source = open_patches(inputs[0])
        target_images = open_patches(inputs[1]).images if sees_target else None
        task = PDAM(method, profile.network, settings, source, target_images, study.seed, study.runtime)
        seconds = fit(
            task, settings.iterations, folder, key=run.key, checkpoint_every=settings.checkpoint_every, name=run.id
        )
        keep_weights(task.network, folder)
        return {"iterations": settings.iterations, "training_seconds": round(seconds, 1)}

    inputs = [labelled_patches(study, method, target)] + [target_patches(study, target)] * sees_target
    about = f"-{target}" if sees_target or method.source != "patches" else ""
    run = Run(
        f"train{about}-{method.id}-s{study.seed}",
        config | {"seed": study.seed},
        make,
        tuple(inputs),
        record=study.record(),
    )
    return run


def _essence(method: Method) -> dict[str, Any]:
    """What of a method decides its weights; its name and its source, which is an input, do not."""
    return {"levels": method.levels, "semantic": method.semantic, "reweight": method.reweight}


def prediction(study: Study, method: Method, target: str, train: TrainConfig | None = None) -> Run:
    """Label maps of the target's test images; the score threshold is the best on the method's validation patches."""
    settings = study.profile.predict

    def make(folder: Path, inputs: list[Path]) -> dict[str, Any]:
        weights, validation, *simulation = inputs
        network = build_network(method, study.profile.network)
        network.load_state_dict(torch.load(weights / WEIGHTS, weights_only=True))
        network.roi_heads.detections_per_img = settings.detections
        network.to(study.runtime.device).eval()

        def find(image: NDArray) -> Detections:
            return detect(
                network, image, study.runtime, tile=settings.tile, overlap=settings.overlap, nms_iou=settings.nms
            )

        validated = choose_score(find, open_patches(validation), settings)
        chosen = max(validated, key=lambda threshold: validated[threshold])
        dataset = study.dataset(target, *simulation)
        (folder / "label_maps").mkdir(exist_ok=True)
        for name in progress(split(dataset, "test"), desc=f"predict {target}, {method.id}", unit="image"):
            label_map = merge(find(dataset.image(name)).over(chosen), settings.taken)
            write_label_map(folder / "label_maps" / f"{name.replace('/', '_')}.png", label_map)
        return {"score_threshold": chosen, "validation_aji": {str(k): round(v, 4) for k, v in validated.items()}}

    reading = {"inputs": (simulated_data(study),)} if study.is_simulated else {}
    data = {} if study.is_simulated else study.data_hash(target, "test", labels=False)
    needs = (detector(study, method, target, train), labelled_patches(study, method, target, "validation"))
    return Run(
        f"predict-{target}-{method.id}-s{study.seed}",
        {"predict": asdict(settings)},
        make,
        needs + reading.get("inputs", ()),
        data,
        study.record(),
    )


def choose_score(
    find: Callable[[NDArray], Detections], patches: Patches, settings: PredictConfig
) -> dict[float, float]:
    """Return the mean AJI of labelled patches at each candidate of the score threshold."""
    sums = dict.fromkeys(settings.scores, 0.0)
    pairs = zip(patches.images, patches.labels, strict=True)
    for image, labels in progress(pairs, total=len(patches), desc="choose the score threshold", unit="patch"):
        found = find(np.asarray(image))
        for threshold in sums:
            sums[threshold] += aji(labels, merge(found.over(threshold), settings.taken))
    return {threshold: total / len(patches) for threshold, total in sums.items()}


def scores(study: Study, method: Method, target: str, train: TrainConfig | None = None) -> Run:
    """One row an image (Sec. 4.1): the only step of an unsupervised method that opens labels of the target."""

    def make(folder: Path, inputs: list[Path]) -> dict[str, Any]:
        predicted, *simulation = inputs
        dataset = study.dataset(target, *simulation)
        about = {"target": target, "method": method.id, "seed": study.seed}
        rows = []
        for name in progress(split(dataset, "test"), desc=f"score {target}, {method.id}", unit="image"):
            label_map = read_label_map(predicted / "label_maps" / f"{name.replace('/', '_')}.png")
            measured = score(dataset.label_map(name), label_map)
            rows.append(about | {"image": name, "subset": subset(dataset.key, name)} | asdict(measured))
        frame = pd.DataFrame(rows)
        frame.to_csv(folder / SCORES, index=False, float_format="%.6f")
        facts = {name: manifest(predicted)[name] for name in ("score_threshold", "validation_aji")}
        return facts | {"mean": {name: round(float(frame[name].mean()), 4) for name in MEASURES}}

    reading = {"inputs": (simulated_data(study),)} if study.is_simulated else {}
    data = {} if study.is_simulated else study.data_hash(target, "test", labels=True)
    return Run(
        f"score-{target}-{method.id}-s{study.seed}",
        {},
        make,
        (prediction(study, method, target, train), *reading.get("inputs", ())),
        data,
        study.record(),
    )
