"""Edits of a trained head, and the pictures between two of them."""

from __future__ import annotations

from pathlib import Path

import torch
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from persona.commands.edit_sheet import SHEET_FILE, edit_sheet
from persona.commands.editable import EditableHead
from persona.commands.experiment import load_config, load_system
from persona.commands.pictures import labelled, to_uint8
from persona.data.io import write_json, write_png
from persona.data.numbers import number, whole_number
from persona.errors import UserError
from persona.modules.device import pick_device
from persona.modules.head.attributes import SOURCE
from persona.modules.losses.perceptual import Perceptual, missing_weights
from persona.modules.metrics.interpolation import smoothness

SMOOTHNESS_FILE = "smoothness.json"
FEWEST = 3
"""Fewest pictures whose distances have a variance."""


def edit(config: DictConfig, folder: Path) -> Path:
    """A sheet of edits at several strengths, or of several attributes edited at once.

    Returns:
        The picture's path.

    Raises:
        UserError: A bad option, run folder or name.
    """
    strengths = [number("strengths", s, low=0, high=1) for s in config.strengths]
    if not strengths:
        raise UserError("strengths=[]: give shares of an edit, from 0 to 1")
    head = load_head(config)
    path = folder / SHEET_FILE
    if config.mix:
        chosen = {c: head.named(c, str(words)) for c, words in config.mix.items()}
        images = head.mixed(chosen, strengths)
        sheet = labelled(
            to_uint8(torch.cat([*images], -1)), [" + ".join(chosen)], [f"{s:g}" for s in strengths]
        )
    else:
        asked = head.edits if config.edits is None else tuple(map(str, config.edits))
        names = [name for name in asked if head.number(name) >= 0 and name in head.edits]
        if not names:
            raise UserError("edits: the person as photographed is no edit; name others")
        sheet = edit_sheet(head, names, strengths)
    write_png(path, sheet)
    return path


def interpolate(config: DictConfig, folder: Path) -> dict[str, float]:
    """Pictures between two edits of one attribute, and how smoothly they change.

    Returns:
        What was written to smoothness.json: path length and variance, where LPIPS has weights.

    Raises:
        UserError: A bad option, run folder or name, or edits of different attributes.
    """
    count = whole_number("num_images", config.num_images, low=FEWEST)
    head = load_head(config)
    with torch.no_grad():
        start, end = head.code(config.start), head.code(config.end)
        category, other = head.category(config.start), head.category(config.end)
        if category == SOURCE and other != SOURCE:
            category, start = other, head.present(other)
        if category != other or category == SOURCE:
            raise UserError(
                f"start={config.start} edits {category}, end={config.end} edits {other}: "
                "give two edits of one attribute, or the person as photographed and one"
            )
        images = head.between(category, start, end, torch.linspace(0, 1, count).tolist())
    for place, image in enumerate(images):
        write_png(folder / f"{place}.png", to_uint8(image))
    return measured(images, config.lpips_net, folder / SMOOTHNESS_FILE)


def load_head(config: DictConfig) -> EditableHead:
    """The head of ``config.run`` in the pose of the frame ``config.frame``.

    Raises:
        UserError: A bad run folder or frame, or its avatar has no edits.
    """
    row, run = whole_number("frame", config.frame, low=0), Path(config.run)
    system = load_system(run, pick_device(config.device))
    data = instantiate(load_config(run).data)
    data.prepare_data()
    return EditableHead(system, data.train_frames, row)


def measured(images: Float[Tensor, "n 3 h w"], net: str, path: Path) -> dict[str, float]:
    """Path length and variance of pictures in [0, 1], written to a file."""
    if message := missing_weights(net):
        print(f"smoothness is left out: {message}")
        return {}
    found = smoothness(images.cpu(), Perceptual(net, half=False))
    values = {"ppl": found.ppl, "100pdv": found.pdv}
    write_json(path, values)
    return values
