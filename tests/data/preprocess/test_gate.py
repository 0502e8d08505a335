"""The gate finds planted faults among frames with a video model's usual errors."""

import cv2
import numpy as np
import pytest
import torch

from persona.data.layout import Textures
from persona.data.palette import PART_INDEX, colours_from_classes
from persona.data.preprocess.clip import ClipMaker
from persona.data.preprocess.gate import AlignmentGate, dropped_sheet, summary
from persona.data.preprocess.textured_person import TexturedPerson
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.diffusion.base import Controls
from persona.modules.diffusion.textured_mesh import TexturedMeshGenerator
from persona.types import Camera

FRAMES, FAULTY = 20, range(2, 20, 4)


def dressed(seed: int) -> TexturedPerson:
    """A person in clothes of a coarse random pattern."""
    random = np.random.default_rng(seed)
    base = random.uniform(60, 190, 3)
    pattern = base + random.normal(size=(16, 16, 3)) * 25
    texture = cv2.resize(pattern.clip(0, 255).astype(np.float32), (64, 64)).astype(np.uint8)
    classes = np.full((64, 64), PART_INDEX["Torso"], np.uint8)
    seen = np.ones((64, 64), bool)
    body = SmplxBody()
    textures = Textures(texture, seen, texture, colours_from_classes(classes))
    return TexturedPerson(body, body.zero_identity(), textures)


@pytest.fixture(scope="module")
def clip() -> tuple[Controls, np.ndarray]:
    """Controls of a dance, and its renders with another person's clothes in faulty frames."""
    camera = Camera.identity(torch.full((2,), 250.0), torch.tensor([48.0, 64.0]), 128, 96)
    person, other = dressed(1), dressed(5)
    maker = ClipMaker(generator=TexturedMeshGenerator(), num_frames=FRAMES)
    poses, placed, _ = maker._place("dance", person, camera, 0)
    controls = person.controls(poses, placed, AlignmentGate.control_names)
    swapped = controls.maps["colour"].copy()
    for i in FAULTY:
        swapped[i] = other.colour(poses[i], placed)[0]
    return controls, swapped


def drawn(images: np.ndarray, seed: int) -> np.ndarray:
    """Renders with a video model's usual errors: noise, tint, blur, shift by up to a pixel."""
    random = np.random.default_rng(seed)
    out = []
    for image in images:
        move = np.float32([[1, 0, random.uniform(-1, 1)], [0, 1, random.uniform(-1, 1)]])
        moved = cv2.warpAffine(image, move, image.shape[1::-1], borderValue=(255, 255, 255))
        person = (moved < 250).any(-1, keepdims=True)
        soft = cv2.GaussianBlur(moved, (0, 0), 0.4).astype(float) * random.uniform(0.97, 1.03, 3)
        out.append(np.where(person, soft + random.normal(size=soft.shape) * 2, 255))
    return np.stack(out).clip(0, 255).astype(np.uint8)


def masks(frames):
    return iter((frames < 248).any(-1))


def swap_identity(frames, controls, other, i):
    frames[i] = other[i]


def drop_a_limb(frames, controls, other, i):
    shin = np.isin(
        controls.maps["bones"][i], [6, 9, 12] if i // 4 % 2 else [20, 22, *range(41, 56)]
    )
    frames[i][cv2.dilate(shin.astype(np.uint8), np.ones((5, 5))) > 0] = 255


def freeze(frames, controls, other, i):
    frames[i] = frames[i - 1]


def blur(frames, controls, other, i):
    frames[i] = cv2.GaussianBlur(frames[i], (0, 0), 2.5)


def shift(frames, controls, other, i):
    frames[i] = np.roll(frames[i], 8, 1)


def flash(frames, controls, other, i):
    person = (frames[i] < 248).any(-1, keepdims=True)
    frames[i] = np.where(person, frames[i] * 0.7, frames[i]).astype(np.uint8)


FAULTS = {
    swap_identity: "colours", drop_a_limb: "limb", freeze: "frozen", blur: "blurred",
    shift: "silhouette", flash: "flicker",
}  # fmt: skip


def test_usual_errors_pass(clip):
    controls, _ = clip
    frames = drawn(controls.maps["colour"], seed=2)
    reasons = AlignmentGate()(controls, frames, masks(frames))
    assert (
        summary(reasons) == f"0 of {FRAMES} frames dropped"
        and dropped_sheet(frames, reasons) is None
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_faults_are_found_and_named(clip, fault):
    controls, swapped = clip
    frames, other = drawn(controls.maps["colour"], seed=3), drawn(swapped, seed=4)
    for i in FAULTY:
        fault(frames, controls, other, i)
    reasons = AlignmentGate()(controls, frames, masks(frames))
    dropped = {i for i, reason in enumerate(reasons) if reason}
    found = dropped & set(FAULTY)
    assert len(found) >= 0.9 * len(FAULTY), reasons
    assert len(found) >= 0.9 * len(dropped), reasons
    named = [reasons[i].split()[0].strip(",") for i in found]
    assert named.count(FAULTS[fault]) >= 0.8 * len(found), reasons
    sheet = dropped_sheet(frames, reasons)
    assert sheet.shape[0] >= 272 and f"{len(dropped)} of {FRAMES} frames dropped" in summary(
        reasons
    )


def test_a_clip_that_shows_nobody_is_dropped(clip):
    controls, _ = clip
    frames = np.full_like(controls.maps["colour"], 255)
    reasons = AlignmentGate()(controls, frames, masks(frames))
    assert all(reasons) and "silhouette overlaps 0.00" in reasons[0]
