"""The command `pdam`: thin words around the steps; `pdam --help` reads like the paper's pipeline."""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pdamlib import __version__
from pdamlib.errors import UserError

if TYPE_CHECKING:
    from pdamlib.study import Study

PIPELINE = """\
the road, one step a command:
  data       check, download or simulate images            Sec. 4.1
  prepare    source and target patches                     Sec. 4.2
  translate  CycleGAN, then all source patches             Sec. 3.5
  inpaint    remove nuclei without a label                 Sec. 3.2, Eq. 1-2
  train      the panoptic domain-adaptive Mask R-CNN       Sec. 3.1, 3.3-3.5, Eq. 3-5
  predict    label maps of the target's test images        Sec. 3.5
  score      AJI, pixel-F1, object-F1, PQ                  Sec. 4.1
  report     the tables                                    Sec. 4.3
  reproduce  all of it

Each step makes what it needs, keeps it under runs/, and is skipped when nothing has changed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 when a check fails, 2 when the user can put something right."""
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror}; free or allow space there and run again, finished steps are kept")
    except KeyboardInterrupt:
        return _fail("interrupted; run again to go on from the last checkpoint", 130)


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        "pdam",
        description="Learn to segment nuclei in histopathology from fluorescence labels alone (CyC-PDAM, CVPR 2020).",
        epilog=PIPELINE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_data(commands)
    for name, text, run, wants in (
        ("prepare", "make source and target patches (Sec. 4.2)", _prepare, ("target",)),
        ("translate", "train CycleGAN and translate all source patches (Sec. 3.5)", _translate, ("target",)),
        ("inpaint", "remove nuclei without a label from translated patches (Sec. 3.2)", _inpaint, ("target",)),
        ("train", "train a detector (Sec. 3.5)", _train, ("target", "method")),
        ("predict", "predict label maps of the test images", _predict, ("target", "method")),
    ):
        command = commands.add_parser(name, help=text, description=text)
        _add_settings(command, wants)
        command.set_defaults(run=run)
    _add_score(commands)
    _add_report(commands)
    _add_reproduce(commands)
    return parser


def _add_settings(parser: argparse.ArgumentParser, wants: tuple[str, ...] = ()) -> None:
    """The settings every step shares."""
    parser.add_argument("--profile", default="quick", help="quick (simulated, minutes), cpu or paper [quick]")
    parser.add_argument("--data-root", type=Path, help="folder of the real data sets [$PDAM_DATA]")
    parser.add_argument("--runs-root", type=Path, help="folder that keeps the runs [$PDAM_RUNS or runs]")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and order [0]")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu [auto]")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16 [fp32]")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one process [1]")
    if "target" in wants:
        parser.add_argument("--target", help="data set to adapt to [the profile's first]")
    if "method" in wants:
        parser.add_argument("--method", default="cyc_pdam", help="row of the tables [cyc_pdam]")


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="check, download or simulate images (Sec. 4.1)")
    actions = data.add_subparsers(metavar="action", required=True)
    check = actions.add_parser("check", help="count images, nuclei and splits and compare with what is published")
    check.add_argument("--root", type=Path, required=True, help="folder that holds bbbc039, kumar and tnbc")
    check.set_defaults(run=_check)
    download = actions.add_parser("download", help="fetch the data sets, resumed and verified")
    download.add_argument("--root", type=Path, required=True, help="folder to put them in")
    download.add_argument("--dataset", nargs="+", metavar="NAME", help="bbbc039, kumar, tnbc [all]")
    download.set_defaults(run=_download)
    simulate = actions.add_parser("simulate", help="make simulated fluorescence and histology with exact labels")
    simulate.add_argument("--root", type=Path, required=True, help="folder to put them in")
    simulate.add_argument("--seed", type=int, default=0, help="[0]")
    simulate.add_argument("--gap", type=float, default=1.0, help="size of the domain gap, 0 to 1 [1]")
    simulate.add_argument("--counts", type=int, nargs=3, default=(24, 8, 8), metavar=("TRAIN", "VALIDATION", "TEST"))
    simulate.add_argument("--size", type=int, default=256, help="side of an image, px [256]")
    simulate.set_defaults(run=_simulate)


def _add_score(commands: argparse._SubParsersAction) -> None:
    text = "score a method of the study, or any two folders of label maps (--truth and --pred) with equal stems"
    score = commands.add_parser("score", help="AJI, pixel-F1, object-F1 and PQ (Sec. 4.1)", description=text)
    score.add_argument("--truth", type=Path, help="folder of true label maps: PNG or TIFF of 8, 16 or 32 bit")
    score.add_argument("--pred", type=Path, help="folder of predicted label maps with equal stems")
    score.add_argument("--out", type=Path, help="CSV file for the scores of each image")
    _add_settings(score, ("target", "method"))
    score.set_defaults(run=_score)


def _add_report(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser("report", help="write the tables as HTML, CSV and LaTeX (Sec. 4.3)")
    report.add_argument("--profile", default="quick", help="[quick]")
    report.add_argument("--results", type=Path, default=Path("results"), help="[results]")
    report.add_argument("--out", type=Path, help="folder for the tables [_build/tables/PROFILE]")
    report.add_argument("--readme", type=Path, help="a README whose table to renew as well")
    report.set_defaults(run=_report)


def _add_reproduce(commands: argparse._SubParsersAction) -> None:
    reproduce = commands.add_parser("reproduce", help="make every run of the tables and record their scores")
    _add_settings(reproduce)
    reproduce.add_argument("--results", type=Path, default=Path("results"), help="where scores are recorded [results]")
    reproduce.add_argument("--jobs", type=int, default=2, help="runs made at the same time [2]")
    reproduce.add_argument("--dry-run", action="store_true", help="only tell what would be made, and why")
    reproduce.add_argument("--list", action="store_true", help="print run, runs it needs, manifest; tab-separated")
    reproduce.set_defaults(run=_reproduce)
    run = commands.add_parser("run", help="make one run of the list that `reproduce --list` prints")
    run.add_argument("id")
    _add_settings(run)
    run.set_defaults(run=_run_one)


def _study(arguments: argparse.Namespace, say: Callable[[str], object] = print) -> "Study":
    from pdamlib.engine.runtime import choose_runtime
    from pdamlib.study import open_study

    runtime = choose_runtime(arguments.device, arguments.precision, arguments.threads)
    return open_study(
        arguments.profile, arguments.data_root, arguments.seed, runs_root=arguments.runs_root, runtime=runtime, say=say
    )


def _target(study: "Study", arguments: argparse.Namespace) -> str:
    target = arguments.target or study.profile.targets[0]
    if target not in study.profile.targets and not target.startswith("folder:"):
        known = ", ".join(study.profile.targets)
        raise UserError(f"profile '{study.profile.name}' has no target '{target}'; choose {known} or folder:PATH")
    return target


def _prepare(arguments: argparse.Namespace) -> None:
    from pdamlib import steps

    study = _study(arguments)
    for run in (steps.source_patches(study), steps.target_patches(study, _target(study, arguments))):
        print(study.make(run))


def _translate(arguments: argparse.Namespace) -> None:
    from pdamlib import steps

    study = _study(arguments)
    print(study.make(steps.translated_patches(study, _target(study, arguments))))


def _inpaint(arguments: argparse.Namespace) -> None:
    from pdamlib import steps

    study = _study(arguments)
    print(study.make(steps.inpainted_patches(study, _target(study, arguments))))


def _train(arguments: argparse.Namespace) -> None:
    from pdamlib import steps
    from pdamlib.config import method

    study = _study(arguments)
    print(study.make(steps.detector(study, method(arguments.method), _target(study, arguments))))


def _predict(arguments: argparse.Namespace) -> None:
    from pdamlib import steps
    from pdamlib.config import method

    study = _study(arguments)
    print(study.make(steps.prediction(study, method(arguments.method), _target(study, arguments))))


def _score(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from pdamlib.metrics.folders import score_folders
    from pdamlib.metrics.stats import summary

    if (arguments.truth is None) != (arguments.pred is None):
        raise UserError("--truth and --pred go together: give both folders, or neither to score a method")
    if arguments.truth is not None:
        frame = score_folders(arguments.truth, arguments.pred)
    else:
        from pdamlib import steps
        from pdamlib.config import method

        study = _study(arguments)
        run = steps.scores(study, method(arguments.method), _target(study, arguments))
        frame = pd.read_csv(study.make(run) / "scores.csv", keep_default_na=False)
    if arguments.out is not None:
        from pdamlib.runs import write_text

        write_text(arguments.out, frame.to_csv(index=False))
    print(frame.to_string(index=False, float_format="%.4f"))
    print()
    print(summary(frame).to_string(float_format="%.4f"))


def _check(arguments: argparse.Namespace) -> int:
    from pdamlib.data.check import check

    found = check(arguments.root, progress=True)
    print(found.to_string(index=False))
    if found["ok"].all():
        print("all counts are as published")
        return 0
    print(f"error: {arguments.root}: counts differ; unpack or download those data sets again", file=sys.stderr)
    return 1


def _download(arguments: argparse.Namespace) -> None:
    from pdamlib.data.download import SOURCES, download

    for dataset in arguments.dataset or SOURCES:
        print(download(dataset, arguments.root))


def _simulate(arguments: argparse.Namespace) -> None:
    from pdamlib.data.simulate import Microscope, simulate

    size = (arguments.size, arguments.size)
    print(simulate(arguments.root, arguments.seed, tuple(arguments.counts), size, Microscope(gap=arguments.gap)))


def _report(arguments: argparse.Namespace) -> None:
    from pdamlib.config import profile
    from pdamlib.report.tables import renew_readme, write_tables

    name = profile(arguments.profile).name
    for path in write_tables(name, arguments.results, arguments.out or Path("_build/tables") / name):
        print(path)
    if arguments.readme is not None:
        renew_readme(arguments.readme, name, arguments.results)
        print(arguments.readme)


def _reproduce(arguments: argparse.Namespace) -> int:
    from pdamlib import steps
    from pdamlib.runs import in_order

    study = _study(arguments, say=lambda line: None)
    results = arguments.results / study.profile.name
    if arguments.list:
        for run in in_order(steps.wanted(study)):
            needs = ",".join(needed.id for needed in run.inputs)
            print(run.id, needs, study.runs_root / run.folder_name / "manifest.json", sep="\t")
        return 0
    planned = steps.plan(study, results)
    for run, why in planned:
        print(f"{run.id:<48} {why}", flush=True)
    if arguments.dry_run:
        return 0
    pending = [run for run, why in planned if not why.startswith("up to date")]
    if pending:
        from pdamlib.jobs import run_all

        # spawned, not forked: a forked copy of a process that runs threads may hang
        with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as workers:
            run_all(pending, partial(_make_one, _run_words(arguments)), workers, arguments.jobs)
    recorded = steps.record(study, results)
    print(f"{len(recorded)} runs recorded in {results}")
    return 0


def _make_one(settings: list[str], run_id: str) -> None:
    """Make one run in this process; the parent says what is done, bars and errors go to stderr."""
    with redirect_stdout(StringIO()):
        _run_one(build_parser().parse_args(["run", run_id, *settings]))


def _run_words(arguments: argparse.Namespace) -> list[str]:
    """The settings of this call, to hand on to `pdam run`."""
    words = []
    for name in ("profile", "data_root", "runs_root", "seed", "device", "precision", "threads"):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _run_one(arguments: argparse.Namespace) -> None:
    from pdamlib import steps
    from pdamlib.runs import in_order

    study = _study(arguments)
    runs = {run.id: run for run in in_order(steps.wanted(study))}
    if arguments.id not in runs:
        raise UserError(
            f"no run '{arguments.id}' in profile '{study.profile.name}'; `pdam reproduce --list` names them"
        )
    print(study.make(runs[arguments.id]))


if __name__ == "__main__":
    sys.exit(main())
