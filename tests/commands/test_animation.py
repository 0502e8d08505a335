"""Rendering a clip: the prepared path against the plain one, backgrounds, videos and threads."""

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.animation import (
    QUEUE,
    background_calls,
    composite,
    draw_frames,
    frame_motion,
    render_motion,
    write_video,
)
from persona.data.motion.load import load_motion
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.systems.fit import Fit
from persona.types import Render

CONF = Path(__file__).parents[2] / "conf"
SIZE = (48, 40)


@pytest.fixture(scope="module")
def system(tiny_settings) -> Fit:
    """An untrained avatar with colours."""
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
        # Straight alpha is rounded before it is laid over, once more than here.
        assert np.abs(composite(rgba, background).astype(int) - rgb).max() <= 2


def test_nothing_is_asked_of_the_host_between_frames(system, scene):
    """No ``.item()``, no tensor of host values: what stops a GPU's queue. The rasteriser apart."""
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


def decoded(path) -> np.ndarray:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.stack(frames)


def test_video_keeps_the_order_and_pads_odd_sides(tmp_path):
    grey = [np.full((33, 31, 3), value, np.uint8) for value in range(0, 240, 8)]
    assert write_video(tmp_path / "v.mp4", iter(grey), 30) == 30
    frames = decoded(tmp_path / "v.mp4")
    assert frames.shape == (30, 34, 32, 3)
    assert np.abs(frames[:, 8:24, 8:24].mean((1, 2, 3)) - np.arange(0, 240, 8)).max() < 3


def test_failed_frames_leave_no_video(tmp_path):
    def frames():
        yield np.zeros((32, 32, 3), np.uint8)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        write_video(tmp_path / "v.mp4", frames(), 30)
    assert not list(tmp_path.iterdir())


def test_background_calls_are_bounded_and_raise():
    """The producer waits for slow threads, and hears of their errors."""
    gate, done, handed = threading.Event(), [], []

    def slow(i: int) -> None:
        gate.wait(10)
        done.append(i)

    def produce() -> None:
        with background_calls(1) as call:
            for i in range(QUEUE + 5):
                call(slow, i)
                handed.append(i)

    producer = threading.Thread(target=produce)
    producer.start()
    time.sleep(0.3)
    assert len(handed) == QUEUE and not done
    gate.set()
    producer.join(10)
    assert done == list(range(QUEUE + 5))

    def fail() -> None:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="disk"), background_calls(2) as call:
        call(fail)
