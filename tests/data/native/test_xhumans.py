"""A tiny X-Humans subject: reading, conversion, and damaged folders."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_datasets import (
    CENTRE,
    FOCAL,
    HEIGHT,
    WIDTH,
    camera_of,
    photograph,
    pose_in_world,
    python2_pickle,
    xhumans_parameters,
)

from persona.data.frame_loading import load_frames
from persona.data.native.source import Conversion
from persona.data.subject import Subject
from persona.data.xhumans import XHumansSource
from persona.errors import UserError
from persona.modules.render.mesh import rasterize

SMALL = Conversion(texture_size=64)
TRAIN = ["train 2 1", "train 2 2", "train 2 3", "train 10 1", "train 10 2"]


def source(datasets, body, conversion=SMALL):
    return XHumansSource(path=datasets / "xhumans", subject=28, body=body, conversion=conversion)


def test_recording_is_what_was_written(pristine, body):
    """Takes and frames are in numerical order, masks come from depths, poses are the camera's."""
    recording = source(pristine, body).read()
    assert [frame.label for frame in recording.train] == TRAIN
    assert [frame.label for frame in recording.test] == ["test 1 1", "test 1 2"]
    identity = recording.identity
    assert identity.betas[:10].any() and not identity.betas[10:].any()
    for frame in (*recording.train, *recording.test):
        _, take, number = frame.label.split()
        camera = camera_of(int(number))
        pose = pose_in_world(body, int(number) + 2 * int(take))
        assert torch.allclose(frame.camera.cam_from_world, camera.cam_from_world, atol=1e-5)
        assert torch.allclose(frame.camera.focal_px, torch.tensor(FOCAL))
        assert torch.allclose(frame.camera.center_px, torch.tensor(CENTRE))
        _, mask, _ = photograph(body, identity, pose, camera)
        assert np.array_equal(frame.read_mask(), mask)
        matrix = camera.cam_from_world
        expected = body(identity, pose)[0] @ matrix[:3, :3].T + matrix[:3, 3]
        assert torch.allclose(body(identity, frame.pose)[0], expected, atol=1e-4)


def test_subject_folder(pristine, body, tmp_path):
    source(pristine, body).prepare(tmp_path / "00028")
    subject = Subject(tmp_path / "00028")
    subject.validate(subject.splits)
    assert subject.info.provenance.startswith("xhumans 00028")
    assert subject.info.input_frames == "train 2 1"
    assert subject.original_names("captured") == ["train 2 1"]
    assert subject.original_names("test") == ["test 1 1", "test 1 2"]
    assert load_frames(subject, "test").size == (HEIGHT, WIDTH)
    identity = subject.identity(body)
    for split, number in (("captured", 0), ("test", 0), ("test", 1)):
        frame = subject.frame(split, number)
        vertices, _ = body(identity, subject.pose(split, number, body.num_expression))
        seen = rasterize(vertices, body.faces, frame.camera.local()).mask.numpy()
        assert (seen & frame.mask).sum() / (seen | frame.mask).sum() > 0.98


def test_input_frame_by_name(pristine, body):
    made = source(pristine, body, replace(SMALL, input_frame="10/2"))
    assert [frame.label for frame in made.captured(made.read())] == ["train 10 2"]
    for absent in ("1/1", "2/4", "12", "2/x"):
        made = source(pristine, body, replace(SMALL, input_frame=absent))
        with pytest.raises(UserError, match=f"data.input_frame={absent}: not a training frame"):
            made.captured(made.read())


def test_flat_hands_are_converted(pristine, body):
    ours = source(pristine, body).read().train[0].pose
    flat = source(pristine, body, replace(SMALL, flat_hand_mean=True)).read().train[0].pose
    assert torch.allclose(flat.left_hand, ours.left_hand - body.hands_mean[:15])


def test_a_frames_own_betas_place_its_root(datasets, body):
    """The mean shape is posed so that its pelvis is where the frame's own shape has it."""
    folder = datasets / "xhumans/00028/train/Take2/SMPLX"
    path, pose = folder / "mesh-f00001_smplx.pkl", pose_in_world(body, 5)
    recording = source(datasets, body).read()
    own = replace(recording.identity, betas=torch.zeros(body.num_betas))
    own.betas[:10] = 0.7
    path.write_bytes(python2_pickle(xhumans_parameters(pose, own)))
    frame = source(datasets, body).read().train[0]
    matrix = camera_of(1).cam_from_world
    pelvis = matrix[:3, :3] @ body(own, pose)[1][0] + matrix[:3, 3]
    assert torch.allclose(body(recording.identity, frame.pose)[1][0], pelvis, atol=1e-4)


def test_parameters_numbered_by_the_scan(datasets, body):
    """Images count from 1 even if the scans' numbers begin elsewhere."""
    folder = datasets / "xhumans/00028/train/Take2/SMPLX"
    before = source(datasets, body).read().train
    for number in (3, 2, 1):
        old = folder / f"mesh-f{number:05d}_smplx.pkl"
        old.rename(folder / f"mesh-f{number + 40:05d}_smplx.pkl")
    after = source(datasets, body).read().train
    for a, b in zip(before, after, strict=True):
        assert a.label == b.label and torch.equal(a.pose.joints, b.pose.joints)


def delete(name):
    return lambda folder: (folder / name).unlink()


def cameras(folder, **changes):
    path = folder / "train/Take2/render/cameras.npz"
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def parameters(**changes):
    def apply(folder):
        path = folder / "train/Take2/SMPLX/mesh-f00001_smplx.pkl"
        arrays = pickle.loads(path.read_bytes(), encoding="latin1") | changes
        kept = {key: value for key, value in arrays.items() if value is not None}
        path.write_bytes(pickle.dumps(kept, 2))

    return apply


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def depth(size, name="train/Take2/render/depth/depth_000001.tiff"):
    return lambda folder: Image.fromarray(np.eye(*size, dtype=np.float32)).save(folder / name)


PICKLE = r"Take2/SMPLX/mesh-f00001_smplx\.pkl: "


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (delete("mean_shape_smplx.npy"), r"mean_shape_smplx\.npy: missing; apply for X-Humans"),
        (delete("train/Take2/render/cameras.npz"), r"cameras\.npz: missing; X-Humans holds scans"),
        (delete("train/Take2/render/image/color_000002.png"),
         r"cameras\.npz: has 3 cameras for 2 images"),
        (lambda f: cameras(f, extrinsic=np.zeros((4, 4, 4))), r"has 4 cameras for 3 images"),
        (lambda f: cameras(f, extrinsic=None), r"cameras\.npz: does not hold intrinsic"),
        (lambda f: cameras(f, extrinsic=np.zeros((3, 3, 4))), r"cameras\.npz: does not hold"),
        (lambda f: cameras(f, extrinsic=np.full((3, 4, 4), np.nan)), "holds an impossible camera"),
        (lambda f: cameras(f, extrinsic=np.array([{}])), r"cameras\.npz: does not hold"),
        (delete("train/Take2/SMPLX/mesh-f00002_smplx.pkl"),
         r"Take2: has 3 images and 2 SMPLX/\*\.pkl"),
        (parameters(body_pose=Evil()), PICKLE + r"wants to run \w+\.print, which parameters never"),
        (parameters(body_pose=None), PICKLE + "has no numbers called body_pose"),
        (parameters(body_pose="stand"), PICKLE + "has no numbers called body_pose"),
        (parameters(body_pose=np.zeros(60)), PICKLE + "body_pose is not 21 x 3"),
        (parameters(transl=np.array([0, np.inf, 0])), PICKLE + "transl holds a number"),
        (parameters(betas=np.ones(60)), PICKLE + "has 60 betas, body anny has 32"),
        (parameters(expression=np.ones(60)), PICKLE + "has 60 expression coefficients, the body"),
        (delete("train/Take2/render/depth/depth_000001.tiff"), r"depth_000001\.tiff: no such file"),
        (depth((HEIGHT, WIDTH + 1)), r"color_000001\.png: its mask is 101 x 120 pixels"),
        (lambda f: (f / "test/Take1/render/depth/depth_000002.tiff").write_bytes(b"II*"),
         r"depth_000002\.tiff: broken, or not a depth image"),
        (lambda f: (f / "train/Take2/render/image/color_x.png").write_bytes(b""),
         r"color_x\.png: has no frame number"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_file(datasets, body, tmp_path, harm, said, capfd):
    harm(datasets / "xhumans/00028")
    with pytest.raises(UserError, match=said) as error:
        source(datasets, body).prepare(tmp_path / "00028")
    assert "\n" not in str(error.value)
    assert "executed" not in capfd.readouterr().out


def test_a_gap_between_frames(datasets, body):
    """If an image and its camera are both lost, the numbers still show that one is missing."""
    folder = datasets / "xhumans/00028"
    (folder / "train/Take2/render/image/color_000002.png").unlink()
    cameras(folder, extrinsic=np.stack([np.eye(4)] * 2))
    with pytest.raises(UserError, match=r"color_000002\.png: missing between frames of the take"):
        source(datasets, body).read()


def test_a_subject_that_is_not_there(pristine, body):
    absent = XHumansSource(path=pristine / "xhumans", subject="00034", body=body, conversion=SMALL)
    with pytest.raises(UserError, match=r"00034/mean_shape_smplx\.npy: missing; apply for"):
        absent.check()
    missing = [str(item.path) for item in absent.requirements() if not item.found]
    assert len(missing) == 3 and missing[1].endswith("00034/train/Take*")
