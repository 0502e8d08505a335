"""Scores trained synthetic avatars under lights that they have not seen.

Run ``python benchmarks/relight.py RUN ... [--lights 4] [--baked RUN ...]`` on runs of
``+exp=[demo,lit]``. The truth's test poses are photographed under other suns; the avatar is drawn
under their nine harmonics (``lit``), under its own light as in its clips (``unlit``), and by
``--baked`` a run of the same subject with ``avatar.light=baked`` (``baked``), one for each RUN.
Foreground PSNR, mean over frames, under the subject's own light and over the others. The scores of
every light are kept in ``RUN/relight.json``, and drawn again only for other checkpoints.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from persona.cli import one_line_errors
from persona.commands.experiment import checkpoint_file, load_config, load_system
from persona.data.io import read_json, write_json
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import ClipScene
from persona.data.synthetic.studio import Light
from persona.data.synthetic.subject import SyntheticSubject
from persona.errors import UserError
from persona.modules.avatar.light import sun_and_sky
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.device import pick_device
from persona.systems.fit import Fit
from persona.types import BodyPose

VERSION = 1
"""Increased when the same checkpoints give other scores."""
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
def drawn(system: Fit, pose: BodyPose, scene: ClipScene) -> Float[np.ndarray, "h w 3"]:
    """The avatar in a pose, before the backdrop."""
    state = matrix_pose(system.body, pose.to(system.device))
    color, alpha = system.render(state, scene.camera.to(system.device))
    front, behind = (x.permute(1, 2, 0).cpu().numpy() for x in (color, 1 - alpha))
    return front + behind * scene.background


@torch.no_grad()
def scores(run: str, count: int, baked: str | None) -> list[dict[str, float]]:
    """Foreground PSNR of each way to draw under each light, dB; its own light comes first.

    Args:
        run: Run folder of an avatar with a light.
        count: Number of unseen lights.
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
    clip, found = scene.test_clip(), []
    for light in (scene.light, *unseen_lights(count)):
        harmonics = sun_and_sky(light.direction, light.sun, LEVEL * light.sky, UP)
        errors: dict[str, list[float]] = {"lit": [], "unlit": []} | ({"baked": []} if other else {})
        for row, surface in enumerate(scene.vertices(clip)):
            shot = scene.shoot(surface, light=light)
            truth = shot.image + (1 - shot.coverage[..., None]) * scene.background
            for name, values in errors.items():
                own.coefficients.copy_(harmonics if name == "lit" else kept)
                image = drawn(other if other and name == "baked" else system, clip[row], scene)
                wrong = np.square(image - truth)[shot.mask].mean()
                values.append(float(-10 * np.log10(wrong)))
        found.append({name: float(np.mean(values)) for name, values in errors.items()})
    return found


def kept_scores(run: str, count: int, baked: str | None) -> list[dict[str, float]]:
    """``scores``, read from the run's folder where those of the same checkpoints are there."""
    file = Path(run) / "relight.json"
    digests = [None if path is None else checkpoint_digest(path) for path in (run, baked)]
    asked = {"version": VERSION, "lights": count, "checkpoints": digests}
    if file.is_file():
        kept = read_json(file)
        if kept["of"] == asked:
            return kept["psnr"]
    found = scores(run, count, baked)
    write_json(file, {"of": asked, "psnr": found})
    return found


def checkpoint_digest(run: str) -> str:
    """Hash of a run's checkpoint."""
    with checkpoint_file(Path(run)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(runs: Sequence[str], count: int = 4, baked: Sequence[str] = ()) -> None:
    """Prints a row for each run, and their mean.

    Args:
        runs: Run folders of avatars with a light.
        count: Number of unseen lights.
        baked: A run without for each of them, of the same subject; none leaves the column out.

    Raises:
        UserError: no unseen light, or another number of runs without a light; see ``scores``.
    """
    if count < 1:
        raise UserError(f"--lights {count}: give 1 or more")
    if baked and len(baked) != len(runs):
        raise UserError(f"--baked: {len(baked)} runs for {len(runs)}; name one for each")
    pairs = zip(runs, baked or [None] * len(runs), strict=True)
    found = [kept_scores(run, count, other) for run, other in track(list(pairs), "relighting")]
    ways = list(found[0][0])
    rows = [
        [lights[0]["unlit"], *([lights[0]["baked"]] if baked else [])]
        + [float(np.mean([light[way] for light in lights[1:]])) for way in ways]
        for lights in found
    ]
    table = Table(Column("run", overflow="fold"), "own light", *(["baked"] if baked else []),
                  *(f"unseen, {way}" for way in ways), "gain",
                  title=f"foreground PSNR, dB; {count} unseen lights")  # fmt: skip
    for name, row in zip([*runs, "mean"], [*rows, np.mean(rows, 0).tolist()], strict=True):
        gain = row[-len(ways)] - row[-1]
        table.add_row(name, *(f"{x:.2f}" for x in row), f"{gain:+.2f}")
    Console(width=120).print(table)


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
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of train.py")
    parser.add_argument("--lights", type=int, default=4)
    parser.add_argument("--baked", nargs="+", default=[], metavar="RUN",
                        help="of the same subjects with avatar.light=baked")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    one_line_errors(main)(given.runs, given.lights, given.baked)
