"""A garment carved from outlines, against a cone that is drawn around the packaged body's legs."""

import math

import pytest
import torch

from persona.modules.body.rotation import axis_angle_from_matrix
from persona.modules.cloth.carve import UNTOLD, _filled, carve
from persona.modules.render.mesh import nearest_faces
from persona.types import BodyPose, Camera

HEIGHT, WIDTH = 192, 144
SHIRT, TROUSERS, SKIRT = 1, 2, 3
HEM, TOP_RADIUS, HEM_RADIUS = -0.85, 0.17, 0.30
ABOVE = 0.15
LEGS = (1, 2, 4, 5, 7, 8, 10, 11)


def grid(points, columns):
    rows = torch.arange(len(points)).reshape(-1, columns)
    a, b, c, d = rows[:-1], rows.roll(-1, 1)[:-1], rows[1:], rows.roll(-1, 1)[1:]
    return torch.cat([torch.stack(f, -1).flatten(0, 1) for f in ((a, b, c), (b, d, c))])


def cone(joints, columns=96, rings=40):
    """A skirt from above the hips to ``HEM``."""
    middle, angle = joints[[1, 2]].mean(0), torch.arange(columns) * 2 * math.pi / columns
    height = torch.linspace(float(middle[1]) + ABOVE, HEM, rings)
    radius = torch.linspace(TOP_RADIUS, HEM_RADIUS, rings)[:, None]
    x, z = middle[0] + radius * angle.cos(), middle[2] + radius * angle.sin()
    points = torch.stack((x, height[:, None].expand_as(x), z), -1).flatten(0, 1)
    return points, grid(points, columns)


def frames(body, skirt, count=24, turn=2 * math.pi, legs=TROUSERS, torso=SHIRT):
    """Poses, cameras and parts of a person who turns on the spot."""
    identity = body.zero_identity()
    _, joints = body.shape(identity)
    lower = torch.isin(body.weights.argmax(-1), torch.tensor(LEGS))[body.faces].any(-1)
    camera = Camera.identity(
        torch.tensor([250.0, 250.0]), torch.tensor([WIDTH / 2, HEIGHT / 2]), HEIGHT, WIDTH
    )
    poses, pictures = [], []
    for yaw in (turn * i / count for i in range(count)):
        c, s = math.cos(yaw), math.sin(yaw)
        root = torch.tensor([[c, 0, s], [0, -1, 0], [s, 0, -c]])  # The camera's y is down.
        pose = BodyPose.zero(body.num_expression)
        pose.root[:] = axis_angle_from_matrix(root[None])[0]
        pose.trans[:] = torch.tensor([0, -0.3, 3.0]) - joints[0]
        vertices, faces = body(identity, pose)[0], body.faces
        part = torch.where(lower, legs, torso)
        if skirt is not None:
            points = (skirt[0] - joints[0]) @ root.T + joints[0] + pose.trans
            faces = torch.cat((faces, skirt[1] + len(vertices)))
            part = torch.cat((part, torch.full((len(skirt[1]),), SKIRT)))
            vertices = torch.cat((vertices, points))
        face = nearest_faces(vertices, faces, camera).long()
        pictures.append(torch.where(face >= 0, part[face.clamp_min(0)], 0))
        poses.append(pose)
    stack = BodyPose(**{k: torch.stack([getattr(p, k) for p in poses]) for k in vars(poses[0])})
    return stack, [camera] * count, pictures


def carved(body, seen):
    return carve(body, body.zero_identity(), *seen, cloth=(SHIRT, SKIRT), unknown=(UNTOLD,))


@pytest.fixture(scope="module")
def joints(body):
    return body.shape(body.zero_identity())[1]


@pytest.fixture(scope="module")
def skirt(body, joints):
    return carved(body, frames(body, cone(joints)))


def away(points, joints):
    return (points - joints[[1, 2]].mean(0))[:, ::2]


def test_it_lies_where_the_skirt_does(skirt, joints):
    height = skirt.rest[:, 1]
    top = float(joints[[1, 2], 1].mean()) + ABOVE
    share = (top - height) / (top - HEM)
    apart = away(skirt.rest, joints).norm(dim=-1) - torch.lerp(
        torch.tensor(TOP_RADIUS), torch.tensor(HEM_RADIUS), share
    )
    assert abs(float(apart.mean())) < 0.01 and float(apart.abs().quantile(0.95)) < 0.03
    hem = height[-(int(skirt.uv_faces[0, 2]) - 1) :]  # The last ring.
    assert float(hem.mean()) == pytest.approx(HEM, abs=0.02)


def test_its_mesh_is_one_tube_that_looks_outward(skirt, joints, body):
    a, b, c = (skirt.rest[skirt.faces[:, i]] for i in range(3))
    normal = torch.linalg.cross(b - a, c - a)
    assert (((normal[:, ::2]) * away((a + b + c) / 3, joints)).sum(-1) > 0).all()
    edges = torch.cat([skirt.faces[:, [i, (i + 1) % 3]] for i in range(3)])
    _, used = edges.sort(1).values.unique(dim=0, return_counts=True)
    assert int(used.max()) == 2
    assert skirt.weights.shape == (len(skirt.rest), body.num_joints)
    torch.testing.assert_close(skirt.weights.sum(1), torch.ones(len(skirt.rest)))
    assert skirt.uv.min() == 0 and skirt.uv.max() == 1
    assert skirt.uv_faces.shape == skirt.faces.shape and skirt.uv_faces.max() < len(skirt.uv)


@pytest.mark.parametrize("torso", [SHIRT, SKIRT])
@pytest.mark.parametrize("turn", [0.5, 2 * math.pi])
def test_trousers_and_overalls_are_none(body, torso, turn):
    assert carved(body, frames(body, None, torso=torso, legs=SKIRT, turn=turn)) is None


def test_a_few_wrong_labels_leave_the_hem_where_it_is(body, joints, skirt):
    poses, cameras, pictures = frames(body, cone(joints))
    for k in (0, 12):
        pictures[k] = torch.where(pictures[k] == SKIRT, SHIRT, pictures[k])
    found = carved(body, (poses, cameras, pictures))
    assert float(found.rest[:, 1].min()) == pytest.approx(HEM, abs=0.03)


def test_too_little_to_carve_from_is_none(body, joints):
    assert carved(body, frames(body, cone(joints), count=1)) is None
    poses, cameras, pictures = frames(body, cone(joints))
    untold = [torch.where(picture > 0, UNTOLD, 0) for picture in pictures]
    assert carved(body, (poses, cameras, untold)) is None


def test_gaps_take_what_is_known_nearest():
    nan = torch.nan
    values = torch.tensor([[nan] * 4, [1.0, nan, 3.0, 3.0], [nan] * 4, [nan] * 4, [5.0] * 4])
    filled = _filled(values)
    assert filled[0].tolist() == filled[1].tolist() == filled[2].tolist() == [1, 2, 3, 3]
    assert filled[3].tolist() == [5] * 4
    assert _filled(torch.full((2, 3), nan)).tolist() == [[0] * 3] * 2
