"""Front and back of a person whose face does not show, as other photographs tell them apart.

Read back to front, a body is mirrored in depth, with left and right exchanged: hair that falls over
a face does that, and nothing in the photograph says so. But people photograph different sides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.palette import PART_INDEX, PART_NAMES
from persona.data.preprocess.fit import NOTHING, BodyFit, Known, PhotoFit
from persona.data.preprocess.fit_joints import exchanged
from persona.data.preprocess.fit_together import with_one_stance
from persona.data.preprocess.several import Sight
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect.annotator import JOINTS

log = logging.getLogger(__name__)
_ALIKE = 0.4
"""Cosine of two bodies' directions from which on they may show the same side: read back to front,
a body that is turned by 30 degrees lies 60 degrees off the one that is seen from behind."""
_SAME_SIDE = 0.05
"""Energy that two photographs of the same side cost: people take different ones."""
_OTHER_SIDE = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20]
"""The joint of the body's other side."""


_SIDES_EXCHANGED = np.array(
    [
        PART_INDEX[
            name.replace("Left", "Right") if "Left" in name else name.replace("Right", "Left")
        ]
        for name in PART_NAMES
    ],
    np.uint8,
)
"""The part of the body's other side."""


def agreed_facings(
    fitter: PhotoFit,
    body: SmplxBody,
    sights: Sequence[Sight],
    fits: Sequence[BodyFit],
    known: Known = NOTHING,
) -> tuple[Sequence[Sight], Sequence[BodyFit]]:
    """Photographs and fits, one of them read the other way round if that suits the others better.

    Args:
        fitter: Fits each photograph; if it is told the facing, that stays.
        body: Body model.
        sights: The photographs.
        fits: One of each.
        known: What need not be fitted.
    """
    used, found = sights, fits
    doubtful = doubtful_facings(sights, fits) if fitter.facing == "auto" else []
    if not doubtful:
        return used, found
    least = with_one_stance(fitter, body, sights, fits).energy + _SAME_SIDE
    for k in doubtful:
        other = turned(sights[k])
        fit = fitter(body, other.detection, other.camera, seen=other.fine, known=known)
        if fit.faults:
            continue
        tried = [*sights[:k], other, *sights[k + 1 :]], [*fits[:k], fit, *fits[k + 1 :]]
        energy = with_one_stance(fitter, body, *tried).energy
        if energy < least:
            least, (used, found) = energy, tried
    for k, (sight, read) in enumerate(zip(sights, used, strict=True)):
        if read is not sight:
            log.warning(
                "%s: the face does not show, and the other photos show this side to be the %s",
                sight.photo,
                "front" if _ahead(found[k])[2] < 0 else "back",
            )
    return used, found


def doubtful_facings(sights: Sequence[Sight], fits: Sequence[BodyFit]) -> list[int]:
    """Photographs without a face whose bodies are turned as another's is."""
    ahead = torch.stack([_ahead(fit) for fit in fits])
    alike = (ahead @ ahead.T > _ALIKE).fill_diagonal_(False).any(-1)
    return [k for k, sight in enumerate(sights) if alike[k] and not sight.detection.has_face]


def _ahead(fit: BodyFit) -> Float[Tensor, "3"]:
    """The direction that the body faces, in the camera's frame."""
    return matrix_from_axis_angle(fit.pose.root)[:, 2]


def turned(sight: Sight) -> Sight:
    """The photograph as it reads if its front is a back, or the other way round.

    All that is read is mirrored in depth, with left and right exchanged.
    """
    found = sight.detection
    detection = replace(
        found, keypoints=exchanged(found.keypoints), points_m=exchanged(found.points_m)
    )
    if sight.fine is None:  # The annotator waits for the fitted body.
        return replace(sight, detection=detection)
    maps = dict(sight.fine.maps)
    if JOINTS in maps:
        joints = maps[JOINTS][_OTHER_SIDE]
        joints[:, 2] = 2 * joints[0, 2] - joints[:, 2]
        maps[JOINTS] = joints
    if "surface" in maps:
        maps["surface"] = maps["surface"] * np.array([-1, 1, -1], np.float32)
    if "parts" in maps:
        maps["parts"] = _SIDES_EXCHANGED[maps["parts"]]
    fine = replace(sight.fine, keypoints=exchanged(sight.fine.keypoints), maps=maps)
    return replace(sight, detection=detection, fine=fine)
