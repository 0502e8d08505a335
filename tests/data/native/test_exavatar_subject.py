"""A video in ExAvatar's Custom layout: reading, conversion, and damaged folders."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny_datasets import CENTRE, FOCAL, HEIGHT, WIDTH, camera_of, photograph, pose_in_world

from persona.data.exavatar_subject import ExAvatarSource
from persona.data.native.source import Conversion
from persona.data.subject import Subject
from persona.errors import UserError

VIDEO = Conversion(texture_size=64, setting="video")


def source(datasets, body, conversion=VIDEO, **options):
    path = datasets / "exavatar"
    return ExAvatarSource(path=path, subject="me", body=body, conversion=conversion, **options)


def colmap_instead(folder):
    """Replaces the camera files of frames by COLMAP's model."""
    shutil.rmtree(folder / "cam_params")
    (folder / "sparse").mkdir()
    lines = []
    for number in range(6):
        matrix = camera_of(number).cam_from_world
        x, y, z, w = Rotation.from_matrix(matrix[:3, :3].numpy()).as_quat()
        shift = " ".join(map(str, matrix[:3, 3].tolist()))
        lines += [f"{number + 1} {w} {x} {y} {z} {shift} 1 {number}.png", ""]
    (folder / "sparse/images.txt").write_text("\n".join(lines))
    lens = f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL[0]} {FOCAL[1]} {CENTRE[0]} {CENTRE[1]}"
    (folder / "sparse/cameras.txt").write_text(lens)


@pytest.mark.parametrize("colmap", [False, True])
def test_recording_is_what_was_written(datasets, body, colmap):
    if colmap:
        colmap_instead(datasets / "exavatar/me")
    recording = source(datasets, body).read()
    assert [frame.label for frame in recording.train] == ["0", "2", "4"]
    assert [frame.label for frame in recording.test] == ["1", "3", "5"]
    for frame in (recording.train[1], recording.test[2]):
        number = int(frame.label)
        camera, pose = camera_of(number), pose_in_world(body, number)
        assert torch.allclose(frame.camera.cam_from_world, camera.cam_from_world, atol=1e-5)
        assert torch.allclose(frame.camera.focal_px, torch.tensor(FOCAL))
        assert (frame.camera.height, frame.camera.width) == (HEIGHT, WIDTH)
        _, mask, _ = photograph(body, recording.identity, pose, camera)
        assert np.array_equal(frame.read_mask(), mask)
        vertices, _ = body(recording.identity, pose)
        matrix = camera.cam_from_world
        expected = vertices @ matrix[:3, :3].T + matrix[:3, 3]
        posed, _ = body(recording.identity, frame.pose)
        assert torch.allclose(posed, expected, atol=1e-4)


def test_frame_lists_with_a_byte_order_mark(datasets, body):
    path = datasets / "exavatar/me/frame_list_train.txt"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert [frame.label for frame in source(datasets, body).read().train] == ["0", "2", "4"]


def test_poses_before_smoothing(datasets, body):
    smooth, fitted = source(datasets, body), source(datasets, body, smoothed=False)
    shift = fitted.read().train[0].pose.trans - smooth.read().train[0].pose.trans
    assert shift.norm() == pytest.approx(0.1, abs=1e-4)
    assert smooth.digest() != fitted.digest()


@pytest.mark.parametrize(
    ("setting", "captured"), [("video", ["0", "2", "4"]), ("single_image", ["4"])]
)
def test_subject_folder(pristine, body, tmp_path, setting, captured):
    source(pristine, body, replace(VIDEO, setting=setting)).prepare(tmp_path / "me")
    subject = Subject(tmp_path / "me")
    subject.validate(subject.splits)
    assert subject.original_names("captured") == captured
    assert subject.original_names("test") == ["1", "3", "5"]
    assert subject.info.provenance.startswith(f"exavatar me; setting {setting}")


def unsorted(folder):
    (folder / "frame_list_train.txt").write_text("4\n2\n")


def shared(folder):
    (folder / "frame_list_test.txt").write_text("1\n2\n")


def no_identity(folder):
    (folder / "smplx_optimized/shape_param.json").unlink()


def camera_without_focal(folder):
    path = folder / "cam_params/2.json"
    path.write_text(json.dumps({"R": np.eye(3).tolist(), "t": [0, 0, 1], "princpt": [1, 1]}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unsorted, r"frame_list_train\.txt: is not sorted \(2 after 4\)"),
        (shared, r"frame_list_test\.txt: names frame 2, which trains"),
        (lambda d: (d / "frame_list_test.txt").write_text(""), r"frame_list_test\.txt: names no"),
        (lambda d: (d / "frame_list_test.txt").write_text("a"), r"not a frame number"),
        (lambda d: (d / "frame_list_train.txt").unlink(), r"frame_list_train\.txt: missing"),
        (lambda d: (d / "frames/2.png").unlink(), r"frames/2\.png"),
        (lambda d: (d / "smplx_optimized/smplx_params_smoothed/2.json").unlink(),
         r"smplx_params_smoothed/2\.json: no parameters of frame 2; run ExAvatar's fitting"),
        (no_identity, r"shape_param\.json: missing; run ExAvatar's fitting"),
        (camera_without_focal, r"cam_params/2\.json: lacks focal"),
        (lambda d: shutil.rmtree(d / "cam_params"), r"cam_params: missing"),
    ],
)  # fmt: skip
def test_broken_folder(datasets, body, tmp_path, spoil, message):
    """The error is one line that names the file."""
    spoil(datasets / "exavatar/me")
    with pytest.raises(UserError, match=message) as caught:
        source(datasets, body).prepare(tmp_path / "me")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "me/subject.json").exists()
