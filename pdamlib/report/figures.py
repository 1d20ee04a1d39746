"""One style for every figure: sizes, colours that colour-blind readers can tell apart, nuclei as outlines.

The figures returned are closed for pyplot, so a notebook shows them once, where they are returned.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from pdamlib.labels import check_same_shape

# Okabe and Ito's colours, told apart with every common form of colour vision
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
    "#000000",
)
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, BLACK)
DASHES = ("-", "--", "-.", ":")  # so that lines differ without colour too

STYLE: Any = {
    "figure.dpi": 144,
    "figure.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.6,
}

_SIDE = 500  # px, smaller images are enlarged to about this side before outlines are drawn, so that lines stay thin
_LINE = 1 / 200  # of the side: width of an outline


def canvas(
    rows: int = 1, columns: int = 1, *, width: float = 7.5, height: float = 2.8, **options: Any
) -> tuple[Figure, NDArray]:
    """Return an empty figure and its axes (rows, columns), an object array, in the style of this project.

    The style becomes matplotlib's for the whole process, since titles and legends that are added later follow it too.

    width, height: inches of the whole figure. options: of matplotlib's `subplots`, such as sharey.
    """
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def outlined(image: NDArray[np.uint8], label_map: NDArray[np.integer], colour: str = YELLOW) -> NDArray[np.uint8]:
    """Return the image with a line around every nucleus: uint8 RGB, a small image enlarged by a whole factor.

    The line has a dark rim, so it is seen on bright and on dark ground alike.

    image: uint8 (H, W, 3) or (H, W). label_map: (H, W). colour: "#rrggbb". Raises UserError when sizes differ.
    """
    check_same_shape(image[..., 0] if image.ndim == 3 else image, label_map, "image and label map")
    scale = max(1, round(_SIDE / max(label_map.shape)))
    drawn = _enlarged(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2), scale)
    labels = _enlarged(label_map, scale)
    width = max(1, round(_LINE * max(labels.shape)))
    line = _thickened(find_boundaries(labels, mode="inner"), width)
    drawn[_thickened(line, 3)] = (25, 25, 25)
    drawn[line] = _rgb(colour)
    return drawn


def coloured(label_map: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the label map as uint8 RGB (H, W, 3): black background, one colour a nucleus, neighbours by id differ."""
    palette = np.array([_rgb(colour) for colour in (SKY, ORANGE, GREEN, YELLOW, PURPLE, VERMILION, BLUE)], np.uint8)
    picture = palette[(label_map.astype(np.int64) - 1) % len(palette)]
    picture[label_map == 0] = 0
    return picture


def grid(
    rows: Sequence[Sequence[NDArray]],
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    cell: float = 1.5,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Return a figure of images in rows.

    rows: images (H, W, 3) uint8 RGB, (H, W) uint8 or bool grey, (H, W) float in false colours, (H, W) of a
    wider integer type a label map. row_titles: written on the left of the rows. column_titles: above the columns.
    cell: inches of one image's width. limits: of the false colours, by default of each image its own.
    """
    columns = max(len(row) for row in rows)
    heights = [max(image.shape[0] / image.shape[1] for image in row) for row in rows]
    above = 0.25 * bool(column_titles) * (1 + max((title.count("\n") for title in column_titles), default=0))
    figure, axes = canvas(
        len(rows),
        columns,
        width=cell * columns + 0.3 * bool(row_titles),
        height=cell * sum(heights) + above,
        height_ratios=heights,
    )
    for row, images in enumerate(rows):
        for column in range(columns):
            axis = axes[row, column]
            if column < len(images):
                _show(axis, images[column], limits)
            else:
                axis.set_axis_off()
    for axis, title in zip(axes[:, 0], row_titles, strict=False):
        axis.set_ylabel(title)
    for axis, title in zip(axes[0], column_titles, strict=False):
        axis.set_title(title)
    return figure


def learning_curves(log: pd.DataFrame, groups: Mapping[str, Sequence[str]] | None = None, window: int = 9) -> Figure:
    """Return the curves of a training log, one panel a group; a faint line is the log, a strong one its running mean.

    log: a column `iteration` and one a loss or weight. groups: title of a panel -> its columns; by default task losses,
    domain losses (`..._da`) and weights (`weight_...`), those that are there. window: rows of the running mean.
    """
    panels = dict(groups) if groups is not None else _default_groups([str(name) for name in log.columns])
    figure, axes = canvas(1, len(panels), width=7.5, height=3.0)
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for index, name in enumerate(names):
            colour = COLOURS[index % len(COLOURS)]
            smooth = log[name].rolling(window, min_periods=1, center=True).mean()
            axis.plot(log["iteration"], log[name], color=colour, alpha=0.25, linewidth=0.7)
            axis.plot(log["iteration"], smooth, DASHES[index % len(DASHES)], color=colour, label=name)
        axis.set(title=title, xlabel="iteration")
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper right", handlelength=2.4)
    return figure


def paired(scores: pd.DataFrame, measure: str, methods: Mapping[str, str]) -> Figure:
    """Return one panel a target with a line an image from method to method, and the mean of each method.

    scores: one row an image, columns target, method, image and the measure. methods: id -> name to print, in order.
    """
    targets = list(dict.fromkeys(scores["target"]))
    figure, axes = canvas(1, len(targets), width=1.2 + 2.6 * len(targets), height=3.0, sharey=True)
    places = np.arange(len(methods))
    for axis, target in zip(axes[0], targets, strict=True):
        there = scores[scores["target"] == target]
        values = there.pivot_table(index="image", columns="method", values=measure).reindex(columns=list(methods))
        axis.plot(places, values.to_numpy().T, color="#b0b0b0", linewidth=0.8, marker="o", markersize=3)
        axis.plot(places, values.mean(), color=BLUE, marker="D", label="mean")
        axis.set_xticks(places, methods.values())
        axis.set(title=target, xlim=(-0.4, len(methods) - 0.6), ylim=(0, 1))
    axes[0, 0].set_ylabel(measure)
    axes[0, 0].legend(loc="upper left")
    return figure


def _default_groups(columns: list[str]) -> dict[str, list[str]]:
    plain = [name for name in columns if name not in ("iteration", "seconds")]
    weights = [name for name in plain if name.startswith("weight_")]
    domain = [name for name in plain if name.endswith("_da") and name not in weights]
    task = [name for name in plain if name not in weights and name not in domain]
    groups = {"task losses": task, "domain losses": domain, "weights": weights}
    return {title: names for title, names in groups.items() if names}


def _show(axis: Axes, image: NDArray, limits: tuple[float, float] | None) -> None:
    if image.ndim == 2 and image.dtype.kind in "iu" and image.dtype != np.uint8:
        image = coloured(image)
    options: dict[str, Any] = {}
    if image.dtype in (np.uint8, bool):
        options |= {"cmap": "gray", "vmin": 0, "vmax": 1 if image.dtype == bool else 255}
    else:
        options |= {"cmap": "cividis"} | ({"vmin": limits[0], "vmax": limits[1]} if limits else {})
    axis.imshow(image, **options)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def _enlarged(image: NDArray, scale: int) -> NDArray:
    return np.array(image.repeat(scale, axis=0).repeat(scale, axis=1))


def _thickened(line: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    return cv2.dilate(line.astype(np.uint8), np.ones((width, width), np.uint8)) > 0


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour.lstrip("#")[i : i + 2], 16) for i in (0, 2, 4))
    return red, green, blue
