"""LHM as a method: one forward pass makes a run that is animated and scored like any other."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import save_file

from persona.commands.drive import animate
from persona.commands.experiment import load_system, train, train_system
from persona.data.layout import SUBJECT_FILE
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.lhm.photograph import see_photograph
from persona.modules.lhm.sight import SIGHT_PARTS
from persona.types import BodyPose

CONF = Path(__file__).parents[2] / "conf"
SMALL = [
    "system=lhm", "model=lhm_small", "model.dim=16", "model.heads=2",
    "model.layers=1", "model.hidden=16",
    "model.body_depth=2", "model.head_depth=2", "model.num_points=400", "model.photo_px=84",
    "model.head_px=28", "pictures.turntable_frames=0",
]  # fmt: skip


@pytest.fixture
def weights(tiny, tmp_path):
    """An override with a file of untrained weights, whose colours are those of the photograph."""
    torch.manual_seed(0)
    model = instantiate(tiny(*SMALL).model).fresh()
    save_file(model.state_dict(), str(tmp_path / "small.safetensors"))
    return f"model.weights={tmp_path / 'small.safetensors'}"


def test_one_pass_makes_a_run(tiny, weights, tmp_path):
    config = tiny(*SMALL, weights)
    metrics = train(config, tmp_path / "run")
    assert metrics["train/steps"] == 0 and metrics["test/psnr"] == metrics["init/psnr"]
    (tmp_path / "small.safetensors").unlink()
    system = load_system(tmp_path / "run")  # The run holds the avatar: no network is needed.
    avatar = system.avatar
    assert set(avatar.state_dict()) == set(avatar.made)
    # Colours come from the photograph: those of the clothes are far from the network's grey.
    assert avatar.rgb.std(0).min() > 0.03
    frame = instantiate(config.data).test_frames[[0]]
    with torch.no_grad():
        rgb, alpha = system.render(system.table(torch.tensor(0)), frame.camera[0].local())
    inside = frame.mask[0] > 0.5
    assert rgb.shape == (3, 64, 48) and alpha[inside].mean() > 4 * alpha[~inside].mean()


@pytest.fixture
def bare(subjects, tmp_path):
    """The tiny subject as it is made for a method that reads no texture."""
    root = shutil.copytree(
        subjects / "tiny", tmp_path / "bare",
        ignore=shutil.ignore_patterns("generated_*", "test", "smplx_texture*", "smplx_seg*"),
    )  # fmt: skip
    about = json.loads((root / SUBJECT_FILE).read_text())
    (root / SUBJECT_FILE).write_text(json.dumps(about | {"textured": False, "generator": ""}))
    return root


def test_a_folder_without_textures_makes_the_same_avatar_and_a_video(tiny, weights, bare, tmp_path):
    """Nothing but the photograph and the body in it is read."""
    train(tiny(*SMALL, weights), tmp_path / "full")
    where = f"subjects_dir={bare.parent}", f"name={bare.name}"
    _, system = train_system(tiny(*SMALL, weights, *where), tmp_path / "run")
    wanted, found = load_system(tmp_path / "full").avatar, load_system(tmp_path / "run").avatar
    for name in wanted.made:
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        options = [f"run={tmp_path / 'run'}", "num_frames=2", "height=64", "width=48"]
        config = compose("animate", options)
    assert animate(config, tmp_path / "video", system).stat().st_size > 0


def test_a_trained_method_that_starts_without_textures_refuses_such_a_folder(bare, tmp_path):
    """There are no clips in it either."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        options = [
            "+exp=splatting_demo", "data=subject", "~data.source", "body=anny",
            f"subjects_dir={bare.parent}", f"name={bare.name}", "renderer=cpu",
            "trainer.accelerator=cpu", "logger=none", "metric.lpips_net=null",
        ]  # fmt: skip
        config = compose("train", options)
    with pytest.raises(UserError, match=rf"{bare}: made without textures"):
        train(config, tmp_path / "run")


def test_the_photograph_is_read_where_the_body_stands(tiny, weights, tmp_path):
    """Points that face the camera take their colour from the photograph; hidden ones do not."""
    system, data = instantiate(tiny(*SMALL, weights).system), instantiate(tiny().data)
    method = system.method
    method.build(data.subject.identity(method.body))
    photo = see_photograph(method.avatar, method.model, *method.shown(data.subject))
    assert photo.image.shape == (3, 140, 84) and photo.head.shape == (3, 28, 28)
    colour, mask, facing, free, *_ = photo.sight.split(SIGHT_PARTS, -1)
    seen = (free > 0.5) & (facing > 0.3)
    assert 0.2 < float(seen.float().mean()) < 0.6, "about half of a body faces a camera"
    # Some points on the back of fingers count as seen: fingers are thinner than the depth margin
    # beyond which a point is hidden.
    assert mask[seen].mean() > 0.9 and free[facing < -0.3].mean() < 0.3
    image = torch.from_numpy(data.subject.image("captured", 0)).float() / 255
    person = image[torch.from_numpy(data.subject.mask("captured", 0))]
    assert (colour[seen[:, 0]].mean(0) - person.mean(0)).abs().max() < 0.15


def test_gaussians_turn_with_the_body(tiny, weights):
    system, data = instantiate(tiny(*SMALL, weights).system), instantiate(tiny().data)
    method = system.method
    method.build(data.subject.identity(method.body))
    body, avatar = method.body, method.avatar
    pose = matrix_pose(body, BodyPose.zero(body.num_expression))
    spin = matrix_from_axis_angle(torch.tensor([0.0, 1.0, 0.0]))
    rotations = pose.rotations.clone()
    rotations[0] = spin @ rotations[0]
    turned = type(pose)(rotations, pose.expression, pose.trans)
    one, other = avatar(pose).points, avatar(turned).points
    root = avatar.rest_joints[0]
    assert torch.allclose((one.means - root) @ spin.T + root, other.means, atol=1e-5)
    assert (one.quaternions * other.quaternions).sum(-1).abs().max() < 0.9


def test_poses_can_be_fitted(tiny, weights, tmp_path):
    train(tiny(*SMALL, weights), tmp_path / "run")
    system = load_system(tmp_path / "run")
    pose = system.table(torch.tensor(0))
    trans = pose.trans.detach().requires_grad_()
    frame = instantiate(tiny().data).train_frames[[0]]
    step = system.frame_step(frame, type(pose)(pose.rotations, pose.expression, trans))
    total, _ = system.losses(step)
    total.backward()
    assert trans.grad.abs().sum() > 0


def test_without_weights_one_line_says_what_to_do(tiny, tmp_path):
    with pytest.raises(UserError, match=r"model=lhm_tiny, whose weights are shipped") as caught:
        train(tiny(*SMALL), tmp_path / "run")
    assert "\n" not in str(caught.value)
    config = tiny("system=lhm", "model=lhm_1b")
    with pytest.raises(UserError, match=r"CC BY-NC 4\.0.*get lhm_1b dir=DIR"):
        instantiate(config.system).method.check()


def test_shipped_weights_load_and_make_an_avatar_by_default(tiny):
    model = instantiate(tiny("system=lhm").model)
    model.check()
    state = model.build().state_dict()
    assert model.shipped and all(value.isfinite().all() for value in state.values())
