"""LAM's zip, read by zipfile, pygltflib and plyfile, and combined as LAM's page does."""

import io
import json
import logging
import shutil
import subprocess
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from splat_scene import FRAMES, random_scene, skinned, whole_body_scene
from test_glb_files import VALIDATE, Reader

from persona.data.export import lam
from persona.data.export.lam import write_lam
from persona.data.export.posing import world_from_joints
from persona.data.motion.names import HEAD
from persona.errors import UserError

plyfile = pytest.importorskip("plyfile", reason="needs persona[export]")


def head_scene():
    """Random Gaussians on a head's five joints, and the clip without expressions."""
    scene = random_scene()
    rig = scene.rigged()
    binds = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))
    binds[:3] = rig.bind_from_rest
    joints = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    rig = replace(
        rig, joint_names=HEAD, parents=(-1, 0, 1, 1, 1), joints=joints, bind_from_rest=binds
    )
    turns = Rotation.random(FRAMES * 5, np.random.default_rng(8)).as_quat(scalar_first=True)
    clip = replace(scene.clip, rotations=turns.reshape(FRAMES, 5, 4).astype(np.float32))
    # The posed Gaussians are those that skinning gives without an expression.
    still = replace(clip, expression=np.zeros((FRAMES, 2), np.float32))
    means = skinned(rig, still, 1).astype(np.float32)
    splats = replace(rig.splats, means=means)
    return replace(scene, clip=clip, rigged=lambda: rig, posed=lambda frame: splats), still


def opened(scene, tmp_path):
    write_lam(scene, tmp_path / "a.zip")
    archive = zipfile.ZipFile(tmp_path / "a.zip")
    folders = [name for name in archive.namelist() if name.endswith("/")]
    assert folders == [f"{scene.name}/"], "the page takes the folder's name from its entry"
    content = {n.split("/")[1]: archive.read(n) for n in archive.namelist() if n not in folders}
    assert sorted(content) == ["animation.glb", "offset.ply", "skin.glb", "vertex_order.json"]
    for name in ("skin.glb", "animation.glb"):
        (tmp_path / name).write_bytes(content[name])
    return content


def test_the_page_sees_the_frame_and_its_expressions(tmp_path):
    """Vertex + offset + weighted expressions equals skinning, up to one common shift."""
    scene, still = head_scene()
    content = opened(scene, tmp_path)
    vertex = plyfile.PlyData.read(io.BytesIO(content["offset.ply"]))["vertex"]
    own = scene.posed(1)
    rgb = np.stack([vertex[f"f_dc_{i}"] for i in range(3)], 1)
    np.testing.assert_allclose(rgb, own.rgb, atol=1e-6)
    np.testing.assert_allclose(np.exp(vertex["scale_1"]), own.scales[:, 1], rtol=1e-5)
    skin = Reader(tmp_path / "skin.glb")
    places = skin.attribute("POSITION") + np.stack([vertex[axis] for axis in "xyz"], 1)
    shift = places[0] - own.means[0]
    np.testing.assert_allclose(places - shift, own.means, atol=2e-6)
    rig = scene.rigged()
    assert tuple(skin.mesh.extras["targetNames"]) == rig.expression_names
    weights = np.array([0.7, 0.2], np.float32)
    targets = [skin.array(target["POSITION"]) for target in skin.primitive.targets]
    moved = places + np.einsum("e,enc->nc", weights, np.stack(targets))
    shown = replace(still, expression=np.tile(weights, (FRAMES, 1)))
    np.testing.assert_allclose(moved - shift, skinned(rig, shown, 1), atol=1e-5)
    order = json.loads(content["vertex_order.json"])
    assert (np.diff(places[order, 2]) >= 0).all() and len(set(order)) == len(places)


def test_the_head_turns_as_in_the_motion_and_nothing_else_moves(tmp_path):
    scene, still = head_scene()
    opened(scene, tmp_path)
    skin = Reader(tmp_path / "skin.glb").file
    names = [node.name for node in skin.nodes]
    head = names.index("head")
    assert names[:2] == ["hip", "head"] and not skin.animations
    assert set(np.unique(Reader(tmp_path / "skin.glb").attribute("JOINTS_0")[:, 0])) == {head}
    file = Reader.__new__(Reader)
    file.file = __import__("pygltflib").GLTF2().load(str(tmp_path / "animation.glb"))
    file.blob = file.file.binary_blob()
    assert len(file.file.animations) == 12, "LAM's page wants hello 2, idle 1, speak 6, think 3"
    animation = file.file.animations[5]
    assert [channel.target.node for channel in animation.channels] == [head]
    turns = Rotation.from_quat(file.array(animation.samplers[0].output))
    root, neck = (Rotation.from_quat(still.rotations[:, i], scalar_first=True) for i in (0, 1))
    whole = root * neck
    assert ((turns * whole[1]).inv() * whole).magnitude().max() < 1e-5


def test_a_whole_body_stands_still_with_the_eyes_where_the_page_looks(tmp_path):
    scene = whole_body_scene()
    opened(scene, tmp_path)
    skin = Reader(tmp_path / "skin.glb")
    assert skin.attribute("POSITION").shape == scene.posed(1).means.shape
    # skin.glb has the places; offset.ply is added to them, and is zero here.
    moved = skin.attribute("POSITION").mean(0) - scene.posed(scene.frame).means.mean(0)
    rig = scene.rigged()
    world = world_from_joints(rig, scene.clip, scene.frame)[:, :3, 3]
    eyes = world[[rig.joint_names.index(f"{side}_eye") for side in ("left", "right")]].mean(0)
    np.testing.assert_allclose(eyes + moved, [0, 1.62, 0], atol=1e-4)
    turns = lam.head_turns(scene.rigged(), scene.clip, 1)
    assert (turns == np.float32([1, 0, 0, 0])).all()


def test_expressions_that_do_not_fit_are_told(tmp_path, monkeypatch, caplog):
    scene, _ = head_scene()
    monkeypatch.setattr(lam, "_MOST_VECTORS", 2 * len(scene.rigged().splats.means) + 1)
    with caplog.at_level(logging.WARNING):
        opened(scene, tmp_path)
    assert "of 2 expressions the 1 that move most are kept" in caplog.text
    assert Reader(tmp_path / "skin.glb").mesh.extras["targetNames"] == ["eyeBlinkLeft"]


@pytest.mark.parametrize("name", ["skin.glb", "animation.glb"])
def test_the_validator_finds_no_fault(tmp_path, name):
    """Khronos's validator, if node finds it (NODE_PATH)."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    opened(head_scene()[0], tmp_path)
    command = ["node", "-e", VALIDATE, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Cannot find module" in done.stderr:
        pytest.skip("needs node's gltf-validator on NODE_PATH")
    issues = json.loads(done.stdout)
    assert not issues["numErrors"] and not issues["numWarnings"], issues


def test_more_gaussians_than_the_page_can_move_are_refused(tmp_path, monkeypatch):
    scene, _ = head_scene()
    monkeypatch.setattr(lam, "_MOST_VECTORS", 2 * len(scene.rigged().splats.means) - 1)
    with pytest.raises(UserError, match=r"needs an expression, .* 2 expressions it can hold none"):
        write_lam(scene, tmp_path / "a.zip")
