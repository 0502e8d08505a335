"""The choice of a video's frames that become photographs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.data.io import read_image, write_json
from persona.data.motion.persona_json import ABOUT_FILE
from persona.data.parameters import write_camera, write_pose
from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_starts import FACING_CAMERA
from persona.data.track.stills import Look, choose, person_box, write_stills, yaw_deg
from persona.data.track.video import Video
from persona.errors import UserError
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.types import BodyPose


def turned_pose(body, degrees):
    """A person 4 m away, turned about the vertical."""
    turn = matrix_from_axis_angle(torch.tensor([0.0, np.radians(degrees), 0.0]).float())
    pose = BodyPose.zero(body.num_expression)
    root = axis_angle_from_matrix(turn @ FACING_CAMERA)
    return replace(pose, root=root, trans=torch.tensor([0.0, 0.3, 4.0]))


def test_turns_are_spread_and_the_first_faces_the_camera():
    looks = [Look(i, float(yaw), 1.0, 1.0) for i, yaw in enumerate(range(-180, 180, 10))]
    chosen = choose(looks, 4)
    yaws = [look.yaw_deg for look in chosen]
    assert yaws[:2] == [0.0, -180.0] and sorted(map(abs, yaws[2:])) == [90.0, 90.0]


def test_blurred_and_cut_off_frames_are_left():
    looks = [
        Look(0, 0.0, 0.2, 1.0), Look(1, 5.0, 1.0, 1.0), Look(2, 2.0, 1.0, 0.4),
        Look(3, 175.0, 0.1, 1.0), Look(4, 160.0, 1.0, 1.0), Look(5, -170.0, 1.0, 0.2),
    ]  # fmt: skip
    assert [look.frame for look in choose(looks, 2)] == [1, 4]


def test_frames_that_show_nothing_new_are_not_taken():
    looks = [Look(i, float(i), 1.0, 1.0) for i in range(20)]
    assert len(choose(looks, 4)) == 1
    assert choose([], 4) == []


def test_a_person_out_of_the_picture_is_no_photograph():
    assert Look(0, 0.0, 1.0, 0.3).usable
    assert not Look(0, 0.0, 1.0, 0.1).usable and not Look(0, 0.0, 0.0, 1.0).usable


@pytest.mark.parametrize("degrees", [0, 90, -135, 180])
def test_yaw_is_the_turn_of_the_trunk(body, degrees):
    found = yaw_deg(turned_pose(body, degrees))
    assert abs((abs(found) - abs(degrees) + 180) % 360 - 180) < 1e-3


def test_the_box_holds_the_person_and_knows_what_is_cut_off(body):
    camera, pose = photo_camera(200, 260, 300.0), turned_pose(body, 0)
    vertices, joints = body(body.zero_identity(), pose)
    mask, whole = person_box(camera.project(joints), camera)
    column, row = camera.project(vertices).long().unbind(-1)
    assert whole == 1 and mask[row, column].all() and mask.mean() < 0.8
    _, half = person_box(camera.project(joints) + torch.tensor([0.0, 200.0]), camera)
    assert half < 0.5


def test_files_are_the_frames_that_were_chosen(body, tmp_path):
    """Frame 1 of the video is frame 0 of the motion; interpolated frames are not used."""
    from persona.commands.video_file import write_video

    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (96, 64, 3), np.uint8) for _ in range(5)]
    write_video(tmp_path / "v.mp4", frames, 10)
    video, root = Video.open(tmp_path / "v.mp4"), tmp_path / "motion"
    for i, degrees in enumerate((0, 90, 180, -90)):
        for kind in ("smplx/params", "cam_params"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        write_pose(root / f"smplx/params/{i}.json", turned_pose(body, degrees))
        write_camera(root / f"cam_params/{i}.json", photo_camera(96, 64))
    about = {"first_frame": 1, "frames": 4}
    write_json(root / ABOUT_FILE, {**about, "bridged": [[0, 3]]})
    with pytest.raises(UserError, match=r"v\.mp4: no frame shows enough of the person"):
        write_stills(root, video, body, 4)
    write_json(root / ABOUT_FILE, {**about, "bridged": [[2, 2]]})
    paths = write_stills(root, video, body, 4)
    assert [path.stem for path in paths[:1]] == ["000000"]
    assert {path.stem for path in paths[1:]} == {"000001", "000003"}
    np.testing.assert_array_equal(read_image(paths[0]), video.frame(1))
