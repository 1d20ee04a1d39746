"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch

# As the program itself computes on a CPU; with more threads some builds of torch abort in half-precision convolutions.
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets, from PDAM_DATA or beside the checkout; without it the test is skipped."""
    root = Path(os.environ.get("PDAM_DATA", ROOT.parent / "shared" / "data"))
    if not (root / "bbbc039").is_dir():
        pytest.skip("real data sets not found; set PDAM_DATA to their folder")
    return root
