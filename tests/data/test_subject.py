import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_subject import (
    EXPRESSIONS,
    VERTICES,
    TinyBody,
    random_frame,
    random_identity,
    random_textures,
    write_tiny_subject,
)

from persona.data import palette
from persona.data.io import read_image, write_png
from persona.data.layout import FRAME_FILES, FrameData, SubjectInfo
from persona.data.making import needs_making
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.types import BodyPose, Camera


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    return write_tiny_subject(tmp_path_factory.mktemp("subjects") / "ann")


@pytest.fixture
def root(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "ann"))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, BodyPose | Camera):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


def test_splits_come_in_the_order_of_their_numbers(root):
    for number in (10, 2):
        shutil.copytree(root / "generated_1", root / f"generated_{number}")
    (root / "generated_old").mkdir()
    assert Subject(root).splits == (
        "captured", "generated_0", "generated_1", "generated_2", "generated_10", "test"
    )  # fmt: skip


def test_round_trip_is_exact(root):
    subject = Subject(root)
    assert subject.splits == ("captured", "generated_0", "generated_1", "test")
    for split, number, seed in (("captured", 0, 0), ("generated_0", 2, 102), ("test", 1, 301)):
        wrote = random_frame(seed, captured=split == "captured")
        read = subject.frame(split, number)
        for field in fields(FrameData):
            assert same(getattr(wrote, field.name), getattr(read, field.name)), field.name
    wrote, read = random_identity(), subject.identity(TinyBody())
    assert all(same(getattr(wrote, f.name), getattr(read, f.name)) for f in fields(wrote))
    assert all(
        same(a, b) for a, b in zip(random_textures(), subject.textures("captured"), strict=True)
    )
    assert subject.info == SubjectInfo("tiny", "0123456789", "synthetic seed=0", "random")
    assert subject.name == "ann" and subject.patch_size() == 16


def test_files_are_personas(root):
    """Files have the names, shapes and types of PERSONA's published layout."""
    pose = json.loads((root / "test/smplx_optimized/smplx_params/0.json").read_text())
    shapes = {key: np.shape(value) for key, value in pose.items()}
    assert shapes == {
        "root_pose": (3,), "body_pose": (21, 3), "jaw_pose": (3,), "leye_pose": (3,),
        "reye_pose": (3,), "lhand_pose": (15, 3), "rhand_pose": (15, 3), "expr": (5,),
        "trans": (3,),
    }  # fmt: skip
    camera = json.loads((root / "captured/cam_params/0.json").read_text())
    assert {k: np.shape(v) for k, v in camera.items()} == {
        "R": (3, 3), "t": (3,), "focal": (2,), "princpt": (2,),
    }  # fmt: skip
    assert (root / "generated_0/frame_idx_list.txt").read_text() == "0\n1\n2\n"
    assert np.load(root / "generated_0/segs/1_seg.npy").max() < 28
    assert np.load(root / "generated_0/depths/1_mask.npy").dtype == bool
    table = json.loads((root / "generated_0/segs/palette.json").read_text())
    assert table["name"][2] == "Face_Neck" and table["color"][2] == [128, 200, 255]
    for name in ("texture", "texture_mask", "texture_inpaint", "seg", "seg_mask", "seg_inpaint"):
        assert (root / f"captured/smplx_optimized/smplx_{name}.png").exists()
    wrote = random_textures()
    seen = np.where(wrote.mask[..., None], wrote.seg_inpaint, 0)  # Black where no frame sees it.
    read = read_image(root / "captured/smplx_optimized/smplx_seg.png", "")
    assert np.array_equal(read, seen) and not seen.all()


def test_a_joint_offset_of_the_root_does_not_count(root):
    """It would only translate the body, as poses already do."""
    path = root / "captured/smplx_optimized/joint_offset.json"
    offsets = json.loads(path.read_text())
    offsets[0] = [0.1, 0.2, 0.3]
    path.write_text(json.dumps(offsets))
    assert same(Subject(root).identity(TinyBody()).joint_offset, random_identity().joint_offset)


def test_missing_maps_default_to_the_person(tmp_path):
    frame = random_frame(5)
    bare = FrameData(*(getattr(frame, f.name) for f in fields(FrameData)[:7]))
    SubjectWriter(tmp_path).write_frame("captured", 0, bare)
    read = Subject(tmp_path).frame("captured", 0)
    assert same(read.depth_mask, frame.mask) and same(read.normal_mask, frame.mask)
    assert same(read.seg_mask, palette.classes_from_colours(frame.seg) > 0)
    assert read.albedo is None and read.patch is None and read.keypoints is None


def test_a_published_folder_has_no_root_file(root):
    (root / "subject.json").unlink()
    subject = Subject(root)
    assert subject.info is None
    subject.validate()
    assert subject.identity(TinyBody(name="other", digest="")).betas.shape == (10,)


def test_frame_list_chooses_frames(root):
    (root / "generated_0/frame_idx_list.txt").write_text("2\n0\n")
    assert Subject(root).frame_ids("generated_0") == [2, 0]
    (root / "test/frame_idx_list.txt").unlink()
    assert Subject(root).frame_ids("test") == [0, 1, 2]
    (root / "generated_0/frame_idx_list.txt").write_text("2\nx\n")
    with pytest.raises(UserError, match="not a frame number"):
        Subject(root).frame_ids("generated_0")


def test_writer_checks_its_input(tmp_path):
    writer, frame = SubjectWriter(tmp_path), random_frame(0)
    with pytest.raises(ValueError, match="not in the part palette"):
        writer.write_frame("test", 0, replace(frame, seg=frame.image))
    with pytest.raises(ValueError, match="the camera and the image"):
        writer.write_frame("test", 0, replace(frame, camera=frame.camera.resize(16, 12)))
    vars(frame)["depth"] = frame.depth[:-1]  # Bypasses the shape check, which only tests have.
    with pytest.raises(ValueError, match="depth is"):
        writer.write_frame("test", 0, frame)
    assert {p.name for p in tmp_path.iterdir()} == {"unfinished"}


def test_rewriting_removes_the_mark_and_fresh_removes_the_frames(root):
    (root / "notes.txt").write_text("mine")
    SubjectWriter(root)
    assert Subject(root).info is None and Subject(root).splits[-1] == "test"
    SubjectWriter(root, fresh=True)
    assert {p.name for p in root.iterdir()} == {"notes.txt", "unfinished"}


def test_an_interrupted_making_shows_until_it_is_finished(root):
    writer, info = SubjectWriter(root), SubjectInfo("tiny", "0123456789", "synthetic 1", "random")
    refused(root, "unfinished", "make it again")
    writer.finish(info)
    Subject(root).validate()


def test_what_needs_making(root, tmp_path):
    assert needs_making(tmp_path / "new", "synthetic", "a")
    info = SubjectInfo("tiny", "0123456789", "synthetic seed=0", "random", "a")
    writer = SubjectWriter(root)
    assert needs_making(root, "synthetic", "a")
    writer.finish(info)
    assert not needs_making(root, "synthetic", "a")
    assert needs_making(root, "synthetic", "b")
    for unlink in (False, True):
        if unlink:
            (root / "subject.json").unlink()
        with pytest.raises(UserError, match="choose another folder"):
            needs_making(root, "photo", "a")


def test_mesh_is_a_readable_ply(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    vertices, faces = torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 3, 2]])
    SubjectWriter(tmp_path).write_mesh("captured", 0, vertices, faces)
    mesh = trimesh.load(tmp_path / "captured" / FRAME_FILES["mesh"].format(0), process=False)
    assert np.array_equal(mesh.vertices, vertices.numpy()) and np.array_equal(mesh.faces, faces)


def test_palette_inverts():
    classes = np.arange(28, dtype=np.uint8).reshape(4, 7)
    assert np.array_equal(
        palette.classes_from_colours(palette.colours_from_classes(classes)), classes
    )
    assert len(np.unique(palette.PART_COLOURS, axis=0)) == 28


# Bad input gives one line that names the file and the remedy.


def refused(root, *words, reader=None):
    with pytest.raises(UserError) as error:
        (reader or Subject.validate)(Subject(root))
    message = str(error.value)
    assert "\n" not in message and "; " in message, message
    assert all(word in message for word in words), message


def test_not_a_subject_folder(tmp_path):
    with pytest.raises(UserError, match="no such subject folder"):
        Subject(tmp_path / "none")
    with pytest.raises(UserError, match="not a subject folder"):
        Subject(tmp_path)


@pytest.mark.parametrize(
    "kind",
    sorted(
        set(FRAME_FILES)
        - {
            "keypoints",
            "seg_classes",
            "albedo",
            "patch",
            "mesh",
            "edit",
            "labels",
            "own_colour",
            "surface_offset",
        }
    ),
)
def test_each_missing_file_is_named(root, kind):
    split = "captured" if kind == "patch_box" else "generated_1"
    path = root / split / FRAME_FILES[kind].format(0)
    path.unlink()
    refused(root, str(path), "no such file", "make the subject again")


@pytest.mark.parametrize(
    "kind", ["image", "mask", "seg", "depth", "depth_mask", "normal", "camera", "pose"]
)
def test_each_truncated_file_is_named(root, kind):
    path = root / "generated_0" / FRAME_FILES[kind].format(1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(root, str(path), "truncated")
    refused(root, str(path), "truncated", reader=lambda s: s.frame("generated_0", 1))


def test_an_empty_file_is_named(root):
    path = root / "generated_0/depths/0.npy"
    path.write_bytes(b"")
    refused(root, str(path), "truncated")


def test_a_break_inside_an_image_is_found_when_it_is_decoded(root):
    path = root / "test/images/0.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    refused(root, str(path), "broken", reader=lambda s: s.frame("test", 0))


@pytest.mark.parametrize("kind", ["mask", "seg", "depth", "normal_mask"])
def test_another_size_is_named(root, kind):
    name = f"generated_0/{FRAME_FILES[kind].format(0)}"
    SubjectWriter(root.parent / "small", form="raw").write_frame(
        "generated_0", 0, random_frame(0, 30, 20)
    )
    (root / name).write_bytes((root.parent / "small" / name).read_bytes())
    refused(root, str(root / name), "20 x 30 pixels, the image 24 x 32")
    refused(root, "pixels", reader=lambda s: s.frame("generated_0", 0))


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["body_pose"][3].__setitem__(0, float("nan")), ["holds NaN"]),
        (lambda d: d["body_pose"][3].__setitem__(0, 1e99), ["body_pose", "not finite"]),
        (lambda d: d.pop("expr"), ["lacks expr"]),
        (lambda d: d["lhand_pose"].pop(), ["lhand_pose has shape 14 x 3, not 15 x 3"]),
        (lambda d: d.update(trans="far"), ["trans is not an array of 3 numbers"]),
        (lambda d: d.update(trans=None), ["trans"]),
    ],
)
def test_bad_poses_are_named(root, change, words):
    path = root / "generated_0/smplx_optimized/smplx_params/0.json"
    edit(path, change)
    refused(root, str(path), *words)


def test_bad_cameras_are_named(root):
    path = root / "generated_0/cam_params/0.json"
    edit(path, lambda d: d.update(focal=[0, 1]))
    refused(root, str(path), "focal is not positive")
    path.write_text("[1]")
    refused(root, str(path), "not an object")


def test_nan_in_a_depth_map_is_found_when_it_is_read(root):
    path = root / "test/depths/0.npy"
    np.save(path, np.full((32, 24), np.nan, np.float32))
    refused(root, str(path), "not finite", reader=lambda s: s.frame("test", 0))


def test_a_truncated_texture_is_named(root):
    path = root / "generated_0/smplx_optimized/smplx_texture_inpaint.png"
    path.write_bytes(path.read_bytes()[:40])
    refused(root, str(path), "truncated")


@pytest.mark.parametrize("info", [False, True])
def test_another_body_is_refused(root, info):
    if not info:
        (root / "subject.json").unlink()
    body = TinyBody(name="anny", num_vertices=VERTICES + 1)
    words = ["made with body tiny", "anny"] if info else [f"{VERTICES} vertices", "body=smplx"]
    refused(root, *words, reader=lambda s: s.identity(body))


def test_the_same_body_in_another_version_is_refused(root):
    refused(root, "made with body", reader=lambda s: s.identity(TinyBody(digest="changed")))


def test_number_of_betas(root):
    subject = Subject(root)
    longer = subject.identity(TinyBody(num_betas=12)).betas
    assert torch.equal(longer[:10], random_identity().betas) and not longer[10:].any()
    refused(root, "num_betas=10", reader=lambda s: s.identity(TinyBody(num_betas=4)))


def test_expression_is_resized_only_where_nothing_is_lost(root):
    subject = Subject(root)
    assert subject.pose("test", 0, EXPRESSIONS).expression.any()
    refused(root, "5 expression", reader=lambda s: s.pose("test", 0, EXPRESSIONS + 1))
    path = root / "test/smplx_optimized/smplx_params/0.json"
    edit(path, lambda d: d.update(expr=[0] * 50))
    pose = subject.pose("test", 0, 52)
    assert pose.expression.shape == (52,) and not pose.expression.any()


def test_an_unknown_schema_is_refused(root):
    edit(root / "subject.json", lambda d: d.update(schema=99))
    refused(root, "subject.json", "schema", reader=lambda s: s.info)


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("patch", np.zeros((8, 9, 3), np.uint8), "is not square"),
        ("patch_box", [1, 2, 0, 4], "the box is empty"),
    ],
)
def test_a_patch_that_is_none_is_refused(root, kind, content, words):
    path = Subject(root).path("captured", kind, 0)
    if isinstance(content, list):
        path.write_text(json.dumps(content))
    else:
        write_png(path, content)
    refused(root, str(path), words, reader=lambda s: s.patch("captured", 0))


def test_a_split_without_frames_and_damaged_offsets_are_refused(root):
    offsets = Subject(root).path("test", "surface_offset", 0)
    offsets.parent.mkdir(parents=True, exist_ok=True)
    offsets.write_bytes(b"PK")
    refused(root, str(offsets), "damaged", reader=lambda s: s.surface_offset("test", 0))
    shutil.rmtree(root / "generated_1/images")
    (root / "generated_1/frame_idx_list.txt").unlink(missing_ok=True)
    refused(root, "generated_1", "has no frames", reader=lambda s: s.frame_ids("generated_1"))


def test_a_field_of_another_version_is_refused(root):
    edit(root / "subject.json", lambda d: d.update(colour="red"))
    refused(root, "subject.json", "colour", reader=lambda s: s.info)
