"""Clips of a fitted person: what ``ClipMaker`` gives to a generator and makes of its frames."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from persona.data.io import read_image
from persona.data.layout import Textures
from persona.data.palette import PART_INDEX, colours_from_classes
from persona.data.preprocess.clip import ClipMaker
from persona.data.preprocess.gate import AlignmentGate, Gate
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.drape import Drape
from persona.modules.detect import Annotator
from persona.modules.diffusion.base import Reference, VideoGenerator, generate
from persona.modules.diffusion.cloth import ClothGenerator
from persona.modules.diffusion.textured_mesh import TexturedMeshGenerator
from persona.types import Camera

TORSO = PART_INDEX["Torso"]
COLOUR = (200, 40, 90)


class Painter(VideoGenerator):
    """Fills the posed body's silhouette with the mean colour of the photographed person."""

    name = "painter"
    licence = "none needed"
    control_names = frozenset({"mask", "keypoints"})
    size_multiple = 16
    max_frames = 8
    native_fps = 15.0

    def __call__(self, reference, controls, *, seed):
        colour = reference.image[reference.alpha > 0.5].mean(0)
        mask = controls.maps["mask"][..., None]
        return np.where(mask, colour, 255).round().astype(np.uint8)


class DarkParts(Annotator):
    """Calls all pixels that are not white a torso."""

    provides = frozenset({"alpha", "parts"})

    def __call__(self, image, alpha, keypoints, prior=None):
        person = (image < 250).any(-1)
        return {"alpha": person.astype(np.float32), "parts": (person * TORSO).astype(np.uint8)}


@pytest.fixture(scope="module")
def person():
    body, size = SmplxBody(), 32
    classes = np.full((size, size), TORSO, np.uint8)
    grey = np.full((size, size, 3), 90, np.uint8)
    textures = Textures(grey, np.ones((size, size), bool), grey, colours_from_classes(classes))
    return TexturedPerson(body, body.zero_identity(), textures)


@pytest.fixture
def reference():
    image = np.full((20, 10, 3), 255, np.uint8)
    image[5:15, 3:7] = COLOUR
    alpha = (image[..., 0] < 255).astype(np.float32)
    return Reference(image, alpha, np.zeros((133, 3), np.float32))


def made(tmp_path, person, reference, maker):
    camera = Camera.identity(torch.full((2,), 120.0), torch.tensor([24.0, 32.0]), 70, 45)
    (tmp_path / "captured").mkdir(parents=True)
    maker.check(person.body, fitted=True)
    maker(SubjectWriter(tmp_path), person, reference, camera)
    return Subject(tmp_path)


def painted(**options):
    settings = {"motions": ("turntable",), "num_frames": 3, "annotators": (DarkParts(),)}
    return ClipMaker(**({"generator": Painter()} | settings | options))


def test_a_generator_sees_the_photograph(tmp_path, person, reference):
    subject = made(tmp_path, person, reference, painted())
    assert subject.splits == ("captured", "generated_0")
    assert subject.frame_ids("generated_0") == [0, 1, 2]
    frame = subject.frame("generated_0", 1)
    assert frame.image.shape == (64, 48, 3)  # Multiples of 16, next to 70 x 45.
    assert (frame.image[frame.mask] == COLOUR).all()
    # Mask and parts come from annotators, depth and normals from the body.
    assert (frame.mask == (frame.image < 250).any(-1)).all() and 0.02 < frame.mask.mean() < 0.5
    assert (frame.seg[frame.mask] == colours_from_classes(np.full(1, TORSO, np.uint8))).all()
    assert (
        frame.depth_mask.sum() > 0.9 * frame.mask.sum() and not frame.depth_mask[~frame.mask].any()
    )
    # The texture is made from generated frames, not from the photograph.
    textures = subject.textures("generated_0")
    assert abs(textures.texture[textures.mask].astype(float).mean(0) - COLOUR).max() < 2


def test_frames_of_a_video_model_follow_each_other(tmp_path, person, reference):
    """Frames are 1/15 s apart, the model's rate, so the turntable turns little between them."""
    subject = made(tmp_path, person, reference, painted())
    roots = [subject.pose("generated_0", i).root for i in range(3)]
    steps = [float((b - a).norm()) for a, b in pairwise(roots)]
    assert 0 < max(steps) < 0.5


class CutOut(Painter):
    """``Painter`` with frames that have alpha and are ten pixels higher than the body."""

    cut_out = True
    native_fps = None

    def __call__(self, reference, controls, *, seed):
        frames = super().__call__(reference, controls, seed=seed)
        rgba = np.concatenate((frames, 255 * controls.maps["mask"][..., None].astype(np.uint8)), -1)
        return np.roll(rgba, -10, 1)


class Untouched(Gate):
    """Fails if it is called."""

    def __call__(self, controls, frames, masks):
        raise AssertionError("the gate was asked")


def test_nobody_looks_at_frames_that_are_cut_out(tmp_path, person, reference):
    options = {"motions": ("turntable",), "num_frames": 2, "gate": Untouched()}
    subject = made(tmp_path, person, reference, ClipMaker(generator=CutOut(), **options))
    frame = subject.frame("generated_0", 1)
    # Mask and colours come from the generator, parts from the nearest place of the body.
    assert (frame.image[frame.mask] == COLOUR).all() and (frame.image[~frame.mask] == 255).all()
    assert (frame.seg[frame.mask] == colours_from_classes(np.full(1, TORSO, np.uint8))).all()
    inside = person.colour(subject.pose("generated_0", 1), frame.camera)[1]
    assert (np.roll(inside, -10, 0) == frame.mask).all()
    textures = subject.textures("generated_0")
    assert abs(textures.texture[textures.mask].astype(float).mean(0) - COLOUR).max() < 2


def test_the_stand_in_is_the_textured_body(tmp_path, person, reference):
    maker = ClipMaker(generator=TexturedMeshGenerator(), motions=("turntable",), num_frames=2)
    subject = made(tmp_path, person, reference, maker)
    frame = subject.frame("generated_0", 0)
    assert frame.image.shape == (70, 45, 3)
    image, mask = person.colour(subject.pose("generated_0", 0), frame.camera)
    assert (frame.mask == mask).all() and (frame.image == image).all()
    assert (frame.image[frame.mask & frame.depth_mask] < 200).mean() > 0.95  # Grey body, white rim.
    assert (subject.textures("generated_0").texture == person.textures.texture).all()


def test_gate_and_refit(tmp_path, person, reference):
    def refit(controls, frames):
        return replace(controls.pose, trans=controls.pose.trans + torch.tensor([0.0, 0.0, 0.5]))

    subject = made(tmp_path, person, reference, painted(refit=refit, gate=Second()))
    assert subject.frame_ids("generated_0") == [0, 2]
    plain = painted()._place("turntable", person, subject.camera("generated_0", 0), 0)[0]
    moved = subject.pose("generated_0", 2).trans - plain[2].trans
    assert moved[2] == pytest.approx(0.5, abs=1e-4)
    # The dropped frame is listed and shown.
    folder = tmp_path / "generated_0"
    assert json.loads((folder / "dropped.json").read_text()) == {"1": "dull"}
    assert read_image(folder / "dropped.png").std() > 0
    with pytest.raises(UserError, match=r"turntable: 3 of 3 frames dropped: 3 colours .*gate=none"):
        made(tmp_path / "none", person, reference, painted(gate=AlignmentGate()))


class Second(Gate):
    """Drops the second of three frames; asserts that masks fit the frames."""

    def __call__(self, controls, frames, masks):
        for mask, frame in zip(masks, frames, strict=True):
            assert (mask == (frame < 250).any(-1)).all()
        return ["", "dull", ""]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"annotators": ()}, "no annotator gives alpha and parts"),
        ({"num_frames": 9}, "num_frames=9: Painter makes at most 8"),
        ({"motions": ("moonwalk",)}, "moonwalk"),
    ],
)
def test_faults_are_found_before_the_long_work(person, options, said):
    with pytest.raises(UserError, match=said):
        painted(**options).check(person.body, fitted=True)


def test_who_tells_no_fit_is_refused_what_needs_one(person):
    class Fitting(Painter):
        needs_fit = True

    maker = painted(generator=Fitting())
    maker.check(person.body, fitted=True)
    with pytest.raises(UserError, match=r"Fitting needs the body that was fitted.*textured_mesh"):
        maker.check(person.body, fitted=False)


def test_a_generator_is_held_to_its_promise(person, reference):
    class Half(Painter):
        def __call__(self, reference, controls, *, seed):
            return super().__call__(reference, controls, seed=seed)[:1]

    camera = Camera.identity(torch.full((2,), 60.0), torch.tensor([8.0, 8.0]), 16, 16)
    poses, camera, _ = painted()._place("turntable", person, camera, 0)
    controls = person.controls(poses, camera, frozenset({"mask"}))
    with pytest.raises(ValueError, match=r"Painter needs \['keypoints'\]"):
        generate(Painter(), reference, controls, seed=0)
    controls = person.controls(poses, camera, Painter.control_names)
    with pytest.raises(ValueError, match="Half: frames are"):
        generate(Half(), reference, controls, seed=0)


def test_all_controls_of_one_frame(person):
    """All control maps show the same body."""
    camera = Camera.identity(torch.full((2,), 90.0), torch.tensor([24.0, 32.0]), 64, 48)
    poses, camera, _ = painted(num_frames=1)._place("turntable", person, camera, 0)
    names = frozenset({"colour", "mask", "depth", "normal", "parts", "bones", "keypoints"})
    maps = person.controls(poses, camera, names).maps
    assert set(maps) == names
    body = maps["depth"][0] > 0
    assert (body ^ maps["mask"][0]).sum() < 0.2 * body.sum()  # They differ only at the rim.
    assert (maps["parts"][0][body] == TORSO).all() and not maps["parts"][0][~body].any()
    bones = maps["bones"][0]
    assert not bones[~body].any() and bones[body].min() >= 1
    # Pixels of the head's joint (number 15) are in the upper half only.
    assert (bones == 16).any() and np.nonzero(bones == 16)[0].max() < np.nonzero(body)[0].mean()
    length = np.linalg.norm(maps["normal"][0][body], axis=-1)
    assert np.allclose(length, 1, atol=1e-4)
    x, y, score = maps["keypoints"][0, 0]  # The nose, seen from the front.
    assert body[int(y), int(x)] and score == 1


class Draped(TexturedMeshGenerator):
    """Shifts clothes by 5 cm, and reports a fault in the second frame."""

    def drape(self, body, identity, motion, fps, frames, seed):
        assert len(motion.trans) > len(frames) and fps == 30
        torso = (body.weights.argmax(-1) == 6).nonzero()[:, 0]
        offset = torch.tensor([0.05, 0.0, 0.0]).expand(len(frames), len(torso), 3)
        return Drape(torso, offset, ("", "knotted", ""))


def test_clothes_hang_in_frames_and_files(tmp_path, person, reference, caplog):
    maker = ClipMaker(generator=Draped(), motions=("turntable",), num_frames=3)
    subject = made(tmp_path, person, reference, maker)
    assert subject.frame_ids("generated_0") == [0, 2]  # The faulty frame is dropped.
    assert "knotted" in (tmp_path / "generated_0" / "dropped.json").read_text()
    vertices, offset = subject.surface_offset("generated_0", 2)
    assert np.abs(offset - [0.05, 0, 0]).max() < 1e-4 and len(offset) == len(vertices)
    # The frame shows the body with these offsets, not the plain body.
    frame, pose = subject.frame("generated_0", 0), subject.pose("generated_0", 0)
    dense = torch.zeros(person.body.num_vertices, 3)
    dense[vertices] = torch.from_numpy(offset)
    shaped = replace(person.identity, face_offset=person.identity.face_offset + dense)
    held = person.body.shape(person.identity)[1] - person.body.shape(shaped)[1]
    held[0] = 0
    shaped = replace(shaped, joint_offset=shaped.joint_offset + held)
    drawn = replace(person, identity=shaped).colour(pose, frame.camera)[1]
    plain = person.colour(pose, frame.camera)[1]
    assert (drawn != frame.mask).mean() < 0.2 * (plain != frame.mask).mean()
    assert subject.surface_offset("captured", 0) is None


def test_a_person_without_loose_clothes_is_not_simulated(tmp_path, person, reference, caplog):
    maker = ClipMaker(generator=ClothGenerator(), motions=("turntable",), num_frames=2)
    with caplog.at_level("INFO"):
        subject = made(tmp_path, person, reference, maker)
    assert "no loose clothes that hang" in caplog.text
    assert subject.surface_offset("generated_0", 0) is None
