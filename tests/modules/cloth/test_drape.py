"""A skirt on the packaged body: it is found, stays at rest, is one surface, avoids legs."""

import numpy as np
import pytest
import torch

from persona.data.preprocess.annotate import posed_body
from persona.data.preprocess.parts import limb_of_vertices
from persona.data.preprocess.skirt import Skirt, leg_vertices, skirt_offset
from persona.errors import UserError
from persona.modules.cloth import drape as module
from persona.modules.cloth.drape import Fabric, drape, ease_in
from persona.modules.cloth.garment import _hem, find_skirt, hull_rings
from persona.types import BodyPose

FPS = 15.0


@pytest.fixture(scope="module")
def dressed(body):
    """Identity of the mean person in a skirt down to the shins."""
    identity = body.zero_identity()
    rest, joints = body.shape(identity)
    legs = leg_vertices(limb_of_vertices(body))
    offset, _ = skirt_offset(rest, joints, legs, Skirt(-0.47, -0.95))
    shift = body.joint_regressor @ offset
    shift[0] = 0
    identity.face_offset[:], identity.joint_offset[:] = offset, -shift
    return identity


def standing(body, frames=1):
    return BodyPose.zero(body.num_expression, (frames,))


def test_a_skirt_is_found_and_trousers_are_none(body, dressed):
    tube = find_skirt(body, dressed)
    assert tube is not None and find_skirt(body, body.zero_identity()) is None
    rest, _ = body.shape(dressed)
    assert float(tube.rest[-1, :, 1].mean()) == pytest.approx(-0.95, abs=0.03)
    # An unmoved tube leaves its vertices in place.
    assert (tube.carried(tube.rest, torch.eye(3)) - rest[tube.vertices]).abs().max() < 1e-5
    assert float(tube.ratio.min()) >= 0 and float(tube.ratio.quantile(0.99)) < 1.05
    # The tube has no vertices of arms or head.
    assert body.weights[tube.vertices][:, 12:].sum(-1).max() < 0.5


def test_the_skirt_of_somebody_who_sits_is_not_simulated_and_that_is_said(body, dressed, caplog):
    """Level thighs have no horizontal rings; rings also fail if a section has no points."""
    seated = standing(body)[0]
    for joint in (1, 2, 4, 5):
        seated.body[joint - 1, 0] = -1.5 if joint < 3 else 1.5
    assert find_skirt(body, dressed, seated) is None
    assert "as of somebody who sits" in caplog.text
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    assert hull_rings(points, 0.9, 0.1) is not None
    assert hull_rings(points[(points[:, 1] - 0.5).abs() > 0.1], 0.9, 0.1) is None


def test_at_rest_it_stays_at_rest(body, dressed, monkeypatch):
    """The fitted shape already hangs under gravity, so simulation must hardly change it."""
    monkeypatch.setattr(module, "EASE_S", 0.1)
    monkeypatch.setattr(module, "SETTLE_S", 0.9)
    motion = standing(body, 10)
    motion.body[:, 0, 2], motion.body[:, 1, 2] = 0.12, -0.12
    frames = torch.tensor([0, 9])
    found = drape(body, dressed, motion, FPS, frames, Fabric(), motion[0])
    assert found.faults == ("", "")
    assert float(found.offset.norm(dim=-1).quantile(0.95)) < 0.015
    assert float((found.offset[1] - found.offset[0]).norm(dim=-1).quantile(0.95)) < 0.006


@pytest.mark.slow
def test_spread_legs_do_not_split_it(body, dressed):
    """Skinned legs of the skirt come apart; the simulated surface stays in one piece."""
    motion = standing(body, 2)
    motion.body[:, 0, 2], motion.body[:, 1, 2] = 0.5, -0.5
    found = drape(body, dressed, motion, FPS, torch.tensor([0]), Fabric())
    rest, _ = body.shape(dressed)
    low = (rest[:, 1] < -0.8) & (rest[:, 1] > -0.93)
    left, right = (leg & low for leg in leg_vertices(limb_of_vertices(body)))
    apart = {}
    for name, offset in (("skin", None), ("cloth", found.dense(0, len(rest)))):
        vertices, _ = posed_body(body, dressed, motion[0], offset)
        apart[name] = float(vertices[left, 0].min() - vertices[right, 0].max())
    assert apart["skin"] > 0.05 and apart["cloth"] < 0


@pytest.mark.slow
def test_what_swings_settles(body, dressed):
    """After a sudden step to the side the hem lags, swings, and returns to rest."""
    count = 45
    motion = standing(body, count)
    motion.trans[1:, 0] = 0.2
    rows = torch.tensor([0, 1, 2, 3, 4, 43, 44])
    found = drape(body, dressed, motion, FPS, rows, Fabric())
    hem = found.offset[:, find_skirt(body, dressed).row > 14, 0].mean(1)
    assert abs(float(hem[0])) < 0.002
    assert float(hem[1:5].abs().max()) > 0.02
    assert float((hem[5:] - hem[0]).abs().max()) < 0.01


def test_the_way_in_begins_at_rest(body):
    motion = standing(body, 3)
    motion.root[:, 1], motion.trans[:, 0] = 0.4, 2.0
    eased, before = ease_in(motion, FPS, standing(body)[0])
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
    tube = find_skirt(body, dressed)
    springs = module.springs_of(tube, Fabric())
    cloth = tube.rest.double().numpy()
    assert module._fault(cloth, tube, springs) == ""
    assert "stretched" in module._fault(2 * cloth, tube, springs)
    mirrored = cloth * np.array([-1.0, 1, 1])
    assert "inside out" in module._fault(mirrored, tube, springs)


def test_each_seed_has_its_fabric():
    assert Fabric.drawn(3) == Fabric.drawn(3) != Fabric.drawn(4)


def test_flared_trousers_that_meet_again_are_no_skirt():
    """The legs touch at the crotch and at the hems, with a gap of 40 cm between."""
    height = torch.arange(0.0, 0.8, 0.004)
    inner = torch.where((height > 0.76) | (height < 0.36), -0.03, 0.05)
    rest = torch.stack((torch.cat((inner, -inner)), height.repeat(2), torch.zeros(400)), 1)
    legs = torch.arange(400) < 200, torch.arange(400) >= 200
    assert _hem(rest, legs, 0.8, 0.0) is None
    rest[:, 0] = torch.cat((torch.full((200,), -0.03), torch.full((200,), 0.03)))
    assert _hem(rest, legs, 0.8, 0.0) is not None
