"""Tables: every cell follows from a hand-made scores file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pdamlib.errors import UserError
from pdamlib.report.tables import markdown, paper_table3, printed, read_scores, renew_readme, table3, write_tables

HEAD = "target,method,seed,image,subset,aji,pixel_f1,object_f1,pq\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """CyC-PDAM on two Kumar images with two seeds; nothing else ran."""
    folder = tmp_path / "cpu"
    folder.mkdir()
    rows = [
        "0,a,seen,0.4,0.7,0.6,0.5",
        "0,b,unseen,0.5,0.8,0.7,0.6",
        "1,a,seen,0.6,0.7,0.6,0.5",
        "1,b,unseen,0.7,0.8,0.7,0.6",
    ]
    (folder / "scores.csv").write_text(HEAD + "".join(f"kumar,cyc_pdam,{row}\n" for row in rows))
    return tmp_path


def cell(table: pd.DataFrame, method: str, target: str, measure: str) -> pd.Series:
    rows = table[(table["method"] == method) & (table["target"] == target) & (table["measure"] == measure)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_cell_is_the_mean_over_images_of_the_mean_over_seeds(results: Path):
    ours = cell(table3("cpu", results), "cyc_pdam", "kumar", "aji")
    # image a: (0.4 + 0.6) / 2 = 0.5; image b: (0.5 + 0.7) / 2 = 0.6
    assert (ours["ours"], ours["ours_sd"], ours["n"]) == (pytest.approx(0.55), pytest.approx(0.05), 2)
    assert ours["paper"] == 0.5610
    assert ours["difference"] == pytest.approx(0.55 - 0.5610)


def test_what_did_not_run_is_said_so(results: Path):
    missing = cell(table3("cpu", results), "no_adaptation", "kumar", "aji")
    assert np.isnan(missing["ours"]) and missing["n"] == 0
    assert printed(table3("cpu", results)).loc["No adaptation", ("Kumar", "AJI", "ours")] == "not run"


def test_without_any_results_the_paper_stands_alone(tmp_path: Path):
    table = printed(table3("cpu", tmp_path))
    assert table.loc["CyC-PDAM (proposed)", ("TNBC", "AJI", "paper")] == "0.5672 ± 0.0646"
    assert table.loc["CyC-PDAM (proposed)", ("TNBC", "AJI", "ours")] == "not run"


def test_the_papers_table_is_complete_and_its_method_wins_each_column():
    table = paper_table3()
    assert len(table) == 6 * 2 * 3
    best = table.loc[table.groupby(["target", "measure"])["paper"].idxmax(), "method"]
    assert set(best) == {"cyc_pdam"}


def test_a_scores_file_without_a_column_is_refused_by_name(results: Path):
    (results / "cpu" / "scores.csv").write_text("target,method\nkumar,cyc_pdam\n")
    with pytest.raises(UserError, match=r"scores\.csv: no column 'seed'"):
        read_scores("cpu", results)


def test_the_three_files_hold_the_same_numbers(results: Path, tmp_path: Path):
    files = {path.suffix: path.read_text() for path in write_tables("cpu", results, tmp_path / "tables")}
    assert "0.550000" in files[".csv"]
    assert "0.5500 ± 0.0500" in files[".html"]
    assert r"0.5500 $\pm$ 0.0500" in files[".tex"] and files[".tex"].count(r"\\") == 1 + 2


def test_markdown_has_a_row_a_method(results: Path):
    lines = markdown(printed(table3("cpu", results))).splitlines()
    assert len(lines) == 2 + 2
    assert len({line.count("|") for line in lines}) == 1


def test_the_readme_is_renewed_between_its_marks_only(results: Path, tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table3:begin -->\nold\n<!-- table3:end -->\nafter\n")
    renew_readme(readme, "cpu", results)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "old" not in text and "0.5500 ± 0.0500" in text
    with pytest.raises(UserError, match="lacks the marks"):
        readme.write_text("nothing here")
        renew_readme(readme, "cpu", results)
