"""Scores in, tables out: ours beside the paper's, and 'not run' where nothing ran (Sec. 4.3)."""

import re
from pathlib import Path

import pandas as pd

from pdamlib.config import METHODS
from pdamlib.errors import UserError
from pdamlib.runs import write_text

NOT_RUN = "not run"
MEASURE_TITLES = {"aji": "AJI", "pixel_f1": "Pixel-F1", "object_f1": "Object-F1"}
TARGET_TITLES = {"kumar": "Kumar", "tnbc": "TNBC", "simulated_histology": "Simulated H&E"}

# The paper's own values, Table 3: mean and standard deviation over test images.
PAPER_TABLE_3 = {
    ("kumar", "cycada"): ((0.4447, 0.1069), (0.7220, 0.0802), (0.6567, 0.0837)),
    ("kumar", "chen"): ((0.3756, 0.0977), (0.6337, 0.0897), (0.5737, 0.0983)),
    ("kumar", "sifa"): ((0.3924, 0.1062), (0.6880, 0.0882), (0.6008, 0.1006)),
    ("kumar", "ddmrl"): ((0.4860, 0.0846), (0.7109, 0.0744), (0.6833, 0.0724)),
    ("kumar", "hou"): ((0.4980, 0.1236), (0.7500, 0.0849), (0.6890, 0.0990)),
    ("kumar", "cyc_pdam"): ((0.5610, 0.0718), (0.7882, 0.0533), (0.7483, 0.0525)),
    ("tnbc", "cycada"): ((0.4721, 0.0906), (0.7048, 0.0946), (0.6866, 0.0637)),
    ("tnbc", "chen"): ((0.4407, 0.0623), (0.6405, 0.0660), (0.6289, 0.0609)),
    ("tnbc", "sifa"): ((0.4662, 0.0902), (0.6994, 0.0942), (0.6698, 0.0771)),
    ("tnbc", "ddmrl"): ((0.4642, 0.0503), (0.7000, 0.0431), (0.6872, 0.0347)),
    ("tnbc", "hou"): ((0.4775, 0.1219), (0.7029, 0.1262), (0.6779, 0.0821)),
    ("tnbc", "cyc_pdam"): ((0.5672, 0.0646), (0.7593, 0.0566), (0.7478, 0.0417)),
}
COLUMNS = ["method", "target", "measure", "ours", "ours_sd", "n", "paper", "paper_sd", "difference"]


def paper_table3() -> pd.DataFrame:
    """Return the paper's Table 3: a row a method, target and measure, with columns paper and paper_sd."""
    return pd.DataFrame(
        [
            {"method": method, "target": target, "measure": measure, "paper": mean, "paper_sd": deviation}
            for (target, method), values in PAPER_TABLE_3.items()
            for measure, (mean, deviation) in zip(MEASURE_TITLES, values, strict=True)
        ]
    )


def read_scores(profile: str, results: Path | str = "results") -> pd.DataFrame:
    """Return the recorded scores of a profile, a row an image; empty, with all columns, when nothing ran.

    Raises UserError when the file is there but lacks a column.
    """
    path = Path(results) / profile / "scores.csv"
    needed = ["target", "method", "seed", "image", "subset", "aji", "pixel_f1", "object_f1", "pq"]
    if not path.exists():
        return pd.DataFrame(columns=needed)
    frame = pd.read_csv(path, keep_default_na=False)
    if missing := [name for name in needed if name not in frame]:
        raise UserError(f"{path}: no column '{missing[0]}'; record the runs again with `pdam reproduce`")
    return frame


def table3(profile: str, results: Path | str = "results") -> pd.DataFrame:
    """Return Table 3 in long form: for each method, target and measure ours and the paper's.

    ours, ours_sd: mean and standard deviation (ddof 0) over the n test images, averaged over seeds first; missing where
    nothing ran. paper, paper_sd: missing where the paper has no such row. difference: ours - paper, where both exist
    and the images are the paper's.
    """
    recorded = read_scores(profile, results)
    targets = list(dict.fromkeys(recorded["target"])) or ["kumar", "tnbc"]
    rows = [
        _cell(recorded, method, target, measure)
        for method in METHODS
        for target in targets
        for measure in MEASURE_TITLES
    ]
    table = pd.DataFrame(rows).merge(paper_table3(), how="left", on=["method", "target", "measure"])
    table["difference"] = table["ours"] - table["paper"]
    return table[COLUMNS]


def _cell(recorded: pd.DataFrame, method: str, target: str, measure: str) -> dict[str, object]:
    rows = recorded[(recorded["method"] == method) & (recorded["target"] == target)]
    values = rows.groupby("image")[measure].mean()
    return {
        "method": method,
        "target": target,
        "measure": measure,
        "ours": values.mean(),
        "ours_sd": values.std(ddof=0),
        "n": len(values),
    }


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a long table as people read it: a row a method, two columns (ours, paper) for each target and measure."""
    columns = {}
    for target in dict.fromkeys(table["target"]):
        for measure, title in MEASURE_TITLES.items():
            part = table[(table["target"] == target) & (table["measure"] == measure)]
            if part.empty:
                continue
            head = (TARGET_TITLES.get(target, target), title)
            columns[(*head, "ours")] = _plus_minus(part["ours"], part["ours_sd"], NOT_RUN)
            columns[(*head, "paper")] = _plus_minus(part["paper"], part["paper_sd"], "")
    methods = list(dict.fromkeys(table["method"]))
    return pd.DataFrame(columns, index=[METHODS[name].title for name in methods])


def _plus_minus(means: pd.Series, deviations: pd.Series, missing: str) -> list[str]:
    pairs = zip(means, deviations, strict=True)
    return [missing if pd.isna(mean) else f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in pairs]


def write_tables(profile: str, results: Path | str, out: Path) -> list[Path]:
    """Write Table 3 of a profile as table3.csv, .html and .tex into a folder; return the files."""
    table = table3(profile, results)
    readable = printed(table)
    texts = {
        "table3.csv": table.to_csv(index=False, float_format="%.6f"),
        "table3.html": readable.to_html(),
        "table3.tex": _latex(readable),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in texts]


def _latex(table: pd.DataFrame) -> str:
    """A tabular in plain LaTeX; pandas' own needs a template engine that is no dependency here."""
    head = " & ".join(["Method", *(" ".join(column) for column in table.columns)])
    rows = [
        " & ".join([name, *(str(value) for value in row)])
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    body = " \\\\\n".join([head, *rows]).replace("±", "$\\pm$").replace("H&E", "H\\&E")
    return f"\\begin{{tabular}}{{l{'c' * table.shape[1]}}}\n{body} \\\\\n\\end{{tabular}}\n"


def renew_readme(path: Path, profile: str, results: Path | str) -> None:
    """Write the AJI of Table 3 between the marks table3:begin and table3:end of a Markdown file.

    Raises UserError when the file or its marks are missing.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the README to renew")
    text = path.read_text()
    marks = "<!-- table3:begin -->", "<!-- table3:end -->"
    if not all(mark in text for mark in marks):
        raise UserError(f"{path}: lacks the marks {marks[0]} and {marks[1]}; put them where the table belongs")
    aji = table3(profile, results).query("measure == 'aji'")
    table = markdown(printed(aji))
    new = re.sub(f"{marks[0]}.*?{marks[1]}", lambda _: f"{marks[0]}\n{table}\n{marks[1]}", text, flags=re.DOTALL)
    write_text(path, new)


def markdown(table: pd.DataFrame) -> str:
    """Return a printed table in Markdown, one heading line; cells of the paper carry its mark in the heading."""
    heads = ["Method", *(" ".join(column) for column in table.columns)]
    rows = zip(table.index, table.to_numpy().tolist(), strict=True)
    lines = [heads, ["---"] * len(heads), *([name, *row] for name, row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
