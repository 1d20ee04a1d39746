"""The first half of the road: patches, translation, inpainting (Sec. 4.2, 3.5, 3.2)."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdamlib.data.patches import as_source, source_patch, target_patch
from pdamlib.data.splits import split
from pdamlib.data.store import batches, open_patches, write_patches
from pdamlib.engine.fit import fit
from pdamlib.errors import UserError
from pdamlib.progress import progress
from pdamlib.runs import Run
from pdamlib.study import Study
from pdamlib.translate.cyclegan import CycleGAN, translate
from pdamlib.translate.inpaint import auxiliary_mask, inpaint_nuclei
from pdamlib.translate.networks import Generator

WEIGHTS = "weights.pt"
STREAMS = {"train": 0, "validation": 1, "target": 2}  # keeps random numbers of different patches apart


def simulated_data(study: Study) -> Run:
    """The simulated data sets of a study's seed."""
    settings = study.profile.simulation

    def make(folder: Path, _: list[Path]) -> None:
        from pdamlib.data.simulate import Microscope, simulate  # real images do without it

        simulate(folder, study.seed, settings.counts, settings.size, Microscope(gap=settings.gap))

    return Run(f"simulate-s{study.seed}", {"simulation": asdict(settings), "seed": study.seed}, make)


def _reading(study: Study, name: str, which: str, labels: bool) -> dict[str, Any]:
    """What a run that reads one split rests on: the simulation, or the hash of the real files."""
    if study.is_simulated:
        return {"inputs": (simulated_data(study),)}
    return {"data": study.data_hash(name, which, labels)}


def source_patches(study: Study, which: str = "train") -> Run:
    """Normalised, warped and inverted source patches with labels, at least three nuclei each (Sec. 4.2)."""
    patches, name = study.profile.patches, study.profile.source
    count = patches.source_count if which == "train" else patches.validation_count
    settings = ("size", "minimum_nuclei", "scale", "percentiles", "smallest", "invert")
    config = {key: getattr(patches, key) for key in settings} | {"count": count, "split": which, "seed": study.seed}

    def make(folder: Path, inputs: list[Path]) -> dict[str, Any]:
        dataset = study.dataset(name, *inputs)
        fields = [
            (as_source(dataset.image(field), patches.percentiles, patches.invert), dataset.label_map(field))
            for field in split(dataset, which)
        ]
        tried = 0

        def kept() -> Iterator[tuple[NDArray, NDArray]]:
            nonlocal tried
            found = 0  # the bar does not count where it is not shown
            with progress(total=count, desc=f"source patches, {which}", unit="patch") as bar:
                while found < count:
                    if tried > 100 * count:
                        raise UserError(f"{name}: fewer than 1 in 100 patches hold minimum_nuclei; lower that setting")
                    rng = np.random.default_rng((study.seed, STREAMS[which], tried))
                    tried += 1
                    image, label_map = fields[rng.integers(len(fields))]
                    patch, labels = source_patch(rng, image, label_map, patches.size, patches.scale, patches.smallest)
                    if labels.max() >= patches.minimum_nuclei:
                        found += 1
                        bar.update()
                        yield patch, labels

        write_patches(folder, kept(), count, patches.size, labelled=True)
        return {"patches": count, "dropped": tried - count}

    return Run(f"source-{which}-s{study.seed}", config, make, **_reading(study, name, which, labels=True))


def target_patches(study: Study, target: str) -> Run:
    """Flipped and turned patches of the target's training images (Sec. 4.2); no label is opened."""
    patches = study.profile.patches
    config = {"size": patches.size, "count": patches.target_count, "seed": study.seed}

    def make(folder: Path, inputs: list[Path]) -> None:
        dataset = study.dataset(target, *inputs)
        images = {name: dataset.image(name) for name in split(dataset, "train")}
        for name, image in images.items():
            if min(image.shape[:2]) < patches.size:
                raise UserError(
                    f"{target}: image {name} of {image.shape[0]} x {image.shape[1]} px is smaller than a patch; "
                    f"leave it out or set patches.size to less than {patches.size}"
                )
        fields = list(images.values())

        def cuts() -> Iterator[tuple[NDArray, None]]:
            for index in progress(range(patches.target_count), desc=f"target patches, {target}", unit="patch"):
                rng = np.random.default_rng((study.seed, STREAMS["target"], index))
                yield target_patch(rng, fields[rng.integers(len(fields))], patches.size)[0], None

        write_patches(folder, cuts(), patches.target_count, patches.size, labelled=False)

    return Run(f"target-{target}-s{study.seed}", config, make, **_reading(study, target, "train", labels=False))


def translator(study: Study, target: str) -> Run:
    """CycleGAN between source and target patches (Sec. 3.5); keeps the weights of the generator towards the target."""
    settings = study.profile.translator
    config = {"translator": asdict(settings), "seed": study.seed}

    def make(folder: Path, inputs: list[Path]) -> dict[str, Any]:
        source, real = (open_patches(path).images for path in inputs)
        gan = CycleGAN(settings, source, real, study.seed, study.runtime)
        seconds = fit(
            gan,
            settings.iterations,
            folder,
            key=run.key,
            checkpoint_every=settings.checkpoint_every,
            name=f"CycleGAN to {target}",
        )
        keep_weights(gan.networks["to_target"], folder)
        return {"iterations": settings.iterations, "training_seconds": round(seconds, 1)}

    inputs = (source_patches(study), target_patches(study, target))
    run = Run(f"translator-{target}-s{study.seed}", config, make, inputs, record=study.record())
    return run


def keep_weights(network: torch.nn.Module, folder: Path) -> None:
    """Write the trained weights beside the checkpoints."""
    torch.save({name: tensor.cpu() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)


def translated_patches(study: Study, target: str, which: str = "train") -> Run:
    """Source patches as the target would show them; labels are reused as they are (Sec. 3.5)."""
    settings = study.profile.translator

    def make(folder: Path, inputs: list[Path]) -> None:
        patches = open_patches(inputs[0])
        generator = Generator(settings.width, settings.blocks, settings.residual)
        generator.load_state_dict(torch.load(inputs[1] / WEIGHTS, weights_only=True))
        with progress(total=len(patches), desc=f"translate to {target}, {which}", unit="patch") as bar:
            images = translate(generator, (batch for _, batch in batches(patches, 8)), study.runtime, bar.update)
            labels = iter(patches.labels)
            flat = ((image, next(labels)) for batch in images for image in batch)
            write_patches(folder, flat, len(patches), patches.size, labelled=True)

    inputs = (source_patches(study, which), translator(study, target))
    return Run(f"translated-{target}-{which}-s{study.seed}", {}, make, inputs, record=study.record())


def inpainted_patches(study: Study, target: str, which: str = "train") -> Run:
    """Translated patches without the nuclei that carry no label (Sec. 3.2, Eq. 1-2)."""
    settings = study.profile.inpaint

    def make(folder: Path, inputs: list[Path]) -> dict[str, Any]:
        patches = open_patches(inputs[0])
        changed = 0.0

        def inpainted() -> Iterator[tuple[NDArray, NDArray]]:
            nonlocal changed
            pairs = zip(patches.images, patches.labels, strict=True)
            for image, labels in progress(pairs, total=len(patches), desc=f"inpaint {target}, {which}", unit="patch"):
                mask = auxiliary_mask(image, labels, settings.channel)
                changed += float(mask.mean())
                yield inpaint_nuclei(image, mask, settings.radius), labels

        write_patches(folder, inpainted(), len(patches), patches.size, labelled=True)
        return {"inpainted_share": round(changed / len(patches), 4)}

    inputs = (translated_patches(study, target, which),)
    return Run(f"inpainted-{target}-{which}-s{study.seed}", {"inpaint": asdict(settings)}, make, inputs)
