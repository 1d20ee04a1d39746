"""The promise of the `quick` profile: on its simulated target adaptation is worth at least 0.10 of AJI, twice."""

from pathlib import Path

import pandas as pd
import pytest

from pdamlib.cli import main

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1])
def test_adaptation_gains_a_tenth_of_aji_on_the_simulated_target(seed: int, tmp_path: Path):
    # the runs are those of `make book`: made here only where they are missing
    words = ["--profile", "quick", "--seed", str(seed), "--runs-root", str(ROOT / "runs"), "--results", str(tmp_path)]
    assert main(["reproduce", *words]) == 0
    scores = pd.read_csv(tmp_path / "quick" / "scores.csv")
    aji = scores.groupby("method")["aji"].mean()
    assert aji["cyc_pdam"] >= aji["no_adaptation"] + 0.10
