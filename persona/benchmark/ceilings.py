"""Upper limits of an avatar's score: the true test frames with one thing made worse.

``python -m persona.benchmark.ceilings FILE`` renders those of the synthetic subject in FILE.
Nothing is trained: each ceiling is the score when everything else is perfect.
"""

import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hydra.utils import get_class, instantiate
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from persona.benchmark.predictions import write_prediction
from persona.benchmark.untrained import UNTRAINED, render_untrained
from persona.data.layout import TEST
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.photographed import PhotographedSubject
from persona.data.synthetic.scene import CLIPS, ClipScene
from persona.data.synthetic.studio import Light
from persona.data.synthetic.subject import SyntheticSubject
from persona.errors import UserError
from persona.modules.avatar.light import GAMMA
from persona.modules.avatar.spherical_harmonics import sh_basis
from persona.modules.body.topology import vertex_normals
from persona.runtime.apart import environment, run_apart
from persona.runtime.options import settings_digest

VERSION = 1
"""Increased when the same ceilings of a subject give other frames."""
CLIP_STEP = 4
"""Every so many frames of the clips, the light on the surface is sampled."""
DRIFT = 0.55
"""Mean identity drift of a mediocre video model, as a share of the way to another person."""


class Truth:
    """The true properties of a synthetic person that an avatar would have to learn.

    Args:
        scene: Scene of the person.
    """

    def __init__(self, scene: ClipScene) -> None:
        self.scene, self.person = scene, scene.person

    def lit(self, vertices: Float[Tensor, "p 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Posed vertices, their normals and the light that falls on each."""
        normals = vertex_normals(vertices, self.person.surface.faces)
        shade = self.scene.studio.shade(vertices, vertices, normals, self.scene.light)
        return vertices, normals, shade

    @cached_property
    def _seen(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per frame of the clips: normals, light, and which vertices face the camera."""
        found = []
        for split in CLIPS:
            surfaces = self.scene.vertices(self.scene.clip(split))
            for surface in islice(surfaces, 0, None, CLIP_STEP):
                vertices, normals, shade = self.lit(surface)
                found.append((normals, shade, (normals * vertices).sum(1) < 0))
        return found

    @cached_property
    def baked(self) -> Float[Tensor, "p"]:
        """Mean light of each vertex over the clips, where it is seen, as one colour can hold it."""
        shades, seen = (torch.stack([frame[i] for frame in self._seen]) for i in (1, 2))
        seen = torch.where(seen.any(0), seen, True)
        return ((shades ** (1 / GAMMA) * seen).sum(0) / seen.sum(0)) ** GAMMA

    @cached_property
    def harmonics(self) -> Float[Tensor, "9"]:
        """The nine numbers that come nearest to the light in the clips."""
        normals, shades, seen = (torch.cat([frame[i] for frame in self._seen]) for i in range(3))
        basis = sh_basis(normals[seen])
        return torch.linalg.lstsq(basis, shades[seen, None]).solution[:, 0]

    def light(self, kind: str, vertices: Float[Tensor, "p 3"]) -> Light | Float[Tensor, "p"]:
        """Light of a ceiling: ``true``, ``baked`` into the colours, or ``sh``."""
        if kind == "true":
            return self.scene.light
        if kind == "baked":
            return self.baked
        normals = vertex_normals(vertices, self.person.surface.faces)
        return (sh_basis(normals) @ self.harmonics).clamp(min=0)


Settings = Mapping[str, str | bool | float]
CEILINGS: Mapping[str, Settings] = {
    "all true": {},
    "cloth without its swing": {"swing": False},
    "cloth that only skins": {"dynamic": False},
    "light baked into colours": {"light": "baked"},
    "light by nine harmonics": {"light": "sh"},
    "colours as drifted": {"drift": DRIFT},
    "only skins, light baked": {"dynamic": False, "light": "baked"},
    "only skins, nine harmonics": {"dynamic": False, "light": "sh"},
}
"""By name: whether cloth moves apart from its bones, or lags behind, the kind of light, and the
colours' drift."""


def ceilings_of(config: SyntheticConfig | DictConfig) -> Mapping[str, Settings]:
    """The ceilings of a subject: one without swing only where something swings."""
    return {name: own for name, own in CEILINGS.items() if config.swing or own.get("swing", True)}


@torch.no_grad()
def render_ceilings(scene: ClipScene, folder: Path) -> None:
    """Writes every test frame of every ceiling as predictions: ``folder/NAME/N.png``."""
    truth, poses, person = Truth(scene), scene.test_clip(), scene.person
    for name, settings in ceilings_of(scene.config).items():
        share = float(settings.get("drift", 0)) * scene.config.drift
        look = person.look.blend(person.drifted_look, share) if share else person.look
        surfaces = scene.vertices(poses)
        dynamic, swings = (bool(settings.get(key, True)) for key in ("dynamic", "swing"))
        if not (dynamic and swings):
            surfaces = (person.pose(poses[i], dynamic).vertices for i in range(len(poses.root)))
        for row, vertices in enumerate(surfaces):
            light = truth.light(str(settings.get("light", "true")), vertices)
            shot = scene.shoot(vertices, light=light, look=look)
            # Inside the mask soft edges have the backdrop behind them, as the truth's have.
            behind = np.where(shot.mask[..., None], scene.background, 1)
            image = shot.image + (1 - shot.coverage[..., None]) * behind
            layers = [
                torch.from_numpy(x).permute(2, 0, 1) for x in (image, shot.coverage[..., None])
            ]
            write_prediction(folder / name, f"{TEST}/{row}", *layers)


def ceilings_for(data: DictConfig) -> Mapping[str, Settings | bool]:
    """The ceilings of a subject of either kind, by name, from the settings of its data."""
    photographed = issubclass(get_class(data.source._target_), PhotographedSubject)
    return UNTRAINED if photographed else ceilings_of(data.source.config)


def ceilings_digest(data: DictConfig) -> str:
    """Hash of which ceilings a subject has and how they are rendered."""
    return settings_digest([VERSION, ceilings_for(data)])


def prepare_ceilings(jobs: Mapping[Path, DictConfig], processes: int) -> None:
    """Renders the ceilings of several subjects, those that are there left alone.

    Args:
        jobs: Settings of a subject's data, by the folder that its ceilings go to.
        processes: At a time; 0 renders in this one.

    Raises:
        UserError: one could not be rendered.
    """
    absent = {folder: data for folder, data in jobs.items() if not folder.is_dir()}
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(max(processes, 1)) as pool:

        def made(slot: int, folder: Path, data: DictConfig) -> str:
            file = Path(scratch) / f"{slot}.yaml"
            source = OmegaConf.to_container(data.source, resolve=True)
            settings = {"folder": str(folder), "source": source, "root": str(data.root)}
            OmegaConf.save(settings, file)
            if not processes:
                main(file)
                return ""
            variables = environment(slot % processes, processes)
            return run_apart(__name__, file, file.with_suffix(".txt"), variables)

        errors = list(pool.map(made, range(len(absent)), absent, absent.values()))
    for folder, error in zip(absent, errors, strict=True):
        if error:
            raise UserError(f"{folder}: its ceilings could not be rendered: {error}")


def main(file: Path) -> None:
    """Renders the ceilings of one subject, whole or not at all."""
    settings = OmegaConf.load(file)
    source, folder = instantiate(settings.source), Path(settings.folder)
    if not isinstance(source, SyntheticSubject | PhotographedSubject):
        raise UserError("ceilings are known of synthetic subjects alone: use suite=synthetic")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    if isinstance(source, PhotographedSubject):
        render_untrained(source, Path(settings.root), unfinished)
    else:
        config = source.config
        person = Person(source.body, config.seed, config.outfit, config.shape)
        render_ceilings(ClipScene(person, config), unfinished)
    unfinished.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
