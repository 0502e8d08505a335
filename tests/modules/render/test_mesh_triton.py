"""The mesh rasteriser on CUDA against the one on the CPU."""

import pytest
import torch
from test_mesh import make_camera, triangle_soup
from triton_mode import DEVICE, MARKS

from persona.modules.render import mesh
from persona.modules.render.mesh_triton import fill

pytestmark = MARKS


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("near", [1.0, -0.5], ids=["in front", "across the camera plane"])
def test_equals_the_bands(seed, cull, near):
    vertices, faces = triangle_soup(30, seed, near=near)
    corners = mesh._homogeneous(vertices, faces, make_camera())
    plain = mesh._rasterize_homogeneous(corners, (48, 40), mesh.NEAR_M, cull)
    face = fill(corners.to(DEVICE), mesh.NEAR_M, 48, 40, cull)
    fast = mesh._with_barycentrics(corners.to(DEVICE), face)
    assert (plain.face >= 0).any()
    assert torch.equal(fast.face.cpu(), plain.face)
    torch.testing.assert_close(fast.barycentric.cpu(), plain.barycentric)
    torch.testing.assert_close(fast.depth.cpu(), plain.depth)


def test_nothing_to_draw():
    assert (fill(torch.zeros(0, 3, 3, device=DEVICE).double(), 0.01, 4, 5, False) == -1).all()
