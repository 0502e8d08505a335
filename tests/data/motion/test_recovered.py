"""Files of AIST++, GVHMR, WHAM and 4D-Humans with a known motion, and pickles that run code.

``files`` has small files in the layouts of WHAM and PHALP, written by joblib 1.5: two people, one
of whom is seen in fewer frames, and a frame without anybody.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from persona.data.motion import recovered
from persona.data.motion.load import load_motion
from persona.errors import UserError

FRAMES = 6


@pytest.fixture
def smpl():
    """A person, y up and facing +z, who walks 0.5 m and bends the left elbow (SMPL joint 18)."""
    poses = np.zeros((FRAMES, 72))
    poses[:, 3 * 18 + 1] = np.linspace(0, -1, FRAMES)
    trans = np.stack([np.zeros(FRAMES), np.ones(FRAMES), np.linspace(0, 0.5, FRAMES)], 1)
    return poses, trans


def check(motion, poses):
    """Asserts the elbow's angles, the walk in metres, and fingers at the mean hand."""
    elbow = motion.pose.body[:, 17, 1].numpy()
    np.testing.assert_allclose(elbow, poses[:, 3 * 18 + 1], atol=1e-5)
    walked = motion.pose.trans[-1] - motion.pose.trans[0]
    assert float(walked[2]) == pytest.approx(0.5, abs=1e-4)
    assert float(motion.pose.left_hand.abs().max()) < 1e-5


def test_aist(tmp_path, body, smpl):
    poses, trans = smpl
    path = tmp_path / "gBR_sBM.pkl"
    values = {"smpl_poses": poses, "smpl_trans": 90 * trans, "smpl_scaling": np.array([90.0])}
    path.write_bytes(pickle.dumps(values))
    motion = load_motion(path, body, fps=None)
    assert motion.fps == 60
    check(motion, poses)


def test_gvhmr(tmp_path, body, smpl):
    poses, trans = (torch.from_numpy(v).float() for v in smpl)
    world = {
        "global_orient": poses[:, :3], "body_pose": poses[:, 3:66], "transl": trans,
        "betas": torch.zeros(FRAMES, 10),
    }  # fmt: skip
    path = tmp_path / "hmr4d_results.pt"
    torch.save({"smpl_params_global": world, "K_fullimg": torch.eye(3)[None]}, path)
    motion = load_motion(path, body, fps=None)
    assert motion.fps == 30
    check(motion, poses.numpy())


@pytest.mark.parametrize(("name", "travel"), [("wham_output", (0, 0.5)), ("phalp", (0.5, 0))])
def test_results_of_several_people(body, caplog, name, travel):
    """The same elbow in five frames; the missing third frame is interpolated."""
    motion = load_motion(Path(__file__).parent / f"files/{name}.pkl", body, fps=None)
    assert (len(motion), motion.fps) == (5, 30)
    elbow = motion.pose.body[:, 17, 1].numpy()
    np.testing.assert_allclose(elbow, np.linspace(0, -1, 5), atol=1e-4)
    others = motion.pose.body.clone()
    others[:, 17] = 0
    assert float(others.abs().max()) < 1e-4
    assert float(motion.pose.root.abs().max()) < 1e-4, "the person must be upright and face +z"
    walked = (motion.pose.trans[-1] - motion.pose.trans[0])[[0, 2]]
    np.testing.assert_allclose(walked.numpy(), travel, atol=1e-4)
    assert "seen longest" in caplog.text and "1 of 5 frames lack the person" in caplog.text


def test_joblib_arrays_that_are_cut_off_or_objects(body, tmp_path):
    whole = (Path(__file__).parent / "files/wham_output.pkl").read_bytes()
    path = tmp_path / "a.pkl"
    for content, message in (
        (whole[:3000], "not a whole"),
        (whole.replace(b"numpy_pickle", b"numpy_puckle"), "wants to run"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.pkl: {message}"):
            load_motion(path, body)


class Program:
    """Reading a pickle of this object creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("ending", [".pkl", ".pt"])
def test_a_program_in_a_pickle_is_refused(tmp_path, body, ending):
    path, made = tmp_path / f"evil{ending}", tmp_path / "made"
    values = {"smpl_poses": Program(made)}
    if ending == ".pkl":
        path.write_bytes(pickle.dumps(values))
    else:
        torch.save(values, path)
    with pytest.raises(UserError, match=rf"evil{ending}: (wants to run|cannot be read)"):
        load_motion(path, body)
    assert not made.exists()


def test_what_is_missing_is_said(tmp_path, body, smpl):
    poses, trans = smpl
    path = tmp_path / "a.pkl"
    for values, message in (
        ({"smpl_trans": trans}, "lacks smpl_poses"),
        ({"smpl_poses": poses[:, :69], "smpl_trans": trans}, r"smpl_poses is \(6, 69\)"),
        ({"smpl_poses": poses, "smpl_trans": trans, "smpl_scaling": 0.0}, "no positive number"),
        ([1, 2], "lacks smpl_poses"),
    ):
        path.write_bytes(pickle.dumps(values))
        with pytest.raises(UserError, match=message):
            load_motion(path, body)
    path.write_bytes(b"no pickle")
    with pytest.raises(UserError, match="not a whole dictionary"):
        load_motion(path, body)
    torch.save({"smpl_params_incam": {}}, tmp_path / "b.pt")
    with pytest.raises(UserError, match="lacks global_orient"):
        load_motion(tmp_path / "b.pt", body)


def test_bytes_are_never_read_as_objects(tmp_path, body):
    class Addresses:
        def __reduce__(self):
            return np.ndarray, ((1,), np.dtype("O"), bytes(8))

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"smpl_poses": Addresses()}))
    with pytest.raises(UserError, match="array of objects"):
        load_motion(path, body)


def person(**changes):
    """One frame in the layout of 4D-Humans."""
    turns = np.tile(np.eye(3), (24, 1, 1))
    frame = {
        "tid": [1], "smpl": [{"global_orient": turns[:1], "body_pose": turns[1:]}],
        "camera": [np.zeros(3)],
    }  # fmt: skip
    return frame | changes


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"0.jpg": person(), "1.jpg": 3}, "holds what is no frame"),
        ({"0.jpg": person(tid=[])}, "nobody is in it"),
        ({"0.jpg": person(camera=[])}, "frame 0 lacks smpl or camera"),
        (
            {"0.jpg": person(smpl=[{"global_orient": np.eye(3)[None], "body_pose": np.eye(3)}])},
            "not of SMPL's 24 joints",
        ),
        ({"0.jpg": person(camera=[np.full(3, np.nan)])}, "not in order or not finite"),
        (
            {"0.jpg": person(smpl=[{"global_orient": -np.eye(3)[None],
                                    "body_pose": np.tile(np.eye(3), (23, 1, 1))}])},
            "holds rotations that are none",
        ),
    ],
)  # fmt: skip
def test_broken_frames_of_4d_humans_are_refused(tmp_path, frames, message):
    with pytest.raises(UserError, match=message):
        recovered._phalp(tmp_path / "a.pkl", frames, np.zeros(90))


def test_broken_arrays_are_refused(tmp_path, body, smpl):
    poses, trans = smpl
    path = tmp_path / "a.pkl"
    for values, message in (
        ({"smpl_poses": poses, "smpl_trans": trans[:4]}, r"its arrays are of \[6, 4"),
        ({"smpl_poses": ["a"], "smpl_trans": trans}, "smpl_poses is no array of numbers"),
    ):
        path.write_bytes(pickle.dumps({"smpl_scaling": 1.0} | values))
        with pytest.raises(UserError, match=message):
            load_motion(path, body)
