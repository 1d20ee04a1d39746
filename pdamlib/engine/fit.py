"""The training loop of every method: step, watch, log, checkpoint, resume."""

import csv
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pdamlib.errors import UserError
from pdamlib.progress import progress
from pdamlib.runs import write_text

CHECKPOINT, PREVIOUS, LOG = "checkpoint.pt", "checkpoint.previous.pt", "log.csv"


class Task(Protocol):
    """What a method gives to the loop."""

    def step(self, iteration: int) -> dict[str, Tensor]:
        """Update the networks once; return the losses by name, scalars without gradient."""

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, in tensors and plain values."""

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""


def fit(
    task: Task, iterations: int, folder: Path, *, key: str, checkpoint_every: int, log_every: int = 10, name: str = ""
) -> float:
    """Run a task to the end, resuming from the folder's checkpoint; return the seconds spent, resumed parts included.

    folder: holds checkpoint.pt and log.csv (iteration, seconds, one column a loss: means since the row before).
    key: fingerprint of the configuration; a checkpoint of another one is refused.
    Raises UserError for a loss or weight that is not finite, and for a damaged or foreign checkpoint; the last good
    checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start, seconds = _resume(task, folder, key)
    _trim_log(folder / LOG, start)
    window: list[dict[str, float]] = []
    began = time.perf_counter() - seconds
    with progress(total=iterations, initial=start, desc=name, unit="it", mininterval=1.0) as bar:
        for iteration in range(start, iterations):
            window.append(_finite(task.step(iteration), iteration, folder))
            done = iteration + 1
            save = done % checkpoint_every == 0 or done == iterations
            if done % log_every == 0 or save:  # no row spans a checkpoint, so a resumed log equals an unbroken one
                means = {name: sum(row[name] for row in window) / len(window) for name in window[0]}
                _append(folder / LOG, {"iteration": done, "seconds": round(time.perf_counter() - began, 2), **means})
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()}, refresh=False)
                window.clear()
            if save:
                save_checkpoint(folder, task, done, time.perf_counter() - began, key)
            bar.update()
    return time.perf_counter() - began


def _finite(losses: dict[str, Tensor], iteration: int, folder: Path) -> dict[str, float]:
    """The losses as numbers, fetched from the device at once."""
    values = dict(zip(losses, torch.stack([loss.float() for loss in losses.values()]).tolist(), strict=True))
    for term, value in values.items():
        if not math.isfinite(value):
            good = folder / CHECKPOINT
            kept = f"the last good checkpoint is {good}" if good.exists() else "no checkpoint was written yet"
            raise UserError(
                f"loss '{term}' became {value} at iteration {iteration + 1}; {kept}; lower the learning rate"
            )
    return values


def save_checkpoint(folder: Path, task: Task, iteration: int, seconds: float, key: str) -> None:
    """Write checkpoint.pt atomically and keep the one before as checkpoint.previous.pt."""
    state = {
        "key": key,
        "iteration": iteration,
        "seconds": seconds,
        "task": task.state(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    bad = [name for name, tensor in _tensors(state["task"]) if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise UserError(f"weight '{bad[0]}' is not finite at iteration {iteration}; lower the learning rate")
    partial = folder / f"{CHECKPOINT}.partial"
    try:
        torch.save(state, partial)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{partial}: cannot write the checkpoint ({error}); free some disk space and run again"
        ) from None
    current = folder / CHECKPOINT
    if current.exists():
        os.replace(current, folder / PREVIOUS)
    os.replace(partial, current)


def _tensors(state: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """All floating tensors in nested dicts and lists, with their dotted names."""
    if isinstance(state, Tensor):
        return [(name, state)] if state.is_floating_point() else []
    parts = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return [pair for key, value in parts for pair in _tensors(value, f"{name}.{key}".lstrip("."))]


def load_checkpoint(path: Path, key: str | None = None) -> dict[str, Any]:
    """Return the content of a checkpoint. Raises UserError when it is damaged or of another configuration."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated types on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: damaged checkpoint ({reason}); delete it to go on from {PREVIOUS} or from the start"
        ) from None
    if key is not None and not (isinstance(state, dict) and state.get("key") == key):
        raise UserError(f"{path}: checkpoint of another configuration; move it away, or use the configuration it is of")
    return state


def _resume(task: Task, folder: Path, key: str) -> tuple[int, float]:
    path = next((folder / name for name in (CHECKPOINT, PREVIOUS) if (folder / name).exists()), None)
    if path is None:
        return 0, 0.0
    state = load_checkpoint(path, key)
    task.load(state["task"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return state["iteration"], state["seconds"]


def _append(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    try:
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )
    except OSError as error:
        raise UserError(f"{path}: cannot write the log ({error}); free some disk space and run again") from None


def _trim_log(path: Path, iteration: int) -> None:
    """Drop the rows after the checkpoint: a resumed run writes them again."""
    head, *rows = (path.read_text() if path.exists() else "").splitlines() or [""]
    kept = [row for row in rows if row.count(",") == head.count(",") and int(row.split(",")[0]) <= iteration]
    if kept:
        write_text(path, "\n".join([head, *kept]) + "\n")
    else:  # nothing but a header, or less: a process may have died between the two
        path.unlink(missing_ok=True)
