"""How smoothly pictures change between edits, and how much edits change elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import ImageDistance


@dataclass(frozen=True)
class Smoothness:
    """Smoothness of one sequence of pictures from one edit to another; lower is better."""

    ppl: float
    """Perceptual path length: sum of the distances of neighbours. Not StyleGAN's."""
    pdv: float
    """Perceptual distance variance: of those distances, times 100 as tables have it."""


def smoothness(
    images: Float[Tensor, "n 3 h w"], distance: ImageDistance, perceived: int = 16
) -> Smoothness:
    """Perceptual path length and variance of a sequence.

    Source: PERSE, arXiv:2412.21206, section 5 (nine pictures); DiffMorpher, arXiv:2312.07409.

    Args:
        images: In order, [0, 1]; at least three.
        distance: LPIPS.
        perceived: Number of pictures that LPIPS processes at once.

    Raises:
        ValueError: there are fewer than three pictures.
    """
    if len(images) < 3:
        raise ValueError(f"{len(images)} pictures have no variance of distances: give three")
    steps = []
    with torch.no_grad():
        for x, y in zip(images[:-1].split(perceived), images[1:].split(perceived), strict=True):
            steps.append(distance(x, y, tuple(range(len(x))), None, ()))
    values = torch.cat(steps).double()
    return Smoothness(float(values.sum()), 100 * float(values.var(correction=0)))


def mean_smoothness(sequences: Sequence[Smoothness]) -> Smoothness:
    """Mean over sequences, with equal weights."""
    count = len(sequences)
    ppl, pdv = (sum(getattr(s, name) for s in sequences) / count for name in ("ppl", "pdv"))
    return Smoothness(ppl, pdv)


@dataclass(frozen=True)
class Disentanglement:
    """Scores of one edit of one picture, in mean absolute differences of colours in [0, 1]."""

    edit_error: float
    """Error of the edited picture from its truth, where the edit shows. Lower is better."""
    drift: float
    """Difference between the renders with and without the edit, where the edit must not show. Lower
    is better; 0 means that nothing changed."""
    edit_size: float
    """Difference between the truths with and without the edit, where the edit shows: the error that
    an edit without any effect would have, if the head were otherwise perfect."""


def disentanglement(
    edited: Float[Tensor, "3 h w"],
    unedited: Float[Tensor, "3 h w"],
    edited_truth: Float[Tensor, "3 h w"],
    unedited_truth: Float[Tensor, "3 h w"],
    region: Float[Tensor, "1 h w"] | None = None,
) -> Disentanglement:
    """Whether an edit changes what it should, and nothing else, against exact truth.

    Args:
        edited: Drawn with the edit, [0, 1].
        unedited: Drawn without, in the same pose.
        edited_truth: What it should look like.
        unedited_truth: The same without the edit.
        region: 1 where the edit may show; None is where the truths differ.

    Raises:
        ValueError: the edit shows nowhere, or everywhere.
    """
    size = (edited_truth - unedited_truth).abs().mean(0, keepdim=True)
    inside = (size > 1 / 255 if region is None else region > 0.5).to(edited.dtype)
    if not 0 < float(inside.mean()) < 1:
        raise ValueError("the edit shows nowhere or everywhere: its drift cannot be told")

    def mean(difference: Tensor, where: Tensor) -> float:
        return float((difference.abs().mean(0, keepdim=True) * where).sum() / where.sum())

    return Disentanglement(
        mean(edited - edited_truth, inside), mean(edited - unedited, 1 - inside), mean(size, inside)
    )


def mean_disentanglement(edits: Sequence[Disentanglement]) -> Disentanglement:
    """Mean over pictures, with equal weights."""
    names = ("edit_error", "drift", "edit_size")
    return Disentanglement(*(sum(getattr(e, n) for e in edits) / len(edits) for n in names))
