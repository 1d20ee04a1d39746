"""A study: one profile on one set of data with one seed, and the folder that keeps its runs."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pdamlib import runs
from pdamlib.config import Profile, profile
from pdamlib.data.readers import Dataset, open_dataset
from pdamlib.data.splits import split
from pdamlib.engine.runtime import Runtime, choose_runtime
from pdamlib.errors import UserError
from pdamlib.runs import Run


@dataclass(frozen=True)
class Study:
    """Where a run's settings come from and where its folder goes.

    data_root: folder of the real data sets; a simulated profile needs none. runs_root: keeps the runs.
    say: is told one line about each run that has to be made.
    """

    profile: Profile
    data_root: Path | None
    runs_root: Path
    seed: int = 0
    runtime: Runtime = Runtime()
    say: Callable[[str], object] = lambda line: None

    def make(self, run: Run) -> Path:
        """Return the folder of a run; it and what it needs are computed where missing."""
        return runs.ensure(run, self.runs_root, self.say)

    @property
    def is_simulated(self) -> bool:
        return self.profile.source.startswith("simulated")

    def dataset(self, name: str, simulation: Path | None = None) -> Dataset:
        """Return an open data set. simulation: the folder of the simulated data, where the profile uses it."""
        if self.is_simulated and simulation is not None:
            return open_dataset(name, simulation)
        return open_dataset(name, self._real_data())

    def _real_data(self) -> Path:
        if self.data_root is None:
            raise UserError(
                f"profile '{self.profile.name}' reads real images: name their folder with --data-root, "
                "or fetch them with `pdam data download`"
            )
        return self.data_root

    def data_hash(self, name: str, which: str, labels: bool) -> dict[str, str]:
        """Return {what: hash} of one split of a real data set; labels are opened only when asked for."""
        what = f"{name} {which} {'images and labels' if labels else 'images'}"
        return {what: _hash_split(name, self._real_data(), which, labels)}

    def record(self) -> dict[str, Any]:
        """Return what a run's manifest says of this study beyond the run's own configuration."""
        runtime = self.runtime
        return {
            "profile": self.profile.name,
            "seed": self.seed,
            "device": runtime.device,
            "precision": runtime.precision,
            "threads": runtime.threads,
        }


@lru_cache
def _hash_split(dataset_name: str, data_root: Path, which: str, labels: bool) -> str:
    """12 hexadecimal digits of names and pixels: the same for a TIFF and its lossless copy as PNG."""
    dataset = open_dataset(dataset_name, data_root)
    total = hashlib.sha256()
    for name in split(dataset, which):
        arrays = [dataset.image(name), *([dataset.label_map(name)] if labels else [])]
        total.update(name.encode())
        for array in arrays:
            total.update(f"{array.shape}{array.dtype}".encode())
            total.update(array.tobytes())
    return total.hexdigest()[:12]


def open_study(
    profile_name: str,
    data_root: str | Path | None = None,
    seed: int = 0,
    *,
    runs_root: str | Path | None = None,
    runtime: Runtime | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Study:
    """Return the study of a profile by name.

    data_root: folder of the real data sets, else that of the environment variable PDAM_DATA.
    runs_root: keeps the runs of all profiles; else PDAM_RUNS, else `runs` in the working folder.
    Raises UserError for an unknown profile.
    """
    data = data_root or os.environ.get("PDAM_DATA")
    runs_folder = Path(runs_root or os.environ.get("PDAM_RUNS") or "runs")
    return Study(
        profile(profile_name),
        Path(data) if data else None,
        runs_folder / profile_name,
        seed,
        runtime or choose_runtime(),
        say,
    )
