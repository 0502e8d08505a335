"""16-bit maps: values by hand, errors, and conversion to PERSONA's raw files and back."""

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_subject import random_frame, write_tiny_subject

from persona.data.compact import map_path, read_compact, write_map
from persona.data.convert_maps import convert_maps
from persona.data.palette import PART_COLOURS
from persona.data.subject import Subject
from persona.errors import UserError

STEP = 2 / 65534


def test_depth_by_hand(tmp_path):
    write_map(tmp_path, "depth", 7, np.array([[1, 3], [2, 1]], np.float32))
    path = tmp_path / "depths/7.png"
    with Image.open(path) as image:
        assert np.asarray(image).tolist() == [[0, 65535], [32768, 0]]
        assert image.info["low"] == "1.0" and image.info["high"] == "3.0"
    found = read_compact(path, "depth")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[1, 3], [2, 1]], atol=2 / 65535 / 2 * 1.01)
    write_map(tmp_path, "depth", 8, np.full((2, 2), 4.5, np.float32))
    assert (read_compact(tmp_path / "depths/8.png", "depth") == 4.5).all()


def test_normals_by_hand(tmp_path):
    normals = np.array([[[1, 0, -1], [0.6, 0, 0.8]]], np.float32)
    write_map(tmp_path, "normal", 0, normals)
    pixels = cv2.imread(str(tmp_path / "normals/0.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert pixels.tolist() == [[[65534, 32767, 0], [52427, 32767, 58981]]]
    found = read_compact(tmp_path / "normals/0.png", "normal")
    assert found[0, 0].tolist() == [1, 0, -1]
    np.testing.assert_allclose(found, normals, atol=0.51 * STEP)


def test_compact_maps_take_less_than_a_quarter_of_the_bytes(tmp_path):
    """A sphere on an empty background, about as smooth as a body."""
    y, x = np.mgrid[-1:1:256j, -1:1:192j].astype(np.float32)
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    normals = np.stack([x, -y, z], -1) * (z > 0)[..., None]
    depth = np.where(z > 0, 3 - z, 0).astype(np.float32)
    sizes = {}
    for form in ("compact", "raw"):
        write_map(tmp_path / form, "normal", 0, normals, form)
        write_map(tmp_path / form, "depth", 0, depth, form)
        sizes[form] = sum(p.stat().st_size for p in (tmp_path / form).rglob("*") if p.is_file())
    assert sizes["compact"] < 0.25 * sizes["raw"]


def test_a_map_lies_in_one_form(tmp_path):
    frame = random_frame(0)
    for form, name in (("raw", "0.npy"), ("compact", "0.png"), ("raw", "0.npy")):
        write_map(tmp_path, "depth", 0, frame.depth, form)
        assert [p.name for p in (tmp_path / "depths").iterdir()] == [name]
        assert map_path(tmp_path, "depth", 0).name == name


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_files_that_are_no_such_map(tmp_path, kind):
    frame = random_frame(0)
    write_map(tmp_path, kind, 0, getattr(frame, kind))
    path = map_path(tmp_path, kind, 0)
    whole = path.read_bytes()
    for content, words in ((b"", "truncated"), (whole[:60], "truncated"), (b"words", "truncated")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_compact(path, kind)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    with pytest.raises(UserError, match=f"not a 16-bit {kind} map"):
        read_compact(path, kind)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(UserError, match="low=None" if kind == "depth" else "not a 16-bit normal"):
        read_compact(path, kind)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_compact(path, kind)


@pytest.fixture
def compact(tmp_path):
    return write_tiny_subject(tmp_path / "ann", form="compact")


def test_a_compact_subject_is_whole(compact):
    subject = Subject(compact)
    subject.validate()
    wrote, read = random_frame(102), subject.frame("generated_0", 2)
    assert not list(compact.rglob("*.npy"))
    np.testing.assert_allclose(read.depth, wrote.depth, atol=1e-5)
    np.testing.assert_allclose(read.normal, wrote.normal, atol=0.51 * STEP)
    for mask in ("depth_mask", "normal_mask", "seg_mask"):
        assert np.array_equal(getattr(read, mask), getattr(wrote, mask)), mask


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_faults_of_a_compact_subject_are_named(compact, kind):
    split = compact / "generated_0"
    path = map_path(split, kind, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated") as caught:
        Subject(compact).validate()
    assert str(path) in str(caught.value)
    write_map(split, kind, 1, getattr(random_frame(0, 30, 20), kind))
    with pytest.raises(UserError, match="20 x 30 pixels, the image 24 x 32"):
        Subject(compact).validate()
    path.unlink()
    with pytest.raises(UserError, match="no such file") as caught:
        Subject(compact).validate()
    assert str(path) in str(caught.value)


def test_to_personas_raw_layout_and_back(compact):
    before = {n: Subject(compact).frame("generated_0", n) for n in range(3)}
    convert_maps(compact, "raw")
    assert not list(compact.rglob("depths/*.png")) and not list(compact.rglob("normals/*.png"))
    assert not list(compact.rglob("segs/*_mask.png"))
    for n, frame in before.items():
        depth = np.load(compact / f"generated_0/depths/{n}.npy")
        assert depth.dtype == np.float32 and np.array_equal(depth, frame.depth)
        assert np.array_equal(np.load(compact / f"generated_0/normals/{n}.npy"), frame.normal)
        for name in ("depths/{}_mask", "normals/{}_mask", "segs/{}", "segs/{}_seg"):
            array = np.load(compact / f"generated_0/{name.format(n)}.npy")
            if name == "segs/{}_seg":
                assert np.array_equal(PART_COLOURS[array], frame.seg)
            else:
                mask = {"d": "depth_mask", "n": "normal_mask", "s": "seg_mask"}[name[0]]
                assert array.dtype == bool and np.array_equal(array, getattr(frame, mask))
    Subject(compact).validate()
    convert_maps(compact, "compact")
    assert not list(compact.rglob("*.npy"))
    again = Subject(compact).frame("generated_0", 0)
    np.testing.assert_allclose(again.depth, before[0].depth, atol=1e-6)
    assert np.array_equal(again.normal, before[0].normal), "16-bit values changed in a round trip"
    with pytest.raises(UserError, match="form=zip is unknown"):
        convert_maps(compact, "zip")
