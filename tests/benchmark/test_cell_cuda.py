"""A cell of the benchmark trains, fits poses and draws on a GPU."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from persona.benchmark.cell import RESULT_FILE, SETTINGS_FILE, run_cell
from persona.data.io import visible

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.mark.parametrize("pose_fit", ["none", "image"])
def test_a_cell_runs_on_the_device(tiny, tmp_path, pose_fit):
    """The subject's poses are on the host, but the body of a trained avatar is on the GPU."""
    config = tiny(
        "trainer.accelerator=gpu",
        "trainer.max_steps=3",
        "renderer=cuda",
        "pictures.num_images=1",
        "pictures.turntable_frames=0",
    )
    settings = OmegaConf.to_container(config, resolve=True)
    cell = OmegaConf.create({"train": settings, "pose_fit": pose_fit, "updates": 2})
    OmegaConf.save(cell, tmp_path / SETTINGS_FILE)
    run_cell(tmp_path)
    device = json.loads((tmp_path / RESULT_FILE).read_text())["device"]
    assert device == torch.cuda.get_device_name()
    assert len(visible((tmp_path / "frames").glob("*.png"))) == 4  # Two frames and their masks.
