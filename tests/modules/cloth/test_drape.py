"""A garment of the packaged body: it stays at rest, is one surface, swings and settles."""

import numpy as np
import pytest
import torch

from persona.data.preprocess.parts import limb_of_vertices
from persona.data.preprocess.skirt import Skirt, leg_vertices, skirt_offset
from persona.errors import UserError
from persona.modules.body.skinning import blend_skin
from persona.modules.cloth import drape as module
from persona.modules.cloth.drape import Fabric, drape, ease_in
from persona.modules.cloth.garment import undress
from persona.types import BodyPose

FPS = 15.0


@pytest.fixture(scope="module")
def dressed(body):
    """The mean person with a skirt down to the shins as a garment."""
    identity = body.zero_identity()
    rest, joints = body.shape(identity)
    legs = leg_vertices(limb_of_vertices(body))
    offset, _ = skirt_offset(rest, joints, legs, Skirt(-0.47, -0.95))
    shift = body.joint_regressor @ offset
    shift[0] = 0
    identity.face_offset[:], identity.joint_offset[:] = offset, -shift
    return undress(body, identity).identity


def standing(body, frames=1):
    return BodyPose.zero(body.num_expression, (frames,))


def cloth(body, dressed, pose, offset):
    """The rings in a pose, without its place."""
    garment = dressed.garment
    bones = body.joint_transforms(body.shape(dressed)[1], body.full_pose(pose))
    return blend_skin(garment.rest + offset, garment.weights, bones).reshape(-1, garment.columns, 3)


def test_at_rest_it_stays_at_rest(body, dressed, monkeypatch):
    """The fitted shape already hangs under gravity, so simulation must hardly change it."""
    monkeypatch.setattr(module, "EASE_S", 0.1)
    monkeypatch.setattr(module, "SETTLE_S", 0.9)
    motion = standing(body, 10)
    frames = torch.tensor([0, 9])
    found = drape(body, dressed, motion, FPS, frames, Fabric())
    assert found.faults == ("", "")
    assert float(found.offset.norm(dim=-1).quantile(0.95)) < 0.015
    assert float((found.offset[1] - found.offset[0]).norm(dim=-1).quantile(0.95)) < 0.006


@pytest.mark.slow
def test_spread_legs_do_not_split_it(body, dressed):
    """The hem is hardly longer than it was, and hangs outside of both legs."""
    motion = standing(body, 2)
    motion.body[:, 0, 2], motion.body[:, 1, 2] = 0.3, -0.3
    found = drape(body, dressed, motion, FPS, torch.tensor([0]), Fabric())
    assert found.vertices[0] == body.num_vertices and len(found.vertices) == found.offset.shape[1]
    rings = cloth(body, dressed, motion[0], found.offset[0])
    still = cloth(body, dressed, standing(body)[0], torch.zeros_like(found.offset[0]))
    around = [(r.roll(-1, 1) - r).norm(dim=-1)[-1] for r in (rings, still)]
    assert float(around[0].sum() / around[1].sum()) < 1.3
    legs = body(dressed, motion[0])[0][leg_vertices(limb_of_vertices(body))[0]]
    shin = legs[(legs[:, 1] > float(rings[-1, :, 1].max())) & (legs[:, 1] < -0.7)]
    assert float(shin[:, 0].max()) < float(rings[-6:, :, 0].max()) + 0.02


@pytest.mark.slow
def test_what_swings_settles(body, dressed):
    """After a sudden step to the side the hem lags, swings, and returns to rest."""
    count = 45
    motion = standing(body, count)
    motion.trans[1:, 0] = 0.2
    rows = torch.tensor([0, 1, 2, 3, 4, 43, 44])
    found = drape(body, dressed, motion, FPS, rows, Fabric())
    hem = found.offset[:, -3 * dressed.garment.columns :, 0].mean(1)
    assert abs(float(hem[0])) < 0.002
    assert float(hem[1:5].abs().max()) > 0.02
    assert float((hem[5:] - hem[0]).abs().max()) < 0.01


def test_the_way_in_begins_at_rest(body):
    motion = standing(body, 3)
    motion.root[:, 1], motion.trans[:, 0] = 0.4, 2.0
    eased, before = ease_in(motion, FPS)
    assert before == 30 and len(eased.trans) == 33
    assert not eased.root[0].any() and float(eased.root[before - 1, 1]) == pytest.approx(0.4)
    assert (eased.trans[:before] == motion.trans[0]).all()


def test_what_flies_apart_is_one_line(body, dressed, monkeypatch):
    motion = standing(body, 1)
    motion.trans[:] = torch.nan
    monkeypatch.setattr(module, "TRIES", 2)
    with pytest.raises(UserError, match="flies apart at frame") as error:
        drape(body, dressed, motion, FPS, torch.tensor([0]), Fabric())
    assert "\n" not in str(error.value)


def test_a_tangled_frame_says_so(body, dressed):
    tube = dressed.garment
    springs = module.springs_of(tube, Fabric())
    cloth = module._grid(tube)
    assert module._fault(cloth, tube, springs) == ""
    assert "stretched" in module._fault(2 * cloth, tube, springs)
    mirrored = cloth * np.array([-1.0, 1, 1])
    assert "inside out" in module._fault(mirrored, tube, springs)


def test_who_wears_none_is_not_simulated(body):
    none = body.zero_identity()
    assert drape(body, none, standing(body, 1), FPS, torch.tensor([0]), Fabric()) is None


def test_each_seed_has_its_fabric():
    assert Fabric.drawn(3) == Fabric.drawn(3) != Fabric.drawn(4)
