"""Heads are exported with their own bones, and the exported rigs move like the avatars."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.export import export
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.head.deformer import Bases
from persona.types import BodyPose

CONF = Path(__file__).parents[2] / "conf"
POINTS = ("system=pointavatar", "avatar.start_points=200", "avatar.shading_width=16",
          "avatar.width=64", "avatar.deformer_width=16")  # fmt: skip
HEADS = {
    "points": POINTS,
    "points_on_model_bases": (*POINTS, "avatar.model_bases=true"),
    "splatting_avatar": ("system=splatting_avatar", "avatar.count=300"),
}


@pytest.fixture(scope="module", params=HEADS)
def head(request):
    """An untrained head of the packaged body."""
    names = [
        "+exp=splatting_demo", "renderer=cpu", "metric.lpips_net=null", *HEADS[request.param],
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", names)
    torch.manual_seed(0)
    system = instantiate(config.system)
    system.build(system.body.zero_identity(), num_frames=1)
    with torch.no_grad():
        if request.param == "splatting_avatar":
            system.avatar.rgb_logit.copy_(torch.randn(300, 3))
            system.avatar.opacity_logit.fill_(4.0)
        else:
            system.avatar.points.copy_(system.avatar.template.template[:200] * 1.02)
            if not system.avatar.model_bases:
                bind(system.avatar)
    return system.eval()


def bind(avatar):
    """Stands in for a trained deformer: binds each point to the bone of its nearest vertex."""
    template, count = avatar.template, len(avatar.points)
    bones = torch.zeros(count, 6)
    bones[torch.arange(count), 1 + template.weights[:count].argmax(1)] = 1
    bases = Bases(template.expr_dirs[:count], template.pose_dirs[:count].mT * 0, bones)
    avatar.deformer.forward = lambda points, latent: (points, bases)
    avatar.moves_canonical = False
    avatar.mean_expression += 0.1


def moved(body):
    """A pose with a turned neck, an open mouth and an expression, before a camera."""
    pose = BodyPose.zero(body.num_expression, (1,))
    pose.root[:, 0], pose.body[:, 11, 1], pose.jaw[:, 0] = torch.pi, 0.4, 0.25
    pose.left_eye[:, 1], pose.expression[:, 3], pose.trans[:, 2] = 0.2, 0.5, 1.0
    return matrix_pose(body, pose)[0]


@torch.no_grad()
def test_the_rig_moves_as_the_head(head):
    """Up to two approximations of the rig: joints ignore the expression, and bones are blended."""
    pose = moved(head.body)
    rig = head.avatar.rig(pose)
    bones = head.body.transforms_from_matrices(rig.joints, pose.rotations)
    posed = rig.posed(bones, pose.expression, pose.trans)
    own = head.avatar(pose).gaussians(head.assets[-1])
    error = (posed.means - own.means).norm(dim=-1)
    spread = (own.means - own.means.mean(0)).norm(dim=-1).mean()
    assert error.mean() < 0.01 * spread, (error.mean(), spread)
    assert rig.weights.shape == (len(own.means), 5)
    torch.testing.assert_close(rig.weights.sum(1), torch.ones(len(own.means)))
    still = rig.posed(bones * 0 + torch.eye(4), pose.expression * 0, pose.trans)
    assert (still.means - own.means).norm(dim=-1).mean() > 5 * error.mean(), "nothing has moved"


@pytest.mark.slow
def test_every_format_of_a_head(head, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("persona.commands.export.load_system", lambda folder, device: head)
    monkeypatch.setattr("persona.commands.export.load_config", lambda folder: {"name": "head"})
    formats = "format=[spz,glb,html,npz]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("export", ["run=here", "motion=talk", "num_frames=2", formats])
    files = {path.name: path for path in export(config, tmp_path)}
    assert set(files) == {"head.spz", "head.splats.glb", "head.html", "head.npz"}
    with np.load(files["head.npz"]) as file:
        assert file["joint_names"].tolist() == [
            "head_root", "neck", "jaw", "left_eye", "right_eye"
        ]  # fmt: skip
        assert file["joints"].shape == (5, 3) and file["clip_rotations"].shape == (2, 5, 4)
        assert file["posed_means"].shape[:2] == (2, len(file["bind_means"]))
        assert file["expression_names"][0] and len(file["expression_dirs"]) == 52
    assert "dB" in capsys.readouterr().out
    import pygltflib

    glb = pygltflib.GLTF2().load(str(files["head.splats.glb"]))
    names = [glb.nodes[joint].name for joint in glb.skins[0].joints]
    assert names == ["head_root", "neck", "jaw", "left_eye", "right_eye"]
