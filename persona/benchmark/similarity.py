"""Aligns points with others, so that only the error of shape remains."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def aligned(
    points: Float[ndarray, "n 3"], target: Float[ndarray, "n 3"], rotate: bool = True
) -> Float[ndarray, "n 3"]:
    """Points under the similarity that brings them nearest to the target, in the target's unit.

    Args:
        points: To move; the same ones as the target's, in any unit.
        target: Where they belong.
        rotate: Whether they may turn as well, which never mirrors them.

    Source: Umeyama 1991, Eq. 40 to 42.
    """
    a, b = points - points.mean(0), target - target.mean(0)
    turn = np.eye(3)
    if rotate:
        u, _, v = np.linalg.svd(b.T @ a)
        turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ v))]) @ v
    a = a @ turn.T
    return (a * b).sum() / (a * a).sum() * a + target.mean(0)
