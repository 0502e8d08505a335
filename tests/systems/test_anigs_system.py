"""AniGS-style trains, draws only the canonical person, and is better than averaging its views."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from persona.commands.experiment import load_system, train
from persona.data.subject import Subject
from persona.modules.avatar.pose_table import matrix_pose

CONF = Path(__file__).parents[2] / "conf"
RING = [
    "data.source.config.height=128", "data.source.config.width=96", "data.source.config.seed=0",
    "data.source.config.num_views=16", "data.source.config.num_held_out=6",
    "data.source.config.num_test=0", "data.source.config.texture_size=256",
    "data.source.config.patch_size=32", "data.source.config.warp_m=0.04",
    "data.source.config.swim_m=0.04", "data.source.config.tint=0.05",
    "avatar.levels=1", "avatar.edge_m=0.016", "avatar.field_resolution=32",
    "trainer.enable_progress_bar=false", "pictures.turntable_frames=0", "pictures.num_images=1",
    "logger=none", "metric.lpips_net=null", "renderer=cpu", "trainer.accelerator=cpu",
]  # fmt: skip


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("train", overrides=list(overrides))


@pytest.mark.slow
def test_run_loads_again_and_shows_the_canonical_person(subjects, tmp_path):
    """Any subject's frames can be the views; here they are those of the tiny subject."""
    small = ["avatar.levels=0", "avatar.edge_m=null", "avatar.anchors=60", "avatar.field_from=1"]
    where = ["data=subject", "name=tiny", f"subjects_dir={subjects}", f"hydra.run.dir={tmp_path}"]
    common = [setting for setting in RING if not setting.startswith(("data.", "avatar."))]
    settings = [*small, *where, *common, "avatar.field_resolution=16", "trainer.max_steps=3"]
    config = composed("+exp=demo", "system=anigs", *settings)
    train(config, tmp_path / "run")
    system = load_system(tmp_path / "run")
    subject = Subject(config.data.root)
    assert system.avatar.size() == {"views": 9} and system.avatar.steps == 3
    rows = torch.cat([plane.time.detach().flatten(1) for plane in system.avatar.field.planes], 1)
    # Offsets were trained for two steps, each of which changes the rows of one view.
    assert 1 <= int((rows != 1).any(1).sum()) <= 2
    pose, camera = matrix_pose(system.body, subject.pose("test", 0)), subject.camera("test", 0)
    with torch.no_grad():
        before = system.render(pose, camera.local())
        for plane in system.avatar.field.planes:
            plane.time.normal_()
        after = system.render(pose, camera.local())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert before[1].mean() > 0.05


@pytest.mark.slow
def test_offsets_of_views_beat_averaging_where_views_disagree(tmp_path):
    found = {}
    for name in ("anigs_demo", "anigs_average"):
        folders = [f"subjects_dir={tmp_path}/subjects", f"hydra.run.dir={tmp_path}/{name}"]
        config = composed(f"+exp={name}", *RING, *folders, "trainer.max_steps=200")
        found[name] = train(config, tmp_path / name)
    offsets, average = found["anigs_demo"], found["anigs_average"]
    assert offsets["test/fg_psnr"] > average["test/fg_psnr"] + 0.3
