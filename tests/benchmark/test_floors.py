"""The benchmark's floors (untrained baselines) run by the same commands as every method."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.evaluation import evaluate
from persona.commands.experiment import load_config, load_system, train
from persona.data.preprocess.textured_person import TexturedPerson
from persona.errors import UserError
from persona.modules.losses.base import LossSum
from persona.systems.pose_fit import fit_poses, pose_fit_losses

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("run"), "metrics": None}


@pytest.fixture
def run(finished, tiny):
    """The textured mesh, as a benchmark composes it."""
    if finished["metrics"] is None:
        finished["metrics"] = train(tiny_mesh(tiny), finished["folder"])
    return finished


def tiny_mesh(tiny):
    base = tiny("system=persona")  # For the paths and the trainer.
    names = [
        "+exp=baseline", "system=textured_mesh", "data=subject", "name=tiny", "logger=none",
        "metric.lpips_net=null", "renderer=cpu", "trainer.accelerator=cpu", "pictures.num_images=1",
        "pictures.turntable_frames=2", "pictures.turntable_height=48",
        f"subjects_dir={base.subjects_dir}",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=names)


def test_mesh_trains_no_step(run):
    metrics = run["metrics"]
    assert metrics["train/steps"] == 0
    for name in ("psnr", "fg_psnr", "mask_iou"):
        assert metrics[f"test/{name}"] == metrics[f"init/{name}"]
    # The body without its clothes covers much of the person, but not all of it.
    assert 0.6 < metrics["test/mask_iou"] < 0.97
    assert metrics["test/fg_psnr"] > 10
    assert (run["folder"] / "turntable.mp4").is_file()
    checkpoint = torch.load(run["folder"] / "last.ckpt", weights_only=True)
    assert "avatar.texture" in checkpoint["state_dict"]


def test_mesh_renders_what_the_control_of_generators_does(run):
    """``TexturedPerson``, the stand-in for a video model, renders the same mesh independently."""
    system = load_system(run["folder"])
    data = instantiate(load_config(run["folder"]).data)
    frames = data.test_frames
    textures = data.subject.textures("captured")
    textures = textures._replace(inpaint=system.avatar.texture.numpy())
    system.test_table = system.table.from_poses(
        system.body, frames.poses(system.body.num_expression)
    )
    [(frame, predictions)] = system.predict_frames(frames[[0]])
    person = TexturedPerson(system.body, system.identity, textures)
    pose = frames.poses(system.body.num_expression)[0]
    other, mask = person.colour(pose, frame.camera[0].local(), supersample=3)
    image, alpha = predictions["mesh"]
    expected = torch.from_numpy(other).permute(2, 0, 1) / 255
    assert (image[0] - expected).abs().mean() < 0.004
    assert ((alpha[0, 0] > 0.5) != torch.from_numpy(mask)).float().mean() < 0.002


def test_mesh_evaluates_and_fits_no_poses(run, tmp_path):
    names = [f"run={run['folder']}", "device=cpu", "num_images=1"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        metrics = evaluate(compose("evaluate", overrides=names), tmp_path)
    assert metrics["test/fg_psnr"] == pytest.approx(run["metrics"]["test/fg_psnr"], abs=1e-6)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["pose_fit"] == "none"
    config = load_config(run["folder"])
    system, data = load_system(run["folder"]), instantiate(config.data)
    with pytest.raises(UserError, match=r"pose_fit=image is unknown.*choose none$"):
        pose_fit_losses("image", config.system)
    with pytest.raises(UserError, match=r"renders without gradient.*pose_fit=none"):
        fit_poses(system, data.test_frames, LossSum({}))


def test_gaussians_lbs_is_static(subjects, tmp_path):
    """Without an offset network, refined equals base; skinning weights are the mesh's own."""
    names = ["+exp=gaussians_lbs", "avatar.levels=0", "data=subject", "name=tiny"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=[*names, f"subjects_dir={subjects}"])
    system = instantiate(config.system)
    system.build(system.body.zero_identity(), num_frames=1)
    posed = system.avatar(system.table(torch.tensor(0)))
    assert system.avatar.offsets is None
    assert torch.equal(posed.base, posed.refined)
    weights = system.avatar.skinning_weights(posed.base_canonical + 0.05, posed.scales)
    assert torch.equal(weights, system.avatar.template.weights)
