"""Scores a trained synthetic avatar under lights that it has not seen.

Run ``python benchmarks/relight.py RUN [LIGHTS] [--baked RUN]`` on a run of ``+exp=[demo,lit]``. The
truth's test poses are photographed under other suns; the avatar is drawn under their nine harmonics
(``lit``), under its own light as in its clips (``unlit``), and by ``--baked`` a run of the same
subject with ``avatar.light=baked`` (``baked``). Foreground PSNR, mean over frames, per light, and
under the subject's own.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from persona.cli import one_line_errors
from persona.commands.experiment import load_config, load_system
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import ClipScene
from persona.data.synthetic.studio import Light
from persona.data.synthetic.subject import SyntheticSubject
from persona.errors import UserError
from persona.modules.avatar.light import sun_and_sky
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.device import pick_device
from persona.systems.fit import Fit

UP = torch.tensor([0.0, -1.0, 0.0])
"""In an upright camera's frame."""
LEVEL = 0.8
"""Share of a sky's light that falls on a level normal: see ``Studio.shade``."""


def unseen_lights(count: int) -> list[Light]:
    """Suns from the sides, above and before the person, all unlike the subjects' own."""
    rng = np.random.default_rng(17)
    found = []
    for turn in np.linspace(-1, 1, count):
        towards = torch.tensor([1.2 * turn, -rng.uniform(0.1, 1.2), -rng.uniform(0.2, 0.8)])
        found.append(Light(F.normalize(towards.float(), dim=0), rng.uniform(0.6, 0.9), 0.35))
    return found


@torch.no_grad()
def psnr_under(light: Light, scene: ClipScene, system: Fit) -> float:
    """Foreground PSNR of the avatar as it now is against the truth under a light, dB."""
    clip, errors = scene.test_clip(), []
    for row, surface in enumerate(scene.vertices(clip)):
        shot = scene.shoot(surface, light=light)
        pose = matrix_pose(system.body, clip[row].to(system.device))
        color, alpha = (x.cpu() for x in system.render(pose, scene.camera.to(system.device)))
        image: Float[Tensor, "3 h w"] = color + torch.from_numpy(scene.background).permute(
            2, 0, 1
        ) * (1 - alpha)
        truth = shot.image + (1 - shot.coverage[..., None]) * scene.background
        wrong = image.permute(1, 2, 0).numpy() - truth
        errors.append(-10 * np.log10(np.square(wrong[shot.mask]).mean()))
    return float(np.mean(errors))


def main(run: str, count: int = 4, baked: str | None = None) -> None:
    """Prints the table.

    Args:
        run: Run folder of an avatar with a light.
        count: Number of lights.
        baked: Run folder of one without, of the same subject.

    Raises:
        UserError: not a run on a synthetic subject, of an avatar without a light, or of another
            subject than ``baked`` is of.
    """
    source, system = load(run)
    own = getattr(system.avatar, "light", None)
    if own is None:
        raise UserError(f"{run}: train data=synthetic with avatar.light=sh (+exp=[demo,lit])")
    settings = source.config
    scene = ClipScene(Person(source.body, settings.seed, settings.outfit, settings.shape), settings)
    kept, other = own.coefficients.detach().clone(), None
    if baked is not None:
        other_source, other = load(baked)
        if other_source.config != settings:
            raise UserError(f"{baked}: is not of the subject of {run}; train it with the same data")
    rows = []
    for light in (scene.light, *unseen_lights(count)):
        unlit = psnr_under(light, scene, system)
        harmonics = sun_and_sky(light.direction, light.sun, LEVEL * light.sky, UP)
        own.coefficients.data.copy_(harmonics)
        lit = psnr_under(light, scene, system)
        own.coefficients.data.copy_(kept)
        rows.append([lit, unlit] + ([psnr_under(light, scene, other)] if other else []))
    table = Table("towards the sun", "lit", "unlit", *(["baked"] if other else []), "gain",
                  title="foreground PSNR, dB")  # fmt: skip
    places = [" ".join(f"{x:.2f}" for x in light.direction.tolist())
              for light in unseen_lights(count)]  # fmt: skip
    means = np.mean(rows[1:], 0).tolist()
    for place, row in zip(("its own", *places, "mean of unseen"), [*rows, means], strict=True):
        table.add_row(place, *(f"{x:.2f}" for x in row), f"{row[0] - row[-1]:+.2f}")
    Console(width=100).print(table)


def load(run: str) -> tuple[SyntheticSubject, Fit]:
    """A run's subject and avatar.

    Raises:
        UserError: its subject is not synthetic.
    """
    source = instantiate(load_config(Path(run)).data.get("source"))
    if not isinstance(source, SyntheticSubject):
        raise UserError(f"{run}: its subject is not synthetic; train data=synthetic")
    return source, load_system(Path(run), pick_device("auto"))


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run folder of train.py")
    parser.add_argument("lights", type=int, nargs="?", default=4)
    parser.add_argument("--baked", help="run folder of the same subject with avatar.light=baked")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    one_line_errors(main)(given.run, given.lights, given.baked)
