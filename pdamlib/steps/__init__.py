"""The road from raw images to scores: each step is one function that returns a `Run`, config in, folder out.

Nothing is computed here until `study.make(run)` is called. The command, the notebooks and the workflow call these.
"""

from pdamlib.steps.detection import detector, prediction, scores
from pdamlib.steps.pixels import (
    inpainted_patches,
    simulated_data,
    source_patches,
    target_patches,
    translated_patches,
    translator,
)
from pdamlib.steps.record import plan, record, wanted

__all__ = [
    "detector",
    "inpainted_patches",
    "plan",
    "prediction",
    "record",
    "scores",
    "simulated_data",
    "source_patches",
    "target_patches",
    "translated_patches",
    "translator",
    "wanted",
]
