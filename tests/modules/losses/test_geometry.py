"""Geometry losses on images of a few pixels equal values worked out by hand."""

from types import SimpleNamespace

import pytest
import torch

from persona.modules.losses.base import Step
from persona.modules.losses.functional import depth_silog
from persona.modules.losses.geometry import (
    FaceGeometryLoss,
    RegionMaskLoss,
    geometry_error,
    normal_error,
)
from persona.types import Render


def pixels(*values: list[float]) -> torch.Tensor:
    """A row of pixels, given by their channels."""
    return torch.tensor(values).T[:, None, :]


def test_normal_error_by_hand():
    """Four pixels: opaque with a wrong normal, half transparent, unknown truth, not drawn.

    First pixel: encoded (0.5, 0.5, 1) and (1, 0.5, 0.5) differ by 1/3 on average; cosine 0.
    """
    image = pixels([0.0, 0, 1], [0.5, 0, 0], [0, 0, 1], [0, 0, 0])
    alpha = pixels([1.0], [0.5], [1.0], [0.0])
    truth = pixels([1.0, 0.5, 0.5], [1, 0.5, 0.5], [0, 0, 0], [1, 0.5, 0.5])
    # Half transparent: (0.5, 0, 0) over a background of -1, encoded, is (0.5, 0.25, 0.25).
    difference = [1 / 3, (0.5 + 0.25 + 0.25) / 3]
    cosine = [0.0, 0.0 * 1 + (-0.5) * 0 + (-0.5) * 0]
    expected = sum(d + 1 - c for d, c in zip(difference, cosine, strict=True)) / 4
    assert float(normal_error(image, alpha, truth)) == pytest.approx(expected)


def test_geometry_error_by_hand():
    """Parts count only inside the mask, the silhouette everywhere."""
    alpha, mask = pixels([1.0], [0.25], [0.0], [0.5]), pixels([1.0], [1.0], [0.0], [0.0])
    depth, true_depth = pixels([2.0], [3.0], [0.0], [4.0]), pixels([1.0], [1.5], [0.0], [0.5])
    normal = pixels([0.0, 0, 1], [0, 0, 0.25], [0, 0, 0], [0, 0, 0])
    truth = pixels([0.5, 0.5, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0])
    seg = pixels([0.3, 0, 0], [0, 0.6, 0], [1, 1, 1], [1, 1, 1])
    images = {"depth": depth, "normal": normal, "seg": seg}
    truths = {"depth": true_depth, "normal": truth, "seg": torch.zeros(3, 1, 4)}
    silhouette = (0.75 + 0.5) / 4
    parts = (0.3 + 0.6) / 12
    # The only known normal is right, so normals add 0.
    bracket = 0.5 * float(depth_silog(depth, true_depth)) + parts
    for weight in (0.0, 0.1, 2.0):
        value = geometry_error(alpha, images, mask, truths, weight, 0.5)
        assert float(value) == pytest.approx(silhouette + weight * bracket, rel=1e-5)


def step_of(view: str, **values: object) -> Step:
    step = Step.__new__(Step)
    step.renders = {view: values.pop("render")} if "render" in values else {}
    for name, value in values.items():
        setattr(step, name, value)
    return step


@pytest.mark.parametrize("view", ["base", "patch"])
def test_the_faces_first_colours_lie_on_the_image_by_hand(view):
    """Pixels count by their share of the face: 1, 0.5 and 0."""
    image = pixels([0.8, 0.6, 0.4], [0.2, 0.2, 0.2], [0.9, 0.9, 0.9])
    other = torch.zeros_like(image)
    patch, whole = (image, other) if view == "patch" else (other, image)
    frame = SimpleNamespace(image=whole[None], patch=patch[None])
    render = Render(
        {
            "face": pixels([1.0], [0.5], [0.0]),
            "face_rgb": pixels([0.8, 0.6, 0.1], [0.1, 0.2, 0.1], [0, 0, 0]),
        },
        pixels([1.0], [1.0], [1.0]),
    )
    value = FaceGeometryLoss(weight=1.0, view=view)(step_of(view, render=render, frame=frame))
    assert float(value) == pytest.approx((0.3 + 0.1) / 9)
    assert FaceGeometryLoss(weight=1.0, view=view)(step_of(view, frame=frame)) is None


def test_a_regions_mask_is_compared_with_its_own_mesh():
    render = Render({"face": pixels([1.0], [0.5], [0.0])}, pixels([0.0], [0.75], [1.0]))
    masks = {
        "face": torch.tensor([[True, True, False]]), "patch_face": torch.tensor([[False] * 3]),
    }  # fmt: skip
    step = step_of("patch", render=render, mesh_masks=masks)
    kind = {"weight": 1.0, "view": "patch", "frames": "all"}
    for channel, mesh, expected in (
        ("face", "face", 0.5), ("face", "patch_face", 1.5), ("alpha", "face", 2.25)
    ):  # fmt: skip
        loss = RegionMaskLoss(channel=channel, mesh=mesh, **kind)
        assert float(loss(step)) == pytest.approx(expected / 3)
