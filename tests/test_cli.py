"""The command: it reads like the pipeline, and whatever the user gets wrong ends in one line that says what to do."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from pdamlib.cli import main
from pdamlib.labelfiles import write_label_map


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty folder, with no real data at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PDAM_DATA", raising=False)
    monkeypatch.delenv("PDAM_RUNS", raising=False)


@pytest.fixture
def pair() -> tuple[Path, Path]:
    """Two folders of equal label maps, one image with two nuclei and one with none."""
    nuclei = np.zeros((8, 8), np.int32)
    nuclei[1:3, 1:3], nuclei[5:7, 4:8] = 3, 9
    for folder in (Path("truth"), Path("pred")):
        folder.mkdir()
        write_label_map(folder / "a.png", nuclei)
        write_label_map(folder / "empty.png", np.zeros((8, 8), np.int32))
    return Path("truth"), Path("pred")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on which a call is refused; its exit code must be 2."""
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    complaints = [line for line in lines if line.startswith("error: ")]
    assert len(complaints) == 1, lines
    assert "Traceback" not in "".join(lines)
    return complaints[0]


def test_the_help_names_the_steps_in_the_order_of_the_paper(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    steps = ["data ", "prepare ", "translate ", "inpaint ", "train ", "predict ", "score ", "report ", "reproduce "]
    places = [text.rindex(f"\n  {step}") for step in steps]
    assert places == sorted(places)


def test_score_of_two_folders_prints_every_image_and_the_mean(pair, capsys: pytest.CaptureFixture[str]):
    truth, pred = map(str, pair)
    assert main(["score", "--truth", truth, "--pred", pred, "--out", "scores.csv"]) == 0
    printed = capsys.readouterr().out
    assert "empty 1.0000 1.0000" in " ".join(printed.split())
    assert Path("scores.csv").read_text().splitlines()[0] == "name,aji,pixel_f1,object_f1,pq"


def test_score_reads_any_mixture_of_png_and_tiff(pair, capsys: pytest.CaptureFixture[str]):
    truth, pred = pair
    (pred / "a.png").unlink()
    nuclei = np.zeros((8, 8), np.int32)
    nuclei[1:3, 1:3], nuclei[5:7, 4:8] = 70_001, 2
    write_label_map(pred / "a.tif", nuclei)
    assert main(["score", "--truth", str(truth), "--pred", str(pred)]) == 0
    assert "a 1.0000 1.0000 1.0000 1.0000" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_profile_is_named_with_the_choices(capsys: pytest.CaptureFixture[str]):
    assert (
        refused(capsys, "train", "--profile", "fast")
        == "error: unknown profile 'fast'; choose one of quick, cpu, paper"
    )


def test_an_unknown_method_is_named_with_the_choices(capsys: pytest.CaptureFixture[str]):
    assert "unknown method 'magic'; choose one of no_adaptation" in refused(capsys, "train", "--method", "magic")


def test_an_unknown_target_is_named_with_the_choices(capsys: pytest.CaptureFixture[str]):
    assert "no target 'lung'; choose simulated_histology" in refused(capsys, "prepare", "--target", "lung")


def test_an_unknown_setting_is_refused_by_name(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--epochs", "3"])
    assert "unrecognized arguments: --epochs 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--device", "tpu"), "unknown device 'tpu'; choose one of auto, cuda, mps, cpu"),
        (("--precision", "fp8"), "unknown precision 'fp8'; choose one of fp32, bf16"),
        (("--threads", "0"), "threads is 0; give 1 or more"),
    ],
)
def test_an_unknown_way_to_compute_is_refused(words, says: str, capsys: pytest.CaptureFixture[str]):
    assert says in refused(capsys, "train", *words)


def test_real_profiles_ask_for_their_images(capsys: pytest.CaptureFixture[str]):
    line = refused(capsys, "prepare", "--profile", "cpu")
    assert "--data-root" in line and "pdam data download" in line


@pytest.mark.parametrize("make", [lambda root: None, lambda root: root.mkdir()], ids=["missing", "empty"])
def test_a_wrong_data_folder_is_named(make, capsys: pytest.CaptureFixture[str]):
    make(Path("images_of_mine"))
    assert "images_of_mine" in refused(capsys, "prepare", "--profile", "cpu", "--data-root", "images_of_mine")


def test_a_run_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]):
    assert "no run 'train-everything'" in refused(capsys, "run", "train-everything")


def test_one_folder_alone_cannot_be_scored(pair, capsys: pytest.CaptureFixture[str]):
    assert "--truth and --pred go together" in refused(capsys, "score", "--truth", "truth")


def test_a_missing_folder_of_label_maps_is_named(pair, capsys: pytest.CaptureFixture[str]):
    assert "nowhere" in refused(capsys, "score", "--truth", "truth", "--pred", "nowhere")


def test_an_empty_folder_of_label_maps_is_named(pair, capsys: pytest.CaptureFixture[str]):
    Path("void").mkdir()
    assert "void" in refused(capsys, "score", "--truth", "truth", "--pred", "void")


def test_an_image_without_counterpart_is_named(pair, capsys: pytest.CaptureFixture[str]):
    (pair[1] / "a.png").unlink()
    line = refused(capsys, "score", "--truth", "truth", "--pred", "pred")
    assert str(Path("truth/a.png")) in line and "pred" in line


def test_a_truncated_label_map_is_named(pair, capsys: pytest.CaptureFixture[str]):
    path = pair[1] / "a.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in refused(capsys, "score", "--truth", "truth", "--pred", "pred")


def test_a_file_that_is_no_image_is_named(pair, capsys: pytest.CaptureFixture[str]):
    path = pair[1] / "a.png"
    path.write_text("not an image")
    assert str(path) in refused(capsys, "score", "--truth", "truth", "--pred", "pred")


def test_label_maps_of_different_size_are_named_with_their_sizes(pair, capsys: pytest.CaptureFixture[str]):
    write_label_map(pair[1] / "a.png", np.ones((8, 9), np.int32))
    line = refused(capsys, "score", "--truth", "truth", "--pred", "pred")
    assert "a.png" in line and "8" in line and "9" in line


def test_a_full_disk_ends_in_one_line_and_keeps_the_old_file(
    pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    Path("scores.csv").write_text("old")

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    line = refused(capsys, "score", "--truth", "truth", "--pred", "pred", "--out", "scores.csv")
    assert "No space left on device" in line and "scores.csv" in line
    assert Path("scores.csv").read_text() == "old"


def test_data_check_of_a_wrong_folder_fails(capsys: pytest.CaptureFixture[str]):
    Path("root").mkdir()
    assert main(["data", "check", "--root", "root"]) in (1, 2)
    captured = capsys.readouterr()
    assert "root" in captured.err


@pytest.mark.slow
def test_data_check_of_the_real_data_is_all_green(data_root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "check", "--root", str(data_root)]) == 0
    assert "all counts are as published" in capsys.readouterr().out


def test_simulated_data_are_made_and_read_back(capsys: pytest.CaptureFixture[str]):
    words = ["data", "simulate", "--root", "sim", "--counts", "1", "1", "1", "--size", "64"]
    assert main(words) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert sorted(path.name for path in (folder / "histology" / "train" / "labels").iterdir()) == ["000.png"]
    shutil.rmtree(folder)


def test_a_gap_outside_its_range_is_refused(capsys: pytest.CaptureFixture[str]):
    assert "gap" in refused(capsys, "data", "simulate", "--root", "sim", "--gap", "7")


def test_a_dry_run_tells_every_run_and_makes_none(capsys: pytest.CaptureFixture[str]):
    assert main(["reproduce", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("score-simulated_histology-cyc_pdam-s0") for line in lines)
    assert all(line.endswith("not made yet") for line in lines)
    assert not Path("runs").exists()


def test_the_list_for_workflow_engines_has_three_columns_in_order(capsys: pytest.CaptureFixture[str]):
    assert main(["reproduce", "--list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    seen: set[str] = set()
    for run, needs, manifest in rows:
        assert set(filter(None, needs.split(","))) <= seen
        assert manifest.endswith("manifest.json")
        seen.add(run)
