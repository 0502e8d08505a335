"""Teeth of portraits: hidden by closed lips, shown by an open mouth above what is dark."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.data.heads.fit import FACING
from persona.data.heads.portrait_mouth import TOOTH, Mouth, brightness, paint_mouth, teeth
from persona.data.heads.portrait_texture import paint
from persona.data.heads.traits import draw_traits, shape_coefficients
from persona.data.layout import Textures
from persona.modules.body.head_body import HeadBody
from persona.modules.detect.face import Face
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose, Camera

SIDE = 120
CAMERA = Camera.identity(torch.full((2,), 1200.0), torch.full((2,), SIDE / 2), SIDE, SIDE)
SKIN = (225, 180, 165)


@pytest.fixture(scope="module")
def body():
    return HeadBody()


def close_up(body, identity, jaw_open):
    """Vertices of a mouth in the middle of the picture."""
    pose = BodyPose.zero(body.num_expression)
    expression = pose.expression.clone()
    expression[body.expression_names.index("jawOpen")] = jaw_open
    pose = replace(pose, root=torch.tensor(FACING), expression=expression)
    vertices, _ = body(identity, pose)
    still = body(replace(identity, face_offset=torch.zeros_like(identity.face_offset)), pose)[0]
    middle = body.landmarks(still)[48:].mean(0)
    return vertices - middle + torch.tensor([0.0, 0.0, 0.8])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("jaw_open", [0.0, 0.3])
def test_teeth_are_nowhere_but_between_the_lips(body, seed, jaw_open):
    mouth = Mouth.of(body)
    inside = torch.from_numpy(mouth.wall | mouth.tongue)
    plain = replace(body.zero_identity(), betas=shape_coefficients(body, draw_traits(seed, {})))
    shown = []
    for identity in (plain, replace(plain, face_offset=teeth(body))):
        render = rasterize(close_up(body, identity, jaw_open), body.faces, CAMERA)
        shown.append(render.mask & inside[render.face])
    assert not (shown[1] & ~shown[0]).any()
    assert jaw_open == 0 or shown[1].sum() > 300


def test_an_open_mouth_shows_upper_teeth_before_a_dark_inside(body):
    skin = np.full((256, 256, 3), SKIN, np.uint8)
    plain = Textures(skin, np.ones((256, 256), bool), skin, skin)
    painted = paint_mouth(plain, body, 1.0)
    identity = replace(body.zero_identity(), face_offset=teeth(body))
    image, mask = paint(painted, body, close_up(body, identity, 0.4), CAMERA)
    image = image.astype(float)
    tooth = np.abs(image - 255 * np.array(TOOTH)).max(-1) < 12
    dark = (image.max(-1) < 120) & mask
    assert tooth.sum() > 100 and dark.sum() > 150
    assert np.nonzero(tooth)[0].mean() < np.nonzero(dark)[0].mean() - 2
    # Skin stays as it was.
    mouth = Mouth.of(body)
    render = rasterize(close_up(body, identity, 0.4), body.faces, CAMERA)
    outside = render.mask.numpy() & ~(mouth.wall | mouth.tongue)[render.face.numpy()]
    assert (np.abs(image - SKIN).max(-1)[outside] < 60).mean() > 0.97


def test_teeth_of_a_dark_picture_are_darker(body):
    points = 40 * torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) + 20
    face = Face(points, points[[42, 36]])
    light = [
        brightness(np.full((SIDE, SIDE, 3), value, np.uint8), face) for value in (60, 150, 255)
    ]
    assert light == sorted(light) and light[0] < 0.5 and light[2] == 1


def test_a_head_that_ends_at_the_lips_stays_as_it_is(body):
    """FLAME's has no inside."""
    mouth, closed = Mouth.of(body), copy.copy(body)
    skin = torch.from_numpy(~(mouth.wall | mouth.tongue))
    changed = {"faces": body.faces[skin], "_uv_faces": body.uv_faces[skin]}
    closed._buffers = {**body._buffers, **changed}
    assert Mouth.of(closed) is None and not teeth(closed).any()
    grey = np.full((8, 8, 3), 90, np.uint8)
    plain = Textures(grey, np.ones((8, 8), bool), grey, grey)
    assert paint_mouth(plain, closed, 1.0) is plain
