"""Exported files as three.js and Spark draw them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.benchmark import web_reader
from persona.benchmark.browser import browser
from persona.benchmark.exports import _drawn, browser_shows, camera_on
from persona.benchmark.web_reader import DRAWN, PACKAGES, READ_BY, packages, web_picture
from persona.commands.avatar_export import AvatarExport, Settings
from persona.commands.export_loss import draw_mesh, draw_rig, in_view
from persona.data.export.formats import FORMATS
from persona.data.motion.load import load_motion
from persona.errors import UserError
from persona.modules.avatar.bake import bake_mesh

FRAME = 40


@pytest.fixture
def readers():
    """Skips without a browser or the packages: the set-up installs none of them."""
    pytest.importorskip("websockets", reason="needs persona[viewer]")
    if browser() is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    try:
        packages()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def exporter(seen_system):
    return AvatarExport(seen_system, load_motion("dance", seen_system.body), Settings())


def written(exporter, kind, tmp_path):
    path = tmp_path / f"tiny{FORMATS[kind].suffix}"
    try:
        FORMATS[kind].write(exporter.scene("tiny", FRAME), path)
    except UserError as error:
        pytest.skip(str(error))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in DRAWN if kind not in READ_BY])
def test_spark_draws_what_the_avatar_draws(readers, exporter, tmp_path, kind):
    path, own = written(exporter, kind, tmp_path), exporter.posed(FRAME)
    loss, reader = browser_shows(exporter, kind, path, own, FRAME)
    assert loss is not None, reader
    assert loss > 40
    # As sharp as this only with the avatar's own filter.
    assert exporter.system.renderer.eps2d < 0.3


@pytest.mark.slow
def test_three_draws_version_4_of_spz_as_version_3(readers, exporter, tmp_path):
    """Three cuts Gaussians off at two sigmas, which shows where they are as large as here."""
    own = exporter.posed(FRAME)
    new, old = (
        web_picture(written(exporter, kind, tmp_path), "spz4", camera_on(own), 0.0, 0.0)
        for kind in ("spz4", "spz")
    )
    assert (new == old).all(), "version 3 is what Spark draws as the avatar"
    there = _drawn(exporter, own, own).permute(1, 2, 0).numpy()
    assert -10 * np.log10(np.square(new - there).mean()) > 24


@pytest.mark.slow
@torch.no_grad()
def test_skeleton_weights_and_motion_of_a_glb_pose_its_gaussians(readers, exporter, tmp_path):
    """Read, posed and skinned by three.js and drawn by Spark as the rig is drawn here.

    In the motion's last frame, too, for which a loop would show the first.
    """
    exporter = AvatarExport(exporter.system, exporter.motion[: FRAME + 1], exporter.settings)
    path = written(exporter, "glb", tmp_path)
    rig = exporter.rig(FRAME).limited(exporter.settings.influences)
    pose, camera = in_view(exporter.system, exporter.placed(FRAME))
    here = draw_rig(exporter.system, rig, pose, camera).permute(1, 2, 0).numpy()
    view = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    # The file's person moves through the world, the other one was put before the camera.
    view[:3, 3] = pose.trans - exporter.placed(FRAME).trans
    seen = replace(camera, cam_from_world=view)

    def psnr(seconds):
        shown = web_picture(path, "glb", seen, seconds, exporter.system.renderer.eps2d)
        return -10 * np.log10(np.square(shown - here).mean())

    assert psnr(FRAME / exporter.motion.fps) > 40
    assert psnr(0.0) < 25, "another pose"


@pytest.mark.slow
@torch.no_grad()
def test_three_draws_the_mesh_as_it_is_drawn_here(readers, exporter, tmp_path):
    """Pixels at borders differ: three.js takes its samples in other places."""
    path, own = written(exporter, "mesh", tmp_path), exporter.posed(FRAME)
    shown = web_picture(path, "mesh", camera_on(own), FRAME / exporter.motion.fps, 0.1)
    rig = exporter.rig(FRAME)
    pose, camera = in_view(exporter.system, exporter.placed(FRAME))
    mesh = bake_mesh(rig, exporter.settings.texture_px)
    here = draw_mesh(exporter.system, rig, mesh, pose, camera).permute(1, 2, 0).numpy()
    there = _drawn(exporter, own, own).permute(1, 2, 0).numpy()
    assert shown.shape == there.shape and np.abs(here - there).mean() < 0.05
    assert -10 * np.log10(np.square(shown - here).mean()) > 28


def test_the_packages_are_asked_for_by_version(monkeypatch, tmp_path):
    monkeypatch.setattr(web_reader, "cache_folder", lambda: tmp_path)
    wanted = " ".join(f"{name}@{version}" for name, version in PACKAGES.items())
    with pytest.raises(UserError, match=f"npm install --prefix {tmp_path / 'npm'} {wanted}"):
        packages()
    for name, version in PACKAGES.items():
        folder = tmp_path / "npm/node_modules" / name
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"version": version}))
    assert packages() == tmp_path / "npm/node_modules"
    (folder / "package.json").write_text('{"version": "0.1.0"}')
    with pytest.raises(UserError, match=r"^nobody: npm install"):
        packages()


def test_what_nobody_draws_and_what_fails_leaves_the_cell_empty(exporter, tmp_path, monkeypatch):
    def refuses(*arguments):
        raise UserError("nobody: no Chromium")

    own = exporter.posed(0)
    monkeypatch.setattr("persona.benchmark.exports.web_picture", refuses)
    assert browser_shows(exporter, "npz", tmp_path, own, 0) == (None, "")
    assert browser_shows(exporter, "ply", tmp_path, own, 0) == (None, "nobody: no Chromium")
