"""From a photograph to a subject folder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress
from scipy import ndimage

from persona.data.io import read_image, read_mask
from persona.data.palette import PART_INDEX, classes_from_colours
from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.clip import ClipMaker
from persona.data.preprocess.colour_rules import ColourRuleAnnotator
from persona.data.preprocess.fit import FOCAL_PER_SIDE, BodyFit, PhotoFit
from persona.data.preprocess.parts import PARTS
from persona.data.preprocess.photo import SHEET_FILE, PhotoPreprocessor
from persona.data.preprocess.read_sight import read_sight
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Detection, Detector, MediapipeDetector
from persona.modules.diffusion.textured_mesh import TexturedMeshGenerator


def clips(motion):
    return ClipMaker(generator=TexturedMeshGenerator(), motions=(motion,), num_frames=3)


def preprocessor(detector=None, height=160, width=128, fit=None, textured=True):
    if detector is None:
        pytest.importorskip("mediapipe")
    return PhotoPreprocessor(
        detector=detector or MediapipeDetector(),
        annotator=ColourRuleAnnotator(),
        body=SmplxBody(),
        clips=clips("turntable"),
        fit=fit or PhotoFit(iterations=(20, 40, 40)),
        height=height,
        width=width,
        texture_size=256,
        textured=textured,
    )


@pytest.fixture(scope="module")
def ryota(tmp_path_factory, shared_data):
    root = tmp_path_factory.mktemp("subject") / "ryota"
    return preprocessor().run(shared_data / "photos/ryota.png", root)


def test_writes_a_valid_subject(ryota):
    ryota.validate()
    assert ryota.splits == ("captured", "generated_0")
    frame = ryota.frame("captured", 0)
    assert frame.image.shape == (160, 128, 3) and frame.albedo is not None
    assert frame.patch.shape == (256, 256, 3)
    assert frame.image[~frame.mask].mean() > 240, "the background must be white"
    assert frame.keypoints.shape == (133, 3)
    assert "textured_mesh" in ryota.info.generator
    for said in ("photo ryota.png", "stand-in", "made up", "assumed focal length"):
        assert said in ryota.info.provenance


def test_the_sheet_shows_what_is_seen_fitted_and_guessed(ryota):
    sheet = read_image(ryota.root / SHEET_FILE)
    tiles = sheet.reshape(2, sheet.shape[0] // 2, 5, sheet.shape[1] // 5, 3).swapaxes(1, 2)
    # Photo, mask, fit, parts, texture; guessed, front, side, back, other side: all differ.
    flat = tiles.reshape(10, -1).astype(int)
    assert all(np.abs(a - b).mean() > 0.5 for i, a in enumerate(flat) for b in flat[:i])
    pink = (tiles[1, 0] == (255, 60, 200)).all(-1).mean()
    assert 0.2 < pink < 0.6, "pink marks guessed texels, most of a body"


def test_the_texture_lies_where_the_dressed_body_stands(ryota):
    """Drawn at the stored pose it equals the photograph; 2 cm beside, the error is 1.3 x larger."""
    body, frame = SmplxBody(), ryota.frame("captured", 0)
    textures = ryota.textures("captured")
    person = TexturedPerson(body, ryota.identity(body), textures)

    def error(shift):
        pose = replace(frame.pose, trans=frame.pose.trans + torch.tensor(shift))
        painted = person.painted(pose, frame.camera)
        both = ndimage.binary_erosion(painted.mask & frame.mask, iterations=2)
        return np.abs(painted.image[both].astype(float) - frame.image[both]).mean()

    here = error((0.0, 0.0, 0.0))
    for axis in range(2):
        for slide in (-0.02, 0.02):
            shift = [0.0, 0.0, 0.0]
            shift[axis] = slide
            assert error(tuple(shift)) > 1.3 * here


def test_fitted_body_lies_on_the_person(ryota):
    body = SmplxBody()
    frame = ryota.frame("captured", 0)
    vertices, joints = body(ryota.identity(body), frame.pose)
    points = frame.camera.project(body.keypoints(vertices, joints))
    seen = frame.keypoints[:17, 2] > 0.5
    error = np.linalg.norm(points.numpy()[:17] - frame.keypoints[:17, :2], axis=-1)[seen]
    assert error.mean() < 0.02 * 160
    overlap = frame.depth_mask.sum() / frame.mask.sum()
    assert overlap > 0.85


def test_the_captured_frame_tells_where_it_shows_a_colour_of_the_surface(ryota):
    """Not in a black line beside an arm, nor in skin on the trunk, which are painted here."""
    body, frame = SmplxBody(), ryota.frame("captured", 0)
    maker = preprocessor(detector=_Nobody())
    fit = BodyFit(ryota.identity(body), frame.pose, 0.0, 0.0)
    limbs = maker._view(frame.camera, fit).limbs
    trunk, arm = (limbs == PARTS.index(name) for name in ("Torso", "Left_Upper_Arm"))
    line = trunk & frame.mask & (ndimage.distance_transform_edt(~arm) <= 2)
    skin = ndimage.binary_erosion(trunk & frame.mask, iterations=12)
    both = line | skin
    assert line.sum() > 20 < skin.sum() and frame.others["own_colour"][both].mean() > 0.99
    image, parts = frame.image.copy(), classes_from_colours(frame.seg)
    image[line], parts[skin] = 20, PART_INDEX["Left_Hand"]
    canvas = Canvas(
        image, frame.mask.astype(np.float32), frame.camera, torch.from_numpy(frame.keypoints),
        image, {"parts": parts},
    )  # fmt: skip
    own = maker._captured(canvas, fit).others["own_colour"]
    assert not own[skin].any() and own[line].mean() < 0.2
    assert own[limbs < 0].all() and own.sum() > frame.others["own_colour"].sum() - 3 * both.sum()


def test_generated_frames_are_aligned_renders_of_the_body(ryota):
    for number in ryota.frame_ids("generated_0"):
        frame = ryota.frame("generated_0", number)
        differs = frame.mask ^ frame.depth_mask
        assert differs.sum() < 0.05 * frame.mask.sum()
        near = ndimage.binary_dilation(frame.mask | frame.depth_mask, iterations=2)
        assert (frame.image[~near] == 255).mean() > 0.999
        rim = np.concatenate([frame.mask[0], frame.mask[-1], frame.mask[:, 0], frame.mask[:, -1]])
        assert not rim.any(), "the person leaves the picture"
    front, back = (ryota.frame("generated_0", i).normal[..., 2] for i in (0, 1))
    assert front.max() > 0.9 and back.max() > 0.9, "z of the normals must point to the camera"


def test_without_textures_the_naked_body_stands_where_the_dressed_one_does(
    ryota, shared_data, tmp_path
):
    """The fit is the same; clothes and all that is made of them are left out."""
    bare = preprocessor(textured=False).run(shared_data / "photos/ryota.png", tmp_path / "bare")
    bare.validate()
    assert bare.splits == ("captured",) and (bare.root / SHEET_FILE).is_file()
    assert bare.info.generator == "" and "unseen texture not made" in bare.info.provenance
    with pytest.raises(UserError, match="made without textures"):
        bare.textures("captured")
    body, joints = SmplxBody(), []
    for subject in (bare, ryota):
        identity = subject.identity(body)
        pose = subject.pose("captured", 0, body.num_expression)
        joints.append(body(identity, pose)[1][1:])  # Clothes may move the root alone.
    assert not bare.identity(body).face_offset.any()
    assert torch.equal(bare.identity(body).betas, ryota.identity(body).betas)
    torch.testing.assert_close(*joints, atol=1e-4, rtol=0)
    assert (bare.image("captured", 0) == ryota.image("captured", 0)).all()


def test_a_bare_folder_of_several_photographs_shows_the_first(
    ryota, shared_data, tmp_path, monkeypatch
):
    """The others have shaped the fit; their pixels are not looked at."""
    maker, read = preprocessor(textured=False), []
    path, body = shared_data / "photos/ryota.png", maker.body
    sight = read_sight(path, maker.detector, maker.annotator, maker._crop, None)
    sights = sight, replace(sight, photo=tmp_path / "other.png")
    pose = ryota.pose("captured", 0, body.num_expression)
    fit, fine = BodyFit(ryota.identity(body), pose, 0.0, 0.0), maker._fine
    monkeypatch.setattr(maker, "_fine", lambda *shot: read.append(shot[0]) or fine(*shot))
    with Progress(disable=True) as progress:
        maker.write(sights, [fit, fit], tmp_path / "bare", progress, ["c.png left out: why"])
    bare = Subject(tmp_path / "bare")
    bare.validate()
    assert read == [sight] and bare.splits == ("captured",)
    assert (bare.image("captured", 0) == ryota.image("captured", 0)).all()
    assert bare.info.provenance.startswith("photo ryota.png, other.png; ")
    assert bare.info.provenance.endswith("; c.png left out: why")


def test_mask_overlaps_the_truth(ryota, shared_data):
    frame = ryota.frame("captured", 0)
    truth = torch.from_numpy(read_mask(shared_data / "photos/ryota_mask.png")).float()
    # The true mask, moved to the captured frame: pixels are an affine map of the photo's.
    scale = frame.camera.focal_px / (FOCAL_PER_SIDE * 512)
    shift = frame.camera.center_px - 256 * scale
    rows, columns = np.mgrid[:160, :128] + 0.5
    source = np.stack(((columns - shift[0].item()) / scale[0].item(),
                       (rows - shift[1].item()) / scale[1].item())).astype(int)  # fmt: skip
    inside = ((source >= 0) & (source < 512)).all(0)
    picked = truth.numpy()[source[1].clip(0, 511), source[0].clip(0, 511)] > 0.5
    expected = picked & inside
    overlap = (expected & frame.mask).sum() / (expected | frame.mask).sum()
    assert overlap >= 0.93


def test_missing_and_broken_photos(tmp_path, monkeypatch):
    maker = preprocessor(detector=_Nobody())
    with pytest.raises(UserError, match="no such file"):
        maker.run(tmp_path / "absent.png", tmp_path / "out")
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    with pytest.raises(UserError, match="not an image"):
        maker.run(text, tmp_path / "out")
    empty = tmp_path / "empty.png"
    Image.fromarray(np.full((200, 150, 3), 128, np.uint8)).save(empty)
    monkeypatch.setattr(_Nobody, "told", UserError("empty.png: nobody found"))
    with pytest.raises(UserError, match=r"empty\.png: nobody found"):
        maker.run(empty, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "an incomplete folder remains"


@pytest.mark.slow
def test_a_generator_that_fails_leaves_the_old_subject_whole(ryota, shared_data, monkeypatch):
    """A simulation fails while frames are made, long after the body is fitted."""

    def fails(*arguments, **options):
        raise UserError("the skirt flies apart")

    before = {p: p.stat().st_mtime_ns for p in ryota.root.rglob("*")}
    maker = preprocessor()
    monkeypatch.setattr(TexturedMeshGenerator, "drape", fails)
    with pytest.raises(UserError, match="flies apart"):
        maker.run(shared_data / "photos/ryota.png", ryota.root)
    assert {p: p.stat().st_mtime_ns for p in ryota.root.rglob("*")} == before
    assert [p.name for p in ryota.root.parent.iterdir()] == [ryota.root.name]


def test_bad_motion_stops_at_once(tmp_path):
    photo = tmp_path / "grey.png"
    Image.fromarray(np.full((60, 40, 3), 128, np.uint8)).save(photo)
    maker = preprocessor(detector=_Nobody())
    maker.clips = clips("no_such_motion.bvh")
    with pytest.raises(UserError, match=r"no_such_motion\.bvh"):
        maker.run(photo, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    maker.textured = False  # No clips are made.
    with pytest.raises(AssertionError, match="should not have been readable"):
        maker.run(photo, tmp_path / "out")


class _Nobody(Detector):
    """Raises ``told``; by default that is an AssertionError, as it should not be called."""

    told: Exception = AssertionError("the photo should not have been readable")

    def __call__(self, image, source="the image") -> Detection:
        raise self.told


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grey", "16-bit", "rgba", "rotated", "large"])
def test_unusual_photos_work(tmp_path, shared_data, kind):
    image = Image.open(shared_data / "photos/ryota.png").convert("RGB")
    path, options = tmp_path / f"{kind}.png", {}
    if kind == "grey":
        image = image.convert("L")
    elif kind == "16-bit":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(grey)
    elif kind == "rgba":
        image.putalpha(Image.open(shared_data / "photos/ryota_mask.png").convert("L"))
    elif kind == "rotated":
        path = path.with_suffix(".jpg")
        exif = Image.Exif()
        exif[0x0112] = 6  # To be shown rotated by 90 degrees.
        image, options = image.rotate(90, expand=True), {"exif": exif}
    elif kind == "large":
        image = image.resize((6000, 6000))
    image.save(path, **options)
    subject = preprocessor().run(path, tmp_path / "subject")
    subject.validate()
    assert Subject(tmp_path / "subject").frame("captured", 0).mask.mean() > 0.1


@pytest.mark.slow
def test_feet_out_of_frame_work_and_are_said(tmp_path, shared_data, caplog):
    path = tmp_path / "cut.png"
    Image.open(shared_data / "photos/ryota.png").convert("RGB").crop((0, 0, 512, 340)).save(path)
    subject = preprocessor().run(path, tmp_path / "subject")
    subject.validate()
    assert "feet out of frame" in caplog.text
    assert "feet out of frame" in subject.info.provenance
