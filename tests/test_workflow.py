"""Snakemake drives the runs that `pdam` lists: in order, side by side, again where something is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "workflow"

# a pdam of two trainings between a preparation and a score; it logs each call and can be told to fail
STAND_IN = """
import sys
from pathlib import Path
NEEDS = {"prepare": [], "train-a": ["prepare"], "train-b": ["prepare"], "score": ["train-a", "train-b"]}
manifest = lambda run: Path("runs/quick") / run / "manifest.json"
if sys.argv[1] == "reproduce":
    for run, needs in NEEDS.items():
        print(run, ",".join(needs), manifest(run), sep="\\t")
else:
    run = sys.argv[2]
    assert all(manifest(other).exists() for other in NEEDS[run]), run
    if Path("broken").exists() and run == Path("broken").read_text():
        sys.exit("broken")
    with Path("calls").open("a") as calls:
        print(" ".join(sys.argv[1:]), file=calls)
    manifest(run).parent.mkdir(parents=True, exist_ok=True)
    manifest(run).write_text("{}")
"""


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Return the finished call of this checkout's workflow in a working folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile"), *words]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """The --config setting that puts the stand-in in pdam's place."""
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    return f"pdam={sys.executable} {path}"


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.slow
def test_a_broken_run_stops_what_needs_it_and_the_next_call_makes_only_what_is_missing(tmp_path: Path, stand_in: str):
    config = ["--config", stand_in, "profile=cpu", "data=my data"]
    (tmp_path / "broken").write_text("train-b")
    assert snakemake(tmp_path, *config).returncode == 1
    settings = "--profile cpu --data-root my data"
    assert calls(tmp_path) == [f"run prepare {settings}", f"run train-a {settings}"]

    (tmp_path / "broken").unlink()
    (tmp_path / "calls").unlink()
    assert snakemake(tmp_path, *config).returncode == 0
    assert calls(tmp_path) == [f"run train-b {settings}", f"run score {settings}"]

    assert "Nothing to be done" in snakemake(tmp_path, *config).stderr


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["default", "slurm", "kubernetes"])
def test_every_profile_dry_runs_the_runs_of_quick(tmp_path: Path, profile: str):
    listing = [sys.executable, "-m", "pdamlib.cli", "reproduce", "--profile", "quick", "--list"]
    listed = subprocess.run(listing, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    rules = [f"rule run_{line.split()[0]}:" for line in listed]
    dry = snakemake(tmp_path, "--dry-run", "--profile", str(WORKFLOW / "profiles" / profile))
    assert dry.returncode == 0, dry.stderr
    assert rules
    assert not [rule for rule in rules if rule not in dry.stdout + dry.stderr]


@pytest.mark.slow
def test_an_unknown_profile_ends_in_pdams_own_line(tmp_path: Path):
    failed = snakemake(tmp_path, "--dry-run", "--config", "profile=huge")
    assert failed.returncode != 0
    assert [line for line in failed.stderr.splitlines() if line.startswith("error: ") and "huge" in line]
    assert "Traceback" not in failed.stderr
