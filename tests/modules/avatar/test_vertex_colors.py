import torch

from persona.modules.avatar.vertex_colors import sample_texture, texture_colors
from persona.modules.body.topology import Subdivision

# Two triangles over a square; the uv mesh is cut along the diagonal 0-2.
FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])
UV = torch.tensor([[0.1, 0.1], [0.4, 0.1], [0.4, 0.4], [0.6, 0.6], [0.9, 0.9], [0.6, 0.9]])
UV_FACES = torch.tensor([[0, 1, 2], [3, 4, 5]])


def ramp(size: int = 200) -> torch.Tensor:
    """Texture whose red is u and green is v."""
    centre = (torch.arange(size) + 0.5) / size
    u, v = centre.expand(size, size), 1 - centre[:, None].expand(size, size)
    return torch.stack([u, v, torch.zeros_like(u)], -1)


def test_texture_is_read_at_uv():
    uv = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]])
    torch.testing.assert_close(sample_texture(ramp(), uv)[:, :2], uv, atol=1e-5, rtol=0)


def test_vertices_off_the_seam_take_the_texture():
    colors = texture_colors(ramp(), UV, UV_FACES, FACES, Subdivision(FACES, 0))
    torch.testing.assert_close(colors[1, :2], UV[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(colors[3, :2], UV[5], atol=1e-5, rtol=0)


def test_seam_vertices_take_the_mean_of_their_neighbours():
    colors = texture_colors(ramp(), UV, UV_FACES, FACES, Subdivision(FACES, 0))
    expected = (UV[1] + UV[5]) / 2  # The neighbours off the seam are vertices 1 and 3.
    for vertex in (0, 2):
        torch.testing.assert_close(colors[vertex, :2], expected, atol=1e-5, rtol=0)


def test_subdivided_charts_stay_apart():
    mesh = Subdivision(FACES, 1)
    colors = texture_colors(ramp(), UV, UV_FACES, FACES, mesh)
    middle = [v for v in range(mesh.num_vertices) if v >= 4]
    inside = torch.stack([colors[v, :2] for v in middle])
    # Only the middle of the diagonal, which is a seam, may lie in the gap between the charts.
    gap = ((inside > 0.42) & (inside < 0.58)).all(1)
    assert gap.sum() <= 1
