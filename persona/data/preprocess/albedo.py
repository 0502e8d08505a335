"""A stand-in for intrinsic decomposition: takes the smooth shading out of a photograph.

Not a network, and no substitute for one: shading is what a distant light (second-order spherical
harmonics) on the fitted body explains of the brightness, one base brightness per body part. It
removes broad light and dark sides; creases, cast shadows and coloured light stay.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.modules.avatar.light import GAMMA
from persona.modules.nearest import nearest_marked

SHADING_LIMIT = 1.4
"""Shading is kept in [1 / limit, limit]."""
_MIN_PIXELS = 50


def remove_shading(
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    normal: Float[ndarray, "h w 3"],
    normal_mask: Bool[ndarray, "h w"],
    classes: Int[ndarray, "h w"] | UInt8[ndarray, "h w"],
) -> UInt8[ndarray, "h w 3"]:
    """Divides the photograph by its fitted shading.

    Args:
        image: The photograph, sRGB.
        mask: The person.
        normal: Unit normals of the fitted body.
        normal_mask: Where they hold.
        classes: Part class of each pixel.

    Returns:
        Albedo estimate, sRGB; the image where there is no person.
    """
    linear = (image.astype(np.float32) / 255) ** GAMMA
    brightness = np.log(linear.mean(-1) + 1e-3)
    use = mask & normal_mask
    labels = [k for k in np.unique(classes[use]) if (use & (classes == k)).sum() > _MIN_PIXELS]
    use &= np.isin(classes, labels)
    if not labels:
        return image.copy()
    harmonics = _harmonics(normal[use])
    base = np.stack([classes[use] == k for k in labels], -1).astype(np.float32)
    system = np.concatenate((base, harmonics), -1)
    # Ridge on the light keeps it faint where the parts alone explain the picture.
    ridge = np.diag([0.0] * len(labels) + [0.02 * len(system)] * harmonics.shape[1])
    target = system.T @ brightness[use]
    solution = np.linalg.solve(system.T @ system + ridge + 1e-6 * np.eye(len(ridge)), target)
    shading = np.zeros(mask.shape, np.float32)
    shading[use] = harmonics @ solution[len(labels) :]
    shading[use] -= np.median(shading[use])
    shading = ndimage.gaussian_filter(shading[nearest_marked(use)], image.shape[0] / 150)
    limit = np.log(SHADING_LIMIT)
    albedo = linear / np.exp(shading.clip(-limit, limit))[..., None]
    flat = (albedo.clip(0, 1) ** (1 / GAMMA) * 255).round().astype(np.uint8)
    return np.where(mask[..., None], flat, image)


def _harmonics(normal: Float[ndarray, "n 3"]) -> Float[ndarray, "n 8"]:
    """Real spherical harmonics of order 1 and 2, without constant factors."""
    x, y, z = normal.T
    second = (x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1)
    return np.stack((x, y, z, *second), -1).astype(np.float32)
