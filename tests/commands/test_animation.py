"""Rendering a clip: the prepared path against the plain one, backgrounds, videos and threads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.animation import (
    draw_frames,
    frame_motion,
    render_motion,
)
from persona.commands.export_loss import in_view
from persona.commands.video_file import composite
from persona.data.motion.load import load_motion
from persona.modules.avatar.pose_table import matrix_pose
from persona.systems.fit import Fit
from persona.types import Garment, Render

CONF = Path(__file__).parents[2] / "conf"
SIZE = (48, 40)


@pytest.fixture(scope="module")
def system(tiny_settings) -> Fit:
    """An untrained system whose avatar has random colours and pose-driven offsets."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=tiny_settings)
    torch.manual_seed(0)
    made = instantiate(config.system)
    made.build(made.body.zero_identity(), num_frames=1)
    with torch.no_grad():
        made.avatar.rgb_logit.normal_()
        made.avatar.offsets.triplane.planes.normal_()
    return made.eval()


@pytest.fixture(scope="module")
def scene(system):
    poses = load_motion("dance", system.body, fps=30).pose[:10:3]
    return frame_motion(system, poses, *SIZE)


def plain_clip(system, poses, camera, asset=None) -> list[np.ndarray]:
    """Frame by frame through ``render``, as other systems do; float images."""
    frames = []
    with torch.no_grad():
        for i in range(len(poses.trans)):
            color, alpha = system.render(matrix_pose(system.body, poses[i]), camera, asset)
            frames.append(torch.cat([color, alpha]))
    return frames


@pytest.mark.parametrize("asset", ["base", "refined"])
def test_prepared_clip_equals_render(system, scene, asset):
    poses, camera = scene
    with torch.no_grad():
        draw = system.clip(matrix_pose(system.body, poses), asset)
        for i, plain in enumerate(plain_clip(system, poses, camera, asset)):
            torch.testing.assert_close(torch.cat(draw(i, camera)), plain, atol=1e-6, rtol=0)


def test_a_system_without_a_driver_renders_frame_by_frame(system, scene, monkeypatch):
    poses, camera = scene
    fast = list(render_motion(system, poses, camera))
    monkeypatch.setattr(type(system), "clip", Fit.clip)
    slow = list(render_motion(system, poses, camera))
    assert len(fast) == len(slow) == len(poses.trans)
    for a, b in zip(fast, slow, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_frames_are_those_of_their_poses(system, scene):
    poses, camera = scene
    whole = list(render_motion(system, poses, camera))
    alone = [next(render_motion(system, poses[i : i + 1], camera)) for i in range(len(whole))]
    for a, b in zip(whole, alone, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1
    assert np.abs(whole[0].astype(int) - whole[-1]).max() > 50


def test_one_camera_per_pose(system, scene):
    poses, camera = scene
    wide = camera.resize(camera.height, camera.width)
    far = type(camera)(wide.cam_from_world, wide.focal_px / 2, wide.center_px, *SIZE)
    cameras = type(camera)(
        *(torch.stack([getattr(c, f) for c in (wide, far)]) for f in
          ("cam_from_world", "focal_px", "center_px")), *SIZE,
    )  # fmt: skip
    near, small = (f[..., 3] > 128 for f in render_motion(system, poses[:2], cameras))
    assert small.sum() < 0.5 * near.sum()


@pytest.mark.parametrize("kind", ["colour", "picture"])
def test_background_under_the_render_is_the_composite(system, scene, kind):
    poses, camera = scene
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    background = (200, 30, 90) if kind == "colour" else picture
    flat = list(render_motion(system, poses, camera, background=background))
    for rgba, rgb in zip(render_motion(system, poses, camera), flat, strict=True):
        assert rgb.shape == (*SIZE, 3)
        # 2, as ``composite`` gets rounded straight alpha: one rounding more than the direct path.
        assert np.abs(composite(rgba, background).astype(int) - rgb).max() <= 2


def test_nothing_is_asked_of_the_host_between_frames(system, scene):
    """No ``.item()`` and no tensor of host values, which stall a GPU's queue.

    The rasteriser is replaced: it is not tested here.
    """
    poses, camera = scene
    system.renderer.forward, kept = (
        lambda gaussians, view, channels: _blank(view),
        system.renderer.forward,
    )
    try:
        frames = draw_frames(system, poses, camera, background=(0, 0, 0))
        next(frames)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in frames:
                pass
    finally:
        system.renderer.forward = kept
    called = {event.key for event in profile.key_averages()}
    assert "aten::index_add" in called, "the profile saw the posing"
    assert not called & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}
    assert not called & {"aten::lift_fresh", "aten::detach_"}, "torch.tensor() of host values"


def _blank(camera):
    return Render({"rgb": torch.zeros(3, *SIZE)}, torch.zeros(1, *SIZE))


def test_a_wide_garment_stays_in_the_picture(tiny_settings):
    """The camera is framed by all that the avatar draws."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = instantiate(compose("train", overrides=tiny_settings).system)
    body, identity = made.body, made.body.zero_identity()
    weights = torch.zeros(4, body.num_joints)
    weights[:, 0] = 1
    rest = torch.tensor([[-1.5, -0.4, 0.0], [1.5, -0.4, 0.0], [-1.5, -0.8, 0.0], [1.5, -0.8, 0.0]])
    sheet, uv = torch.tensor([[0, 1, 2], [1, 3, 2]]), torch.rand(4, 2)
    made.build(replace(identity, garment=Garment(rest, sheet, weights, uv, sheet)), num_frames=1)
    poses, camera = frame_motion(made.eval(), load_motion("squat", body).pose[:60:20], *SIZE)
    placed = [matrix_pose(body, poses[i]) for i in range(len(poses.trans))]
    for pose, seen in [in_view(made, placed[0]), *((pose, camera) for pose in placed)]:
        with torch.no_grad():
            points = made.avatar(pose).gaussians("base").means
        pixels = points[:, :2] / points[:, 2:] * seen.focal_px + seen.center_px
        assert (pixels > 0).all() and (pixels < torch.tensor([seen.width, seen.height])).all()
