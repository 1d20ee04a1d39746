"""Where and how torch computes: device, precision and threads, chosen once for a run."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from pdamlib.errors import UserError

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Runtime:
    """device: cuda, mps or cpu. precision: fp32, or bf16 by autocast. threads: of one process on the CPU."""

    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1

    def autocast(self) -> AbstractContextManager:
        """Return the context in which forward passes run."""
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def choose_runtime(device: str = "auto", precision: str = "fp32", threads: int = 1) -> Runtime:
    """Return the runtime asked for, the best device there is for `auto`, and set the thread count.

    Raises UserError for a name that does not exist or a device that is not there.
    """
    if device not in DEVICES:
        raise UserError(f"unknown device '{device}'; choose one of {', '.join(DEVICES)}")
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision '{precision}'; choose one of {', '.join(PRECISIONS)}")
    if threads < 1:
        raise UserError(f"threads is {threads}; give 1 or more")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, available in there.items() if available)
    elif not there[device]:
        raise UserError(f"device '{device}' is not available on this machine; use --device cpu or auto")
    torch.set_num_threads(threads)
    return Runtime(device, precision, threads)
