"""A tiny NeuMan sequence: reading, conversion, and damaged folders."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_datasets import CENTRE, FOCAL, HEIGHT, WIDTH, camera_of, photograph, pose_in_world

from persona.data.frame_loading import load_frames
from persona.data.native.convert import common_boxes
from persona.data.native.module import DatasetModule
from persona.data.native.source import Conversion
from persona.data.neuman import NeumanSource
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.render.mesh import rasterize

SMALL = Conversion(texture_size=64)


def source(datasets, body, conversion=SMALL, **options):
    return NeumanSource(
        path=datasets / "neuman", sequence="bike", body=body, conversion=conversion, **options
    )


@pytest.fixture(scope="module")
def prepared(pristine, body, tmp_path_factory):
    root = tmp_path_factory.mktemp("subjects") / "bike"
    source(pristine, body).prepare(root)
    return root


def test_recording_is_what_was_written(pristine, body):
    recording = source(pristine, body).read()
    assert [frame.label for frame in recording.train] == ["0", "1", "3", "4", "5", "6", "8", "9"]
    assert [frame.label for frame in recording.test] == ["2"]  # Frame 7 is for validation.
    identity = recording.identity
    for frame in (recording.train[3], recording.test[0]):
        number = int(frame.label)
        camera, pose = camera_of(number), pose_in_world(body, number)
        assert torch.allclose(frame.camera.cam_from_world, camera.cam_from_world, atol=1e-5)
        assert torch.allclose(frame.camera.focal_px, torch.tensor(FOCAL))
        assert torch.allclose(frame.camera.center_px, torch.tensor(CENTRE))
        # In the file 0 is the person; here it is True.
        _, mask, _ = photograph(body, identity, pose, camera)
        assert np.array_equal(frame.read_mask(), mask)
        vertices, _ = body(identity, pose)
        matrix = camera.cam_from_world
        expected = vertices @ matrix[:3, :3].T + matrix[:3, 3]
        assert torch.allclose(body(identity, frame.pose)[0], expected, atol=1e-4)


def test_what_file_systems_hide_beside_the_images_is_none(datasets, body):
    plain = source(datasets, body)
    digest, labels = plain.digest(), [frame.label for frame in plain.read().train]
    for name in ("images/._00004.png", "segmentations/._00004.png", "sparse/._images.txt"):
        (datasets / "neuman/bike" / name).write_bytes(b"\0\5\x16\7")
    assert [frame.label for frame in plain.read().train] == labels
    assert plain.digest() == digest


def test_subject_folder(prepared, pristine, body):
    """The input frame by its rule, test frames on complete images, the body inside the mask."""
    subject = Subject(prepared)
    subject.validate(subject.splits)
    assert subject.splits == ("captured", "test")
    assert subject.info.input_frames == "4"  # It faces the camera most.
    assert subject.info.provenance.startswith("neuman bike; setting single_image, input 4")
    assert subject.original_names("captured") == ["4"]
    assert subject.original_names("test") == ["2"]
    identity = subject.identity(body)
    for split, number in (("captured", 4), ("test", 2)):
        frame = subject.frame(split, 0)
        vertices, _ = body(identity, subject.pose(split, 0, body.num_expression))
        seen = rasterize(vertices, body.faces, frame.camera.local()).mask.numpy()
        assert (seen & frame.mask).sum() / (seen | frame.mask).sum() > 0.98
        assert frame.camera.width / frame.camera.height == pytest.approx(0.75, abs=0.02)
        expected = camera_of(number).cam_from_world
        assert torch.allclose(frame.camera.cam_from_world, expected, atol=1e-5)
        assert frame.depth[frame.depth_mask].min() > 3
        assert frame.normal[frame.normal_mask][:, 2].mean() > 0.5  # Normals point to the camera.
    assert subject.frame("captured", 0).albedo is not None
    assert subject.patch("captured", 0) is not None and subject.patch("test", 0) is None
    image, mask, _ = photograph(body, identity, pose_in_world(body, 2), camera_of(2))
    store = load_frames(subject, "test")
    assert store.size == (HEIGHT, WIDTH)
    assert np.array_equal(store.maps["mask"][0, 0].numpy(), mask)
    assert np.array_equal(store.maps["image"][0].permute(1, 2, 0).numpy()[mask], image[mask])
    assert torch.allclose(store.cameras.center_px[0], torch.tensor(CENTRE))


def test_texture_shows_the_paint(prepared, body):
    """Texels that the input frame sees have the colour that was painted there."""
    from persona.data.preprocess.unwrap import UvMesh, texels_of

    textures = Subject(prepared).textures("captured")
    texels = texels_of(UvMesh(body.template, body.faces, body.uv, body.uv_faces), 64)
    paint = 0.5 + 0.4 * torch.sin(body.template * torch.tensor([9.0, 14.0, 11.0]))
    expected = texels.features(paint).numpy() * 255
    seen = textures.mask.reshape(-1)[texels.index.numpy()]
    found = textures.texture.reshape(-1, 3)[texels.index.numpy()]
    assert 0.02 < seen.mean() < 0.6
    assert np.median(np.abs(found[seen] - expected[seen])) < 12


def test_it_is_made_once_and_again_when_something_changes(datasets, body, tmp_path):
    root = tmp_path / "bike"
    made = source(datasets, body)
    made.prepare(root)
    stamp = (root / "captured/images/0.png").stat().st_mtime_ns
    made.prepare(root)
    assert (root / "captured/images/0.png").stat().st_mtime_ns == stamp
    chosen = source(datasets, body, replace(SMALL, input_frame="00005.png"))
    chosen.prepare(root)
    assert Subject(root).info.input_frames == "5"
    assert made.digest() != chosen.digest()
    flat = source(datasets, body, replace(SMALL, flat_hand_mean=True))
    assert flat.digest() not in (made.digest(), chosen.digest())
    path = datasets / "neuman/bike/smplx_optimized/smplx_params/5.json"
    before = chosen.digest()
    path.write_text(path.read_text() + " ")
    assert source(datasets, body, replace(SMALL, input_frame="00005.png")).digest() != before
    (root / "subject.json").unlink()
    with pytest.raises(UserError, match="holds something that is not neuman"):
        chosen.prepare(root)


def test_an_interrupted_conversion_is_made_again(datasets, body, tmp_path):
    root, broken = tmp_path / "bike", datasets / "neuman/bike/segmentations/00002.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:60])
    with pytest.raises(UserError, match=r"segmentations/00002\.png: broken"):
        source(datasets, body).prepare(root)
    # No incomplete folder remains.
    assert not root.exists() and not list(tmp_path.glob(".bike.*.making"))
    broken.write_bytes(content)
    source(datasets, body).prepare(root)
    Subject(root).validate()


def test_video_setting_takes_all_training_frames(pristine, body, tmp_path):
    source(pristine, body, replace(SMALL, setting="video")).prepare(tmp_path / "bike")
    subject = Subject(tmp_path / "bike")
    assert subject.frame_ids("captured") == list(range(8))
    assert subject.original_names("captured") == ["0", "1", "3", "4", "5", "6", "8", "9"]
    assert subject.info.input_frames == "8 training frames"
    assert len(load_frames(subject, "captured")) == 8  # All frames have one size.


def test_flat_hands_are_converted(datasets, body):
    ours = source(datasets, body).read().train[0].pose
    flat = source(datasets, body, replace(SMALL, flat_hand_mean=True)).read().train[0].pose
    assert torch.allclose(flat.left_hand, ours.left_hand - body.hands_mean[:15])
    assert torch.allclose(flat.right_hand, ours.right_hand - body.hands_mean[15:])


def write_splits(datasets, train, val, test):
    for split, numbers in (("train", train), ("val", val), ("test", test)):
        lines = "\n".join(
            f"{number:05d}.png" for number in numbers
        )  # Without a newline at the end.
        (datasets / f"neuman/bike/{split}_split.txt").write_text(lines)


def test_split_files_win_over_the_rule(datasets, body):
    write_splits(datasets, [0, 2, 3, 4, 5, 6, 7], [1], [8, 9])
    recording = source(datasets, body).read()
    assert [frame.label for frame in recording.train] == ["0", "2", "3", "4", "5", "6", "7"]
    assert [frame.label for frame in recording.test] == ["8", "9"]


def test_exavatars_masks_train_and_the_datasets_test(datasets, body):
    masks = datasets / "neuman/bike/masks"
    masks.mkdir()
    for number in (1, 2):  # Their names have no leading zeros, and the person is white.
        white = np.full((HEIGHT, WIDTH), 255, np.uint8)
        Image.fromarray(white).save(masks / f"{number}.png")
    recording = source(datasets, body).read()
    train = {frame.label: frame.read_mask() for frame in recording.train}
    assert train["1"].all() and not train["3"].all()
    assert not recording.test[0].read_mask().all()  # Frame 2 keeps the dataset's mask.


def test_parameters_may_lie_elsewhere(datasets, body, tmp_path):
    moved = tmp_path / "exavatar/bike"
    moved.parent.mkdir()
    moved.mkdir()
    (datasets / "neuman/bike/smplx_optimized").rename(moved / "smplx_optimized")
    assert source(datasets, body, smplx=tmp_path / "exavatar").read().train
    with pytest.raises(UserError, match=r"smplx_params: missing; NeuMan ships SMPL, not SMPL-X"):
        source(datasets, body).check()


def delete(name):
    return lambda folder: (folder / name).unlink()


def edit(name, old, new):
    def apply(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return apply


def splits(**files):
    def apply(folder):
        for split in ("train", "val", "test"):
            text = files.get(split)
            if text is not None:
                (folder / f"{split}_split.txt").write_text(text)

    return apply


def picture(name, size):
    return lambda folder: Image.fromarray(np.zeros(size, np.uint8)).save(folder / name)


def empty_mask(folder):
    white = np.full((HEIGHT, WIDTH), 255, np.uint8)
    Image.fromarray(white).save(folder / "segmentations/00004.png")


def moved_body(folder):
    path = folder / "smplx_optimized/smplx_params/4.json"
    values = json.loads(path.read_text())
    values["trans"][0] += 1.0
    path.write_text(json.dumps(values))


BASE = {"train": "00000.png\n00001.png\n", "val": "00002.png\n", "test": "00003.png\n"}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (delete("images/00004.png"), r"images/00004\.png: missing between frames"),
        (edit("sparse/images.txt", "00004.png", "00044.png"),
         r"sparse/images\.txt: has no camera for 00004\.png"),
        (delete("sparse/cameras.txt"), r"sparse/cameras\.txt: missing; get NeuMan's"),
        (delete("smplx_optimized/smplx_params/4.json"), r"4\.json: no parameters of 00004\.png"),
        (delete("smplx_optimized/shape_param.json"), r"shape_param\.json: missing; NeuMan ships"),
        (delete("segmentations/00004.png"), r"segmentations/00004\.png: no such file"),
        (picture("segmentations/00004.png", (HEIGHT, WIDTH - 1)),
         r"00004\.png: its mask is 99 x 120 pixels, the camera 100 x 120"),
        (picture("segmentations/00002.png", (HEIGHT - 2, WIDTH)),
         r"00002\.png: its mask is 100 x 118 pixels"),
        (picture("images/00004.png", (HEIGHT, WIDTH + 1)), r"00004\.png: the image is 101 x 120"),
        (edit("sparse/cameras.txt", f"{WIDTH} {HEIGHT}", f"{HEIGHT} {WIDTH}"),
         r"00004\.png: its mask is 100 x 120 pixels, the camera 120 x 100"),
        (empty_mask, r"00004\.png: its mask shows nobody"),
        (moved_body, r"00004\.png: the posed body covers the person by an IoU of 0\.\d\d only"),
        (splits(**BASE | {"train": "00001.png\n00000.png\n"}),
         r"train_split\.txt: is not sorted \(00000\.png after 00001\.png\)"),
        (splits(**BASE | {"test": "00013.png\n"}), r"test_split\.txt: names 00013\.png, which"),
        (splits(**BASE | {"test": "00001.png\n"}),
         r"test_split\.txt: names 00001\.png, as does .*train_split\.txt"),
        (splits(**BASE | {"train": "00001.png\n00001.png\n"}),
         r"train_split\.txt: names 00001\.png, as does .*train_split\.txt"),
        (splits(**BASE | {"test": "\n"}), r"test_split\.txt: names no frames"),
        (splits(**BASE | {"test": None}), r"test_split\.txt: no such file"),
        (lambda folder: (folder / "images/00004.png").rename(folder / "images/four.png"),
         r"images/four\.png: not named by its frame number"),
        (edit("smplx_optimized/smplx_params/4.json", '"expr": [0.0', '"expr": [NaN'),
         r"4\.json: holds NaN"),
        (edit("smplx_optimized/smplx_params/4.json", "body_pose", "bodypose"),
         r"4\.json: lacks body_pose"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_file(datasets, body, tmp_path, harm, said):
    harm(datasets / "neuman/bike")
    with pytest.raises(UserError, match=said) as error:
        source(datasets, body).prepare(tmp_path / "bike")
    assert "\n" not in str(error.value)


def test_bad_options(datasets, body):
    with pytest.raises(UserError, match=r"setting=many is unknown: choose single_image, video"):
        Conversion(setting="many")
    with pytest.raises(UserError, match=r"data\.path is not given; get NeuMan's"):
        NeumanSource(path=None, sequence="bike", body=body, conversion=SMALL)
    with pytest.raises(UserError, match=r"absent: no such folder"):
        NeumanSource(path="absent", sequence="bike", body=body, conversion=SMALL)
    held_out = source(datasets, body, replace(SMALL, input_frame=2))
    with pytest.raises(UserError, match=r"data\.input_frame=2: not a training frame of neuman"):
        held_out.captured(held_out.read())


def test_a_body_of_another_size_is_refused(datasets, tmp_path, body):
    path = datasets / "neuman/bike/smplx_optimized/face_offset.json"
    path.write_text(json.dumps([[0.0, 0.0, 0.0]] * 10475))
    with pytest.raises(UserError, match=r"face_offset\.json: has 10475 vertices, body anny has"):
        source(datasets, body).prepare(tmp_path / "bike")


def test_a_persona_folder_is_used_as_it_is(prepared, body, datasets):
    made = NeumanSource(path=prepared.parent, sequence="bike", body=body, conversion=Conversion())

    def module(**options):
        settings = {"setting": "single_image", "input_frame": "front"} | options
        return DatasetModule(path=prepared.parent, source=made, root="elsewhere", **settings)

    data = module()
    data.prepare_data()
    assert data.source is None and data.root == prepared
    assert len(data.train_frames) == 1 and data.test_frames.sizes == [(HEIGHT, WIDTH)]
    assert module(input_frame=4).root == prepared
    with pytest.raises(UserError, match=r"bike: was made from frame 4; leave data\.input_frame"):
        module(input_frame=5)
    with pytest.raises(UserError, match="was made from one image"):
        module(setting="video")


def test_boxes_of_one_size_inside_the_image():
    masks = np.zeros((2, 100, 80), bool)
    masks[0, 20:60, 30:50] = True  # A box of 20 x 40.
    masks[1, 0:10, 70:80] = True  # A box at the corner.
    boxes = common_boxes(list(masks))
    # The larger box is 40 high: height 1.25 * 40 = 50, width three quarters of that.
    assert boxes == [(21, 15, 38, 50), (42, 0, 38, 50)]
    whole = np.ones((1, 100, 80), bool)
    assert common_boxes(list(whole)) == [(0, 0, 80, 100)]
