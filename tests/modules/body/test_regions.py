"""Regions on an artificial head with a known mouth, and on the packaged body."""

from dataclasses import fields

import pytest
import torch
from torch import nn

from persona.errors import UserError
from persona.modules.body import regions
from persona.modules.body.regions import BodyRegions, _fill, body_regions
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import Subdivision, neighbours, vertex_normals
from persona.types import BodyIdentity

AROUND = 32


def profile(sac_rings: int) -> list[tuple[float, float]]:
    """(radius, z) from the back of a ball to the mouth in front, then into the mouth's sac."""
    angle = torch.linspace(0.02, 2.7, 60)
    skin = list(zip((0.1 * angle.sin()).tolist(), (-0.1 * angle.cos()).tolist(), strict=True))
    sac = [(0.036, 0.088), (0.038, 0.084), (0.042, 0.075), (0.05, 0.06), (0.05, 0.04), (0.03, 0.02)]
    sac.append((0.001, 0.01))
    return [*skin, *sac[:sac_rings]]


def lathe(curve: list[tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Surface of revolution about z, open at both poles."""
    turn = torch.arange(AROUND) / AROUND * 2 * torch.pi
    points = [
        torch.stack([r * turn.cos(), r * turn.sin(), torch.full_like(turn, z)], 1) for r, z in curve
    ]
    quads = []
    for ring in range(len(curve) - 1):
        a = ring * AROUND + torch.arange(AROUND)
        b = ring * AROUND + (torch.arange(AROUND) + 1) % AROUND
        c, d = a + AROUND, b + AROUND
        quads += [torch.stack([a, d, b], 1), torch.stack([a, c, d], 1)]
    return torch.cat(points), torch.cat(quads).flip(1)


class BallHead(SmplxBody):
    """An artificial body with all that ``body_regions`` reads."""

    def __init__(self, vertices, faces, owner, motion, keypoints):
        nn.Module.__init__(self)
        self.name = "ball"
        self.template, self.faces, self.points = vertices, faces, keypoints
        self.weights = nn.functional.one_hot(owner, 55).float()
        self.expr_dirs = (motion[:, None] * torch.tensor([0.0, 1, 0]))[..., None]

    def zero_identity(self):
        zeros = torch.zeros
        return BodyIdentity(zeros(0), zeros(len(self.template), 3), zeros(55, 3))

    def shape(self, identity):
        return self.template, torch.zeros(55, 3)

    def keypoints(self, vertices, joints):
        return self.points


@pytest.fixture(params=[7, 3], ids=["cavity", "open"])
def ball_head(request):
    """A head with a mouth, a tongue and an eyeball; the front moves with expressions.

    The mouth is a closed sac as in Anny, or ends behind the lips as in SMPL-X.
    """
    curve = profile(request.param)
    vertices, faces = lathe(curve)
    if (vertex_normals(vertices, faces)[: 40 * AROUND] * vertices[: 40 * AROUND]).sum() < 0:
        faces = faces.flip(1)
    loose = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [0, 0.01, 0], [0, 0, 0.01]])
    tetrahedron = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    tongue, eye = loose + torch.tensor([0, 0, 0.05]), loose + torch.tensor([0.03, 0.05, 0.07])
    count = len(vertices)
    faces = torch.cat([faces, tetrahedron + count, tetrahedron + count + 4])
    vertices = torch.cat([vertices, tongue, eye])
    owner = torch.full((count + 8,), 15)
    owner[vertices[:, 2] < -0.08] = 12
    owner[count : count + 4], owner[count + 4 :] = 22, 23
    motion = ((vertices[:, 2] - 0.02) * 10).clamp(min=0)
    opening = vertices[59 * AROUND : 60 * AROUND]
    keypoints = torch.zeros(133, 3)
    keypoints[71:91] = opening[torch.arange(20) * AROUND // 20]
    return BallHead(vertices, faces, owner, motion, keypoints), count


def test_mouth_of_the_ball_head(ball_head):
    body, count = ball_head
    found = body_regions(body)
    ring = torch.arange(count) // AROUND
    sac = ring >= 60
    assert found.mouth_in[:count][sac].all()
    assert found.mouth_in[count : count + 4].all(), "the tongue is not inside the mouth"
    assert not found.mouth_in[count + 4 :].any(), "the eyeball is inside the mouth"
    inside = ring[found.mouth_in[:count]]
    first = int(inside.min())
    assert 57 <= first <= 60, "more than two rings of lip skin are inside"
    assert found.mouth_out.nonzero()[:, 0].tolist() == list(
        range((first - 1) * AROUND, first * AROUND)
    )


def test_misplaced_lips_are_an_error(ball_head):
    body, _ = ball_head
    body.points = body.points - torch.tensor([0, 0, 0.2])
    with pytest.raises(UserError, match="ball: no inner lips"):
        body_regions(body)


def test_expression_region_of_the_ball_head(ball_head):
    body, count = ball_head
    found = body_regions(body)
    motion = body.expr_dirs.flatten(1).norm(dim=1)
    moved = motion > 0.03 * motion.max()
    moved[count + 4 :] = False
    assert (found.face_expr >= moved).all()
    assert (found.face_expr == (moved | found.mouth_in)).all()
    assert not (found.face_expr & found.eye).any()
    assert found.eye.nonzero()[:, 0].tolist() == list(range(count + 4, count + 8))
    edge = found.face_expr[:count].view(-1, AROUND)[:, 0].nonzero()[0, 0]
    rings_of_boundary = found.expr_boundary[:count].view(-1, AROUND)
    assert rings_of_boundary.all(1).nonzero()[:, 0].tolist() == list(range(edge, edge + 4))
    assert found.expr_boundary.sum() == 4 * AROUND


def test_fill_adds_holes_only():
    mesh = Subdivision(torch.tensor([[0, 1, 2], [2, 1, 3]]), 4)
    corners = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    at = mesh.features(corners)
    ring = ((at - 0.5).norm(dim=1) - 0.3).abs() < 0.1
    filled = _fill(mesh.faces, ring, torch.ones_like(ring))
    assert torch.equal(filled, ring | ((at - 0.5).norm(dim=1) < 0.3))
    assert torch.equal(_fill(mesh.faces, ring, ring), ring)


@pytest.fixture(scope="module")
def packaged():
    body = SmplxBody()
    return body, body_regions(body)


def test_masks_of_the_packaged_body_nest(packaged):
    body, found = packaged
    for field in fields(found):
        mask = getattr(found, field.name)
        assert mask.shape == (len(body.template),) and mask.dtype == torch.bool
        assert 0 < mask.sum() < len(mask) / 2, field.name
    assert torch.equal(found.hand, found.left_hand | found.right_hand)
    assert not (found.left_hand & found.right_hand).any()
    assert not (found.hand & found.face).any()
    assert (found.face >= found.face_expr | found.eye).all()
    assert not (found.face_expr & found.eye).any()
    assert (found.face_expr >= found.expr_boundary | found.mouth_in).all()
    assert not (found.mouth_out & found.mouth_in).any()
    assert not (found.expr_boundary & found.mouth_in).any()


def test_packaged_regions_lie_where_they_should(packaged):
    body, found = packaged
    joints = body.shape(body.zero_identity())[1]
    at = body.template
    assert (at[found.left_hand, 0] > joints[20, 0] - 0.05).all()
    assert (at[found.right_hand, 0] < joints[21, 0] + 0.05).all()
    for eye in (23, 24):
        assert (at[found.eye] - joints[eye]).norm(dim=1).min() < 0.03
    assert (torch.cdist(at[found.eye], joints[23:25]).min(1).values < 0.03).all()
    lips = body.keypoints(at, joints)[regions.LIP_KEYPOINTS]
    width = lips[:, 0].max() - lips[:, 0].min()
    ring = at[found.mouth_out]
    assert (torch.cdist(ring, lips).min(1).values < 0.4 * width).all()
    assert (at[found.mouth_in, 2] < lips[:, 2].max() + 0.01).all()


@pytest.mark.parametrize("name", [f.name for f in fields(BodyRegions)])
def test_packaged_regions_mirror(packaged, name):
    """Anny is symmetric, so each region is the mirror image of its counterpart."""
    body, found = packaged
    mirrored = {"left_hand": "right_hand", "right_hand": "left_hand"}.get(name, name)
    at, flip = body.template, torch.tensor([-1.0, 1, 1])
    other = torch.cdist(at[getattr(found, name)] * flip, at[getattr(found, mirrored)])
    assert (other.min(1).values < 5e-3).float().mean() > 0.97


def test_holes_of_the_face_are_filled(packaged):
    body, found = packaged
    rest = found.face & ~found.face_expr & ~found.eye
    index, valid = neighbours(body.faces, len(rest))
    inside = valid & rest[index]
    reached = torch.zeros_like(rest)
    reached[rest.nonzero()[0]] = True
    while True:
        grown = reached | (rest & (inside & reached[index]).any(1))
        if torch.equal(grown, reached):
            break
        reached = grown
    assert torch.equal(reached, rest)


def test_subdivide_follows_the_equals_one_rule(packaged):
    body, found = packaged
    mesh = Subdivision(body.faces, 1)
    fine = found.subdivide(mesh)
    for field in fields(found):
        coarse = getattr(found, field.name)
        value = mesh.features(coarse.double()[:, None])[:, 0]
        assert torch.equal(getattr(fine, field.name), value == 1)
        assert torch.equal(getattr(fine, field.name)[: len(coarse)], coarse)
