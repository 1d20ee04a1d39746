"""Scores of whole folders: any two that hold label maps under equal names, whoever made them."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from pdamlib.errors import UserError
from pdamlib.labelfiles import LABEL_SUFFIXES, read_label_map
from pdamlib.labels import check_same_shape
from pdamlib.metrics.scores import MEASURES, score


def score_folders(truth_dir: Path, pred_dir: Path) -> pd.DataFrame:
    """Return the scores of every image, a row each, sorted by name: columns name, aji, pixel_f1, object_f1, pq.

    truth_dir, pred_dir: label maps, PNG or TIFF of 8, 16 or 32 bit, paired by stem; the suffixes may differ. Files of
    other kinds and hidden files are passed over.
    Raises UserError: a folder is missing or empty, a file has no counterpart or a twin of the same stem, a file is not
    a label map, or the two of a pair differ in size.
    """
    truths, predictions = label_files(Path(truth_dir)), label_files(Path(pred_dir))
    _check_counterparts(truths, Path(pred_dir), predictions)
    _check_counterparts(predictions, Path(truth_dir), truths)
    rows = [{"name": name} | _score_pair(truths[name], predictions[name]) for name in truths]
    return pd.DataFrame(rows, columns=["name", *MEASURES])


def label_files(folder: Path) -> dict[str, Path]:
    """Return the label map files of a folder by stem, sorted.

    Raises UserError when the folder is missing, holds no PNG or TIFF, or holds two files of one stem.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in LABEL_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in files:
            raise UserError(f"{folder}: {files[path.stem].name} and {path.name} share a stem; keep one of them")
        files[path.stem] = path
    if not files:
        raise UserError(f"{folder}: no label maps ({', '.join(LABEL_SUFFIXES)}) in it; choose the folder with them")
    return dict(sorted(files.items()))


def _check_counterparts(files: dict[str, Path], other_dir: Path, others: dict[str, Path]) -> None:
    alone = [path for stem, path in files.items() if stem not in others]
    if alone:
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise UserError(f"{alone[0]}{more}: no counterpart of this name in {other_dir}; add it, or take this one away")


def _score_pair(truth_path: Path, prediction_path: Path) -> dict[str, float]:
    truth, prediction = read_label_map(truth_path), read_label_map(prediction_path)
    check_same_shape(truth, prediction, f"{truth_path} and {prediction_path}")
    return asdict(score(truth, prediction))
