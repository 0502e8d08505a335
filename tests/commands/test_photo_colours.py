"""``photo_colours``: a trained avatar takes the colours that the photograph shows."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.experiment import load_config
from persona.data.io import write_png
from persona.data.layout import SUBJECT_FILE, frame_path
from persona.modules.avatar.gaussian_avatar import COLOR_EPS
from persona.modules.render.seen_colours import Shot, shown_px
from persona.runtime.checkpoint import CHECKPOINT_FILE
from persona.types import CAPTURED

CONF = Path(__file__).parents[2] / "conf"


def shown(**pairs):
    """Frames and poses by role, as ``Fit.trained_frames`` gives them."""
    return lambda role, most: iter(pairs.get(role, [])[:most])


def photograph(system, folder):
    """The captured frame, its trained pose, and the error of its render inside the person."""
    data = instantiate(load_config(folder).data)
    data.setup("fit")
    frame = data.train_frames[[data.train_frames.roles.index(CAPTURED)]]
    pose, image, mask = system.table(frame.index[0]), frame.image[0], frame.mask[0]

    @torch.no_grad()
    def error(where=1):
        rgb, alpha = system.method.render(pose, frame.camera[0].local(), view=frame.view)
        return float(((rgb - alpha * image).square() * mask * where).sum() / mask.sum())

    return frame, pose, error


def test_the_photographs_view_becomes_sharper_where_pixels_count(trained):
    system = copy.deepcopy(trained["system"])
    method = system.method
    frame, pose, error = photograph(system, trained["folder"])
    before, blurred = method.avatar.rgb_logit.detach().clone(), error()
    method.finish(shown(captured=[(frame, pose)]))
    assert torch.equal(method.avatar.rgb_logit, before), "it was not asked for"
    method.solved.photos = True
    method.finish(shown())
    assert torch.equal(method.avatar.rgb_logit, before), "there is no photograph"
    method.finish(shown(captured=[(frame, pose)]))
    assert error() < 0.85 * blurred
    method.avatar.rgb_logit.data.copy_(before)
    height, width = frame.image.shape[2:]
    upper = torch.zeros(1, 1, 2 * height, 2 * width)  # At twice the frame's size.
    upper[:, :, :height] = 1
    method.solved.own_colour = {frame.name[0]: upper}
    counts = upper[0, :, ::2, ::2]
    first = error(counts), error(1 - counts)
    method.finish(shown(captured=[(frame, pose)]))
    # Gaussians that show on both sides of the edge change.
    assert error(counts) < 0.85 * first[0] and abs(error(1 - counts) / first[1] - 1) < 0.05


def test_what_no_photograph_shows_is_as_in_the_best_frame(trained):
    """Of two frames of the back, the red one shows all of it and the blue one its upper half."""
    system = copy.deepcopy(trained["system"])
    method = system.method
    frame, pose, _ = photograph(system, trained["folder"])
    rotations = pose.rotations.clone()
    rotations[0] = torch.diag(torch.tensor([-1.0, 1.0, -1.0])) @ rotations[0]
    behind = replace(pose, rotations=rotations)

    @torch.no_grad()
    def seen(at):
        return method.render(at, frame.camera[0].local(), view=frame.view)

    front, back = seen(pose)[0], seen(behind)[0]
    mask = (seen(behind)[1] > 0.5).float()[None]
    upper = mask.clone()
    upper[:, :, frame.image.shape[2] // 2 :] = 0
    frames = [
        (replace(frame, image=torch.eye(3)[color].view(1, 3, 1, 1) * mask, mask=part), behind)
        for color, part in ((2, upper), (0, mask))
    ]
    method.solved.best_frames = 1
    for none in ([], [(replace(frame, mask=torch.zeros_like(mask)), behind)]):
        method.finish(shown(captured=[(frame, pose)], generated=none))
        assert torch.equal(seen(pose)[0], front), "there is no frame, or nobody in it"
    method.finish(shown(captured=[(frame, pose)], generated=frames))
    inside = mask[0, 0] > 0
    assert (seen(behind)[0] - back)[0][inside].mean() > 0.2, "redder"
    assert (seen(behind)[0] - back)[2][inside].mean() < 0, "not bluer"
    assert (seen(pose)[0] - front).abs().mean() < 0.01, "the photograph's side stays"


def test_a_training_ends_with_it(tiny_settings, subjects, tmp_path, caplog):
    # Its shapes are checked if imported by now.
    from persona.commands.experiment import train_system

    shutil.copytree(subjects / "tiny", tmp_path / "tiny")
    own = np.full((64, 48), 255, np.uint8)
    own[20:30, 10:20] = 0
    wanted = "system.method.photo_colours=true", "trainer.max_steps=1"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*tiny_settings, f"subjects_dir={tmp_path}", *wanted])
    train_system(config, tmp_path / "synthetic")
    assert not any("own_colours" in line for line in caplog.messages)
    about = tmp_path / "tiny" / SUBJECT_FILE
    about.write_text(about.read_text().replace("synthetic seed", "photo me.png seed"))
    train_system(config, tmp_path / "older")
    assert sum("no own_colours" in line for line in caplog.messages) == 1
    caplog.clear()
    write_png(frame_path(tmp_path / "tiny", CAPTURED, "own_colour", 0), own)
    _, system = train_system(config, tmp_path / "run")
    assert not any("own_colours" in line for line in caplog.messages)
    assert system.finished
    stored = torch.load(tmp_path / "run" / CHECKPOINT_FILE)["state_dict"]
    assert torch.equal(stored["avatar.rgb_logit"], system.avatar.rgb_logit)
    frame, pose, error = photograph(system, tmp_path / "run")
    assert (system.method.solved.own_colour[frame.name[0]][0, 0] == torch.from_numpy(own > 0)).all()
    solved = error()
    system.method.finish(shown(captured=[(frame, pose)]))
    assert error() > 0.85 * solved, "little was left to solve"
    config.resume = str(tmp_path / "run")
    _, resumed = train_system(config, tmp_path / "unused")
    assert resumed.method.solved.own_colour.keys() == system.method.solved.own_colour.keys()


def test_what_stands_behind_the_front_keeps_its_colours(tiny, tmp_path):
    """Adam makes whole steps of any gradient, but for the ``eps`` of ``+exp=photo``."""
    # Its shapes are checked if imported by now.
    from persona.commands.experiment import train_system

    with initialize_config_dir(str(CONF), version_base="1.3"):
        eps = compose("train", ["+exp=photo"]).optimizer.eps
    eps *= 512 * 384 / (64 * 48)  # A loss is a mean over pixels, of which the tiny frame has fewer.
    # Steps on the photograph alone.
    config = tiny("data.captured_ratio=0.99", "trainer.max_steps=4", f"optimizer.eps={eps}")
    _, system = train_system(config, tmp_path)
    avatar, (frame, pose, _) = system.avatar, photograph(system, tmp_path)
    with torch.no_grad():
        points = avatar(pose, frame.view).gaussians("refined")
        light = torch.ones_like(points.opacities[:, None])
        shot = Shot(points, frame.camera[0].local(), frame.image[0], frame.mask[0], light)
    shown = shown_px(system.renderer, shot)
    change = (avatar.rgb_logit.detach() - avatar.initial_rgb.logit(COLOR_EPS)).abs().mean(1)
    hidden, front = change[shown < 1e-4], change[shown > 0.3]
    assert min(len(hidden), len(front)) > 100
    assert hidden.median() < 0.3 * front.median()
