"""Scores a trained head against exact truth: frames, edits, and transitions between edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from persona.commands.editable import EditableHead, has_edits
from persona.data.frames import FrameDataset
from persona.data.subjects import SubjectsDataModule
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.losses.perceptual import Perceptual, missing_weights
from persona.modules.metrics.interpolation import (
    disentanglement,
    mean_disentanglement,
    mean_smoothness,
    smoothness,
)
from persona.modules.metrics.protocol import protocol_metrics, score_frame
from persona.systems.fit import Fit
from persona.types import Frame

VARIANT = "alpha_"
"""Prefix of the metrics that also score silhouettes, as an edit of hair changes them."""
PICTURES = 9
"""Pictures from one edit to another, both included: PERSE's number."""

Picture = Float[Tensor, "3 h w"]


@torch.no_grad()
def score_head(
    system: Fit, data: SubjectsDataModule, metrics: MetricCollection, net: str
) -> dict[str, float]:
    """All scores of a run that the benchmark's table shows.

    Args:
        system: A system trained on edits of the person, or on the person alone.
        data: The person and edits; frame by frame, all of them show the same poses.
        metrics: Metrics of the protocol.
        net: Network of the LPIPS that measures smoothness; without its weights smoothness is left
            out.
    """
    system.eval()
    frames = data.test_frames
    poses = frames.poses(system.body.num_expression).to(system.device)
    system.test_table = PoseTable.from_poses(system.body, poses).to(system.device)
    names = [subject.name for subject in data.subjects]
    knows = len(names) if has_edits(system) else 1
    seen = [predictions(system, frames, edit) for edit in range(knows)]
    scores = [score_frames(metrics, pictures) for pictures in seen]
    found = {f"source_{name}": value for name, value in scores[0].items()}
    if knows == 1:
        return found
    for name in scores[0]:
        found[f"edits_{name}"] = fmean(values[name] for values in scores[1:])
    return found | apart(seen) | smooth(EditableHead(system, data.train_frames, 0), net)


def scored(net: str) -> MetricCollection:
    """The protocol's metrics that the table shows.

    Args:
        net: Network of LPIPS.
    """
    metrics = protocol_metrics(net)
    kept: dict[str, Metric | MetricCollection] = {
        name: metric for name, metric in metrics.items() if name.startswith(VARIANT)
    }
    return MetricCollection(kept, compute_groups=False)


Shown = tuple[Frame, Picture, Float[Tensor, "1 h w"]]
"""A test frame, its render on white, and the render's alpha."""


def predictions(system: Fit, frames: FrameDataset, edit: int) -> list[Shown]:
    """Test frames of one edit with their renders."""
    rows = frames.rows_of(edit)
    shown = []
    for row in rows:
        batch = frames[[row]].to(system.device)
        [(frame, drawn)] = system.predict_frames(batch)
        image, alpha = drawn[system.assets[-1]]
        shown.append((frame, image[0], alpha[0]))
    return shown


def score_frames(metrics: MetricCollection, shown: Sequence[Shown]) -> dict[str, float]:
    """Means over frames of the metrics with the prefix ``VARIANT``."""
    rows = [score_frame(metrics, image, alpha, frame.image[0], frame.mask[0])
            for frame, image, alpha in shown]  # fmt: skip
    names = [name for name in rows[0] if name.startswith(VARIANT)]
    return {name.removeprefix(VARIANT): fmean(row[name] for row in rows) for name in names}


def apart(seen: Sequence[Sequence[Shown]]) -> dict[str, float]:
    """Means over edits and frames: error where an edit shows, drift where it must not show."""
    values = [
        disentanglement(edited, plain, truth(frame), truth(source))
        for shown in seen[1:]
        for (frame, edited, _), (source, plain, _) in zip(shown, seen[0], strict=True)
    ]
    mean = mean_disentanglement(values)
    return {"edit_error": mean.edit_error, "drift": mean.drift, "edit_size": mean.edit_size}


def truth(frame: Frame) -> Picture:
    """The photograph, cut out, on white."""
    return frame.image[0] * frame.mask[0] + 1 - frame.mask[0]


def smooth(head: EditableHead, net: str) -> dict[str, float]:
    """Means over all pairs of edits of one attribute, the person as photographed included."""
    if missing_weights(net):
        return {}
    distance = Perceptual(net, half=False).to(head.system.device)
    shares = torch.linspace(0, 1, PICTURES).tolist()
    found = [
        smoothness(head.between(category, start, end, shares), distance)
        for category, codes in codes_by_attribute(head).items()
        for place, start in enumerate(codes)
        for end in codes[place + 1 :]
    ]
    mean = mean_smoothness(found)
    return {"ppl": mean.ppl, "100pdv": mean.pdv}


def codes_by_attribute(head: EditableHead) -> Mapping[str, list[Tensor]]:
    """Codes of each edited attribute, starting with that of the person as photographed."""
    codes: dict[str, list[Tensor]] = {}
    for name in head.edits:
        category = head.category(name)
        codes.setdefault(category, [head.present(category)]).append(head.code(name))
    return codes
