"""Animated frames replayed from a CUDA graph equal frames that are drawn one by one.

Pieces of an image are added atomically, in any order, so two drawings of a frame may differ in the
last bit of a sum: by one level of 255, in few pixels.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.animation import BATCH, draw_frames, frame_motion, render_motion
from persona.data.motion.load import load_motion
from persona.modules.avatar.pose_table import matrix_pose
from persona.runtime import clip_graph
from persona.types import Camera

CONF = Path(__file__).parents[2] / "conf"
SIZE = (96, 80)
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


def made(settings, *overrides):
    """An untrained avatar with colours and offsets."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[*settings, *overrides])
    torch.manual_seed(0)
    system = instantiate(config.system)
    system.build(system.body.zero_identity(), num_frames=1)
    with torch.no_grad():
        system.avatar.rgb_logit.normal_()
        system.avatar.offsets.triplane.planes.normal_()
    return system.eval()


@pytest.fixture(scope="module")
def system(tiny_settings):
    if torch.cuda.is_available():
        return made(tiny_settings, "renderer=cuda").cuda()
    return made(tiny_settings)


@pytest.fixture(scope="module")
def scene(system):
    motion = load_motion("dance", system.body, fps=30).pose
    poses = motion[torch.arange(3 * BATCH + 3) % len(motion.trans)]
    return frame_motion(system, poses, *SIZE)


def several(camera: Camera, count: int) -> Camera:
    """Cameras that move closer."""
    zoom = torch.linspace(0.7, 1.2, count)[:, None]
    return Camera(
        camera.cam_from_world.expand(count, 4, 4), camera.focal_px * zoom,
        camera.center_px.expand(count, 2), *SIZE,
    )  # fmt: skip


def test_a_row_on_the_device_is_that_row(system, scene):
    poses, camera = (x.to(system.device) for x in scene)
    cameras = several(scene[1], len(poses.trans)).to(system.device)
    with torch.no_grad():
        draw = system.clip(matrix_pose(system.body, poses))
        for row in (0, 5):
            index = torch.tensor([row], device=system.device)
            a, b = (draw(r, cameras.row(r)) for r in (row, index))
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert not torch.equal(draw(0, camera)[0], draw(5, camera)[0])


def same(a, b, background):
    """Whether two frames differ only by rounding; RGBA is compared over black."""
    a, b = (x.astype(np.float32) for x in (a, b))
    if background is None:  # Where alpha is near zero, the colour is arbitrary.
        a, b = (np.concatenate((x[..., :3] * x[..., 3:] / 255, x[..., 3:]), -1) for x in (a, b))
    apart = np.abs(a - b)
    return apart.max() <= 1.51 and (apart > 0.01).mean() < 0.01


class TestOnTheDevice:
    pytestmark = gpu

    @pytest.fixture
    def graphs(self, monkeypatch):
        """List of the graphs that were captured."""
        captures, plain = [], clip_graph.ClipGraph._capture

        def capture(graph):
            captures.append(graph)
            plain(graph)

        monkeypatch.setattr(clip_graph.ClipGraph, "_capture", capture)
        return captures

    @pytest.mark.parametrize("background", [None, (200, 30, 90)])
    @pytest.mark.parametrize("moving", [False, True])
    def test_frames_are_the_plain_ones(
        self, system, scene, graphs, monkeypatch, background, moving
    ):
        poses, camera = scene
        camera = several(camera, len(poses.trans)) if moving else camera
        fast = list(render_motion(system, poses, camera, background=background))
        assert len(graphs) >= 1
        monkeypatch.setattr(system, "cuda_graph", False)
        plain = list(render_motion(system, poses, camera, background=background))
        assert len(fast) == len(plain) == len(poses.trans)
        assert all(same(a, b, background) for a, b in zip(fast, plain, strict=True))
        # Frames that came one too late would not pass the comparison.
        assert not any(same(a, b, background) for a, b in zip(fast, plain[1:], strict=False))

    def test_too_little_room_is_noticed_and_drawn_again(self, system, scene, graphs, monkeypatch):
        from persona.modules.render import cuda_backend

        monkeypatch.setattr(system.renderer, "_slots", {})
        monkeypatch.setattr(cuda_backend, "ROOM", 0.3)
        poses, camera = scene
        fast = list(render_motion(system, poses, several(camera, len(poses.trans))))
        assert len(graphs) > 1
        monkeypatch.setattr(system, "cuda_graph", False)
        plain = list(render_motion(system, poses, several(camera, len(poses.trans))))
        assert all(same(a, b, None) for a, b in zip(fast, plain, strict=True))

    def test_frames_outlive_the_next_ones(self, system, scene):
        frames = draw_frames(system, *scene)
        first = next(frames)
        kept = first.clone()
        list(frames)
        assert torch.equal(first, kept)

    def test_short_clips_are_drawn_without_a_graph(self, system, scene, graphs):
        poses, camera = scene
        assert len(list(draw_frames(system, poses[:BATCH], camera))) == BATCH and not graphs
