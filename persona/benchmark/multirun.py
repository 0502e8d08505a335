"""The table of a multirun folder: jobs that differ only in their seed share a row."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from omegaconf import OmegaConf

from persona.benchmark.tables import markdown, number, title, variant_of
from persona.commands.experiment import METRICS_FILE
from persona.commands.results import read_metrics
from persona.data.io import write_bytes, write_csv, write_text
from persona.errors import UserError

matplotlib.use("agg")
from matplotlib import pyplot as plt

SHOWN = ("fg_psnr", "fg_ssim", "fg_lpips", "alpha_psnr", "mask_iou", "base_fg_psnr")
"""Columns of the table and panels of the plot, if measured; ``lpips`` is of any network."""


@dataclass(frozen=True)
class Setting:
    """The jobs of one setting."""

    name: str
    """The overrides that not all jobs share, without the seed."""
    seeds: tuple[int, ...]
    """Seeds of the jobs that finished."""
    failed: int
    values: dict[str, list[float]]
    """Per metric of the test frames, a value a seed."""


def read_multirun(folder: Path) -> list[Setting]:
    """The settings of a multirun, in the order of its jobs.

    Raises:
        UserError: no such folder, or no jobs in it.
    """
    jobs = sorted(
        (p.parents[1] for p in folder.glob("*/.hydra/overrides.yaml")),
        key=lambda p: (int(p.name) if p.name.isdigit() else 0, p.name),
    )
    if not jobs:
        raise UserError(f"{folder}: holds no jobs of a multirun; give the folder that -m printed")
    overrides = {job: list(OmegaConf.load(job / ".hydra/overrides.yaml")) for job in jobs}
    common = set.intersection(*(set(words) for words in overrides.values()))
    groups: dict[str, list[Path]] = {}
    for job, words in overrides.items():
        own = [w for w in words if w not in common and not w.startswith("seed=")]
        groups.setdefault(" ".join(own) or "all the same", []).append(job)
    return [_setting(name, found, overrides) for name, found in groups.items()]


def _setting(name: str, jobs: Sequence[Path], overrides: dict[Path, list[str]]) -> Setting:
    done = [job for job in jobs if (job / METRICS_FILE).is_file()]
    values: dict[str, list[float]] = {}
    for job in done:
        for key, value in read_metrics(job / METRICS_FILE).items():
            if key.startswith("test/"):
                values.setdefault(key.removeprefix("test/"), []).append(float(value))
    return Setting(name, tuple(map(_seed, done)), len(jobs) - len(done), values)


def _seed(job: Path) -> int:
    return int(OmegaConf.load(job / "config.yaml").seed)


def write_multirun_report(folder: Path, settings: Sequence[Setting]) -> str:
    """Writes ablation.md, .csv and .png into the folder; returns the markdown."""
    measured = list(dict.fromkeys(key for s in settings for key in s.values))
    shown = [key for want in SHOWN for key in measured if _is(key, want)]
    header = ["setting", "seeds", *(_header(key) for key in shown)]
    rows = [
        [short(s.name), _told(s), *(spread_text(key, s.values.get(key, [])) for key in shown)]
        for s in settings
    ]
    text = markdown([header, *rows])
    write_text(folder / "ablation.md", text)
    write_csv(
        folder / "ablation.csv",
        [
            {"setting": s.name, "metric": key, "mean": float(np.mean(values)),
             "std": float(np.std(values, ddof=1)) if len(values) > 1 else "",
             "seeds": " ".join(map(str, s.seeds))}
            for s in settings for key, values in s.values.items()
        ],
    )  # fmt: skip
    if shown:
        _plot(folder / "ablation.png", settings, shown)
    return text


def _header(key: str) -> str:
    asset = "base " if key.startswith("base_") else ""
    plain = key.removeprefix("base_")
    return f"{asset}{variant_of(plain)} {title(plain)}".strip()


def _is(key: str, want: str) -> bool:
    return key == want or (want.endswith("lpips") and key.startswith(f"{want}_"))


def _told(setting: Setting) -> str:
    seeds = ", ".join(map(str, setting.seeds))
    return seeds + (f" ({setting.failed} failed)" if setting.failed else "")


def spread_text(key: str, values: Sequence[float]) -> str:
    """Mean, and the standard deviation where there are several seeds; empty without any."""
    if not values:
        return ""
    text = number(key, float(np.mean(values)))
    return text + (f" ± {number(key, float(np.std(values, ddof=1)))}" if len(values) > 1 else "")


def short(name: str) -> str:
    """``+exp=[demo,abl/no_seam]`` as ``demo, no_seam``."""
    return re.sub(r"\+?exp=\[([^]]*)]", lambda m: m[1].replace("abl/", "").replace(",", ", "), name)


def _plot(path: Path, settings: Sequence[Setting], shown: Sequence[str]) -> None:
    """A panel per metric: a bar for the mean, a dot for each seed, a line at the first setting."""
    height = 0.9 + 0.28 * len(settings)
    figure, axes = plt.subplots(
        1, len(shown), figsize=(2.2 + 2.3 * len(shown), height), sharey=True, squeeze=False
    )
    for axis, key in zip(axes[0], shown, strict=True):
        for place, setting in enumerate(settings):
            values = [v for v in setting.values.get(key, []) if np.isfinite(v)]
            if values:
                axis.plot([np.mean(values)], [place], "s", color="C0" if place else "C3")
                axis.plot(values, [place] * len(values), ".", color="0.5", zorder=3)
        first = settings[0].values.get(key)
        if first:
            axis.axvline(float(np.mean(first)), color="C3", linewidth=0.8)
        axis.set_title(_header(key), fontsize="small")
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(settings)), [short(s.name) for s in settings], fontsize="small")
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    write_bytes(path, buffer.getvalue())
