"""Walks on triangles equal the public code's, a plain loop's, and straight lines."""

import pytest
import torch
from surface_fixture import given_points, grid, splatting_fixture

from persona.modules.body.surface_points import SurfacePoints, random_points
from persona.modules.body.triangle_walk import DECAY, INSIDE, across_sides, walk

CUBE = torch.tensor([
    [0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7], [0, 1, 5], [0, 5, 4],
    [1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7],
])  # fmt: skip


def plain_walk(faces, face, place, step):
    """Walks a single point, side by side, in plain Python."""
    faces = faces.tolist()
    place, way = list(place), [*step, -sum(step)]
    while True:
        end = [p + w for p, w in zip(place, way, strict=True)]
        if min(end) >= -INSIDE:
            return face, end
        shares = [p / -w if w < 0 else float("inf") for p, w in zip(place, way, strict=True)]
        side = shares.index(min(shares))
        share = min(shares)
        place = [p + share * w for p, w in zip(place, way, strict=True)]
        rest = [DECAY * (1 - share) * w for w in way]
        ends = [faces[face][(side + 1) % 3], faces[face][(side + 2) % 3]]
        behind = [k for k, f in enumerate(faces) if k != face and set(ends) <= set(f)]
        if not behind:
            return face, place
        weight = {faces[face][i]: place[i] for i in range(3)}
        change = {faces[face][i]: rest[i] + rest[side] for i in range(3)}
        far = next(v for v in faces[behind[0]] if v not in ends)
        face = behind[0]
        place = [0.0 if v == far else weight[v] for v in faces[face]]
        way = [-rest[side] if v == far else change[v] for v in faces[face]]


def on_mesh(vertices, faces, face, barycentric):
    return SurfacePoints(face, barycentric).blend(vertices, faces)


def test_parity_of_three_walks(shared_data):
    given, wanted = splatting_fixture(shared_data, "triangle_walk")
    faces, points = given["faces"], given_points(given)
    across = across_sides(faces)
    for number in range(3):
        ended = walk(across, points.face, points.barycentric, given[f"delta_uv_{number}"])
        ours = on_mesh(given["cano_verts"], faces, *ended)
        assert (ours - wanted[f"xyz_cano_{number}"]).abs().max() < 1e-3
        assert (ended[0] == wanted[f"face_idx_{number}"]).float().mean() > 0.9  # Ties may differ.
        # The next walk begins where the public code's ended.
        points = SurfacePoints(wanted[f"face_idx_{number}"], wanted[f"bary_{number}"])


def test_neighbours_of_a_cube_and_of_a_border():
    across = across_sides(CUBE)
    for k, triangle in enumerate(CUBE.tolist()):
        for side in range(3):
            other = int(across.face[k, side])
            ends = {triangle[(side + 1) % 3], triangle[(side + 2) % 3]}
            assert other != k and ends <= set(CUBE[other].tolist())
            for corner in range(3):
                there = int(CUBE[other, across.corner[k, side, corner]])
                assert there == triangle[corner] if corner != side else there not in ends
    alone = across_sides(torch.tensor([[0, 1, 2]]))
    assert (alone.face == -1).all()


def test_like_a_plain_loop_on_a_closed_mesh():
    generator = torch.Generator().manual_seed(0)
    points = random_points(CUBE, 200, generator)
    step = 1.5 * torch.randn(200, 2, generator=generator)
    face, place = walk(across_sides(CUBE), points.face, points.barycentric, step)
    for i in range(200):
        start = points.barycentric[i].tolist()
        expected, weights = plain_walk(CUBE, int(points.face[i]), start, step[i].tolist())
        assert int(face[i]) == expected
        assert torch.allclose(place[i], torch.tensor(weights), atol=2 * INSIDE)


def test_a_straight_line_on_a_regular_mesh():
    """Steps keep their direction on it; the decay at sides only shortens them."""
    vertices, faces = grid(8)
    centre = int(((vertices[faces].mean(1) - torch.tensor([4.4, 4.4, 0])).norm(dim=1)).argmin())
    start = torch.full((2, 3), 1 / 3)
    face = torch.tensor([centre, centre])
    step = torch.tensor([[-0.2, 0.1], [1.3, -0.4]])
    ended = on_mesh(vertices, faces, *walk(across_sides(faces), face, start, step))
    begun = on_mesh(vertices, faces, face, start)
    way = torch.cat([step, -step.sum(1, keepdim=True)], 1)
    straight = (vertices[faces[face]] * way[..., None]).sum(1)
    moved = ended - begun
    assert torch.allclose(moved[0], straight[0], atol=1e-5)
    assert torch.linalg.cross(moved[1], straight[1]).norm() < 1e-4
    assert 0.7 < moved[1].norm() / straight[1].norm() < 1


def test_stops_at_the_border_and_stays_inside():
    vertices, faces = grid(2)
    generator = torch.Generator().manual_seed(1)
    points = random_points(faces, 500, generator)
    step = 6 * torch.randn(500, 2, generator=generator)
    face, place = walk(across_sides(faces), points.face, points.barycentric, step)
    assert (place >= 0).all()
    assert torch.allclose(place.sum(1), torch.ones(500), atol=1e-5)
    ended = on_mesh(vertices, faces, face, place)
    border = ((ended[:, :2] < 1e-4) | (ended[:, :2] > 2 - 1e-4)).any(1)
    assert border.float().mean() > 0.4


@pytest.mark.parametrize("outside", [[-5e-4, 0.3], [-5e-4, -4e-4], [0.5, 0.5005]])
def test_a_hair_outside_is_drawn_back(outside):
    across = across_sides(torch.tensor([[0, 1, 2]]))
    start = torch.tensor([[0.2, 0.3, 0.5]])
    step = torch.tensor([outside]) - start[:, :2]
    _, place = walk(across, torch.tensor([0]), start, step)
    wanted = torch.tensor([*outside, 1 - sum(outside)])
    assert (place >= 0).all() and torch.isclose(place.sum(), torch.ones(()))
    assert (place[0] - wanted).abs().max() < 1e-3


def test_no_step_moves_nothing():
    points = random_points(CUBE, 50, torch.Generator().manual_seed(2))
    face, place = walk(across_sides(CUBE), points.face, points.barycentric, torch.zeros(50, 2))
    assert torch.equal(face, points.face)
    assert torch.allclose(place, points.barycentric, atol=1e-6)
