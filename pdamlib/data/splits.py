"""Which images train and which test, for each dataset, with the source of every list."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from pdamlib.errors import UserError

if TYPE_CHECKING:
    from pdamlib.data.readers import Dataset

BBBC039_LISTS = {"train": "training.txt", "validation": "validation.txt", "test": "test.txt"}
"""The official lists of 100, 50 and 50 images (Caicedo et al. 2019), read from the dataset's own metadata folder."""

KUMAR_ORGAN = {
    "TCGA-A7-A13E-01Z-00-DX1": "breast",
    "TCGA-A7-A13F-01Z-00-DX1": "breast",
    "TCGA-AR-A1AK-01Z-00-DX1": "breast",
    "TCGA-AR-A1AS-01Z-00-DX1": "breast",
    "TCGA-E2-A14V-01Z-00-DX1": "breast",
    "TCGA-E2-A1B5-01Z-00-DX1": "breast",
    "TCGA-B0-5698-01Z-00-DX1": "kidney",
    "TCGA-B0-5710-01Z-00-DX1": "kidney",
    "TCGA-B0-5711-01Z-00-DX1": "kidney",
    "TCGA-HE-7128-01Z-00-DX1": "kidney",
    "TCGA-HE-7129-01Z-00-DX1": "kidney",
    "TCGA-HE-7130-01Z-00-DX1": "kidney",
    "TCGA-18-5592-01Z-00-DX1": "liver",
    "TCGA-21-5784-01Z-00-DX1": "liver",
    "TCGA-21-5786-01Z-00-DX1": "liver",
    "TCGA-38-6178-01Z-00-DX1": "liver",
    "TCGA-49-4488-01Z-00-DX1": "liver",
    "TCGA-50-5931-01Z-00-DX1": "liver",
    "TCGA-CH-5767-01Z-00-DX1": "prostate",
    "TCGA-G9-6336-01Z-00-DX1": "prostate",
    "TCGA-G9-6348-01Z-00-DX1": "prostate",
    "TCGA-G9-6356-01Z-00-DX1": "prostate",
    "TCGA-G9-6362-01Z-00-DX1": "prostate",
    "TCGA-G9-6363-01Z-00-DX1": "prostate",
    "TCGA-DK-A2I6-01A-01-TS1": "bladder",
    "TCGA-G2-A2EK-01A-02-TSB": "bladder",
    "TCGA-AY-A8YK-01A-01-TS1": "colon",
    "TCGA-NH-A8F7-01A-01-TS1": "colon",
    "TCGA-KB-A93J-01A-01-TS1": "stomach",
    "TCGA-RD-A8N9-01A-01-TS1": "stomach",
}
"""The 30 images of Kumar et al. 2017 and their organs; a MoNuSeg archive may hold more, which are not theirs."""

KUMAR_UNSEEN_ORGANS = ("bladder", "colon", "stomach")

KUMAR_SEEN = {
    "kumar": ("E2-A1B5", "E2-A14V", "B0-5698", "B0-5710", "21-5784", "21-5786", "CH-5767", "G9-6362"),
    "hovernet": ("E2-A1B5", "A7-A13F", "B0-5698", "B0-5710", "49-4488", "21-5786", "CH-5767", "G9-6336"),
}
"""The eight test images of seen organs: by Kumar et al. 2017, which the paper follows (Sec. 4.1), and by HoVer-Net
(Graham et al. 2019), which swaps three pairs. The six images of unseen organs test in both, the other 16 train."""

TNBC_TEST_PATIENTS = (7, 10, 11)
"""Our test patients of TNBC: 3 + 4 + 3 images. The paper tests on 10 images of 3 patients (Sec. 4.1) without naming
them; 18 triples fit, and to leave no room for choice this is the last of them in the order of the folders.
`admissible_tnbc_triples` gives all 18 for the sensitivity table. (Slides 9-11 hold 13 images and do not fit.)"""

TNBC_TEST_IMAGES = 10

SPLITS = {
    "bbbc039": ("train", "validation", "test"),
    "kumar": ("train", "test", "seen", "unseen"),
    "tnbc": ("train", "test"),
    "simulated_fluorescence": ("train", "validation", "test"),
    "simulated_histology": ("train", "validation", "test"),
    "folder": ("train", "test"),
}
"""The splits of each dataset. No target has a validation split: settings are chosen on BBBC039 alone (Sec. 4.2)."""


def kumar_name(short: str) -> str:
    """Return the full TCGA name of a Kumar image from its short one, "A7-A13E" -> "TCGA-A7-A13E-01Z-00-DX1".

    Raises UserError when no image or more than one has that beginning.
    """
    found = [name for name in KUMAR_ORGAN if name.removeprefix("TCGA-").startswith(short.removeprefix("TCGA-"))]
    if len(found) != 1:
        raise UserError(f"{short!r} names {len(found)} of the 30 Kumar images; give site and patient, as in A7-A13E")
    return found[0]


def tnbc_patient(name: str) -> int:
    """Return the patient of a TNBC image, "07_2" -> 7."""
    return int(name.partition("_")[0])


def admissible_tnbc_triples(counts: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """Return all triples of patients with ten images in all, in ascending order: 18 for the published dataset.

    counts: images of each patient.
    """
    return [t for t in combinations(sorted(counts), 3) if sum(counts[p] for p in t) == TNBC_TEST_IMAGES]


def split(
    dataset: "Dataset",
    which: str,
    *,
    kumar_list: str = "kumar",
    tnbc_test: tuple[int, ...] = TNBC_TEST_PATIENTS,
) -> list[str]:
    """Return the names of one split of an opened dataset, in the dataset's order.

    which: one of SPLITS[dataset.key]; "test" of Kumar is seen and unseen together. A user's own folder has no split:
    training reads no label of it, so all its images both train and test.
    kumar_list: whose list, "kumar" or "hovernet". tnbc_test: the test patients.
    Raises UserError for an unknown split, list or patient, and when the folder lacks an image of the split.
    """
    if which not in SPLITS[dataset.key]:
        raise UserError(f"{dataset.key} has no split {which!r}; choose one of {', '.join(SPLITS[dataset.key])}")
    names = dataset.names()
    if dataset.key == "bbbc039":
        wanted = _bbbc039_list(dataset.root, which)
    elif dataset.key == "kumar":
        wanted = {name for name in KUMAR_ORGAN if which in _kumar_splits(name, kumar_list)}
    elif dataset.key == "tnbc":
        wanted = _tnbc_split(names, which, tnbc_test)
    elif dataset.key == "folder":
        wanted = set(names)
    else:
        wanted = {name for name in names if name.startswith(f"{which}/")}
    if missing := sorted(wanted.difference(names)):
        raise UserError(
            f"{dataset.root}: no image {missing[0]} of the {dataset.key} split {which!r} ({len(missing)} missing in"
            " all); unpack the dataset again"
        )
    return [name for name in names if name in wanted]


def subset(key: str, name: str, *, kumar_list: str = "kumar") -> str:
    """Return "seen" or "unseen" for a test image of Kumar by its organ, "" for any other image."""
    if key != "kumar":
        return ""
    return next((part for part in _kumar_splits(name, kumar_list) if part in ("seen", "unseen")), "")


def bbbc039_lists(root: Path) -> dict[str, list[str]]:
    """Return the image names of the three official lists under a BBBC039 folder, as the files order them.

    Raises UserError when a list is missing or empty.
    """
    folder = next((p for p in [root / "metadata", *sorted(root.glob("*/metadata"))] if p.is_dir()), root / "metadata")
    lists = {}
    for which, file in BBBC039_LISTS.items():
        try:
            lists[which] = [Path(line).stem for line in (folder / file).read_text().split()]
        except (OSError, UnicodeDecodeError):
            lists[which] = []
        if not lists[which]:
            raise UserError(f"{folder / file}: missing or empty; unpack metadata.zip of BBBC039 there")
    return lists


def _bbbc039_list(root: Path, which: str) -> set[str]:
    return set(bbbc039_lists(root)[which])


def _kumar_splits(name: str, kumar_list: str) -> tuple[str, ...]:
    if kumar_list not in KUMAR_SEEN:
        raise UserError(f"there is no Kumar split list {kumar_list!r}; choose one of {', '.join(KUMAR_SEEN)}")
    if KUMAR_ORGAN.get(name) in KUMAR_UNSEEN_ORGANS:
        return ("test", "unseen")
    if name in map(kumar_name, KUMAR_SEEN[kumar_list]):
        return ("test", "seen")
    return ("train",)


def _tnbc_split(names: list[str], which: str, patients: tuple[int, ...]) -> set[str]:
    if absent := sorted(set(patients).difference(map(tnbc_patient, names))):
        raise UserError(f"TNBC has no image of test patient {absent[0]}; choose among patients 1-11")
    return {name for name in names if (tnbc_patient(name) in patients) == (which == "test")}
