from dataclasses import replace

import pytest
import torch
from test_several import photographed, resting

from persona.data.preprocess.clothing import Photo, dress
from persona.data.preprocess.fit import PhotoFit
from persona.data.preprocess.fit_outline import placed_by_outline
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.topology import vertex_normals
from persona.modules.render.mesh import rasterize


@pytest.fixture
def shown(body):
    """A photograph from the side, with the naked fit, of somebody in thick clothes; these."""
    pose = resting(body)[0]
    sight, fit = photographed(body, PhotoFit(), pose, pose, 1.2)
    rest, _ = body.shape(fit.identity)
    dressed = dress(body, fit, 0.02 * vertex_normals(rest, body.faces))
    vertices, _ = body(dressed.identity, dressed.pose)
    mask = rasterize(vertices, body.faces, sight.camera).mask.float()
    return Photo(fit, replace(sight.detection, mask=mask), sight.camera), dressed.identity


def displaced(fit, degrees, shift_m):
    turn = matrix_from_axis_angle(torch.tensor([0.0, degrees, 0.3 * degrees]) * torch.pi / 180)
    root = axis_angle_from_matrix(turn @ matrix_from_axis_angle(fit.pose.root))
    pose = replace(fit.pose, root=root, trans=fit.pose.trans + torch.tensor(shift_m))
    return replace(fit, pose=pose)


def off(body, fit, right):
    """Mean distance of the vertices across the picture, metres."""
    found, true = (body(f.identity, f.pose)[0][:, :2] for f in (fit, right))
    return float((found - true).norm(dim=-1).mean())


def test_a_misplaced_body_finds_its_outline(body, shown):
    photo, identity = shown
    wrong = displaced(photo.fit, 6.0, [0.02, -0.03, 0.0])
    found = placed_by_outline(body, photo._replace(fit=wrong), identity)
    assert off(body, found, photo.fit) < 0.4 * off(body, wrong, photo.fit)


def test_a_right_fit_stays_and_keeps_its_stance(body, shown):
    photo, identity = shown
    found = placed_by_outline(body, photo, identity)
    assert off(body, found, photo.fit) < 0.004
    torch.testing.assert_close(found.pose.body, photo.fit.pose.body)
    assert found.identity is photo.fit.identity
