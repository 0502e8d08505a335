"""How dropping frames affects an avatar that is trained on clips with planted faults."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.benchmark.gate.clip import make_stage, matte, whole_clip
from persona.benchmark.gate.faults import FAULTS, plant
from persona.commands.experiment import train
from persona.data.preprocess.gate import Gate
from persona.data.preprocess.unwrap import View, unwrap
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.scene import CLIPS
from persona.data.synthetic.subject import make_synthetic_subject
from persona.modules.body.smplx_body import SmplxBody

WAYS = ("no faults", "gate=none", "gate=alignment", "planted frames left out")
"""Choices of training frames; the last is a perfect gate."""
SCORES = ("test/psnr", "test/fg_psnr", "test/ssim", "test/lpips_squeeze")
Row = dict[str, Any]


def avatar_rows(config: DictConfig, folder: Path) -> list[Row]:
    """A row for each person, seed and way: the scores of unseen poses and views."""
    body, rows = SmplxBody(), []
    gate: Gate = instantiate(config.gate)
    for outfit in config.avatar_outfits:
        for seed in config.seeds:
            made = SyntheticConfig(
                seed=seed, outfit=outfit, shape=1.2, height=config.height, width=config.width,
                texture_size=512, patch_size=128, **dict(config.errors),
            )  # fmt: skip
            for way in WAYS:
                name = f"{outfit}_{seed}_{way.replace(' ', '_').replace('=', '_')}"
                kept = spoil(folder / name, body, made, way, gate)
                run = compose("train", [
                    *config.overrides, "data=subject", f"seed={seed}", f"name={name}", "logger=none"
                ])  # fmt: skip
                run.data.root = str(folder / name)
                scores = train(run, folder / f"run_{name}")
                about = {"outfit": outfit, "seed": seed, "way": way, "frames": kept}
                rows.append(about | {k: v for k, v in scores.items() if k.startswith("test/")})
    return rows


@torch.no_grad()
def spoil(root: Path, body: SmplxBody, config: SyntheticConfig, way: str, gate: Gate) -> int:
    """Makes a subject whose clips have faults of all kinds; returns how many frames are listed.

    Args:
        root: Folder of the subject.
        body: Body model.
        config: The person.
        way: Which frames are listed: see ``WAYS``.
        gate: Chooses them for ``gate=alignment``.
    """
    person = make_synthetic_subject(root, body, config)
    if way == WAYS[0]:
        return len(CLIPS) * config.num_generated
    info, scratch = Subject(root).info, root / "stage"
    assert info is not None  # Made just before.
    writer = SubjectWriter(root)
    stage = make_stage(body, config, scratch)
    outfits = ("t_shirt", "tunic", "coat", "dress")
    another = next(name for name in outfits if name != config.outfit)
    other = make_stage(body, SyntheticConfig(seed=config.seed + 500, outfit=another), scratch)
    total = 0
    for split in CLIPS:
        clip = whole_clip(stage, split)
        rng = np.random.default_rng([config.seed, *split.encode()])
        frames, labels = plant(clip, list(FAULTS), other, rng)
        for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
            if label:
                writer.write_frame(split, number, frame)
        if way == WAYS[2]:
            images = np.stack([frame.image for frame in frames])
            masks = iter([matte(frame.mask, rng) for frame in frames])
            reasons = gate(clip.controls, images, masks)
        else:
            reasons = labels if way == WAYS[3] else [""] * len(frames)
        kept = [number for number, reason in enumerate(reasons) if not reason]
        writer.write_split(split, kept)
        total += len(kept)
        if split == next(iter(CLIPS)):
            vertices = (body(person.identity, clip.poses[i])[0] for i in kept)
            views = [View(frames[i], v) for i, v in zip(kept, vertices, strict=True)]
            writer.write_textures(split, unwrap(views, person.uv_mesh(), config.texture_size))
    shutil.rmtree(scratch, ignore_errors=True)
    writer.finish(info)
    return total


def avatar_table(rows: Sequence[Row]) -> str:
    """Means over people and seeds, and each way's difference from ``gate=none``."""
    names = [name for name in SCORES if all(name in row for row in rows)]
    lines = [
        "Avatars trained on clips of which a quarter of the frames are faulty, scored on unseen "
        "poses and views; mean and standard deviation over people and seeds of the score less "
        "that of gate=none.", "",
        "| trained on | frames | " + " | ".join(f"{n} | less gate=none" for n in names) + " |",
        "|---|---:|" + "---:|---:|" * len(names),
    ]  # fmt: skip

    def of(way: str) -> dict[tuple[str, int], Row]:
        return {(row["outfit"], row["seed"]): row for row in rows if row["way"] == way}

    plain = of("gate=none")
    for way in WAYS:
        group = of(way)
        cells = [f"{np.mean([row['frames'] for row in group.values()]):.1f}"]
        for name in names:
            values = [row[name] for row in group.values()]
            off = [row[name] - plain[key][name] for key, row in group.items()]
            cells += [f"{np.mean(values):.4g}", f"{np.mean(off):+.3f} ± {np.std(off, ddof=1):.3f}"]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
