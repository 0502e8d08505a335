"""A folder of views becomes a recording whose body projects as in each view's camera."""

import math

import numpy as np
import pytest
import torch

from persona.data.io import write_png
from persona.data.native.source import Conversion
from persona.data.parameters import write_camera, write_pose
from persona.data.ring_folder import RingFolder
from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.types import BodyPose, Camera

VIEWS = 9


def camera_at(azimuth):
    """A camera that looks at the origin from 3 m; y points up in the world."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    view = torch.eye(4)
    view[:3, :3] = flip @ matrix_from_axis_angle(torch.tensor([0.0, -azimuth, 0.0]))
    view[2, 3] = 3.0
    size = torch.tensor([60.0, 60.0])
    return Camera(view, size, torch.tensor([24.0, 32.0]), 64, 48)


@pytest.fixture
def folder(tmp_path, body):
    pose = BodyPose.zero(body.num_expression)
    pose.root[1], pose.trans[0], pose.body[15, 2] = 0.3, 0.1, -0.8
    write_pose(tmp_path / "pose.json", pose)
    for number in range(VIEWS):
        write_png(tmp_path / f"images/{number}.png", np.zeros((64, 48, 3), np.uint8))
        write_png(tmp_path / f"masks/{number}.png", np.full((64, 48), 255, np.uint8))
        camera = camera_at(2 * math.pi * number / VIEWS)
        write_camera(tmp_path / f"cam_params/{number}.json", camera)
    return tmp_path


def source(folder, body):
    return RingFolder(path=folder, body=body, conversion=Conversion(setting="video"), test_every=4)


def test_bodies_lie_where_the_cameras_see_them(folder, body):
    recording = source(folder, body).read()
    assert [f.label for f in recording.test] == ["2", "6"] and len(recording.train) == VIEWS - 2
    pose = BodyPose.zero(body.num_expression)
    pose.root[1], pose.trans[0], pose.body[15, 2] = 0.3, 0.1, -0.8
    world = body(recording.identity, pose)[0]
    for frame in recording.train:
        ours = frame.camera.local().project(body(recording.identity, frame.pose)[0])
        torch.testing.assert_close(ours, frame.camera.project(world), atol=1e-2, rtol=1e-4)


def test_what_is_missing_is_named(folder, body):
    (folder / "masks/3.png").unlink()
    with pytest.raises(UserError, match=r"masks/3\.png: missing"):
        source(folder, body).read()
    for number in range(2, VIEWS):
        (folder / f"images/{number}.png").unlink()
    with pytest.raises(UserError, match="has 2 views"):
        source(folder, body).read()
    (folder / "pose.json").unlink()
    with pytest.raises(UserError, match=r"pose\.json: missing"):
        source(folder, body).check()
