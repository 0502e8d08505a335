"""``generator=lhm`` makes an avatar from the photograph and draws it in the clip's poses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.data.people.scene import Stance, stand
from persona.data.preprocess.fit_state import rest_body_pose
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.diffusion.base import Controls, Fitted, Reference, generate
from persona.modules.lhm.generator import LhmGenerator
from persona.modules.lhm.small import SmallLhm
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose, Camera

SIZE = dict(
    dim=16, heads=2, layers=1, hidden=16, body_depth=2, head_depth=2, num_points=2000, photo_px=84,
    head_px=28,
)  # fmt: skip
PIXELS = 96
RED = (200, 30, 30)


def posed(body, yaw):
    joints = torch.zeros(55, 3)
    joints[1:22] = rest_body_pose()  # Arms hang down.
    pose = stand(body, joints, Stance(yaw))
    return replace(pose, trans=pose.trans + torch.tensor([0.0, 0.3, 3.5]))


def over_black(frames):
    """RGBA over black, as colours of almost transparent pixels are arbitrary."""
    rgba = frames.astype(float)
    return np.concatenate((rgba[..., :3] * rgba[..., 3:] / 255, rgba[..., 3:]), -1)


def silhouette(body, pose, camera):
    vertices, _ = body(body.zero_identity(), pose)
    return rasterize(vertices, body.faces, camera).mask.numpy()


@pytest.fixture(scope="module")
def clip(body):
    """A red person who faces the camera, and controls of two poses."""
    middle = torch.full((2,), PIXELS / 2)
    camera = Camera.identity(torch.full((2,), 1.3 * PIXELS), middle, PIXELS, PIXELS)
    standing = posed(body, 0.0)
    mask = silhouette(body, standing, camera)
    image = np.where(mask[..., None], np.uint8(RED), np.uint8(255))
    fitted = Fitted(body, body.zero_identity(), standing, camera)
    reference = Reference(image, mask.astype(np.float32), np.zeros((133, 3), np.float32), fitted)
    poses = [standing, posed(body, 1.5)]
    both = BodyPose(**{k: torch.stack([vars(p)[k] for p in poses]) for k in vars(standing)})
    masks = np.stack([silhouette(body, p, camera) for p in poses])
    return reference, Controls(both, camera, {"mask": masks})


def test_frames_show_the_photographed_person_in_each_pose(clip):
    """An untrained network paints the photograph on the body."""
    reference, controls = clip
    torch.manual_seed(0)
    generator = LhmGenerator(SmallLhm(**SIZE, random=True), device="cpu")
    frames = generate(generator, reference, controls, seed=0)
    masks = controls.maps["mask"]
    for number, rgba in enumerate(frames):
        frame, alpha = rgba[..., :3], rgba[..., 3]
        shown, mask = (frame < 250).any(-1), masks[number]
        assert ((alpha > 5) >= shown).all()  # Pixels that are not white must have alpha.
        own, other = ((shown & m).sum() / (shown | m).sum() for m in (mask, masks[1 - number]))
        # A low bound, as 2000 Gaussians are so large that they widen the outline.
        assert own > 0.55 and own > other + 0.1
        # A loose bound: thin places are paler, and a fifth of the colour is untrained.
        assert np.abs(frame[mask].astype(float).mean(0) - RED).max() < 70
        assert (frame[~shown] > 249).all()


def test_the_body_stays_where_it_is(clip, monkeypatch):
    """The body must stay on the CPU, where other code uses it, while the network is on a GPU."""

    def moved(*args, **kwargs):
        raise AssertionError("the body was moved")

    monkeypatch.setattr(SmplxBody, "_apply", moved)
    reference, controls = clip
    LhmGenerator(SmallLhm(**SIZE, random=True), device="cpu")(reference, controls, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
def test_a_gpu_draws_what_the_cpu_draws(clip):
    reference, controls = clip
    frames = []
    for device in ("cpu", "cuda", "cuda"):
        torch.manual_seed(0)  # Each call makes a network, here with random weights.
        generator = LhmGenerator(SmallLhm(**SIZE, random=True), device=device)
        frames.append(over_black(generator(reference, controls, seed=0)))
    assert np.abs(frames[1] - frames[2]).mean() < 0.1  # A GPU adds in varying order.
    assert np.abs(frames[0] - frames[1]).mean() < 2
    assert np.abs(frames[1][0] - frames[1][1]).mean() > 4  # The poses differ.


def test_a_clip_drawn_again_is_the_same(clip):
    reference, controls = clip
    frames = []
    for _ in range(2):
        torch.manual_seed(0)
        generator = LhmGenerator(SmallLhm(**SIZE, random=True), device="cpu")
        frames.append(generator(reference, controls, seed=0))
    assert np.array_equal(*frames)


def test_who_fitted_no_body_is_told(clip):
    reference, controls = clip
    generator = LhmGenerator(SmallLhm(**SIZE, random=True), device="cpu")
    with pytest.raises(UserError, match=r"lhm needs the body that was fitted.*textured_mesh"):
        generator(replace(reference, fitted=None), controls, seed=0)


def test_missing_weights_are_named_before_the_long_work():
    with pytest.raises(UserError, match=r"model\.weights=FILE"):
        LhmGenerator(SmallLhm(**SIZE)).check()
