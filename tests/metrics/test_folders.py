"""Scores of folders: what is read, and one clear line for each way a folder can be wrong."""

import numpy as np
import pytest
from PIL import Image

from pdamlib.errors import UserError
from pdamlib.labelfiles import write_label_map
from pdamlib.metrics.folders import label_files, score_folders

TRUTH = np.array([[1, 1, 1, 0, 2, 2, 0, 0]])
FOUND = np.array([[1, 1, 0, 0, 0, 0, 2, 2]])


@pytest.fixture
def folders(tmp_path):
    """Two folders with the images a and b: a is predicted as FOUND, b without a fault."""
    truth, predicted = tmp_path / "truth", tmp_path / "predicted"
    truth.mkdir()
    predicted.mkdir()
    for name in "ba":
        write_label_map(truth / f"{name}.png", TRUTH)
        write_label_map(predicted / f"{name}.png", FOUND if name == "a" else TRUTH)
    return truth, predicted


def message(*arguments) -> str:
    with pytest.raises(UserError) as caught:
        score_folders(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_row_an_image_sorted_by_name(folders):
    frame = score_folders(*folders)
    assert list(frame.columns) == ["name", "aji", "pixel_f1", "object_f1", "pq"]
    assert frame["name"].tolist() == ["a", "b"]
    assert frame.iloc[0, 1:].tolist() == pytest.approx([2 / 7, 4 / 9, 1 / 2, 1 / 3])
    assert frame.iloc[1, 1:].tolist() == [1, 1, 1, 1]


def test_folders_may_be_strings_and_suffixes_may_differ(folders):
    truth, predicted = folders
    (predicted / "a.png").unlink()
    write_label_map(predicted / "a.tif", FOUND * 100_000)
    (predicted / "b.png").rename(predicted / "b.PNG")
    assert score_folders(str(truth), str(predicted))["aji"].tolist() == pytest.approx([2 / 7, 1])


def test_other_and_hidden_files_are_passed_over(folders):
    (folders[0] / "scores.csv").write_text("name\n")
    (folders[1] / ".c.png").write_text("left behind")
    (folders[1] / "overlays").mkdir()
    assert len(score_folders(*folders)) == 2


def test_label_files_by_stem(folders):
    assert label_files(folders[0]) == {"a": folders[0] / "a.png", "b": folders[0] / "b.png"}


def test_missing_folder(folders, tmp_path):
    assert message(tmp_path / "nowhere", folders[1]) == f"{tmp_path / 'nowhere'}: no such folder; check the path"
    assert "nowhere" in message(folders[0], tmp_path / "nowhere")
    assert "a.png: no such folder" in message(folders[0] / "a.png", folders[1])


def test_empty_folder(folders, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("nothing here")
    assert message(empty, folders[1]).startswith(f"{empty}: no label maps (.png, .tif, .tiff) in it; choose")
    assert message(folders[0], empty).startswith(f"{empty}: no label maps")


def test_missing_counterpart_is_named_in_both_directions(folders):
    truth, predicted = folders
    (predicted / "b.png").unlink()
    assert message(truth, predicted).startswith(f"{truth / 'b.png'}: no counterpart of this name in {predicted}; add")
    assert message(predicted, truth).startswith(f"{truth / 'b.png'}: no counterpart of this name in {predicted}; add")


def test_several_missing_counterparts_are_counted(folders):
    for name in "cde":
        write_label_map(folders[0] / f"{name}.png", TRUTH)
    assert message(*folders).startswith(f"{folders[0] / 'c.png'} (and 2 more): no counterpart")


def test_two_files_of_one_stem(folders):
    write_label_map(folders[1] / "a.tif", FOUND)
    assert message(*folders) == f"{folders[1]}: a.png and a.tif share a stem; keep one of them"


def test_truncated_file(folders):
    path = folders[1] / "a.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert message(*folders).startswith(f"{path}: not a readable PNG or TIFF image (")


def test_file_that_is_no_image(folders):
    path = folders[0] / "b.png"
    path.write_text("name,aji\n")
    assert message(*folders).startswith(f"{path}: not a readable PNG or TIFF image (")


def test_colour_image(folders):
    path = folders[1] / "a.png"
    Image.fromarray(np.zeros((1, 8, 3), np.uint8)).save(path)
    assert message(*folders).startswith(f"{path}: has 3 channels, a colour image; a label map has one")


def test_float_image(folders):
    path = folders[1] / "a.tif"
    (folders[1] / "a.png").unlink()
    Image.fromarray(FOUND.astype(np.float32)).save(path)
    assert message(*folders).startswith(f"{path}: holds float32 values, not integer ids; save")


def test_different_sizes(folders):
    write_label_map(folders[1] / "a.png", FOUND.reshape(2, 4))
    found = message(*folders)
    assert found.startswith(f"{folders[0] / 'a.png'} and {folders[1] / 'a.png'} differ in size: 1 x 8 pixels")
    assert "against 2 x 4 pixels" in found
