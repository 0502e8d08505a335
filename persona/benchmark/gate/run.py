"""Plants faults in synthetic clips, runs the gate, and reports how often it was right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import UInt8
from numpy import ndarray
from omegaconf import DictConfig
from scipy.stats import binomtest

from persona.benchmark.gate.avatar import avatar_rows, avatar_table
from persona.benchmark.gate.clip import Stage, SyntheticClip, make_clip, make_stage, matte
from persona.benchmark.gate.faults import FAULTS, plant
from persona.data.io import write_csv, write_png, write_text
from persona.data.preprocess.gate import Gate, dropped_sheet
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.scene import CLIPS
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.threads import use_threads
from persona.runtime.apart import results_of
from persona.runtime.options import plain

CLEAN = "none planted"
REASONS = {
    "shifted limb": ("limb", "silhouette"), "missing leg": ("limb", "silhouette"),
    "swapped identity": ("colours",), "flicker": ("flicker",), "frozen": ("frozen",),
}  # fmt: skip
"""First words of the reasons that name a kind of fault."""
_SHOWN = 16
"""Frames of a kind in the contact sheet."""
Row = dict[str, Any]


def run_gate_benchmark(config: DictConfig, folder: Path) -> Path:
    """Writes ``frames.csv``, contact sheets and ``report.md``; returns the report's path."""
    settings = plain(config)
    jobs = [(settings, seed, folder) for seed in config.seeds]
    threads = torch.get_num_threads()
    groups = dict(results_of(_scored_seed, jobs, config.jobs))
    use_threads(threads)  # Avatars are trained in this process.
    rows = [row for seed in config.seeds for row in groups[seed]]
    write_csv(folder / "frames.csv", rows)
    text, path = report(rows), folder / "report.md"
    write_text(path, text)  # Write it before the trainings, which take long.
    if config.avatars:
        trained = avatar_rows(config, folder / "avatars")
        write_csv(folder / "avatars.csv", trained)
        write_text(path, text + "\n" + avatar_table(trained))
    return path


def _scored_seed(job: tuple[dict[str, Any], int, Path]) -> tuple[int, list[Row]]:
    """A seed and its rows."""
    return job[1], score_seed(*job)


@torch.no_grad()
def score_seed(config: dict[str, Any], seed: int, folder: Path) -> list[Row]:
    """A row for each frame of each clip of the people of a seed."""
    use_threads(1)
    body, gate = SmplxBody(), instantiate(config["gate"])
    outfits = config["outfits"]
    stages = {
        outfit: make_stage(
            body, clip_config(config, outfit, 100 * number + seed), folder / "scratch"
        )
        for number, outfit in enumerate(outfits)
    }
    rows: list[Row] = []
    for number, outfit in enumerate(outfits):
        other = stages[outfits[(number + 1) % len(outfits)]]
        for split in CLIPS:
            clip = make_clip(stages[outfit], split, seed)
            about = {"outfit": outfit, "seed": seed, "split": split}
            name = f"{outfit}_{seed}_{split[-1]}"
            rows += [about | row for row in score_clip(clip, other, gate, seed, folder / name)]
    return rows


def score_clip(clip: SyntheticClip, other: Stage, gate: Gate, seed: int, sheets: Path) -> list[Row]:
    """Each kind of fault in a copy of the clip, and none in another.

    Args:
        clip: Without faults.
        other: Who appears where identities are swapped.
        gate: Is asked.
        seed: Seed of faults and mattes.
        sheets: Contact sheets' files, without their ending: what was planted, and what the gate
            got wrong.
    """
    rng = np.random.default_rng([seed, *clip.split.encode(), *clip.stage.config.outfit.encode()])
    rows, shown, wrong = [], [], []
    for kind in (CLEAN, *FAULTS):
        frames, labels = plant(clip, [] if kind == CLEAN else [kind], other, rng)
        images = np.stack([frame.image for frame in frames])
        reasons = gate(clip.controls, images, iter([matte(frame.mask, rng) for frame in frames]))
        rows += [
            {"kind": kind, "frame": i, "faulty": int(bool(label)), "reason": reason}
            for i, (label, reason) in enumerate(zip(labels, reasons, strict=True))
        ]
        said = [
            f"{label}: {why or 'kept'}" if label else ""
            for label, why in zip(labels, reasons, strict=True)
        ]
        shown.append(dropped_sheet(images, said, _SHOWN))
        errors = [
            f"{kind}: {why or 'missed'}" if bool(label) != bool(why) else ""
            for label, why in zip(labels, reasons, strict=True)
        ]
        wrong.append(dropped_sheet(images, errors, _SHOWN))
    for name, sheet in (("planted", shown), ("wrong", wrong)):
        if stacked := [each for each in sheet if each is not None]:
            write_png(sheets.with_name(f"{sheets.name}_{name}.png"), stack(stacked))
    return rows


def clip_config(config: dict[str, Any], outfit: str, seed: int) -> SyntheticConfig:
    """Settings of one person's clips."""
    return SyntheticConfig(
        seed=seed, outfit=outfit, shape=1.2, height=config["height"], width=config["width"],
        num_generated=config["num_frames"], texture_size=256, **config["errors"],
    )  # fmt: skip


def report(rows: Sequence[Row]) -> str:
    """Recall and precision of each kind with 95 % intervals (Wilson 1927)."""
    people = {(row["outfit"], row["seed"]) for row in rows}
    clips = {(row["outfit"], row["seed"], row["split"]) for row in rows}
    lines = [
        f"{len(people)} synthetic people, {len(clips)} clips, each once with every kind of fault.",
        "", "| planted | frames | faulty | found | recall | dropped | precision | named right |",
        "|---|" + "---:|" * 7,
    ]  # fmt: skip
    for kind in (*FAULTS, CLEAN):
        group = [row for row in rows if row["kind"] == kind]
        faulty = [row for row in group if row["faulty"]]
        found = [row for row in faulty if row["reason"]]
        dropped = sum(bool(row["reason"]) for row in group)
        named = sum(row["reason"].split()[0].strip(",") in REASONS[kind] for row in found)
        lines.append(
            f"| {kind} | {len(group)} | {len(faulty)} | {len(found)} "
            f"| {share(len(found), len(faulty))} | {dropped} | {share(len(found), dropped)} "
            f"| {share(named, len(found))} |"
        )
    clean = [row for row in rows if row["kind"] == CLEAN]
    lost = sum(bool(row["reason"]) for row in clean)
    lines += ["", f"Of clips without faults {lost} of {len(clean)} frames are dropped."]
    return "\n".join(lines) + "\n"


def share(part: int, whole: int) -> str:
    """With its interval; a dash where there is nothing to divide by."""
    if not whole:
        return "-"
    low, high = binomtest(part, whole).proportion_ci(method="wilson")
    return f"{part / whole:.3f} [{low:.2f}, {high:.2f}]"


def stack(images: Sequence[UInt8[ndarray, "_ _ 3"]]) -> UInt8[ndarray, "rows columns 3"]:
    """One below the other, white beside the narrower ones."""
    width = max(image.shape[1] for image in images)
    padded = [
        np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), constant_values=255)
        for image in images
    ]
    return np.vstack(padded)
