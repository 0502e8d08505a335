"""The exported page in headless Chromium draws what the avatar draws."""

import copy
import subprocess
from urllib.parse import quote

import cv2
import numpy as np
import pytest
import torch

from persona.benchmark.browser import browser, page_rate
from persona.commands.avatar_export import AvatarExport, Settings, splats
from persona.commands.export_loss import over_white
from persona.data.export.html import FIELD_OF_VIEW, write_html
from persona.data.motion.load import load_motion
from persona.modules.avatar.light import SphericalLight
from persona.types import Camera, Channel, Gaussians

HEIGHT, WIDTH = 240, 180
TARGET, DISTANCE = (0.0, 0.9, 0.0), 4.2


def browse(page, profile, options: str, *asked: str) -> subprocess.CompletedProcess:
    """Opens a page in headless Chromium, which draws in software."""
    program = browser()
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    return subprocess.run(
        [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader",
         "--enable-unsafe-swiftshader", "--hide-scrollbars", "--force-device-scale-factor=1",
         "--virtual-time-budget=4000", f"--user-data-dir={profile}", "--window-size=640,640",
         *asked, f"{page.as_uri()}#{quote(options, safe='=&,.')}"],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def orbit(yaw: float, pitch: float) -> Camera:
    """The viewer's camera, computed independently from its definition."""
    forward = -np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.array([np.cos(yaw), 0, -np.sin(yaw)])
    turn = np.stack([right, np.cross(forward, right), forward])
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = turn, -turn @ (np.array(TARGET) - DISTANCE * forward)
    focal = HEIGHT / 2 / np.tan(FIELD_OF_VIEW / 2)
    center = torch.tensor([WIDTH / 2, HEIGHT / 2])
    return Camera(torch.from_numpy(view).float(), torch.full((2,), focal).float(), center,
                  HEIGHT, WIDTH)  # fmt: skip


def shown_by(exporter, frame, view, tmp_path):
    """A frame that the page draws, its offsets baked, from a yaw and a pitch."""
    page, shot = tmp_path / f"{frame}.html", tmp_path / f"{frame}.png"
    write_html(exporter.scene("tiny", frame), page)
    options = (
        f"bare&frame={frame}&size={WIDTH}x{HEIGHT}&yaw={view[0]}&pitch={view[1]}"
        f"&distance={DISTANCE}&target={','.join(map(str, TARGET))}"
    )
    done = browse(page, tmp_path / f"profile_{frame}", options, f"--screenshot={shot}")
    assert shot.is_file(), done.stderr
    return cv2.imread(str(shot))[:HEIGHT, :WIDTH, ::-1] / 255.0


def own_render(exporter, splats, camera):
    parts = ("means", "scales", "quaternions", "opacities", "rgb")
    *shape, rgb = (torch.from_numpy(getattr(splats, name)) for name in parts)
    render = exporter.system.renderer(Gaussians(*shape), camera, {"rgb": Channel(rgb)})
    return over_white(render.images["rgb"], render.alpha).permute(1, 2, 0).numpy()


@pytest.mark.slow
@torch.no_grad()
def test_the_browser_shows_the_avatar(seen_system, tmp_path):
    """Three poses from three sides with baked offsets: above 30 dB against the avatar's renders."""
    motion = load_motion("dance", seen_system.body)
    exporter = AvatarExport(seen_system, motion, Settings())
    for frame, yaw, pitch in ((0, 0.0, 0.0), (40, 0.7, 0.2), (90, 2.5, -0.1)):
        shown = shown_by(exporter, frame, (yaw, pitch), tmp_path)
        own = own_render(exporter, exporter.posed(frame), orbit(yaw, pitch))
        assert own.min() < 0.6, "the render shows nobody"
        assert -10 * np.log10(np.square(shown - own).mean()) > 30


@pytest.mark.slow
@torch.no_grad()
def test_the_browser_lights_the_rig_as_the_rig_does(seen_system, tmp_path):
    """A strong light from one side, whatever the skinning: above 40 dB."""
    system, frame, view = copy.deepcopy(seen_system), 40, (0.7, 0.2)
    system.avatar.light = SphericalLight()
    harmonics = torch.tensor([0.6, 0.4, -0.3, -0.2, -0.1, 0.1, 0.05, -0.1, 0.1])
    system.avatar.light.coefficients.copy_(harmonics)
    exporter = AvatarExport(system, load_motion("dance", system.body), Settings())
    rig, pose = exporter.rig(frame), exporter.placed(frame)
    bones = system.body.transforms_from_matrices(rig.joints, pose.rotations)
    points = rig.posed(bones, pose.expression, pose.trans)
    shown = shown_by(exporter, frame, view, tmp_path)
    lit, even = (
        own_render(exporter, splats(points, rgb).turned_about_x(), orbit(*view))
        for rgb in (rig.lit(bones), rig.rgb)
    )
    assert -10 * np.log10(np.square(shown - lit).mean()) > 40
    assert -10 * np.log10(np.square(even - lit).mean()) < 30


@pytest.mark.slow
@torch.no_grad()
def test_the_rate_of_a_page_is_that_of_what_is_drawn(seen_system, tmp_path):
    """It plays in a real browser, whose own clock counts the pictures."""
    pytest.importorskip("websockets", reason="needs the extra viewer")
    if browser() is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    exporter = AvatarExport(seen_system, load_motion("dance", seen_system.body), Settings())
    scene, page = exporter.scene("tiny", 0), tmp_path / "tiny.html"
    write_html(scene, page)
    rate = page_rate(page, f"{WIDTH}x{HEIGHT}", 0.5, True, tmp_path / "profile")
    assert rate.count == len(scene.rigged().splats.means)
    assert "SwiftShader" in rate.drawn_by
    # A picture cannot be shown before it is drawn.
    assert 0 < rate.host_ms <= rate.whole_ms and rate.order_ms > 0
    assert 0 < rate.frames_per_s < 61
