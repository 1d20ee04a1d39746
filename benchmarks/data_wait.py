"""The share of a training step of the `cpu` profile that goes into fetching its two patches from disk.

Patches are read, mirrored and turned into tensors in the process that trains, so what they take the step waits for.
Prints one line; exits 1 at 5 % or more.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from time import process_time

import numpy as np
import torch
from train_step import patches_of_both_domains

from pdamlib.config import cpu, method
from pdamlib.data.store import open_patches, write_patches
from pdamlib.engine.runtime import Runtime
from pdamlib.methods.pdam import PDAM

TARGET = 0.05


def shares(task: PDAM, steps: int, warm_up: int = 2) -> np.ndarray:
    """Return (steps, 2): CPU seconds of fetching the patches of a step, and of the whole step."""
    taken = np.empty((warm_up + steps, 2))
    for iteration, (fetching, stepping) in enumerate(taken.reshape(-1, 2, 1)):
        start = process_time()
        task.source_at(iteration)
        task.target_at(iteration)
        fetching[:] = process_time() - start
        start = process_time()
        task.step(iteration)
        stepping[:] = process_time() - start
    return taken[warm_up:]


def main() -> int:
    """Return the exit code: 0 within the target, 1 at or over it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    steps = 5 if parser.parse_args().quick else 30
    torch.set_num_threads(1)
    profile = cpu()
    made, target = patches_of_both_domains(profile.patches, 64)
    with tempfile.TemporaryDirectory() as folder:
        pairs = zip(made.images, made.labels, strict=True)
        write_patches(Path(folder), pairs, len(made), made.size, labelled=True)
        source = open_patches(Path(folder))
        task = PDAM(method("cyc_pdam"), profile.network, profile.train, source, target, 0, Runtime())
        fetching, stepping = np.median(shares(task, steps), axis=0)
        del task, source  # they hold the memory-mapped files
    ratio = fetching / stepping
    print(
        f"data_wait: ratio {ratio:.4f} (target < {TARGET}) "
        f"patches {1e3 * fetching:.2f} ms of a step of {1e3 * stepping:.0f} ms"
    )
    return int(ratio >= TARGET)


if __name__ == "__main__":
    sys.exit(main())
