"""Curves and tables of time to quality."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from persona.benchmark.quality.curve import PHOTO
from persona.benchmark.regions import REGIONS
from persona.benchmark.tables import markdown
from persona.data.io import write_bytes, write_csv, write_text

matplotlib.use("agg")
from matplotlib import pyplot as plt

Result = Mapping
"""Result of a run, as the worker writes it."""


def shown_metrics(net: str | None) -> dict[str, str]:
    """Title of each metric that is shown; all others are in the csv."""
    lpips = {f"fg_lpips_{net}": "LPIPS ↓"} if net else {}
    return {
        "fg_psnr": "fg PSNR, dB", **lpips, f"{PHOTO}fg_psnr": "photo's view, dB",
        **{name: f"{name}, dB" for name in REGIONS if name in ("face", "hands", "hem")},
    }  # fmt: skip


def write_tables(
    folder: Path, results: Sequence[Result], order: Sequence[str], net: str | None, command: str
) -> None:
    """Writes curves.csv, curves.png and report.md.

    Args:
        folder: Takes them.
        results: Results of the runs that are there.
        order: Names of the schedules; the others are compared with the first.
        net: LPIPS network of the scores.
        command: That made them.
    """
    metrics = shown_metrics(net)
    keys = ("schedule", "subject", "seed", "device", "threads")
    rows = [{**{k: r[k] for k in keys}, **point} for r in results for point in r["points"]]
    write_csv(folder / "curves.csv", rows)
    write_bytes(folder / "curves.png", plot(results, order, metrics))
    results, order = with_steps_alone(results, order)
    there = [name for name in order if any(r["schedule"] == name for r in results)]
    lines = [
        f"Measured with `{command}` on {', '.join(sorted({r['device'] for r in results}))}.", "",
        "Seconds count from a subject folder that is there, without imports and scoring. Means over"
        " subjects, then seeds; unseen poses and views but for the photo's.", "",
        markdown(ends(results, there, metrics)), "",
    ]  # fmt: skip
    first = (there[0], steps_alone(there[0]))
    for reference in [name for name in first if name in there]:
        others = [name for name in there if name != reference]
        lines += [
            f"Paired with {reference}: mean difference, and standard error over subjects and"
            " seeds.", "",
            markdown(gaps(results, [reference, *others], metrics)), "",
        ]  # fmt: skip
    lines += ["![Curves](curves.png)", ""]
    write_text(folder / "report.md", "\n".join(lines))


def steps_alone(schedule: str) -> str:
    """Name of a schedule's rows without what ``Fit.finish`` does."""
    return f"{schedule}, steps alone"


def with_steps_alone(
    results: Sequence[Result], order: Sequence[str]
) -> tuple[list[Result], list[str]]:
    """Adds, for runs scored before and after ``Fit.finish``, what their steps alone gave."""
    alone = [
        {**r, "schedule": steps_alone(r["schedule"]), "points": r["points"][:-1]}
        for r in results
        if len(r["points"]) > 1 and r["points"][-2]["step"] == r["points"][-1]["step"]
    ]
    names = [name for schedule in order for name in (schedule, steps_alone(schedule))]
    return [*results, *alone], names


def ends(
    results: Sequence[Result], order: Sequence[str], metrics: Mapping[str, str]
) -> list[list[str]]:
    """A row a schedule: how long, how good, and when it was as good as the first one's end."""
    reference = {_who(r): r["points"][-1] for r in results if r["schedule"] == order[0]}
    titles = ["steps", "s", "CPU s", *metrics.values(), f"s to {order[0]}'s end"]
    table = [["schedule", "runs", *titles]]
    for name in order:
        own = [r for r in results if r["schedule"] == name]
        last = [r["points"][-1] for r in own]
        cells = [f"{_mean(last, key):.0f}" for key in ("step", "seconds", "cpu_seconds")]
        cells += [f"{_mean(last, key):.{4 if 'lpips' in key else 2}f}" for key in metrics]
        table.append([name, str(len(own)), *cells, _reached(own, reference)])
    return table


def _reached(own: Sequence[Result], reference: Mapping[tuple, Mapping]) -> str:
    """Mean seconds after which runs are as good as the reference's end in PSNR, if all are."""
    times = []
    for result in own:
        if (end := reference.get(_who(result))) is None:
            return ""
        times += [p["seconds"] for p in result["points"] if p["fg_psnr"] >= end["fg_psnr"]][:1]
    return f"{np.mean(times):.0f}" if len(times) == len(own) else f"{len(times)} of {len(own)} do"


def gaps(
    results: Sequence[Result], order: Sequence[str], metrics: Mapping[str, str]
) -> list[list[str]]:
    """Differences of each schedule's end from the first one's, on what both were trained on."""
    ended: dict[str, dict[tuple[str, int], Mapping[str, float]]] = {}
    for r in results:
        ended.setdefault(r["schedule"], {})[_who(r)] = r["points"][-1]
    table = [["schedule", "pairs", *metrics.values()]]
    for name in order[1:]:
        first = ended[order[0]]
        pairs = [(point, first[who]) for who, point in ended[name].items() if who in first]
        cells = []
        for key in metrics:
            values = [a[key] - b[key] for a, b in pairs if key in a and key in b]
            cells.append(_spread(values, 4 if "lpips" in key else 2))
        table.append([name, str(len(pairs)), *cells])
    return table


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    text = f"{np.mean(values):+.{digits}f}"
    if len(values) < 2:
        return text
    return f"{text} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}"


def _who(result: Result) -> tuple[str, int]:
    return result["subject"], result["seed"]


def _mean(points: Sequence[Mapping[str, float]], key: str) -> float:
    values = [point[key] for point in points if key in point]
    return float(np.mean(values)) if values else float("nan")


def plot(results: Sequence[Result], order: Sequence[str], metrics: Mapping[str, str]) -> bytes:
    """A panel a metric: a thin line for each run, a thick one for a schedule's mean."""
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(3.4 * len(metrics), 3.4), squeeze=False, layout="constrained"
    )
    for axis, (key, title) in zip(axes[0], metrics.items(), strict=True):
        for number, name in enumerate(order):
            own = [r["points"] for r in results if r["schedule"] == name]
            lines = [
                np.array([(p["seconds"], p[key]) for p in points if key in p]) for points in own
            ]
            lines = [line for line in lines if len(line)]
            for line in lines:
                axis.plot(*line.T, color=f"C{number}", linewidth=0.5, alpha=0.6)
            if lines and len({len(line) for line in lines}) == 1:
                axis.plot(*np.mean(lines, 0).T, ".-", color=f"C{number}", label=name)
        axis.set(xlabel="seconds", title=title)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
