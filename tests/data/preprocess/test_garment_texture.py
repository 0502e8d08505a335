"""The texture of a garment is that of the skin that carried it; the body keeps its own."""

import numpy as np
import pytest
import torch

from persona.data.layout import Textures
from persona.data.motion.camera import fit_camera, place_in_camera
from persona.data.palette import PART_COLOURS, PART_INDEX
from persona.data.preprocess.parts import limb_of_vertices
from persona.data.preprocess.skirt import Skirt, leg_vertices, skirt_offset
from persona.data.preprocess.textured_person import TexturedPerson, uv_mesh
from persona.data.preprocess.unwrap import texels_of
from persona.types import BodyPose

SIZE = 192
CLOTH = PART_INDEX["Lower_Clothing"]


@pytest.fixture(scope="module")
def person(body):
    """In a skirt; colours tell the place in the rest pose, parts the skirt."""
    identity = body.zero_identity()
    rest, joints = body.shape(identity)
    legs = leg_vertices(limb_of_vertices(body))
    offset, skirt = skirt_offset(rest, joints, legs, Skirt(-0.47, -0.95, torch.full((48,), 0.05)))
    shift = body.joint_regressor @ offset
    shift[0] = 0
    identity.face_offset[:], identity.joint_offset[:] = offset, -shift
    texels = texels_of(uv_mesh(body, identity), SIZE)
    colour, parts = np.zeros((2, SIZE * SIZE, 3), np.uint8)
    colour[texels.index] = told(texels.features(body.shape(identity)[0])).numpy()
    parts[:] = PART_COLOURS[PART_INDEX["Torso"]]
    parts[texels.index[skirt[texels.corners].all(-1)]] = PART_COLOURS[CLOTH]
    flat, seen = colour.reshape(SIZE, SIZE, 3), np.ones((SIZE, SIZE), bool)
    return TexturedPerson(body, identity, Textures(flat, seen, flat, parts.reshape(SIZE, SIZE, 3)))


def told(place):
    return (place * torch.tensor([300.0, 100.0, 300.0]) + 128).clamp(0, 255).byte()


def test_the_strip_has_the_colours_of_the_skirt(body, person):
    worn = person.in_garment()
    mesh = worn.mesh
    texels = texels_of(mesh, SIZE)
    strip = (texels.corners >= body.num_vertices).all(-1)
    at = texels.index[strip].numpy()
    found = torch.from_numpy(worn.textures.inpaint.reshape(-1, 3)[at]).float()
    apart = (found - told(texels.features(mesh.rest)[strip]).float()).abs()
    # Three of 255 are a centimetre; folds between the legs are spanned.
    assert float(apart.mean()) < 6 and float(apart[:, 1].mean()) < 3
    kinds = worn.classes.reshape(-1)[at]
    low = texels.features(mesh.rest)[strip][:, 1].numpy() < -0.5
    assert (kinds[low] == CLOTH).mean() > 0.97


def test_the_rest_looks_as_before_and_the_skirt_is_one_surface(body, person):
    worn = person.in_garment()
    pose = BodyPose.zero(body.num_expression)
    batch = BodyPose.from_joints(pose.joints[None], pose.expression[None], pose.trans[None])
    placed = place_in_camera(batch, body.shape(person.identity)[1][0])
    points = body(person.identity, placed[0])[0]
    camera, shift = fit_camera(points[None], 160, 120)
    placed.trans[:] += shift
    (before, mask), (after, other) = (p.colour(placed[0], camera) for p in (person, worn))
    assert (mask != other).sum() < 0.03 * mask.sum()
    both = mask & other
    assert np.abs(before[both].astype(int) - after[both]).mean() < 8
    placed.body[0, 0, 2], placed.body[0, 1, 2] = 0.35, -0.35
    skin, cloth = (p.colour(placed[0], camera)[1] for p in (person, worn))
    rows = np.nonzero(cloth.any(1))[0]
    shins = slice(rows[0] + int(0.72 * np.ptp(rows)), rows[0] + int(0.76 * np.ptp(rows)))

    def gaps(picture):
        return max(int((np.diff(row.astype(int)) == 1).sum()) for row in picture[shins])

    assert gaps(cloth) == 1 < gaps(skin)


def test_who_wears_no_skirt_is_the_same(body, person):
    naked = TexturedPerson(body, body.zero_identity(), person.textures)
    assert naked.in_garment() is naked
