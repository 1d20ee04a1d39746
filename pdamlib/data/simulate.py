"""The procedural microscope: seeded fluorescence and H&E fields with exact labels, the data of the `quick` profile.

Fluorescence stands for BBBC039, H&E for Kumar and TNBC (Sec. 4.1). `Microscope.gap` says how far apart they are.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pdamlib.data.scenes import STANDARD, Microscope, fluorescence
from pdamlib.data.shapes import LabelMap, Size
from pdamlib.data.tissue import histology
from pdamlib.errors import UserError

Picture = NDArray[np.uint8] | NDArray[np.uint16]

__all__ = ["DOMAINS", "PARTS", "Microscope", "fluorescence", "histology", "simulate"]

DOMAINS: dict[str, Callable[..., tuple[Picture, LabelMap]]] = {"fluorescence": fluorescence, "histology": histology}
PARTS = ("train", "validation", "test")
MANIFEST = "manifest.json"
RECIPE = 1  # raise it when equal knobs draw other pixels, so that folders of the earlier recipe are made anew


def simulate(
    root: Path,
    seed: int,
    counts: tuple[int, int, int] = (40, 10, 10),
    size: Size = (256, 256),
    scope: Microscope = STANDARD,
) -> Path:
    """Return the folder <root>/simulated of both domains, made only where no equal one is there.

    It holds {fluorescence,histology}/{train,validation,test}/{images,labels}/NNN.png (fluorescence: 16-bit grey,
    histology: 8-bit RGB, labels: 16-bit label maps) and manifest.json with seed and knobs. It appears whole or not at
    all, and replaces one of other settings. Equal arguments give equal bytes; a field does not depend on `counts`.
    counts: fields in train, validation and test, of each domain. size: rows and columns in px.
    Raises UserError when a setting is out of range, a foreign folder is in the way, or the disk refuses.
    """
    if min(counts) < 0 or min(size) < 32 or seed < 0:
        raise UserError(
            f"simulation with counts {counts}, size {size}, seed {seed}: give counts and seed of 0 or more"
            " and at least 32 px a side"
        )
    made = {"recipe": RECIPE, "seed": seed, "counts": counts, "size": size, "microscope": asdict(scope)}
    manifest = json.dumps(made, indent=1) + "\n"
    folder = Path(root) / "simulated"
    if _is_made(folder, json.loads(manifest)):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".simulated-", dir=folder.parent) as work:
            new, old = Path(work) / "new", Path(work) / "old"
            _write_fields(new, seed, counts, size, scope)
            (new / MANIFEST).write_text(manifest)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot write it ({error.strerror}); free space or choose another folder") from error
    return folder


def _is_made(folder: Path, wanted: dict[str, Any]) -> bool:
    """Return whether the folder was made with these settings. Raises UserError when it was not made here at all."""
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{folder}: exists without a record of being simulated; move it away or choose another folder"
        ) from None
    return bool(found == wanted)


def _write_fields(folder: Path, seed: int, counts: tuple[int, int, int], size: Size, scope: Microscope) -> None:
    """Write the pictures of both domains. Raises OSError."""
    for domain, (name, take) in enumerate(DOMAINS.items()):
        for part, (part_name, count) in enumerate(zip(PARTS, counts, strict=True)):
            images, labels = (folder / name / part_name / kind for kind in ("images", "labels"))
            images.mkdir(parents=True)
            labels.mkdir()
            for index in range(count):
                image, label_map = take(np.random.default_rng((seed, domain, part, index)), size, scope)
                (images / f"{index:03d}.png").write_bytes(_png(image))
                (labels / f"{index:03d}.png").write_bytes(_png(label_map.astype(np.uint16)))


def _png(picture: Picture) -> bytes:
    """Return a grey or RGB picture as a PNG file."""
    swapped = picture[..., ::-1] if picture.ndim == 3 else picture  # OpenCV takes blue first
    return cv2.imencode(".png", swapped)[1].tobytes()
