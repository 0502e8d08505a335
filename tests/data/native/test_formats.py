"""COLMAP's text model and pickles: values by hand, and damaged or malicious files."""

import pickle
import subprocess

import numpy as np
import pytest
import torch
from tiny_datasets import python2_pickle

from persona.data.native.colmap import read_colmap
from persona.errors import UserError
from persona.modules.body.pickles import read_arrays

CAMERAS = "# comment\n1 PINHOLE 1280 720 1000.5 1001.5 640.25 360.75\n"


def model(folder, images, cameras=CAMERAS):
    folder.mkdir(exist_ok=True)
    (folder / "cameras.txt").write_text(cameras)
    (folder / "images.txt").write_text(images)
    return folder


def test_camera_of_known_quaternions(tmp_path):
    """A quarter turn about z takes the world's x axis to the camera's y axis."""
    half = 2**-0.5
    lines = f"7 {half} 0 0 {half} 1 2 3 1 00004.png\n\n3 1 0 0 0 0 0 5 1 00000.png\n1 2 -1\n"
    cameras = read_colmap(model(tmp_path / "sparse", lines), "again")
    assert sorted(cameras) == ["00000.png", "00004.png"]
    turned = cameras["00004.png"].cam_from_world
    expected = torch.tensor([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    assert torch.allclose(turned, expected, atol=1e-6)
    assert torch.equal(cameras["00000.png"].cam_from_world[:3, 3], torch.tensor([0, 0, 5.0]))
    assert cameras["00004.png"].focal_px.tolist() == [1000.5, 1001.5]
    assert cameras["00004.png"].center_px.tolist() == [640.25, 360.75]
    assert (cameras["00004.png"].height, cameras["00004.png"].width) == (720, 1280)
    # The world's origin, at depth 5 on the optical axis, projects to the principal point.
    pixel = cameras["00000.png"].project(torch.zeros(1, 3))
    assert torch.allclose(pixel, torch.tensor([[640.25, 360.75]]))


def test_a_binary_model_is_named_with_its_conversion(tmp_path):
    (tmp_path / "cameras.bin").touch()
    with pytest.raises(UserError, match=r"cameras\.txt: no such file; .*model_converter .* TXT"):
        read_colmap(tmp_path, "again")


def test_quaternions_of_any_length_and_a_simple_pinhole(tmp_path):
    folder = model(
        tmp_path / "sparse", "1 2 0 0 2 1 2 3 9 a.jpg\n\n", "9 SIMPLE_PINHOLE 64 48 50 32 24\n"
    )
    camera = read_colmap(folder, "again")["a.jpg"]
    assert torch.allclose(camera.cam_from_world[:3, :3] @ torch.tensor([1.0, 0, 0]),
                          torch.tensor([0.0, 1, 0]), atol=1e-6)  # fmt: skip
    assert camera.focal_px.tolist() == [50, 50] and camera.center_px.tolist() == [32, 24]


@pytest.mark.parametrize(
    ("images", "cameras", "said"),
    [
        ("1 1 0 0 0 0 0 0 2 a.png\n", CAMERAS, r"images.txt: line 1 names camera '2'"),
        ("\n1 1 0 0 x 0 0 0 1 a.png\n", CAMERAS, r"images.txt: line 2 is not an image's pose"),
        ("1 0 0 0 0 0 0 0 1 a.png\n", CAMERAS, r"images.txt: line 1 is not an image's pose"),
        ("1 1 0 0 0 nan 0 0 1 a.png\n", CAMERAS, r"images.txt: line 1 holds a number"),
        ("1 1 0 a.png\n", CAMERAS, r"images.txt: line 1 is not an image's pose"),
        ("# none\n", CAMERAS, "images.txt: lists no images"),
        ("1 1 0 0 0 0 0 0 1 a.png\n", "1 OPENCV 64 48 1 1 1 1 0 0 0 0\n", "undistort to PINHOLE"),
        ("1 1 0 0 0 0 0 0 1 a.png\n", "1 PINHOLE 64 48 50\n", "cameras.txt: line 1 is not"),
        ("1 1 0 0 0 0 0 0 1 a.png\n", "1 PINHOLE 64 48 -50 5 1 1\n", "is impossible"),
        ("1 1 0 0 0 0 0 0 1 a.png\n", "", "cameras.txt: lists no cameras"),
    ],
)
def test_bad_model(tmp_path, images, cameras, said):
    with pytest.raises(UserError, match=said) as error:
        read_colmap(model(tmp_path / "sparse", images, cameras), "again")
    assert "\n" not in str(error.value)


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([1.5])}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5, "python 2"])
def test_every_kind_of_pickle_of_arrays(tmp_path, protocol):
    path = tmp_path / "p.pkl"
    content = python2_pickle(ARRAYS) if protocol == "python 2" else pickle.dumps(ARRAYS, protocol)
    path.write_bytes(content)
    read = read_arrays(path, "again")
    assert read.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        assert read[key].dtype == np.float32 and np.array_equal(read[key], array)


def test_numbers_become_arrays_and_words_are_left_out(tmp_path):
    path = tmp_path / "p.pkl"
    content = {"x": 3, "y": [1.0, 2.0], "z": np.float64(4), "gender": "male", "none": None}
    path.write_bytes(pickle.dumps(content, 2))
    read = read_arrays(path, "again")
    assert sorted(read) == ["x", "y", "z"] and read["z"] == 4 and read["y"].shape == (2,)


class Runs:
    """Executes a command when unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_wants_to_execute_something(tmp_path, protocol):
    path, victim = tmp_path / "evil.pkl", tmp_path / "victim"
    victim.write_text("alive")
    evil = {"body_pose": Runs(subprocess.check_output, ["rm", str(victim)])}
    path.write_bytes(pickle.dumps(evil, protocol))
    with pytest.raises(UserError, match=r"evil\.pkl: wants to run \w+\.check_output"):
        read_arrays(path, "again")
    assert victim.exists()
    pickle.loads(path.read_bytes())  # Proves that the file is malicious.
    assert not victim.exists()


@pytest.mark.parametrize(
    "evil",
    [Runs(eval, "1"), Runs(getattr, "a", "upper"), Runs(np.load, "x"), Runs(np.fromfile, "x")],
)
def test_builtins_and_the_rest_of_numpy_are_refused_too(tmp_path, evil):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"a": evil}))
    with pytest.raises(UserError, match=r"evil\.pkl: wants to run"):
        read_arrays(path, "again")


def test_a_codec_is_refused(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x02}(U\x01ac_codecs\nencode\n(U\x01xU\x05rot13tRu.")
    with pytest.raises(UserError, match="asks for the codec rot13"):
        read_arrays(path, "again")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a whole dictionary"),
        (python2_pickle(ARRAYS)[:-20], "not a whole dictionary"),
        (pickle.dumps([1, 2]), "not a whole dictionary"),
        (pickle.dumps({"a": [[1], [1, 2]]}), "not a whole dictionary"),
        (b"no pickle at all", "not a whole dictionary"),
    ],
)
def test_broken_pickles(tmp_path, content, said):
    path = tmp_path / "p.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"p\.pkl: .*{said}"):
        read_arrays(path, "get it again")
    with pytest.raises(UserError, match=r"absent\.pkl: no such file; get it again"):
        read_arrays(tmp_path / "absent.pkl", "get it again")
