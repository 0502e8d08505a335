"""Edits of a trained head, and the pictures between two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from persona.commands.experiment import load_config, load_system
from persona.commands.report import labelled, to_uint8
from persona.data.edit_name import SOURCE, read_edit_name
from persona.data.io import write_json, write_png
from persona.errors import UserError
from persona.modules.device import pick_device
from persona.modules.head.avatar import HeadAvatar
from persona.modules.losses.perceptual import Perceptual, missing_weights
from persona.modules.metrics.interpolation import smoothness
from persona.types import Camera, Pose, View

SHEET_FILE = "edits.png"
SMOOTHNESS_FILE = "smoothness.json"


class EditableHead:
    """A trained head, its edits by name, and a pose to see them in.

    Args:
        run: Folder of the run.
        row: Training frame whose pose and camera are used.
        device: Where to draw.

    Raises:
        UserError: The run's avatar has no edits, or no such frame.
    """

    def __init__(self, run: Path, row: int, device: torch.device) -> None:
        self.run, self.system = run, load_system(run, device)
        if not isinstance(self.avatar, HeadAvatar) or self.avatar.edits.slots is None:
            raise UserError(f"run={run}: its avatar has no edits; train system=perse or pegasus")
        data = instantiate(load_config(run).data)
        frames = data.train_frames
        if not 0 <= row < len(frames):
            raise UserError(f"frame={row}: the run has frames 0 to {len(frames) - 1}")
        self.camera: Camera = frames[[row]].camera[0].local().to(device)
        self.pose: Pose = self.system.table(torch.tensor(row, device=device))

    @property
    def avatar(self) -> HeadAvatar:
        """Of the run."""
        return self.system.avatar

    @property
    def names(self) -> tuple[str, ...]:
        """Of the edits, in the order of their numbers."""
        return self.system.method.people

    def number(self, name: str) -> int:
        """Of an edit, by its folder's name.

        Raises:
            UserError: The run has none of this name.
        """
        if name not in self.names:
            have = ", ".join(self.names)
            raise UserError(f"{name} is no edit of {self.run}: choose of {have}")
        return self.names.index(name)

    def code(self, name: str) -> tuple[str, Float[Tensor, "c"]]:
        """An edit's attribute and its code."""
        number = torch.tensor(self.number(name), device=self.camera.focal_px.device)
        return read_edit_name(name).category, self.avatar.edits(number).code

    def present(self, category: str) -> Float[Tensor, "c"]:
        """Code of an attribute of the person as photographed."""
        slots = self.avatar.edits.slots
        number = slots.number(category)
        return slots.codes[number]

    @torch.no_grad()
    def draw(self, latent: Float[Tensor, "l"]) -> Float[Tensor, "3 h w"]:
        """The person with a latent, on white, [0, 1]."""
        color, alpha = self.system.render(self.pose, self.camera, view=View(latent=latent))
        return (color + 1 - alpha).clamp(0, 1)

    @torch.no_grad()
    def between(
        self, category: str, start: Tensor, end: Tensor, shares: Float[Tensor, "n"]
    ) -> Float[Tensor, "n 3 h w"]:
        """Pictures with an attribute's code between two; ``shares`` of the second, [0, 1]."""
        edits = self.avatar.edits
        codes = [torch.lerp(start, end, share) for share in shares]
        return torch.stack([self.draw(edits.mixed({category: code}).latent) for code in codes])


def edit(config: DictConfig, folder: Path) -> Path:
    """A sheet of edits at several strengths, a row an edit. Returns the picture's path.

    Raises:
        UserError: A bad option, run folder or name.
    """
    with torch.no_grad():
        head = EditableHead(Path(config.run), config.frame, pick_device(config.device))
        shares = torch.tensor([float(s) for s in config.strengths])
        asked = head.names if config.edits is None else tuple(config.edits)
        rows, names = [], []
        for name in asked:
            category, code = head.code(name)
            if category == SOURCE:
                continue
            images = head.between(category, head.present(category), code, shares)
            rows.append(np.hstack([to_uint8(image) for image in images]))
            names.append(name)
    if not rows:
        raise UserError("edits: the person as photographed is no edit; name others")
    columns = [f"{float(share):g}" for share in shares]
    path = folder / SHEET_FILE
    write_png(path, labelled(np.vstack(rows), names, columns))
    return path


def interpolate(config: DictConfig, folder: Path) -> dict[str, float]:
    """Pictures between two edits of one attribute, and how smoothly they change.

    Returns:
        What was written to smoothness.json: path length and variance, where LPIPS has weights.

    Raises:
        UserError: A bad option, run folder or name, or edits of different attributes.
    """
    with torch.no_grad():
        head = EditableHead(Path(config.run), config.frame, pick_device(config.device))
        (category, start), (other, end) = head.code(config.start), head.code(config.end)
        if category == SOURCE and other != SOURCE:
            category, start = other, head.present(other)
        if category != other or category == SOURCE:
            raise UserError(
                f"start={config.start} edits {category}, end={config.end} edits {other}: "
                "give two edits of one attribute, or the person as photographed and one"
            )
        images = head.between(category, start, end, torch.linspace(0, 1, config.num_images))
    for number, image in enumerate(images):
        write_png(folder / f"{number}.png", to_uint8(image))
    return measured(images, config.lpips_net, folder / SMOOTHNESS_FILE)


def measured(images: Float[Tensor, "n 3 h w"], net: str, path: Path) -> dict[str, float]:
    """Path length and variance of pictures in [0, 1], written to a file."""
    if message := missing_weights(net):
        print(f"smoothness is left out: {message}")
        return {}
    found = smoothness(images.cpu(), Perceptual(net, half=False))
    values = {"ppl": found.ppl, "100pdv": found.pdv}
    write_json(path, values)
    return values
