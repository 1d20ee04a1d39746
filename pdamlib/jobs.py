"""Several runs at a time in worker processes, in the order in which they need each other."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

from pdamlib.errors import UserError
from pdamlib.runs import Run


def run_all(runs: Sequence[Run], make: Callable[[str], None], workers: Executor, jobs: int) -> None:
    """Call `make(run id)` for every run in a worker, at most `jobs` at a time, needed ones first.

    runs: each after those it needs; what they need beyond the list must be made already. workers: keep their imports
    from one run to the next. When a run fails, those under way are finished and no other is begun.
    Raises UserError naming the runs that failed, with the first reason; what was finished is kept.
    """
    waiting = {run.folder_name: run for run in runs}
    working: dict[Future[None], Run] = {}
    failed: dict[str, BaseException] = {}
    total, began = len(waiting), time.monotonic()
    while working or (waiting and not failed):
        missing = waiting.keys() | {run.folder_name for run in working.values()}
        ready = [run for run in waiting.values() if not any(needed.folder_name in missing for needed in run.inputs)]
        for run in ready[: jobs - len(working)] if not failed else []:
            working[workers.submit(make, run.id)] = waiting.pop(run.folder_name)
        done, _ = wait(working, return_when=FIRST_COMPLETED)
        for future in done:
            run = working.pop(future)
            if error := future.exception():
                failed[run.id] = error
            state = f"failed: {error}" if error else "done"
            count = total - len(waiting) - len(working)
            print(f"[{count}/{total}] {run.id} {state} at {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        first = next(iter(failed.values()))
        raise UserError(f"{', '.join(failed)} failed ({first}); run again after mending that, finished runs are kept")
