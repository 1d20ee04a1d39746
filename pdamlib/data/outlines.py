"""The outlines of an Aperio annotation, the official form of the Kumar labels, drawn as a label map."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from pdamlib.errors import UserError
from pdamlib.labels import relabel


class _NoDoctype(ET.TreeBuilder):
    """A tree builder that stops at a DOCTYPE, the only door to entity bombs and to other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a DOCTYPE")


def read_outlines(path: Path) -> list[NDArray[np.float64]]:
    """Return the outlines of an Aperio XML, one (V, 2) array of x and y in pixels a nucleus, in the file's order.

    Raises UserError when the file is missing, is no such XML, declares a DOCTYPE or holds no finite numbers.
    """
    try:
        regions = ET.parse(path, ET.XMLParser(target=_NoDoctype())).getroot().iter("Region")
        outlines = [_vertices(region) for region in regions]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; every image needs its annotation, unpack the dataset again") from None
    except (OSError, ET.ParseError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a sound Aperio annotation ({error}); unpack the dataset again") from error
    return outlines


def _vertices(region: ET.Element) -> NDArray[np.float64]:
    points = [(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")]
    outline = np.array(points, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(outline).all():
        raise ValueError("a vertex is not a finite number")
    return outline


def draw_outlines(outlines: Iterable[NDArray[np.float64]], shape: tuple[int, int], offset: float) -> NDArray[np.int32]:
    """Return the label map of closed outlines: int32 (H, W), ids 1..N in their order.

    A pixel belongs to the first outline that holds its centre, so where two overlap the earlier keeps the pixels: that
    is nearest to the published label maps. Outlines of fewer than three points, off the image or wholly under
    earlier ones leave no nucleus. offset: added to x and y, in pixels.
    """
    label_map = np.zeros(shape, np.int32)
    for number, outline in enumerate(outlines, start=1):
        if len(outline) >= 3:
            rows, columns = polygon(outline[:, 1] + offset, outline[:, 0] + offset, shape)
            free = label_map[rows, columns] == 0
            label_map[rows[free], columns[free]] = number
    return relabel(label_map)
