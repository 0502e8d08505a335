"""``photo_colours``: a trained avatar takes the colours that the photograph shows."""

import copy
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.experiment import load_config
from persona.runtime.checkpoint import CHECKPOINT_FILE
from persona.types import CAPTURED

CONF = Path(__file__).parents[2] / "conf"


def photograph(system, folder):
    """The captured frame, its trained pose, and the error of its render inside the person."""
    data = instantiate(load_config(folder).data)
    data.setup("fit")
    frame = data.train_frames[[data.train_frames.roles.index(CAPTURED)]]
    pose, image, mask = system.table(frame.index[0]), frame.image[0], frame.mask[0]

    @torch.no_grad()
    def error():
        rgb, alpha = system.method.render(pose, frame.camera[0].local(), view=frame.view)
        return float(((rgb - alpha * image).square() * mask).sum() / mask.sum())

    return frame, pose, error


def test_the_photographs_view_becomes_sharper_and_the_rest_stays(trained):
    system = copy.deepcopy(trained["system"])
    method = system.method
    frame, pose, error = photograph(system, trained["folder"])
    before, blurred = method.avatar.rgb_logit.detach().clone(), error()
    method.finish(iter([(frame, pose)]))
    assert torch.equal(method.avatar.rgb_logit, before), "it was not asked for"
    method.photo_colours = True
    method.finish(iter([]))
    assert torch.equal(method.avatar.rgb_logit, before), "there is no photograph"
    method.finish(iter([(frame, pose)]))
    assert error() < 0.85 * blurred
    change = (method.avatar.rgb_logit.sigmoid() - before.sigmoid()).abs().amax(1)
    shown = method.shown
    assert 0 < shown.sum() < len(shown)
    # Colours lie 1e-4 within 0 and 1.
    assert change[~shown].max() < 2e-4 < 0.1 < change[shown].max()


def test_a_training_ends_with_it(tiny_settings, subjects, tmp_path):
    # Its shapes are checked if imported by now.
    from persona.commands.experiment import train_system

    wanted = "system.method.photo_colours=true", "trainer.max_steps=1"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*tiny_settings, f"subjects_dir={subjects}", *wanted])
    _, system = train_system(config, tmp_path / "run")
    assert system.finished
    stored = torch.load(tmp_path / "run" / CHECKPOINT_FILE)["state_dict"]
    assert torch.equal(stored["avatar.rgb_logit"], system.avatar.rgb_logit)
    frame, pose, error = photograph(system, tmp_path / "run")
    solved = error()
    system.method.finish(iter([(frame, pose)]))
    assert error() > 0.85 * solved, "little was left to solve"
