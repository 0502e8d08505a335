"""The template's constants, compared with values worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from persona.modules.avatar.template import OPEN_MOUTH_RAD, AvatarTemplate
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.types import Garment

LEFT_HIP, LEFT_KNEE, JAW = 1, 4, 22


def make(body: SmplxBody, **options: object) -> AvatarTemplate:
    identity = body.zero_identity()
    identity.betas[:2] = torch.tensor([1.0, -0.5])
    return AvatarTemplate(body=body, identity=identity, diffused=False, **options)


@pytest.fixture(scope="module")
def template(body) -> AvatarTemplate:
    return make(body, levels=1)


@pytest.fixture(scope="module")
def middles(template, body) -> torch.Tensor:
    """Ends of each edge that gets a new vertex in its middle, in ascending order."""
    faces = body.faces.tolist()
    pairs = {tuple(sorted((f[i], f[i - 1]))) for f in faces for i in range(3)}
    return torch.tensor(sorted(pairs))


def turned(point: torch.Tensor, center: torch.Tensor, axis: int, angle: float) -> torch.Tensor:
    """Rotates points about an axis through ``center`` by the right-hand rule."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    result = point - center
    x, y = result[..., u].clone(), result[..., v].clone()
    result[..., u] = math.cos(angle) * x - math.sin(angle) * y
    result[..., v] = math.sin(angle) * x + math.cos(angle) * y
    return result + center


def followers(body: SmplxBody, joint: int) -> torch.Tensor:
    """Vertices that move with this joint only."""
    rows = (body.weights[:, joint] > 1 - 1e-6).nonzero()[:, 0]
    assert len(rows) > 5
    return rows


def test_one_gaussian_for_each_vertex_and_edge(template, body, middles):
    count = body.num_vertices + len(middles)
    assert template.num_gaussians == len(template.weights) == len(template.expr_dirs) == count
    assert len(template.faces) == 4 * len(body.faces)


def test_new_vertices_are_the_means_of_their_edges(template, body, middles):
    low, high = middles.unbind(1)
    vertices = template.coarse_vertices
    assert torch.equal(template.vertices[: len(vertices)], vertices)
    both = (
        (template.vertices, vertices),
        (template.weights, body.weights),
    )
    for fine, coarse in (*both, (template.expr_dirs, body.expr_dirs)):
        torch.testing.assert_close(fine[len(vertices) :], (coarse[low] + coarse[high]) / 2)
    torch.testing.assert_close(template.weights.sum(1), torch.ones(template.num_gaussians))


def test_canonical_legs_are_a_third_of_a_radian_apart(template, body):
    hip, knee = template.rest_joints[[LEFT_HIP, LEFT_KNEE]]
    expected = turned(knee, hip, 2, 1 / 3)
    torch.testing.assert_close(template.canonical_joints[LEFT_KNEE], expected)
    assert expected[0] > knee[0] + 0.1  # The left is +x.
    shin = followers(body, LEFT_KNEE)
    at_rest = template.rest_vertices[shin]
    torch.testing.assert_close(
        template.vertices[shin], turned(at_rest, hip, 2, 1 / 3), atol=1e-5, rtol=1e-5
    )
    back = template.rest_from_canonical[LEFT_KNEE]
    moved = template.vertices[shin] @ back[:3, :3].T + back[:3, 3]
    torch.testing.assert_close(moved, at_rest, atol=1e-5, rtol=1e-5)
    upper = (template.rest_vertices[:, 1] > template.rest_joints[15, 1]).nonzero()[:, 0]
    torch.testing.assert_close(template.vertices[upper], template.rest_vertices[upper])


def test_the_networks_points_have_an_open_mouth_and_no_identity(body, template):
    """Points are centred, have an open jaw, and legs apart as in the canonical pose."""
    points = template._feature_points()
    torch.testing.assert_close(points.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    mean, joints = body.shape(body.zero_identity())
    head = (mean[:, 1] > joints[15, 1] + 0.05) & (body.weights[:, JAW] == 0)
    shift = (points - mean)[head].mean(0)
    torch.testing.assert_close(points[head] - shift, mean[head], atol=1e-5, rtol=0)
    chin = followers(body, JAW)
    opened = turned(mean[chin], joints[JAW], 0, OPEN_MOUTH_RAD)
    assert (opened[:, 1] < mean[chin, 1]).float().mean() > 0.9
    torch.testing.assert_close(points[chin] - shift, opened, atol=1e-5, rtol=0)
    shin = followers(body, LEFT_KNEE)
    apart = turned(mean[shin], joints[LEFT_HIP], 2, 1 / 3)
    torch.testing.assert_close(points[shin] - shift, apart, atol=1e-5, rtol=0)


@pytest.mark.parametrize("edges, seen", [(1, {4, 7, 10}), (2, {1, 4, 7, 10}), (4, None)])
def test_what_is_offset_and_which_joints_it_sees(body, edges, seen):
    """A vertex of the left foot (joint 7) sees joints up to ``edges`` bones away."""
    template = make(body, levels=0, ring_edges=edges)
    regions = template.coarse_regions
    still = regions.hand | regions.face_expr | regions.eye
    assert torch.equal(template.fixed, still)
    assert torch.equal(template.moving, (~still).nonzero()[:, 0])
    assert torch.equal(template.moving_points, template._feature_points()[~still])
    assert torch.equal(template.mesh_skinned, regions.hand | regions.face)
    for hand in ("left_hand", "right_hand"):
        rows = getattr(template, f"{hand}_rows")
        assert torch.equal(rows, getattr(regions, hand).nonzero()[:, 0])
    assert body.template[template.left_hand_rows, 0].min() > 0.3
    # From the foot by knee, hip and pelvis (not a body joint) to the other hip and the spine.
    seen = seen or {1, 2, 3, 4, 7, 10}
    foot = (body.weights[template.moving].argmax(1) == 7).nonzero()[0, 0]
    assert {i + 1 for i in template.moving_ring[foot].nonzero()[:, 0].tolist()} == seen


def test_offsets_are_carried_to_what_moves_alone(body, middles):
    template = make(body, levels=1, network_level=0)
    count = len(template.moving)
    moved = torch.arange(3.0 * count).view(count, 3) + 1
    offsets = template.carry_offsets(moved)
    on_body = torch.zeros(body.num_vertices, 3)
    on_body[template.moving] = moved
    assert torch.equal(offsets[: body.num_vertices], on_body)
    torch.testing.assert_close(offsets[body.num_vertices :], on_body[middles].mean(1))
    assert len(offsets) == template.num_gaussians


def test_regions_and_neighbours_are_of_their_mesh(template, body, middles):
    num_body = body.num_vertices
    for name in ("face", "eye", "hand", "mouth_in"):
        coarse, fine = getattr(template.coarse_regions, name), getattr(template, name)
        assert torch.equal(fine[:num_body], coarse)
        assert torch.equal(fine[num_body:], coarse[middles].all(1)), name
    index, valid = template.coarse_neighbours
    assert set(index[5][valid[5]].tolist()) == {
        i for pair in middles.tolist() if 5 in pair for i in pair
    } - {5}
    # On the subdivided mesh an edge's ends are not neighbours, as its middle is between them.
    index, valid = template.neighbours
    assert len(index) == template.num_gaussians
    around = set(index[5][valid[5]].tolist())
    assert around == {num_body + i for i, pair in enumerate(middles.tolist()) if 5 in pair}


def test_what_is_made_once_is_made_again_after_a_move():
    template, made = make(SmplxBody(), levels=0), []  # ``double`` changes its body as well.

    def make_it() -> torch.Tensor:
        made.append(template.vertices.dtype)
        return 2 * template.vertices

    first = template.once("twice", make_it)
    assert template.once("twice", make_it) is first and len(made) == 1
    assert template.once("another", make_it) is not first
    template.double()
    assert template.once("twice", make_it).dtype == torch.float64
    assert made == [torch.float32] * 2 + [torch.float64]


def test_nothing_is_saved(template):
    assert not template.state_dict()


def test_a_garment_has_rows_behind_the_bodys_which_stay_as_they_are(body):
    weights = torch.zeros(4, body.num_joints)
    weights[:, [0, LEFT_HIP]] = 0.5
    square = torch.tensor([[0, 1, 2], [1, 3, 2]])
    rest = torch.tensor([[0.3, -0.5, 0], [0.3, -0.5, 0.1], [0.3, -0.8, 0], [0.3, -0.8, 0.1]])
    garment = Garment(rest, square, weights, rest[:, :2].abs(), square)
    options = {"levels": 0, "field_resolution": 16, "field_steps": 5}
    identity = body.zero_identity()
    plain = AvatarTemplate(body=body, identity=identity, **options)
    worn = AvatarTemplate(body=body, identity=replace(identity, garment=garment), **options)
    count = plain.num_gaussians
    assert worn.garment.tolist() == [False] * count + [True] * 4 and not plain.garment.any()
    torch.testing.assert_close(worn.rest_vertices[count:], rest)
    torch.testing.assert_close(worn.weights[count:], weights)
    assert worn.mesh_skinned[count:].all() and not worn.fixed[count:].any()
    for name in ("vertices", "weights", "expr_dirs", "rest_vertices", "mesh_skinned", "face"):
        assert torch.equal(getattr(worn, name)[:count], getattr(plain, name)), name
    assert torch.equal(worn.rest_joints, plain.rest_joints)
    points = plain.vertices[::50]
    scales = torch.full_like(points[:, 0], 0.01)
    assert torch.equal(worn.field(points, scales), plain.field(points, scales))


def test_a_garment_kept_in_the_rest_pose_comes_back_to_it(body):
    """Over both legs, which part in the canonical pose, blending there and back is no identity."""
    weights = torch.zeros(4, body.num_joints)
    weights[:, [LEFT_HIP, LEFT_HIP + 1]] = 0.5
    square = torch.tensor([[0, 1, 2], [1, 3, 2]])
    rest = torch.tensor([[0.0, -0.6, 0], [0.0, -0.6, 0.1], [0.0, -1.1, 0], [0.0, -1.1, 0.1]])
    garment = Garment(rest, square, weights, rest[:, :2].abs(), square)
    identity = replace(body.zero_identity(), garment=garment)

    def back(**options: bool) -> torch.Tensor:
        made = AvatarTemplate(body=body, identity=identity, levels=0, diffused=False, **options)
        return blend_skin(made.vertices, made.weights, made.rest_from_canonical)[-4:]

    torch.testing.assert_close(back(garment_at_rest=True), rest, atol=1e-5, rtol=0)
    assert float((back() - rest)[2:, 1].min()) > 0.05
