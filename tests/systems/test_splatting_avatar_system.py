"""SplattingAvatar trains on a small synthetic head, and its checkpoint loads."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from persona.commands.experiment import load_system, train
from persona.data.subject import Subject
from persona.modules.avatar.pose_table import matrix_pose

ROOT = Path(__file__).parents[2]
STEPS = 24
SMALL = [
    "data.source.config.height=48", "data.source.config.width=48",
    "data.source.config.num_frames=4", "data.source.config.num_test=2",
    "data.source.config.supersample=1", "data.source.config.person=11", "avatar.count=1500",
    "avatar.rates.rgb_logit=0.15",
    "density.first=6", "density.every=6", "density.last=18", "density.walk_every=8",
    "density.gradient=2e-5", "density.max_gaussians=1800", f"trainer.max_steps={STEPS}",
    "trainer.enable_progress_bar=false", "pictures.turntable_frames=0", "pictures.num_images=1",
    "logger=none", "metric.lpips_net=null", "renderer=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Metrics and folder of a short training."""
    folder = tmp_path_factory.mktemp("splatting")
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        settings = [*SMALL, f"subjects_dir={folder}/subjects", f"hydra.run.dir={folder}/run"]
        config = compose("train", ["+exp=splatting_demo", *settings])
    return train(config, folder / "run"), folder


def test_beats_its_initialisation_on_unseen_expressions(run):
    metrics, _ = run
    assert metrics["test/psnr"] > metrics["init/psnr"] + 3
    assert metrics["test/mask_iou"] > metrics["init/mask_iou"]


def test_has_grown_and_walked_and_loads_again(run):
    _, folder = run
    system = load_system(folder / "run")
    avatar = system.avatar
    assert avatar.size()["gaussians"] > 1500 and avatar.steps == STEPS
    fresh = system.method.builder.build(system.body, system.identity)
    assert (fresh.face[:1000] != avatar.face[:1000]).any()
    subject = Subject(folder / "subjects" / "synthetic_head_11")
    pose = matrix_pose(system.body, subject.pose("test", 0))
    with torch.no_grad():
        rgb, alpha = system.render(pose, subject.camera("test", 0).local())
    assert torch.isfinite(rgb).all() and alpha.mean() > 0.1
