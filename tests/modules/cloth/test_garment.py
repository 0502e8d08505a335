"""A skirt taken off the skin of the packaged body: one closed surface, bare legs, joints kept."""

from dataclasses import replace

import pytest
import torch

from persona.data.preprocess.parts import limb_of_vertices
from persona.data.preprocess.skirt import Skirt, leg_vertices, skirt_offset
from persona.modules.body.skinning import blend_skin
from persona.modules.cloth.garment import _hem, undress
from persona.types import BodyPose

HEM = -0.95


@pytest.fixture(scope="module")
def dressed(body):
    """Identity of the mean person whose skin carries a skirt down to the shins."""
    identity = body.zero_identity()
    rest, joints = body.shape(identity)
    legs = leg_vertices(limb_of_vertices(body))
    flare = torch.linspace(0, 0.1, 48)
    offset, _ = skirt_offset(rest, joints, legs, Skirt(-0.47, HEM, flare))
    shift = body.joint_regressor @ offset
    shift[0] = 0
    identity.face_offset[:], identity.joint_offset[:] = offset, -shift
    return identity


@pytest.fixture(scope="module")
def undressed(body, dressed):
    return undress(body, dressed)


def test_its_outline_is_that_of_the_skin_that_carried_it(body, dressed, undressed):
    garment = undressed.identity.garment
    rings = garment.rest.reshape(-1, garment.columns, 3)
    assert float(rings[-1, :, 1].mean()) == pytest.approx(HEM, abs=0.03)
    rest, _ = body.shape(dressed)
    for ring in rings[6::6]:
        near = undressed.covered & ((rest[:, 1] - ring[0, 1]).abs() < 0.02)
        for axis in (0, 2):
            for extreme in ("amin", "amax"):
                seen = float(getattr(rest[near, axis], extreme)())
                assert float(getattr(ring[:, axis], extreme)()) == pytest.approx(seen, abs=0.015)


def test_legs_are_bare_under_it_and_joints_stay(body, dressed, undressed):
    bare = undressed.identity
    torch.testing.assert_close(body.shape(bare)[1], body.shape(dressed)[1], atol=1e-5, rtol=0)
    low = undressed.covered & (body.template[:, 1] < -0.65)
    assert bare.face_offset[low].norm(dim=-1).max() < 2e-3 < dressed.face_offset[low].max()
    assert not undressed.covered[body.weights[:, 12:].sum(-1) > 0.5].any()
    kept = ~undressed.covered
    assert torch.equal(bare.face_offset[kept], dressed.face_offset[kept])
    naked = replace(bare, face_offset=torch.zeros_like(bare.face_offset))
    apart = (body.shape(bare)[0] - body.shape(naked)[0])[undressed.covered].norm(dim=-1)
    assert float(apart.max()) < 0.05


def test_it_does_not_split_when_the_legs_part(body, dressed, undressed):
    """The skin's skirt does: its legs come apart."""
    pose = BodyPose.zero(body.num_expression)
    pose.body[0, 2], pose.body[1, 2] = 0.4, -0.4
    garment = undressed.identity.garment
    bones = body.joint_transforms(body.shape(dressed)[1], body.full_pose(pose))
    rings = blend_skin(garment.rest, garment.weights, bones).reshape(-1, garment.columns, 3)
    still = garment.rest.reshape(rings.shape)
    stretch = [(r.roll(-1, 1) - r).norm(dim=-1)[3:] for r in (rings, still)]
    assert float((stretch[0] / stretch[1]).max()) < 3.0
    skin = blend_skin(body.shape(dressed)[0], body.weights, bones)
    low = (body.shape(dressed)[0][:, 1] < -0.8) & undressed.covered
    left, right = (skin[leg & low, 0] for leg in leg_vertices(limb_of_vertices(body)))
    assert float(left.min() - right.max()) > 0.05
    # The first ring stays on the skin.
    top = skin[undressed.covered]
    assert float(torch.cdist(rings[0], top).amin(1).max()) < 0.05


def test_who_wears_no_skirt_has_none(body):
    assert undress(body, body.zero_identity()) is None


def test_flared_trousers_that_meet_again_are_no_skirt():
    """The legs touch at the crotch and at the hems, with a gap of 40 cm between."""
    height = torch.arange(0.0, 0.8, 0.004)
    inner = torch.where((height > 0.76) | (height < 0.36), -0.03, 0.05)
    rest = torch.stack((torch.cat((inner, -inner)), height.repeat(2), torch.zeros(400)), 1)
    legs = torch.arange(400) < 200, torch.arange(400) >= 200
    assert _hem(rest, legs, 0.8, 0.0) is None
    rest[:, 0] = torch.cat((torch.full((200,), -0.03), torch.full((200,), 0.03)))
    assert _hem(rest, legs, 0.8, 0.0) is not None
