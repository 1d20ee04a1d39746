"""Whether the datasets on disk are whole: images, nuclei and splits against what was published."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pdamlib.data.readers import DATASETS, Dataset, open_dataset
from pdamlib.data.splits import SPLITS, split
from pdamlib.errors import UserError
from pdamlib.labels import count

EXPECTED: dict[str, dict[str, tuple[int, int]]] = {
    "bbbc039": {"all": (200, 23615), "train": (100, 11999), "validation": (50, 5896), "test": (50, 5720)},
    "kumar": {"all": (30, 16958), "train": (16, 9907), "test": (14, 7051), "seen": (8, 3026), "unseen": (6, 4025)},
    "tnbc": {"all": (50, 4028), "train": (40, 2901), "test": (10, 1127)},
}
"""Images and nuclei of each dataset and split, by the readers' own rules: 8-connected components for BBBC039 and TNBC
(whose authors count 4,022), label maps for Kumar."""


@dataclass(frozen=True)
class _Survey:
    nuclei: dict[str, int]
    problems: list[str]


def check(root: Path, *, progress: bool = False) -> pd.DataFrame:
    """Return one row a dataset and split under a data root: what is there, what should be, and whether that is equal.

    Columns: dataset, split ("all" or one of its splits), images, nuclei, expected_images, expected_nuclei, ok,
    problems (what cannot be read, is missing or has another size than its image; "" if nothing).
    Every image and label map is decoded. A dataset that is absent is a row that is not ok. progress: show a bar.
    """
    rows: list[dict[str, object]] = []
    for key in DATASETS:
        rows += _check_dataset(open_dataset(key, root), progress)
    return pd.DataFrame(rows)


def _check_dataset(dataset: Dataset, progress: bool) -> list[dict[str, object]]:
    try:
        names = dataset.names()
    except UserError as error:
        return [_row(dataset.key, "all", [], _Survey({}, [str(error)]))]
    survey = _survey(dataset, names, progress)
    rows = [_row(dataset.key, "all", names, survey)]
    for which in SPLITS[dataset.key]:
        try:
            rows.append(_row(dataset.key, which, split(dataset, which), _Survey(survey.nuclei, [])))
        except UserError as error:
            rows.append(_row(dataset.key, which, [], _Survey({}, [str(error)])))
    return rows


def _survey(dataset: Dataset, names: list[str], progress: bool) -> _Survey:
    """Return the nuclei of every image that reads, and the complaint of every one that does not."""
    survey = _Survey({}, [])
    for name in tqdm(names, desc=dataset.key, unit="image", disable=not progress):
        try:
            dataset.image(name)
            survey.nuclei[name] = count(dataset.label_map(name))
        except UserError as error:
            survey.problems.append(str(error))
    return survey


def _row(key: str, which: str, names: list[str], survey: _Survey) -> dict[str, object]:
    images, nuclei = len(names), sum(survey.nuclei.get(name, 0) for name in names)
    return {
        "dataset": key,
        "split": which,
        "images": images,
        "nuclei": nuclei,
        "expected_images": EXPECTED[key][which][0],
        "expected_nuclei": EXPECTED[key][which][1],
        "ok": (images, nuclei) == EXPECTED[key][which] and not survey.problems,
        "problems": "; ".join(survey.problems),
    }
