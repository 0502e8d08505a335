"""Tables of the yardstick: a row per person, means, and two runs side by side."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from persona.benchmark.photo.failures import DEFINITIONS
from persona.benchmark.photo.score import Row
from persona.benchmark.report import commit, machine
from persona.benchmark.tables import markdown
from persona.data.io import read_text, write_csv, write_text
from persona.errors import UserError
from persona.modules.metrics.bootstrap import estimate

TEXT = ("person", "code", "digest", "damaged", "error", "gross", "commit")
TABLE_FILE = "table.csv"
FIT = ("mask_iou", "parts_iou", "keypoints_px", "joints_mm", "joints_pa_mm", "shape_mm",
       "facing_deg", "people_found", "background_share")  # fmt: skip
LOWER = ("lpips", "_mm", "_px", "_deg", "_share", "seconds", "people_found")
NOTES = (
    "psnr: inside both silhouettes; union_psnr: inside either, both on white; lpips: the box of "
    "all true silhouettes, each picture on white; iou: of the silhouettes; seen and made_up: "
    "where the texture was seen in the photo or not",
    "front 000, 045, 315; side 090, 270; back 135, 180, 225; unseen: side and back; all: the "
    "eight; poses: other poses of the same person",
    "the fitted person is turned about its pelvis as the true one is; scale and place are laid "
    "on the truth's silhouette once, in the photo's own view, and a shift to the side is granted "
    "in every other; in other poses scale and place come from each silhouette",
    "joints_mm: 22 body joints, pelvis at one place, scale removed; joints_pa_mm: best rotation "
    "too; shape_mm: rest vertices by betas, scale removed; parts_iou: mean over the true parts of "
    "0.1 % of the person or more, lips and teeth as face",
)


def numbers(rows: Sequence[Row]) -> list[str]:
    """Columns that hold numbers, in the order in which they come up."""
    return [k for k in dict.fromkeys(k for row in rows for k in row) if k not in TEXT]


def column(rows: Sequence[Row], key: str) -> list[float]:
    """Values of the people who have it."""
    return [float(row[key]) for row in rows if key in row]


def write_tables(folder: Path, rows: Sequence[Row], command: str, code: str) -> Path:
    """Writes table.csv and report.md. Returns the report."""
    write_csv(folder / TABLE_FILE, [_ordered(row) for row in rows])
    good = [row for row in rows if not row.get("damaged")]
    gross = [row for row in good if row.get("gross")]
    commits = sorted({str(row["commit"]) for row in good if "commit" in row}) or [commit()]
    damaged = [row for row in rows if row.get("damaged")]
    lines = [
        f"# Photo path: {code}", "",
        f"`{command}`; commit {', '.join(commits)}; {machine()}.", "",
        f"People: {len(good)} scored, {len(damaged)} damaged and left out. "
        f"**Gross failures: {len(gross)} of {len(good)}.**", "",
    ]  # fmt: skip
    lines += [f"- {row['person']}: {row['gross']}" for row in gross]
    lines += [f"- {row['person']} is damaged: {row['damaged']}" for row in damaged]
    lines += ["", "## Means and medians", "", markdown(summary(good))]
    lines += ["## People", "", markdown(people_table(good))]
    lines += ["## How to read it", "", *(f"- {note}" for note in NOTES), ""]
    lines += ["Gross failures:", "", *(f"- {text}" for text in DEFINITIONS), ""]
    write_text(folder / "report.md", "\n".join(lines))
    return folder / "report.md"


def _ordered(row: Row) -> Row:
    """Columns, those with text first."""
    return {k: row[k] for k in TEXT if k in row} | {k: v for k, v in row.items() if k not in TEXT}


def summary(rows: Sequence[Row]) -> list[list[str]]:
    """A line per number: over how many people, mean, median, worst."""
    table = [["number", "people", "mean", "median", "worst"]]
    for key in numbers(rows):
        values = column(rows, key)
        worst = max(values) if lower_is_better(key) else min(values)
        told = (np.mean(values), np.median(values), worst)
        table.append([key, str(len(values)), *(digits(key, float(v)) for v in told)])
    return table


def people_table(rows: Sequence[Row]) -> list[list[str]]:
    """A line per person with the main numbers."""
    shown = [key for key in FIT if column(rows, key)]
    for asset in ("texture", "avatar"):
        for key in ("front_psnr", "unseen_psnr", "unseen_lpips", "unseen_iou", "poses_psnr"):
            shown += [f"{asset}_{key}"] if column(rows, f"{asset}_{key}") else []
    body = [
        [str(row["person"]), *(digits(k, float(row[k])) if k in row else "" for k in shown),
         str(row.get("gross", ""))]
        for row in rows
    ]  # fmt: skip
    return [["person", *shown, "gross failures"], *body]


def lower_is_better(key: str) -> bool:
    """Whether less of a number is better."""
    return any(part in key for part in LOWER)


def digits(key: str, value: float, sign: str = "-") -> str:
    """A number with its significant digits."""
    small = any(part in key for part in ("iou", "lpips", "share", "cover"))
    return f"{value:{sign}.{4 if small else 2}f}"


def read_table(folder: Path) -> list[Row]:
    """The rows of an earlier run.

    Raises:
        UserError: there are none.
    """
    path = folder / TABLE_FILE
    text = read_text(path, "run the yardstick into this folder first")
    rows = []
    for line in csv.DictReader(text.splitlines()):
        row = {k: (v if k in TEXT else float(v)) for k, v in line.items() if v}
        rows.append({"gross": ""} | row)
    if not rows:
        raise UserError(f"{path}: holds no person; run the yardstick again")
    return rows


def write_comparison(before: Path, after: Path, folder: Path) -> Path:
    """Writes comparison.md and comparison.csv of two runs on the same people.

    Raises:
        UserError: they have no person in common.
    """
    olds, news = ({str(row["person"]): row for row in read_table(p)} for p in (before, after))
    names = [name for name in olds if name in news]
    names = [n for n in names if "damaged" not in olds[n] and "damaged" not in news[n]]
    if not names:
        raise UserError(f"{before} and {after}: no person in common; score the same people")
    pairs = [(olds[name], news[name]) for name in names]
    codes = str(pairs[0][0].get("code", before.name)), str(pairs[0][1].get("code", after.name))
    found = differences(pairs)
    write_csv(folder / "comparison.csv", found)
    gross = [sum(bool(pair[side]["gross"]) for pair in pairs) for side in (0, 1)]
    lines = [
        f"# Photo path: {codes[0]} and {codes[1]}",
        "",
        f"{len(names)} people. Gross failures: {codes[0]} {gross[0]}, {codes[1]} {gross[1]}.",
        "",
    ]
    for name, (old, new) in zip(names, pairs, strict=True):
        if old["gross"] or new["gross"]:
            lines.append(f"- {name}: {old['gross'] or 'good'} -> {new['gross'] or 'good'}")
    header = ["number", "people", *codes, "difference [95 %]", "better"]
    lines += ["", markdown([header, *(comparison_line(row) for row in found)])]
    lines += ["Differences are of the same people; the interval is a bootstrap over people.", ""]
    write_text(folder / "comparison.md", "\n".join(lines))
    return folder / "comparison.md"


def differences(pairs: Sequence[tuple[Row, Row]]) -> list[Row]:
    """Per number: means of the people that both have it for, and the mean difference."""
    rows: list[Row] = []
    for key in numbers([old for old, _ in pairs]):
        both = [(float(a[key]), float(b[key])) for a, b in pairs if key in a and key in b]
        if not both:
            continue
        old, new = np.array(both).T
        gap = estimate([(new - old).tolist()])
        rows.append({
            "number": key, "people": len(both), "before": float(old.mean()),
            "after": float(new.mean()), "difference": gap.mean, "low": gap.low, "high": gap.high,
        })  # fmt: skip
    return rows


def comparison_line(row: Row, sides: tuple[str, str] = ("before", "after")) -> list[str]:
    """Cells of a row of ``differences``; the last names the side that is surely better, if any."""
    key = str(row["number"])
    means = [digits(key, float(row[side])) for side in ("before", "after")]
    gap, low, high = (digits(key, float(row[k]), "+") for k in ("difference", "low", "high"))
    better = ""
    if float(row["low"]) > 0 or float(row["high"]) < 0:
        better = sides[(float(row["difference"]) > 0) != lower_is_better(key)]
    return [key, str(row["people"]), *means, f"{gap} [{low}, {high}]", better]
