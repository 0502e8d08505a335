"""``photo_colours``: a trained avatar takes the colours that the photograph shows."""

import copy

import torch
from hydra.utils import instantiate

from persona.commands.experiment import load_config
from persona.types import CAPTURED


def test_the_photographs_view_becomes_sharper_and_the_rest_stays(trained):
    system = copy.deepcopy(trained["system"])
    data = instantiate(load_config(trained["folder"]).data)
    data.setup("fit")
    frame = data.train_frames[[data.train_frames.roles.index(CAPTURED)]]
    method, pose = system.method, system.table(frame.index[0])
    avatar, image, mask = method.avatar, frame.image[0], frame.mask[0]

    @torch.no_grad()
    def error():
        rgb, alpha = method.render(pose, frame.camera[0].local(), view=frame.view)
        return float(((rgb - alpha * image).square() * mask).sum() / mask.sum())

    before, blurred = avatar.rgb_logit.detach().clone(), error()
    method.finish(iter([(frame, pose)]))
    assert torch.equal(avatar.rgb_logit, before), "it was not asked for"
    method.photo_colours = True
    method.finish(iter([(frame, pose)]))
    assert error() < 0.85 * blurred
    change = (avatar.rgb_logit.sigmoid() - before.sigmoid()).abs().amax(1)
    posed = avatar(pose, frame.view).refined.detach()
    behind = posed[:, 2] > posed[:, 2].mean()
    assert (change[behind] < 1e-3).float().mean() > 0.5
    assert change[~behind].mean() > change[behind].mean()
