"""The kernel of nearest vertices equals the plain comparison of all pairs."""

import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules.body.nearest import nearest_of_all
from persona.modules.body.nearest_triton import nearest_vertex

pytestmark = MARKS


@pytest.mark.parametrize(("n", "p"), [(70, 75), (5, 1), (1, 64), (0, 3)])
def test_equals_the_plain_comparison(n, p):
    g = torch.Generator().manual_seed(0)
    points, vertices = torch.randn(n, 3, generator=g), torch.randn(p, 3, generator=g)
    found = nearest_vertex(points.to(DEVICE), vertices.to(DEVICE))
    assert torch.equal(found.cpu(), nearest_of_all(points, vertices))


def test_columns_and_other_types():
    g = torch.Generator().manual_seed(0)
    points, vertices = torch.randn(3, 70, generator=g).T, torch.randn(3, 75, generator=g).T
    expected = nearest_of_all(points, vertices)
    for dtype in (torch.float32, torch.float64):
        found = nearest_vertex(points.to(DEVICE, dtype), vertices.to(DEVICE, dtype))
        assert torch.equal(found.cpu(), expected)


def test_no_vertex_is_refused():
    points = torch.zeros(2, 3, device=DEVICE)
    with pytest.raises(ValueError, match="no vertex"):
        nearest_vertex(points, points[:0])


def test_neighbours_a_tenth_of_a_millimetre_apart_two_metres_from_the_origin():
    g = torch.Generator().manual_seed(0)
    vertices = 2 + 0.003 * torch.randn(200, 3, generator=g)
    vertices[1] = vertices[0] + 1e-4
    points = vertices[:2] + 2e-5
    assert nearest_vertex(points.to(DEVICE), vertices.to(DEVICE)).tolist() == [0, 1]


def test_of_equally_near_vertices_the_first():
    points = torch.tensor([[0.0, 0, 0], [9.0, 0, 0]], device=DEVICE)
    vertices = torch.tensor([[1.0, 0, 0], [0, 1, 0], [9, 1, 0]] * 40, device=DEVICE)
    assert nearest_vertex(points, vertices).tolist() == [0, 2]
    assert nearest_vertex(points * torch.nan, vertices).tolist() == [0, 0]
