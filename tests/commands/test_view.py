"""The viewer: a pose compared with SciPy's, a page that answers, a port that is in use."""

import copy
import socket
import urllib.request
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from persona.commands import puppet as module
from persona.commands.beside import Beside
from persona.commands.experiment import load_config, load_system
from persona.commands.puppet import Puppet, covariances
from persona.commands.view import scored_frames
from persona.commands.viewer import Viewer, check_port
from persona.data.motion.names import INDEX
from persona.errors import UserError
from persona.modules.avatar.light import SphericalLight


@pytest.fixture
def puppet(seen_system) -> Puppet:
    return Puppet(seen_system)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_joint_turns_on_top_of_the_motion(puppet):
    puppet.load("squat")
    still = puppet.pose(3)
    puppet.turns["left_elbow"] = (10.0, -40.0, 5.0)
    puppet.face["jawOpen"] = 0.5
    moved = puppet.pose(3)
    own = Rotation.from_rotvec(still.joints[0, INDEX["left_elbow"]].numpy())
    added = Rotation.from_rotvec(np.deg2rad([10, -40, 5]))
    found = Rotation.from_rotvec(moved.joints[0, INDEX["left_elbow"]].numpy())
    assert (found.inv() * own * added).magnitude() < 1e-5
    changed = (moved.joints != still.joints).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [INDEX["left_elbow"]]
    jaw = puppet.expressions.index("jawOpen")
    assert moved.expression[0, jaw] - still.expression[0, jaw] == 0.5
    assert len(puppet.motion) > 3, "the motion was changed"


def test_a_pose_is_of_what_was_asked_at_its_beginning(puppet, monkeypatch):
    """A user may turn joints and change the motion in another thread while a picture is made."""
    puppet.load("squat")
    puppet.turns["left_elbow"] = (10.0, -40.0, 5.0)
    expected = puppet.pose(3)
    turned = module.matrix_from_axis_angle

    def meddle(*args):
        puppet.turns["right_knee"] = (90.0, 0.0, 0.0)
        puppet.motion = module.rest_motion(puppet.system.body)
        return turned(*args)

    monkeypatch.setattr(module, "matrix_from_axis_angle", meddle)
    assert (puppet.pose(3).joints == expected.joints).all()
    assert len(puppet.motion) == 1 and puppet.pose(3).joints.shape == expected.joints.shape


def test_the_truth_stands_beside_the_render(trained, free_port):
    """The pair is that of the run's comparison; other frames are drawn when they are chosen."""
    viser = pytest.importorskip("viser", reason="needs persona[viewer]")
    system = load_system(trained["folder"])
    beside = Beside(system, scored_frames(trained["folder"]))
    viewer = Viewer(viser, Puppet(system), "127.0.0.1", free_port, beside)
    try:
        viewer.compare()
        assert viewer.pair.image.shape == (1, 1, 3), "a frame is shown that nobody chose"
        viewer.compared.value = "test/1"
        viewer.compare()
        pair = viewer.pair.image
        viewer.compared.value = "none"
        viewer.compare()
        assert viewer.pair.image.shape == (1, 1, 3)
    finally:
        viewer.server.stop()
    height, width = pair.shape[0], pair.shape[1] // 2
    sheet = cv2.imread(str(trained["folder"] / "comparison.png"))[..., ::-1]
    truth, render = (sheet[i * height :][:height, -width:] for i in range(2))
    np.testing.assert_array_equal(pair[:, :width], truth)
    assert np.abs(pair[:, width:].astype(int) - render).max() <= 1


def test_a_run_whose_subject_is_gone_is_told(trained, tmp_path):
    text = (trained["folder"] / "config.yaml").read_text()
    root = str(load_config(trained["folder"]).data.root)
    (tmp_path / "config.yaml").write_text(text.replace(root, str(tmp_path / "gone")))
    with pytest.raises(UserError, match=r"its subject cannot be shown: .*no such subject folder"):
        scored_frames(tmp_path)


def test_covariances(puppet):
    splats = puppet.splats(0)
    found = covariances(splats)
    turns = Rotation.from_quat(splats.quaternions[:50], scalar_first=True).as_matrix()
    expected = turns @ (np.square(splats.scales[:50, :, None]) * turns.transpose(0, 2, 1))
    np.testing.assert_allclose(found[:50], expected, rtol=1e-4, atol=1e-9)


def test_a_taken_port_is_said(free_port):
    check_port("127.0.0.1", free_port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        with pytest.raises(UserError, match=f"port={free_port}: .*in use; choose another"):
            check_port("127.0.0.1", free_port)


def test_the_page_answers_and_its_controls_move_the_avatar(puppet, free_port, tmp_path):
    viser = pytest.importorskip("viser", reason="needs persona[viewer]")
    viewer = Viewer(viser, puppet, "127.0.0.1", free_port)
    try:
        shown = []
        viewer.server.scene.add_gaussian_splats = lambda *arrays: shown.append(arrays)
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}") as page:
            assert page.status == 200 and b"<html" in page.read().lower()
        viewer.step()
        viewer.step()
        assert len(shown) == 1, "splats that did not move were sent again"
        viewer.puppet.face = {}
        viewer.face["jawOpen"].value = 0.7
        viewer.pull_face()
        assert viewer.puppet.face == {"jawOpen": 0.7}
        viewer.turns[1].value = -90
        viewer.turn()
        viewer.step()
        assert np.abs(shown[1][1] - shown[0][1]).max() > 0.1, "the forearm did not move"
        viewer.reset()
        assert not viewer.puppet.turns and viewer.turns[1].value == 0
        viewer.take_file(SimpleNamespace(name="absent.txt", content=b"not a motion"))
        assert "not a motion file" in viewer.told.content
        viewer.take("squat")
        assert viewer.told.content == "" and viewer.frame.max == len(puppet.motion) - 1
        viewer.frame.value = 0
        viewer.last -= 0.1  # As if 0.1 s had passed: 3 frames at 30 fps.
        viewer.step()
        assert viewer.frame.value >= 2
    finally:
        viewer.server.stop()


def test_the_light_turns_and_the_avatar_keeps_its_own(seen_system):
    """Of an avatar without a light nothing changes, and the page has no sliders for it."""
    system = copy.deepcopy(seen_system)
    assert Puppet(system).lights is None
    system.avatar.light = SphericalLight()
    own = torch.tensor([0.6, 0.3, 0, 0, 0, 0, 0, 0, 0])
    system.avatar.light.coefficients.data.copy_(own)
    puppet = Puppet(system)
    before = puppet.splats(0).rgb
    puppet.light = 0.0, 0.5
    darker = puppet.splats(0).rgb
    puppet.light = 180.0, 1.0
    turned = puppet.splats(0).rgb
    torch.testing.assert_close(system.avatar.light.coefficients.data, own)
    assert darker.mean() < before.mean() - 0.02
    # From the other side: who faces the light there is darker here.
    mirrored = own * torch.tensor([1.0, -1, 1, 1, 1, 1, 1, 1, 1])
    system.avatar.light.coefficients.data.copy_(mirrored)
    puppet.light = 0.0, 1.0
    np.testing.assert_allclose(turned, puppet.splats(0).rgb, atol=1e-4)
    assert np.abs(turned - before).max() > 0.02
