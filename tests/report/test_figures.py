"""Figures: what is drawn where, and that a notebook shows each once."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from pdamlib.errors import UserError
from pdamlib.report import figures

WHITE = np.full((6, 6, 3), 255, np.uint8)
SQUARE = np.zeros((6, 6), np.int32)
SQUARE[2:4, 2:4] = 1


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in to_rgb(colour))


def test_a_nucleus_gets_a_line_of_the_colour_and_a_dark_rim():
    drawn = figures.outlined(WHITE, SQUARE, figures.VERMILION)
    colours = set(map(tuple, drawn.reshape(-1, 3).tolist()))
    assert colours == {(255, 255, 255), rgb(figures.VERMILION), (25, 25, 25)}


def test_a_small_image_is_enlarged_by_a_whole_factor_and_a_large_one_is_not():
    assert figures.outlined(WHITE, SQUARE).shape == (6 * 83, 6 * 83, 3)
    large = np.zeros((700, 900), np.uint8)
    assert figures.outlined(large, large.astype(np.int32)).shape == (700, 900, 3)


def test_outlines_leave_background_and_the_arguments_alone():
    image, labels = WHITE.copy(), SQUARE.copy()
    empty = figures.outlined(image, np.zeros((6, 6), np.int32))
    figures.outlined(image, labels)
    assert (empty == 255).all() and (image == 255).all() and (labels == SQUARE).all()


def test_touching_nuclei_are_told_apart():
    both = np.repeat([[1, 1, 1, 2, 2, 2]], 6, axis=0)
    one = np.ones((6, 6), np.int64)
    middle = slice(2 * 83, 4 * 83)
    assert (figures.outlined(WHITE, both)[middle, middle] != 255).any()
    assert (figures.outlined(WHITE, one)[middle, middle] == 255).all()


def test_an_image_and_a_label_map_of_different_size_are_refused():
    with pytest.raises(UserError, match="image and label map differ in size"):
        figures.outlined(WHITE, np.zeros((5, 6), np.int32))


def test_coloured_is_black_outside_and_differs_between_neighbouring_ids():
    picture = figures.coloured(np.array([[0, 1], [2, 9]]))
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert len({tuple(colour) for colour in picture.reshape(-1, 3).tolist()}) == 3  # seven colours: 2 and 9 share one


@pytest.mark.parametrize("colour", [*figures.COLOURS, figures.YELLOW])
def test_no_two_colours_are_near(colour: str):
    others = {*figures.COLOURS, figures.YELLOW} - {colour}
    assert min(np.abs(np.subtract(rgb(colour), rgb(other))).sum() for other in others) > 80


def test_grid_places_images_titles_and_leaves_missing_cells_empty():
    figure = figures.grid([[WHITE, SQUARE], [SQUARE > 0]], row_titles=["(a)", "(b)"], column_titles=["left", "right"])
    axes = figure.axes
    assert [len(axis.images) for axis in axes] == [1, 1, 1, 0]
    assert [axes[0].get_ylabel(), axes[2].get_ylabel()] == ["(a)", "(b)"]
    assert [axes[0].get_title("left"), axes[1].get_title("left")] == ["left", "right"]
    assert axes[1].images[0].get_array().shape == (6, 6, 3)  # the label map in colours
    assert axes[2].images[0].get_clim() == (0, 1)  # the mask in black and white


def test_false_colours_of_a_grid_share_limits_when_asked():
    planes = [np.linspace(0, top, 36).reshape(6, 6) for top in (0.5, 2.0)]
    free, fixed = figures.grid([planes]), figures.grid([planes], limits=(0, 2))
    assert [axis.images[0].get_clim() for axis in free.axes] == [(0, 0.5), (0, 2)]
    assert [axis.images[0].get_clim() for axis in fixed.axes] == [(0, 2), (0, 2)]


LOG = pd.DataFrame(
    {"iteration": [10, 20], "seconds": [1, 2], "det_mask": [2.0, 1.0], "img_da": [0.7, 0.6], "weight_img": [1.0, 0.5]}
)


def test_learning_curves_sort_columns_into_panels():
    figure = figures.learning_curves(LOG)
    assert [axis.get_title("left") for axis in figure.axes] == ["task losses", "domain losses", "weights"]
    labels = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in figure.axes]
    assert labels == [["det_mask"], ["img_da"], ["weight_img"]]


def test_learning_curves_draw_the_log_and_its_running_mean():
    log = pd.DataFrame({"iteration": [1, 2, 3], "loss": [0.0, 3.0, 0.0]})
    raw, smooth = figures.learning_curves(log, {"all": ["loss"]}, window=3).axes[0].lines
    assert raw.get_ydata().tolist() == [0, 3, 0]
    assert smooth.get_ydata().tolist() == [1.5, 1.0, 1.5]


def test_paired_joins_the_same_image_across_methods():
    scores = pd.DataFrame(
        {
            "target": "tnbc",
            "method": ["cyc_pdam", "no_adaptation", "no_adaptation", "cyc_pdam"],
            "image": ["a", "a", "b", "b"],
            "aji": [0.5, 0.2, 0.1, 0.4],
        }
    )
    lines = figures.paired(scores, "aji", {"no_adaptation": "without", "cyc_pdam": "with"}).axes[0].lines
    assert [line.get_ydata().round(3).tolist() for line in lines] == [[0.2, 0.5], [0.1, 0.4], [0.15, 0.45]]


def test_no_figure_stays_open_to_be_shown_twice():
    figures.canvas(2, 3)
    figures.learning_curves(LOG)
    assert plt.get_fignums() == []
