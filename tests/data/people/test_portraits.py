"""Random people as training data of a feed-forward network."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from persona.data.people import rendered
from persona.data.people.assets import read_assets
from persona.data.people.portrait_stream import PortraitStream
from persona.data.people.portraits import VIEW, Picture
from persona.data.people.rendered import RenderedPeople, as_fitted
from persona.data.people.scene import Casting
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm.sight import SIGHT_PARTS
from persona.types import BodyPose, Camera


@dataclass
class Size:
    num_points: int = 200
    photo_px: int = 84
    head_px: int = 28
    sees: bool = True


@pytest.fixture(scope="module")
def casting(shared_data):
    body = SmplxBody()
    return Casting(read_assets(shared_data / "makehuman_cc0", body), body, ["walk"], num_prints=2)


def test_rendered_people(casting, monkeypatch):
    """Visible points lie inside the mask, and every view contains the complete person."""
    for noise in ("_FIT_TURN", "_FIT_SHIFT_M", "_FIT_BETAS"):
        monkeypatch.setattr(rendered, noise, 0.0)  # With noise, some points lie outside the mask.
    torch.manual_seed(0)
    stream = PortraitStream(RenderedPeople(casting), batch_size=2, views=2, first=2, ring=4)
    stream.aim(Size(), torch.device("cpu"))
    batches = iter(stream)
    people = next(batches)
    batches.close()
    assert people.colour.shape == (2, 2, 3, *VIEW) and people.image.shape == (2, 3, 140, 84)
    _, mask, facing, free, *_ = people.photo.sight.split(SIGHT_PARTS, -1)
    seen = (facing > 0.3) & (free > 0.5)
    assert mask[seen].mean() > 0.95 and 0.2 < seen.float().mean() < 0.6
    for person in range(2):
        for view in range(2):
            alpha = people.mask[person, view] > 127
            pixels = people.camera[2 * person + view].project(
                _joints(casting.body, people, person, view)
            )
            column, row = pixels[[0, 3, 6, 9]].long().unbind(-1)
            assert alpha[row, column].float().mean() > 0.7, (
                "joints of the trunk lie outside the person"
            )
            border = torch.cat((alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
            assert not border.any()
            outside = people.colour[person, view][:, ~alpha & (people.mask[person, view] == 0)]
            assert (outside == 255).all()
            values = people.mask[person, view]
            assert ((values > 20) & (values < 235)).sum() > 100, "outlines must be smooth"


def _joints(body, people, person, view):
    rest = body.template + body.shape_dirs @ people.betas[person]
    joints = body.joint_regressor @ rest
    bones = body.transforms_from_matrices(joints, people.rotations[person, view])
    posed = (bones[:, :3, :3] @ joints[..., None])[..., 0] + bones[:, :3, 3]
    return posed + people.trans[person, view]


def test_a_fitted_body_is_a_little_off_and_the_true_one_stays():
    body = SmplxBody()
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(1, 6, 4, generator=generator)
    camera = Camera.identity(torch.ones(2), torch.ones(2), 6, 4)
    true = Picture(torch.rand(3, 6, 4, generator=generator), mask, camera, BodyPose.zero(10))
    identity = body.zero_identity()
    turns, shifts = [], []
    for seed in range(20):
        found, shape = as_fitted(true, identity, np.random.default_rng(seed))
        assert set(found.mask.unique().tolist()) == {0.0, 1.0}
        assert found.pose.trans[2] == 0, "a fit's depth must not change"
        assert (shape.betas[:12] != 0).all() and (shape.betas[12:] == 0).all()
        turns.append(found.pose.body)
        shifts.append(found.pose.trans[:2])
    assert 0.01 < torch.stack(turns).std() < 0.06
    assert 0.001 < torch.stack(shifts).std() < 0.006
    assert (true.pose.body == 0).all() and (identity.betas == 0).all()
    assert true.mask is mask


def test_another_size_keeps_points_where_they_are():
    """The camera changes with the picture: a white square's corner is where it projects."""
    image = torch.zeros(3, 40, 20)
    image[:, 10:20, 4:12] = 1
    camera = Camera.identity(torch.tensor([30.0, 30.0]), torch.tensor([10.0, 20.0]), 40, 20)
    pose = BodyPose.zero(1)
    small = Picture(image, torch.ones(1, 40, 20), camera, pose).resized(30, 30)
    assert small.image.shape == (3, 30, 30) and small.mask[:, :, 16:].max() == 0
    corner = torch.tensor([[(4 - 10) / 30.0, (10 - 20) / 30.0, 1.0]])
    column, row = small.camera.project(corner)[0].tolist()
    rows, columns = np.nonzero(small.image[0].numpy() > 0.5)
    assert abs(columns.min() - column) <= 0.51 and abs(rows.min() - row) <= 0.51


def test_a_stream_without_a_network_to_aim_at_is_refused(casting):
    with pytest.raises(RuntimeError, match="aim"):
        next(iter(PortraitStream(RenderedPeople(casting))))
