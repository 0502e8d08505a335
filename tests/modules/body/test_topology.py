"""Topology equals brute force on small meshes."""

import itertools
from collections import defaultdict

import pytest
import torch

from persona.modules.body.topology import (
    Subdivision,
    edges,
    long_sides,
    neighbours,
    rings,
    uniform_laplacian,
    unique_pairs,
    vertex_normals,
)

OCTAHEDRON = torch.tensor(
    [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
)
CORNERS = torch.tensor(
    [[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=torch.float64
)


def fan(blades: int) -> torch.Tensor:
    """Triangles around vertex 0, which has ``blades`` neighbours."""
    rim = torch.arange(blades)
    return torch.stack([torch.zeros_like(rim), 1 + rim, 1 + (rim + 1) % blades], 1)


def adjacency(faces: torch.Tensor) -> dict[int, set[int]]:
    table = defaultdict(set)
    for face in faces.tolist():
        for i in face:
            table[i] |= set(face) - {i}
    return table


def sphere(levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    mesh = Subdivision(OCTAHEDRON, levels)
    return torch.nn.functional.normalize(mesh.features(CORNERS), dim=-1), mesh.faces


def test_edges_are_unique_and_sorted():
    edge = edges(OCTAHEDRON)
    expected = sorted(
        {(min(i, j), max(i, j)) for i, js in adjacency(OCTAHEDRON).items() for j in js}
    )
    assert list(map(tuple, edge.tolist())) == expected


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_subdivision_keeps_ids_surface_and_orientation(levels):
    mesh = Subdivision(OCTAHEDRON, levels)
    points = mesh.features(CORNERS)
    assert mesh.faces.shape == (8 * 4**levels, 3)
    # A closed surface of genus 0 stays one: V - E + F = 2.
    assert mesh.num_vertices - len(edges(mesh.faces)) + len(mesh.faces) == 2
    assert len(points) == mesh.num_vertices == int(mesh.faces.max()) + 1
    assert torch.equal(points[:6], CORNERS)
    # Each child is its parent shrunk by 2^levels: same plane, same orientation, equal area.
    first, second, third = points[mesh.faces].unbind(1)
    child = torch.linalg.cross(second - first, third - first).view(8, 4**levels, 3)
    a, b, c = CORNERS[OCTAHEDRON].unbind(1)
    parent = torch.linalg.cross(b - a, c - a)[:, None] / 4**levels
    torch.testing.assert_close(child, parent.expand_as(child))


def test_subdivision_halves_every_edge():
    mesh = Subdivision(OCTAHEDRON, 1)
    points = mesh.features(CORNERS)
    middles = {
        tuple(((CORNERS[i] + CORNERS[j]) / 2).tolist()) for i, j in edges(OCTAHEDRON).tolist()
    }
    assert {tuple(p) for p in points[6:].tolist()} == middles


def test_subdivided_uv_stays_on_the_surface_across_seams():
    # In the uv mesh each face has corners of its own.
    uv_faces = torch.arange(24).view(8, 3)
    uv = CORNERS[OCTAHEDRON].flatten(0, 1)
    mesh, uv_mesh = Subdivision(OCTAHEDRON, 2), Subdivision(uv_faces, 2)
    on_surface = mesh.features(CORNERS)[mesh.faces]
    torch.testing.assert_close(uv_mesh.features(uv)[uv_mesh.faces], on_surface)


def test_subdivision_masks_follow_the_equals_one_rule():
    mesh = Subdivision(OCTAHEDRON, 2)
    inside = torch.tensor([True, False, True, True, True, False])
    expected = mesh.features(inside.double()[:, None])[:, 0] == 1
    assert torch.equal(mesh.masks(inside), expected)
    assert torch.equal(mesh.masks(inside)[:6], inside)


def test_subdivision_counts_loose_vertices():
    mesh = Subdivision(OCTAHEDRON, 1, num_vertices=8)
    assert mesh.num_vertices == 8 + 12
    assert mesh.features(torch.arange(8.0))[6:8].tolist() == [6, 7]
    assert not (mesh.faces == 6).any()


def test_subdivision_features_pass_gradients():
    mesh = Subdivision(OCTAHEDRON, 1)
    assert torch.autograd.gradcheck(mesh.features, CORNERS.clone().requires_grad_())


def test_neighbours_match_adjacency():
    mesh = Subdivision(OCTAHEDRON, 1)
    table, (index, valid) = adjacency(mesh.faces), neighbours(mesh.faces, mesh.num_vertices)
    for i in range(mesh.num_vertices):
        assert index[i, valid[i]].tolist() == sorted(table[i])
        assert (index[i, ~valid[i]] == i).all()


def test_crowded_vertex_drops_edges_at_both_ends():
    index, valid = neighbours(fan(14), 15)
    assert index[0].tolist() == list(range(1, 11))
    linked = torch.zeros(15, 15, dtype=torch.bool)
    linked[torch.arange(15)[:, None].expand_as(index)[valid], index[valid]] = True
    assert torch.equal(linked, linked.T)
    assert not linked[12, 0] and linked[12, 11]


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_laplacian_is_value_minus_mean(batch):
    mesh = Subdivision(OCTAHEDRON, 1)
    values = torch.randn(*batch, mesh.num_vertices, 4, dtype=torch.float64)
    table = adjacency(mesh.faces)
    result = uniform_laplacian(values, neighbours(mesh.faces, mesh.num_vertices))
    for i in range(mesh.num_vertices):
        mean = values[..., sorted(table[i]), :].mean(-2)
        torch.testing.assert_close(result[..., i, :], values[..., i, :] - mean)


def test_laplacian_gradient():
    table = neighbours(fan(14), 15)
    values = torch.randn(2, 15, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: uniform_laplacian(v, table), values)
    assert torch.autograd.gradgradcheck(lambda v: uniform_laplacian(v, table).square(), values)


def test_laplacian_of_a_lone_vertex_is_zero():
    values = torch.randn(8, 3, dtype=torch.float64)
    assert uniform_laplacian(values, neighbours(OCTAHEDRON, 8))[6:].abs().max() < 1e-14


def test_laplacian_in_float32_is_accurate_to_a_micrometre():
    points, faces = sphere(5)
    table = neighbours(faces, len(points))
    exact = uniform_laplacian(points, table)
    assert (uniform_laplacian(points.float(), table) - exact).abs().max() < 1e-6


def test_normals_of_a_sphere_point_outwards():
    points, faces = sphere(4)
    normals = vertex_normals(points, faces)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(len(points)).double())
    assert ((normals * points).sum(-1) > 0.999).all()


def test_normals_weigh_faces_by_area():
    # A large face with normal +z and a small one with normal +x share vertex 0.
    points = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 1, 0], [0, 0, 1]]).double()
    normals = vertex_normals(points, torch.tensor([[0, 1, 2], [0, 3, 4]]))
    torch.testing.assert_close(normals[0], torch.tensor([1.0, 0, 4]).double() / 17**0.5)


def test_normals_turn_with_the_mesh_and_batch():
    points, faces = sphere(2)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turn = turn * torch.linalg.det(turn)
    squashed = points * torch.tensor([1.0, 2, 0.5])
    both = vertex_normals(torch.stack([squashed, squashed @ turn.T]), faces)
    torch.testing.assert_close(both[0] @ turn.T, both[1])


def test_normals_gradient_and_empty_area():
    points = CORNERS + 0.1 * torch.randn(
        6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    assert torch.autograd.gradcheck(
        lambda v: vertex_normals(v, OCTAHEDRON), points.requires_grad_()
    )
    assert (vertex_normals(torch.zeros(6, 3), OCTAHEDRON) == 0).all()


@pytest.mark.parametrize("k", [0, 1, 3])
def test_rings_are_breadth_first_distances(k):
    mesh = Subdivision(OCTAHEDRON, 2)
    seed = torch.zeros(mesh.num_vertices, dtype=torch.bool)
    seed[[0, 40]] = True
    reached, table = {0, 40}, adjacency(mesh.faces)
    for _ in range(k):
        reached |= {j for i in reached for j in table[i]}
    grown = rings(mesh.faces, seed, k)
    assert set(grown.nonzero()[:, 0].tolist()) == reached
    assert seed.sum() == 2


def area(points: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Signed areas of triangles in the plane."""
    a, b, c = points[faces].unbind(1)
    ab, ac = b - a, c - a
    return (ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]) / 2


@pytest.mark.parametrize("pattern", list(itertools.product([False, True], repeat=3)))
def test_a_triangle_is_split_at_any_of_its_sides(pattern):
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    faces, sides = torch.tensor([[0, 1, 2]]), [torch.tensor([pattern])]
    mesh = Subdivision(faces, 1, sides=sides)
    parts = area(mesh.features(points), mesh.faces)
    assert len(parts) == 1 + sum(pattern)
    assert mesh.num_vertices == 3 + sum(pattern)
    # The parts fill the triangle, with its orientation.
    assert (parts > 0).all()
    torch.testing.assert_close(parts.sum(), torch.tensor(0.5))


def evenly(points, edge_m):
    return torch.full((len(points),), edge_m)


def test_splitting_long_sides_leaves_none_and_no_cracks():
    points = CORNERS * torch.tensor([3.0, 1.0, 0.5])
    sides = long_sides(points, OCTAHEDRON, 4, evenly(points, 0.6))
    mesh = Subdivision(OCTAHEDRON, 4, sides=sides)
    edge = edges(mesh.faces)
    # A closed surface of genus 0 stays one: V - E + F = 2.
    assert mesh.num_vertices - len(edge) + len(mesh.faces) == 2
    ends = mesh.features(points.double())[edge]
    assert (ends[:, 0] - ends[:, 1]).norm(dim=1).max() <= 0.6
    assert len(mesh.faces) < len(Subdivision(OCTAHEDRON, 4).faces)


def test_sides_are_as_short_as_their_finer_end_asks():
    longest = torch.where(CORNERS[:, 0] > 0.5, 0.1, 0.6)  # Fine at one corner of six.
    assert int((longest < 0.5).sum()) == 1
    sides = long_sides(CORNERS, OCTAHEDRON, 5, longest)
    mesh = Subdivision(OCTAHEDRON, 5, sides=sides)
    edge = edges(mesh.faces)
    assert mesh.num_vertices - len(edge) + len(mesh.faces) == 2
    points, limit = (mesh.features(x) for x in (CORNERS.double(), longest.double()[:, None]))
    ends = points[edge]
    length = (ends[:, 0] - ends[:, 1]).norm(dim=1)
    assert (length <= limit[edge, 0].amin(1) + 1e-9).all()
    near = ends[..., 0].amin(1) > 0.9
    assert length[near].max() <= 0.25 < length[~near].max()


def test_all_sides_long_is_plain_subdivision():
    sides = long_sides(CORNERS, OCTAHEDRON, 2, evenly(CORNERS, 1e-3))
    assert torch.equal(
        Subdivision(OCTAHEDRON, 2, sides=sides).faces, Subdivision(OCTAHEDRON, 2).faces
    )


def test_a_cut_uv_mesh_given_the_same_sides_stays_aligned():
    uv_faces = torch.arange(24).view(8, 3)
    points = CORNERS * torch.tensor([3.0, 1.0, 0.5])
    sides = long_sides(points, OCTAHEDRON, 3, evenly(points, 0.6))
    mesh = Subdivision(OCTAHEDRON, 3, sides=sides)
    charts = Subdivision(uv_faces, 3, sides=sides)
    uv = points[OCTAHEDRON].flatten(0, 1)
    torch.testing.assert_close(charts.features(uv)[charts.faces], mesh.features(points)[mesh.faces])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_unique_pairs_are_those_of_torch(dtype):
    # Products of these ids do not fit into 32 bits.
    pairs = torch.randint(0, 70_000, (3_000, 2), generator=torch.Generator().manual_seed(0))
    pairs = torch.cat([pairs, pairs[::3]]).to(dtype)
    for found, wanted in zip(
        unique_pairs(pairs), torch.unique(pairs, dim=0, return_inverse=True), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_no_pairs():
    pairs, place = unique_pairs(torch.zeros(0, 2, dtype=torch.long))
    assert pairs.shape == (0, 2) and place.shape == (0,)
