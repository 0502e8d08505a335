"""Scores a new edit of a trained head, before and after learning it, and what else it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from persona.benchmark.heads.score import Picture, predictions, truth
from persona.commands.experiment import load_system
from persona.data.frames import FrameDataset
from persona.data.heads.edits import SyntheticEdits
from persona.errors import UserError
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.latent import FeatureCodes
from persona.modules.metrics.interpolation import (
    Disentanglement,
    disentanglement,
    mean_disentanglement,
)
from persona.systems.fit import Fit
from persona.types import View


def score_novel(start: Path | None, after: Fit, novel: Mapping[str, Any]) -> dict[str, float]:
    """Scores a run that learnt one more edit.

    Args:
        start: Run folder that it started from; None for a run that learnt all edits at once.
        after: The trained system, whose last edit is the new one.
        novel: Configuration of the data of all edits, the new one last.
    """
    data: SyntheticEdits = instantiate(OmegaConf.create(dict(novel)))
    data.prepare_data()
    before = None if start is None else load_system(start, after.device)
    return measure_new_edit(before, after, data.test_frames)


@torch.no_grad()
def measure_new_edit(before: Fit | None, after: Fit, frames: FrameDataset) -> dict[str, float]:
    """Error of the new edit, and against an earlier system what learning it has changed.

    Args:
        before: The system that the other started from, which has not seen the new edit; None if
            the new edit was trained among the others from the start.
        after: The system that learnt it, on the same device; its last edit is the new one.
        frames: Test frames of the person and of all edits.

    Returns:
        ``new_error``: mean absolute difference from the truth where the new edit shows.
        ``new_size``: the same for the truth without the edit. Only with ``before``:
        ``new_error_before``, ``new_error`` of what it foresees from the edit's picture and words
        alone; ``moved``, mean absolute difference of all other edits, and of the person as
        photographed, from their renders before.
    """
    new = len(after.method.people) - 1
    _show(after, frames)
    source, learnt = predictions(after, frames, 0), predictions(after, frames, new)

    def scored(images: Sequence[Picture]) -> Disentanglement:
        return mean_disentanglement([
            disentanglement(image, plain, truth(frame), truth(shown))
            for image, (frame, _, _), (shown, plain, _) in zip(images, learnt, source, strict=True)
        ])  # fmt: skip

    now = scored([image for _, image, _ in learnt])
    found = {"new_error": now.edit_error, "new_size": now.edit_size}
    if before is None:
        return found
    _show(before, frames)
    moved = []
    for edit in range(new):
        for (_, old, _), (_, later, _) in zip(
            predictions(before, frames, edit), predictions(after, frames, edit), strict=True
        ):
            moved.append(float((old - later).abs().mean()))
    latent = foreseen(before, after, new)
    guesses = []
    for frame, _, _ in learnt:
        rgb, alpha = before.render(
            before.test_table(frame.index[0]), frame.camera[0].local(), view=View(latent=latent)
        )
        guesses.append((rgb + 1 - alpha).clamp(0, 1))
    return found | {"new_error_before": scored(guesses).edit_error, "moved": fmean(moved)}


def _show(system: Fit, frames: FrameDataset) -> None:
    """Gets a system ready to draw frames."""
    poses = frames.poses(system.body.num_expression).to(system.device)
    system.test_table = PoseTable.from_poses(system.body, poses).to(system.device)
    system.eval()


def foreseen(before: Fit, after: Fit, edit: int) -> Tensor:
    """Latent of an edit that a head has not seen, computed from the edit's picture and words.

    Raises:
        UserError: The head's codes come from a table, which has none for the edit.
    """
    own, later = before.avatar, after.avatar
    assert isinstance(own, HeadAvatar) and isinstance(later, HeadAvatar)
    codes, slots, seen = own.edits.codes, own.edits.slots, later.edits.codes
    if slots is None or not isinstance(codes, FeatureCodes) or not isinstance(seen, FeatureCodes):
        raise UserError("a new edit needs avatar.codes=features: a table has no code for it")
    return slots.edited(later.edits.slot[edit], codes.network(seen.features[edit]))
