"""Tables of a benchmark: per frame, per sequence, and means with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from omegaconf import DictConfig

from persona.benchmark.runner import Outcome
from persona.modules.metrics.bootstrap import Estimate, estimate
from persona.modules.metrics.protocol import VARIANTS

VARIANT_TEXT = {
    "fg": "Foreground only: pixels of the true mask (LPIPS: their bounding box)",
    "crop": "Person's box, both on white under the true mask",
    "alpha": "Whole image, the prediction under its own alpha: silhouettes count",
    "full": "Whole image, both on white under the true mask: what the papers report",
}
Row = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Line:
    """A system's averages over the suite, under one pose fit."""

    system: str
    pose_fit: str
    subjects: int
    seeds: int
    frames: int
    values: dict[str, Estimate]
    seed_std: dict[str, float]
    """Standard deviation over the seeds of the means; empty with one seed."""


def lines(outcomes: Sequence[Outcome]) -> list[Line]:
    """One line per system: over frames, then subjects, seeds of a subject averaged by frame."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if not outcome.error:
            key = outcome.cell.system, outcome.cell.pose_fit
            groups.setdefault(key, []).append(outcome)
    return [_line(system, fit, found) for (system, fit), found in groups.items()]


def _line(system: str, pose_fit: str, found: list[Outcome]) -> Line:
    by_subject: dict[str, list[Outcome]] = {}
    for outcome in found:
        by_subject.setdefault(outcome.cell.subject, []).append(outcome)
    seeds = sorted({outcome.cell.seed for outcome in found})
    values, spread = {}, {}
    for name in metric_names(found):
        columns = [_by_frame(of_subject, [name])[:, 0] for of_subject in by_subject.values()]
        values[name] = estimate([column.tolist() for column in columns])
        if len(seeds) > 1:
            spread[name] = float(np.std([_seed_mean(found, s, name) for s in seeds], ddof=1))
    frames = sum(len(of_subject[0].rows) for of_subject in by_subject.values())
    return Line(system, pose_fit, len(by_subject), len(seeds), frames, values, spread)


def differences(
    outcomes: Sequence[Outcome], names: Sequence[str]
) -> dict[tuple[str, str], dict[str, Estimate]]:
    """Difference of every other system from the first, frame by frame, on subjects that both have.

    Both are scored on the same frames, which cause most of a number's spread, so the interval of
    the difference is narrower than those of the means.
    """
    frames: dict[tuple[str, str], dict[str, list[Outcome]]] = {}
    for o in outcomes:
        if not o.error:
            key = o.cell.system, o.cell.pose_fit
            frames.setdefault(key, {}).setdefault(o.cell.subject, []).append(o)
    if not frames:
        return {}
    first, *others = frames
    found = {}
    for other in others:
        both = [s for s in frames[first] if s in frames[other]]
        runs = (_same_seeds(frames[other][s], frames[first][s]) for s in both)
        pairs = [(_by_frame(theirs, names), _by_frame(ours, names)) for theirs, ours in runs]
        if pairs:
            # Infinite values (truth against itself) have no difference.
            with np.errstate(invalid="ignore"):
                gaps = [theirs - ours for theirs, ours in pairs]
            found[other] = {
                name: estimate([gap[:, i].tolist() for gap in gaps]) for i, name in enumerate(names)
            }
    return found


def _same_seeds(
    a: Sequence[Outcome], b: Sequence[Outcome]
) -> tuple[Sequence[Outcome], Sequence[Outcome]]:
    """Results of the seeds that both systems have; a system with one seed is compared with all."""
    common = {o.cell.seed for o in a} & {o.cell.seed for o in b}
    if min(len(a), len(b)) == 1 or not common:
        return a, b
    ours, theirs = ([o for o in side if o.cell.seed in common] for side in (a, b))
    return ours, theirs


def _by_frame(outcomes: Sequence[Outcome], names: Sequence[str]) -> np.ndarray:
    """Numbers of a subject, (frames, names): the mean over seeds."""
    return np.mean([[[float(row[n]) for n in names] for row in o.rows] for o in outcomes], 0)


def _seed_mean(found: list[Outcome], seed: int, name: str) -> float:
    return float(np.mean([mean(o.rows, name) for o in found if o.cell.seed == seed]))


def mean(rows: Sequence[Row], name: str) -> float:
    """Over the frames of one cell."""
    return float(np.mean([float(row[name]) for row in rows]))


def metric_names(outcomes: Sequence[Outcome]) -> list[str]:
    """The numbers of a frame, in their order."""
    rows = [outcome.rows[0] for outcome in outcomes if not outcome.error]
    return [name for name in rows[0] if name != "frame"] if rows else []


def frame_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Every frame of every cell."""
    return [_who(o) | row for o in outcomes for row in o.rows]


def sequence_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Every cell: its means over frames, times, and its error where it failed."""
    rows: list[Row] = []
    for outcome in outcomes:
        names = metric_names([outcome])
        means = {name: mean(outcome.rows, name) for name in names}
        rows.append(_who(outcome) | means | dict(outcome.facts) | {"error": outcome.error})
    return rows


def _who(outcome: Outcome) -> dict[str, float | int | str]:
    cell = outcome.cell
    return {"system": cell.system, "subject": cell.subject, "seed": cell.seed,
            "pose_fit": cell.pose_fit}  # fmt: skip


def table_rows(found: Sequence[Line]) -> list[Row]:
    """One row per system and number."""
    return [
        {"system": line.system, "pose_fit": line.pose_fit, "metric": name, "mean": value.mean,
         "low": value.low, "high": value.high, "seed_std": line.seed_std.get(name, ""),
         "subjects": line.subjects, "seeds": line.seeds, "frames": line.frames}
        for line in found for name, value in line.values.items()
    ]  # fmt: skip


def variant_table(
    variant: str, found: Sequence[Line], names: Sequence[str], published: DictConfig | None
) -> list[list[str]]:
    """Header and rows of a variant; the papers' figures stand in columns of their own."""
    shown = variant_metrics(variant, names)
    header = ["system", "pose fit", "subjects", *(title(name) for name in shown)]
    rows = [
        [line.system, line.pose_fit, str(line.subjects), *(show(line.values[n], n) for n in shown)]
        for line in found
    ]
    figures = [] if published is None else published.figures
    figures = [f for f in figures if f.get("subject") is None]
    if variant != "full" or not figures:
        return [header, *rows]
    header += ["published PSNR", "SSIM", "LPIPS", "source"]
    known = {f.method: f for f in figures}
    rows = [row + _published(known.get(row[0])) for row in rows]
    measured = {line.system for line in found}
    blank = [""] * (2 + len(shown))
    rows += [[f.method, *blank, *_published(f)] for f in figures if f.method not in measured]
    return [header, *rows]


def difference_table(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[list[str]]:
    """Header and a row per system except the first: its difference from the first."""
    shown = [
        *variant_metrics("fg", names),
        *(n for n in variant_metrics("alpha", names) if "psnr" in n or n == "mask_iou"),
    ]
    titles = [f"{variant_of(name)} {title(name)}".strip() for name in shown]
    rows = []
    for (system, fit), gaps in differences(outcomes, shown).items():
        cells = [show(gaps[name], name, sign="+") for name in shown]
        rows.append([system, fit, *cells])
    return [["system", "pose fit", *titles], *rows]


def sequence_table(
    outcomes: Sequence[Outcome], names: Sequence[str], published: DictConfig | None
) -> list[list[str]]:
    """Header and one row per cell."""
    shown = variant_metrics("fg", names) + ["mask_iou"] * ("mask_iou" in names)
    shown += variant_metrics("full", names)
    titles = [f"{variant_of(name)} {title(name)}".strip() for name in shown]
    header = ["system", "subject", "seed", *titles, "train s", "error"]
    figures = [] if published is None else [f for f in published.figures if f.get("subject")]
    known = {(f.method, f.subject): f for f in figures}
    rows = []
    for outcome in outcomes:
        cell, done = outcome.cell, bool(outcome.rows)
        values = [number(n, mean(outcome.rows, n)) if done else "" for n in shown]
        took = outcome.facts.get("train_seconds")
        row = [cell.system, cell.subject, str(cell.seed), *values,
               "" if took is None else f"{took:.0f}", outcome.error]  # fmt: skip
        rows.append(row + (_published(known.get((cell.system, cell.subject))) if known else []))
    if known:
        header += ["published PSNR", "SSIM", "LPIPS", "source"]
    return [header, *rows]


def time_table(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Header and a row per system: medians over its cells; cells that ran elsewhere have none.

    Time to avatar is from decoded frames to the avatar, made and trained; time per frame is of one
    test frame, written to disk.
    """
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if "avatar_seconds" in outcome.facts:
            key = outcome.cell.system, str(outcome.facts["device"])
            found.setdefault(key, []).append(outcome)
    rows = []
    for (system, device), cells in found.items():
        made, frame = (
            median(float(o.facts[key]) for o in cells)
            for key in ("avatar_seconds", "render_seconds_per_frame")
        )
        rows.append([system, f"{made:.1f}", f"{1000 * frame:.0f}", str(len(cells)), device])
    return [["system", "time to avatar, s", "time per frame, ms", "cells", "device"], *rows]


def _published(figure: DictConfig | None) -> list[str]:
    """PSNR, SSIM, LPIPS and source; an unknown figure is an empty cell."""
    if figure is None:
        return [""] * 4
    values = [figure.get(name) for name in ("psnr", "ssim", "lpips")]
    told = figure.source + (f" ({figure.note})" if figure.get("note") else "")
    return ["" if v is None else str(v) for v in values] + [told]


def variant_metrics(variant: str, names: Sequence[str]) -> list[str]:
    """The numbers of a variant; the mask's stand with ``alpha``."""
    own = [name for name in names if variant_of(name) == variant]
    kinds = ("psnr", "ssim", "lpips")
    own = [name for kind in kinds for name in own if kind in name] + [
        name for name in own if not any(kind in name for kind in kinds)
    ]
    return own + [name for name in names if name == "mask_iou" and variant == "alpha"]


def variant_of(name: str) -> str:
    """Variant that a number belongs to."""
    if name == "mask_iou":
        return ""
    return next((v for v in VARIANTS if name.startswith(f"{v}_")), "full")


def title(name: str) -> str:
    """Column header of a number, with the direction of better."""
    plain = name.removeprefix(f"{variant_of(name)}_")
    if plain.startswith("lpips_"):
        return f"LPIPS ({plain.removeprefix('lpips_')}) ↓"
    return {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "mask_iou": "mask IoU ↑"}.get(plain, plain)


def number(name: str, value: float, sign: str = "-") -> str:
    """A number with its significant digits; ``sign`` + shows that of positive ones."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:{sign}.{2 if 'psnr' in name else 4}f}"


def show(value: Estimate, name: str, sign: str = "-") -> str:
    """Mean and interval."""
    mean, low, high = (number(name, v, sign) for v in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A markdown table, first row the header."""
    header, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n"
