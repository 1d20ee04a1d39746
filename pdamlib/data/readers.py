"""The datasets on disk: names, images and label maps, the last never touched by the first two."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pdamlib.data.outlines import draw_outlines, read_outlines
from pdamlib.data.pictures import (
    Pixels,
    find_file,
    find_folder,
    read_pixels,
    read_plane,
    read_rgb,
    same_size,
    size_of,
    stems,
)
from pdamlib.data.splits import KUMAR_ORGAN
from pdamlib.errors import UserError
from pdamlib.labelfiles import read_label_map
from pdamlib.labels import label_components, relabel

LabelMap = NDArray[np.int32]

KUMAR_OFFSET = -1.0  # px; the Aperio outlines lie one pixel right of and below the nuclei of the published label maps
KUMAR_OFFSETS = {"TCGA-B0-5710-01Z-00-DX1": -0.5}  # this image was saved again upstream and moved by half a pixel


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and, where asked for, its nuclei.

    name: unique within its dataset. image: histology is uint8 (H, W, 3) RGB; fluorescence is the raw plane (H, W),
    uint16 for BBBC039 and uint8 when simulated, since its normalisation is a choice of the method (Sec. 4.2).
    label_map: int32 (H, W), 0 background and 1..N the nuclei; None when labels were not read.
    """

    name: str
    image: Pixels
    label_map: LabelMap | None = None


class Dataset(Protocol):
    """A folder of images with labels; `image` and `names` read no label file, so training can do without any."""

    @property
    def key(self) -> str: ...
    @property
    def root(self) -> Path: ...
    def names(self) -> list[str]: ...
    def image(self, name: str) -> Pixels: ...
    def label_map(self, name: str) -> LabelMap: ...


@dataclass(frozen=True)
class BBBC039:
    """200 fluorescence fields of 520 x 696 px: uint16 planes, masks coloured so that touching nuclei differ."""

    root: Path
    key: ClassVar[str] = "bbbc039"

    def names(self) -> list[str]:
        return stems(find_folder(self.root, "images"), self.key)

    def image(self, name: str) -> Pixels:
        return read_plane(find_file(find_folder(self.root, "images"), name))

    def label_map(self, name: str) -> LabelMap:
        path = find_file(find_folder(self.root, "masks"), name)
        colours = read_pixels(path)
        if colours.ndim == 3:
            colours = colours[:, :, 0]
        return label_components(same_size(colours, path, find_file(find_folder(self.root, "images"), name)))


@dataclass(frozen=True)
class Kumar:
    """30 H&E fields of 1000 x 1000 px, labelled by label maps in `labels` or by the outlines of the official XML."""

    root: Path
    key: ClassVar[str] = "kumar"

    def names(self) -> list[str]:
        found = [name for name in stems(self._images(), self.key) if name in KUMAR_ORGAN]
        if not found:
            raise UserError(f"{self._images()}: none of the 30 TCGA images of Kumar et al.; unpack the dataset there")
        return found

    def image(self, name: str) -> Pixels:
        return read_rgb(find_file(self._images(), name))

    def label_map(self, name: str) -> LabelMap:
        image = find_file(self._images(), name)
        folder = find_folder(self.root, "labels", "Annotations", "annotations")
        if folder.name == "labels":
            path = find_file(folder, name)
            return relabel(same_size(read_label_map(path), path, image))
        width, height = size_of(image)
        outlines = read_outlines(folder / f"{name}.xml")
        return draw_outlines(outlines, (height, width), KUMAR_OFFSETS.get(name, KUMAR_OFFSET))

    def _images(self) -> Path:
        return find_folder(self.root, "images", "Tissue Images")


@dataclass(frozen=True)
class TNBC:
    """50 H&E fields of 512 x 512 px of 11 patients: foreground masks whose nuclei are apart (8-connected)."""

    root: Path
    key: ClassVar[str] = "tnbc"

    def names(self) -> list[str]:
        slides = sorted(find_folder(self.root, "Slide_01").parent.glob("Slide_*"))
        return sorted(name for slide in slides for name in stems(slide, self.key))

    def image(self, name: str) -> Pixels:
        return read_rgb(self._path("Slide", name))

    def label_map(self, name: str) -> LabelMap:
        path = self._path("GT", name)
        mask = read_pixels(path)
        if mask.ndim == 3:
            mask = mask[:, :, 0]
        return label_components(same_size((mask > 0).astype(np.uint8), path, self._path("Slide", name)))

    def _path(self, kind: str, name: str) -> Path:
        return find_file(find_folder(self.root, f"{kind}_{name.partition('_')[0]}"), name)


@dataclass(frozen=True)
class Simulated:
    """Fields of the procedural microscope, `train/000`: 8-bit planes or RGB, and label maps in 16-bit PNG."""

    root: Path
    key: str

    def names(self) -> list[str]:
        parts = [part for part in ("train", "validation", "test") if (self.root / part).is_dir()]
        if not parts:
            raise UserError(f"{self.root}: no simulated images there; run `pdam data simulate` first")
        return [f"{part}/{name}" for part in parts for name in stems(self.root / part / "images", self.key)]

    def image(self, name: str) -> Pixels:
        path = self._path(name, "images")
        return read_plane(path) if self.key == "simulated_fluorescence" else read_rgb(path)

    def label_map(self, name: str) -> LabelMap:
        path = self._path(name, "labels")
        return relabel(same_size(read_label_map(path), path, self._path(name, "images")))

    def _path(self, name: str, kind: str) -> Path:
        part, _, stem = name.partition("/")
        return find_file(self.root / part / kind, stem)


@dataclass(frozen=True)
class ImageFolder:
    """A user's own pictures: `images/` (PNG, TIFF, JPEG; 8 bit) and, for scoring only, `labels/` of equal stems."""

    root: Path
    key: ClassVar[str] = "folder"

    def names(self) -> list[str]:
        return stems(find_folder(self.root, "images"), self.key)

    def image(self, name: str) -> Pixels:
        return read_rgb(find_file(find_folder(self.root, "images"), name))

    def label_map(self, name: str) -> LabelMap:
        path = find_file(find_folder(self.root, "labels"), name)
        return relabel(same_size(read_label_map(path), path, find_file(find_folder(self.root, "images"), name)))


DATASETS: dict[str, type[BBBC039] | type[Kumar] | type[TNBC]] = {"bbbc039": BBBC039, "kumar": Kumar, "tnbc": TNBC}


def open_dataset(name: str, data_root: Path) -> Dataset:
    """Return a dataset by its name; nothing is read yet.

    name: bbbc039, kumar or tnbc (in the folder of that name under data_root), simulated_fluorescence or
    simulated_histology (in data_root/simulated), or "folder:" and the path of a user's own pictures.
    Raises UserError for any other name.
    """
    if name in DATASETS:
        return DATASETS[name](data_root / name)
    if name in ("simulated_fluorescence", "simulated_histology"):
        return Simulated(data_root / "simulated" / name.removeprefix("simulated_"), name)
    if name.startswith("folder:"):
        return ImageFolder(Path(name.removeprefix("folder:")))
    known = ", ".join([*DATASETS, "simulated_fluorescence", "simulated_histology"])
    raise UserError(f"there is no dataset {name!r}; choose {known} or folder:PATH")


def read(dataset: Dataset, name: str, *, with_labels: bool) -> Sample:
    """Return one sample; label files are opened only when with_labels is true.

    Raises UserError when a file is missing, damaged or of another size than its counterpart.
    """
    return Sample(name, dataset.image(name), dataset.label_map(name) if with_labels else None)
