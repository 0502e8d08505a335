"""The report folder of a benchmark."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig

from persona.benchmark import tables
from persona.benchmark.page import Gallery, page
from persona.benchmark.pictures import contact_sheet, curves, overview, picture_rows
from persona.benchmark.plan import PACKAGE, Plan
from persona.benchmark.runner import Outcome
from persona.commands.experiment import missing_lpips
from persona.data.io import write_csv, write_png, write_text

ORDER = ("fg", "alpha", "crop", "full")
"""Order of the tables: variants that hide least come first."""


def write_report(
    config: DictConfig, plan: Plan, outcomes: Sequence[Outcome], folder: Path, command: str
) -> str:
    """Writes tables, sheets, curves and the page; returns the tables as markdown.

    Args:
        config: of the benchmark.
        plan: what was to be run.
        outcomes: results of its cells.
        folder: of the report.
        command: what the user typed.
    """
    found, names = tables.lines(outcomes), tables.metric_names(outcomes)
    write_csv(folder / "sequences.csv", tables.sequence_rows(outcomes))
    shown: list[tuple[str, list[list[str]]]] = []
    galleries: list[Gallery] = []
    published = config.get("published")
    if names:
        write_csv(folder / "table.csv", tables.table_rows(found))
        write_csv(folder / "frames.csv", tables.frame_rows(outcomes))
        for variant in ORDER:
            table = tables.variant_table(variant, found, names, published)
            shown.append((tables.VARIANT_TEXT[variant], table))
        first = found[0].system
        against = tables.difference_table(outcomes, names)
        if len(against) > 1:
            shown.insert(1, (f"Less {first}, frame by frame", against))
        galleries = [
            gallery(name, data, outcomes, folder, config.frames_shown, names)
            for name, data in plan.subjects.items()
        ]
        write_png(folder / "overview.png", overview({g.subject: g.pictures for g in galleries}))
    times = tables.time_table(outcomes)
    if len(times) > 1:
        shown.append(("Time, medians over cells", times))
    shown.append(("Sequences", tables.sequence_table(outcomes, names, published)))
    title = f"Benchmark: suite {config.suite.name}, size {config.size}"
    facts = provenance(config, plan, outcomes, command)
    text = "\n".join([f"# {title}", "", *(f"- {line}" for line in facts), ""])
    for heading, table in shown:
        text += f"\n## {heading}\n\n{tables.markdown(table)}"
    write_text(folder / "report.md", text)
    write_text(folder / "index.html", page(title, facts, shown, galleries))
    return text


def gallery(
    subject: str, data, outcomes: Sequence[Outcome], folder: Path, count: int, names: Sequence[str]
) -> Gallery:
    """Contact sheet and curves of a subject, on disk, and its pictures for the page."""
    own = [o for o in outcomes if o.cell.subject == subject]
    frames, pictures = picture_rows(data, own, count)
    write_png(folder / f"sheet_{subject}.png", contact_sheet(pictures))
    drawn = [n for n in tables.variant_metrics("fg", names) if n != "fg_ssim"]
    drawn += [n for n in names if n == "mask_iou"]
    path = folder / f"curves_{subject}.png"
    curves(path, own, drawn)
    return Gallery(subject, frames, pictures, path)


def provenance(
    config: DictConfig, plan: Plan, outcomes: Sequence[Outcome], command: str
) -> list[str]:
    """Command, commit, machine and protocol: what is needed to read the numbers."""
    failed = sum(bool(o.error) for o in outcomes)
    seconds = sum(float(o.facts.get("seconds", 0)) for o in outcomes)
    return [
        f"command: `{command}`",
        f"commit: {commit()}; made: {datetime.now():%Y-%m-%d %H:%M}",
        f"machine: {machine()}; devices of the cells: "
        + (", ".join(sorted({str(o.facts["device"]) for o in outcomes if o.facts})) or "none"),
        f"cells: {len(outcomes)}, of which {failed} failed and "
        f"{sum(o.cached for o in outcomes)} came from the cache; "
        f"{seconds / 60:.1f} minutes of training and rendering in all, {max(config.jobs, 1)} at a "
        "time",
        f"input: {config.suite.input}",
        *test_lines(plan, outcomes),
        *settings_lines(outcomes),
        *missing_lpips(config.metric),
        "protocol: 8-bit frames; mean over frames, then subjects; in brackets the 95 % bootstrap "
        "interval over frames (it says nothing about other subjects)",
    ]


def test_lines(plan: Plan, outcomes: Sequence[Outcome]) -> list[str]:
    """What was tested: frames and their size, on which all numbers depend, and seeds."""
    frames = {name: data.test_frames for name, data in plan.subjects.items()}
    told = [f"{name} {len(f)} of {f.sizes[0][0]} x {f.sizes[0][1]}" for name, f in frames.items()]
    seeds = sorted({o.cell.seed for o in outcomes if o.cell.trained and not o.error})
    lines = [f"test frames, pixels high and wide: {', '.join(told)}"] if told else []
    if len(seeds) > 1:
        text = ", ".join(map(str, seeds))
        lines.append(f"seeds: {text}, averaged by frame; table.csv has their spread, seed_std")
    return lines + [f"seed: {seed}" for seed in seeds if len(seeds) == 1]


def settings_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The meaning of each system's name: its overrides, its steps, and its training frames."""
    lines: dict[str, str] = {}
    for cell, facts in ((o.cell, o.facts) for o in outcomes if o.facts):
        assert cell.config is not None  # Facts are of cells that were trained here.
        data, told = cell.config.data, "not trained"
        if cell.trained:
            told = f"{facts['train_steps']:.0f} steps on "
            told += "all frames" if data.train_splits is None else " and ".join(data.train_splits)
            if data.train_splits is None and data.captured_ratio is not None:
                told += f", {data.captured_ratio:.0%} of them on the photograph"
        lines.setdefault(cell.system, f"{cell.system}: `{cell.experiment}`, {told}")
    return list(lines.values())


def commit() -> str:
    """The commit of the code, and whether files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=PACKAGE, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        found = git("rev-parse", "--short", "HEAD")
        return (found or "unknown") + (" with changes" if git("status", "--porcelain") else "")
    except OSError:  # No git here.
        return "unknown"


def machine() -> str:
    """Processor, cores and GPU."""
    found = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return f"{found}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else found


def log_table(config: DictConfig, outcomes: Sequence[Outcome], folder: Path) -> None:
    """The tables as a W&B run in the group of the cells."""
    if not config.get("logger"):
        return
    logger = instantiate(config.logger, save_dir=str(folder), group=config.group)
    if isinstance(logger, WandbLogger):
        for key, rows in (("table", tables.table_rows(tables.lines(outcomes))),
                          ("sequences", tables.sequence_rows(outcomes))):  # fmt: skip
            columns = list(dict.fromkeys(name for row in rows for name in row))
            data = [[str(row.get(name, "")) for name in columns] for row in rows]
            logger.log_table(key, columns=columns, data=data)
        logger.experiment.finish(quiet=True)
