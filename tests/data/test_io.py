import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from persona.data import io
from persona.errors import UserError


def listing(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_atomic_path_replaces_and_makes_folders(tmp_path):
    target = tmp_path / "a" / "b.bin"
    for content in (b"old", b"new"):
        with io.atomic_path(target) as temporary:
            assert temporary.parent == target.parent and temporary.suffix == ".bin"
            temporary.write_bytes(content)
        assert target.read_bytes() == content
    assert listing(target.parent) == {"b.bin"}


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "x.txt"
    io.write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), io.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and listing(tmp_path) == {"x.txt"}


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    target = tmp_path / "x.txt"
    io.write_text(target, "old")
    code = (
        "import os, sys; from persona.data.io import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t: t.write_text('half'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == 9
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), OSError(errno.EDQUOT, "")]
)
def test_a_full_disk_is_one_line_with_the_remedy(tmp_path, error):
    target = tmp_path / "x.txt"
    io.write_text(target, "old")
    with pytest.raises(UserError, match=r"x\.txt: the disk is full; free"), io.atomic_path(target):
        raise error
    assert target.read_text() == "old" and listing(tmp_path) == {"x.txt"}


def test_a_full_disk_that_hides_behind_a_runtime_error(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr(io.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="the disk is full"), io.atomic_path(tmp_path / "x.ckpt"):
        raise RuntimeError("PytorchStreamWriter failed")


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), io.atomic_path(tmp_path / "x"):
        raise RuntimeError("mine")


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        io.write_text(tmp_path / "out" / "x.txt", "x")


def test_file_mode_follows_the_umask(tmp_path):
    io.write_text(tmp_path / "x", "x")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~umask


def test_json_round_trip_keeps_every_bit_of_float32(tmp_path):
    values = torch.randn(50)
    io.write_json(tmp_path / "x.json", {"a": values, "b": np.int64(3), "c": tmp_path})
    read = io.read_json(tmp_path / "x.json")
    assert torch.equal(torch.tensor(read["a"]), values)
    assert read["b"] == 3 and read["c"] == str(tmp_path)


def test_json_refuses_to_write_nan(tmp_path):
    with pytest.raises(ValueError, match=r"x\.json"):
        io.write_json(tmp_path / "x.json", [float("nan")])
    assert not listing(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"a": [1, 2', "truncated JSON"), ("[NaN]", "holds NaN"), ("[-Infinity]", "-Infinity")],
)
def test_bad_json(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        io.read_json(tmp_path / "x.json", "do this")
    assert str(error.value).startswith(str(tmp_path / "x.json")) and "do this" in str(error.value)
    assert "\n" not in str(error.value)


def test_binary_in_place_of_json(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        io.read_json(tmp_path / "x.json")


@pytest.mark.parametrize("reader", [io.read_json, io.read_image, io.read_mask, io.read_npy])
def test_missing_files_and_folders(tmp_path, reader):
    with pytest.raises(UserError, match="no such file; check the path"):
        reader(tmp_path / "nothing")
    with pytest.raises(UserError, match="is a folder"):
        reader(tmp_path)


def test_npy_round_trip_and_truncation(tmp_path):
    path, array = tmp_path / "x.npy", np.random.rand(4, 5).astype(np.float32)
    io.write_npy(path, array)
    assert np.array_equal(io.read_npy(path), array)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"x\.npy: not a \.npy file or truncated"):
        io.read_npy(path)


def test_png_round_trip(tmp_path):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    io.write_png(tmp_path / "x.png", image)
    assert np.array_equal(io.read_image(tmp_path / "x.png"), image)
    mask = image[..., 0] > 100
    io.write_png(tmp_path / "m.png", mask)
    assert np.array_equal(io.read_mask(tmp_path / "m.png"), mask)
    assert set(np.unique(io.read_image(tmp_path / "m.png"))) == {0, 255}


def test_grey_and_16_bit_images(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("grey.png", "deep.png"):
        image = io.read_image(tmp_path / name)
        assert np.array_equal(image, np.repeat(grey[..., None], 3, -1))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floating_point_grey(tmp_path, white):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    grey[0, 0] = 255
    Image.fromarray((grey / 255 * white).astype(np.float32)).save(tmp_path / "x.tiff")
    image = io.read_image(tmp_path / "x.tiff")
    assert np.array_equal(image, np.repeat(grey[..., None], 3, -1))


@pytest.mark.parametrize("value", [-0.1, np.nan, 1e6])
def test_floating_point_grey_of_no_known_range(tmp_path, value):
    Image.fromarray(np.full((2, 2), value, np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=r"x\.tiff: floating-point pixels"):
        io.read_image(tmp_path / "x.tiff")


def test_the_float_tiff_of_the_trials_is_not_black(shared_data):
    assert io.read_image(shared_data / "trials/float.tiff").max() > 100


def test_heic_photos_are_named_or_read(tmp_path, monkeypatch):
    path = tmp_path / "IMG_0001.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"IMG_0001\.jpg: is a HEIC photo; pip install"):
        io.read_image(path)

    def register():
        """Stand-in for pillow-heif's function that teaches Pillow the format."""
        monkeypatch.setattr(
            io.Image, "open", lambda file: Image.fromarray(np.full((2, 3, 3), 7, np.uint8))
        )

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    assert np.array_equal(io.read_image(path), np.full((2, 3, 3), 7))


def test_text_may_begin_with_a_byte_order_mark(tmp_path):
    for content in ("[1, 2]", "\ufeff[1, 2]"):
        (tmp_path / "x.json").write_text(content, encoding="utf-8")
        assert io.read_text(tmp_path / "x.json") == "[1, 2]"
        assert io.read_json(tmp_path / "x.json") == [1, 2]


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 255, 128
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert io.read_image(tmp_path / "x.png")[0, :, 0].tolist() == pytest.approx(
        [255, 0, 127], abs=1
    )
    pixels[..., :3] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert io.read_mask(tmp_path / "x.png")[0].tolist() == [False, True, True]


def test_exif_rotation_is_undone(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :3, 0] = 255  # the camera's left half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    upright = io.read_image(tmp_path / "x.png")
    assert upright.shape == (6, 4, 3)
    assert upright[0, 0, 0] == 255 and upright[-1, 0, 0] == 0


def test_palette_and_cmyk_images(tmp_path):
    image = Image.fromarray(np.full((2, 2, 3), (255, 0, 0), np.uint8))
    image.convert("P").save(tmp_path / "p.png")
    image.convert("CMYK").save(tmp_path / "c.jpg", quality=100)
    for name in ("p.png", "c.jpg"):
        assert np.allclose(io.read_image(tmp_path / name), (255, 0, 0), atol=12)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_and_false_images(tmp_path, keep):
    path = tmp_path / "x.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    io.write_png(path, noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match="broken or truncated image"):
        io.read_image(path)
    path.write_text("not an image")
    with pytest.raises(UserError, match=r"x\.png: not an image"):
        io.read_image(path)
