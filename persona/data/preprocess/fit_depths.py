"""How much the depth that is read of one photograph counts beside other photographs.

What is deep in one photograph lies across another that was taken from the side, where it is read
several times as surely. Photographs of front and back tell each other nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.fit_energy import FitProblem
from persona.modules.body.rotation import matrix_from_axis_angle

_LEAST = 0.1
"""Share of its weight that a reading of depth keeps: limbs may be hidden from the side."""


def depth_shares(roots: Float[Tensor, "k 3 3"]) -> Float[Tensor, "k"]:
    """Share of its weight that each photograph's reading of depth keeps beside the others.

    It is the squared cosine between the photograph's view and that which is most from its side.

    Args:
        roots: The body's rotation in each photograph's camera; its last row is the camera's view in
            the frame of the body.
    """
    views = roots[:, 2]
    return (views @ views.T).square().amin(-1).clamp(min=_LEAST)


def trust_depths(problems: Sequence[FitProblem], fits: Sequence[BodyFit]) -> None:
    """Lets readings of depth count as far as no other photograph shows it.

    Args:
        problems: The photographs; the weights of their depths are changed.
        fits: Each photograph's own fit, which says how the body is turned.
    """
    roots = torch.stack([matrix_from_axis_angle(fit.pose.root) for fit in fits])
    for problem, share in zip(problems, depth_shares(roots), strict=True):
        problem.trust = problem.trust * share
        if problem.joint_depth is not None:
            problem.joint_depth.weight = problem.joint_depth.weight * share
