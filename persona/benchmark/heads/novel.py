"""Scores a new edit of a trained head, before and after learning it, and what else it changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from persona.benchmark.heads.score import predictions, truth
from persona.commands.experiment import load_system
from persona.data.heads.edits import SyntheticEdits
from persona.errors import UserError
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.latent import FeatureCodes
from persona.modules.metrics.interpolation import disentanglement, mean_disentanglement
from persona.systems.fit import Fit
from persona.types import View


def score_novel(start: Path, after: Fit, novel: Mapping[str, Any]) -> dict[str, float]:
    """Scores a run that learnt one more edit.

    Args:
        start: Run folder that it started from.
        after: The trained system, whose last edit is the new one.
        novel: Configuration of the data of all edits, the new one last.
    """
    data: SyntheticEdits = instantiate(OmegaConf.create(dict(novel)))
    data.prepare_data()
    return measure_new_edit(load_system(start, after.device), after, data)


@torch.no_grad()
def measure_new_edit(before: Fit, after: Fit, data: SyntheticEdits) -> dict[str, float]:
    """Error of the new edit before and after learning it, and how much the other edits changed.

    Before learning, its latent is computed from its picture and words alone.

    Args:
        before: The system that the other started from, which has not seen the new edit.
        after: The system that learnt it, on the same device.
        data: The person, the edits that both know, and the new edit last.

    Returns:
        ``new_error_before`` and ``new_error``: mean absolute difference from the truth where the
        new edit shows. ``new_size``: the same for the person without the edit. ``moved``: mean
        absolute difference of all other edits, and of the person as photographed, from their
        renders before.
    """
    frames, new = data.test_frames, len(data.subjects) - 1
    poses = frames.poses(after.body.num_expression).to(after.device)
    for system in (before, after):
        system.test_table = PoseTable.from_poses(system.body, poses).to(after.device)
        system.eval()
    moved = []
    for edit in range(new):
        for (_, old, _), (_, now, _) in zip(
            predictions(before, frames, edit), predictions(after, frames, edit), strict=True
        ):
            moved.append(float((old - now).abs().mean()))
    source, learnt = predictions(after, frames, 0), predictions(after, frames, new)
    latent = foreseen(before, after, new)
    guesses = []
    for frame, _, _ in learnt:
        rgb, alpha = before.render(
            before.test_table(frame.index[0]), frame.camera[0].local(), view=View(latent=latent)
        )
        guesses.append((rgb + 1 - alpha).clamp(0, 1))
    values = []
    for images in (guesses, [image for _, image, _ in learnt]):
        values.append(mean_disentanglement([
            disentanglement(image, plain, truth(frame), truth(shown))
            for image, (frame, _, _), (shown, plain, _) in zip(images, learnt, source, strict=True)
        ]))  # fmt: skip
    return {
        "new_error_before": values[0].edit_error, "new_error": values[1].edit_error,
        "new_size": values[1].edit_size, "moved": fmean(moved),
    }  # fmt: skip


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
