"""Published networks for parts, mattes, normals and depth, in this project's conventions.

Sapiens2 through transformers, Marigold (arXiv 2312.02145) through diffusers; needs the `diffusion`
extra. A folder's own files say which network it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from jaxtyping import Float, Float32, Shaped, UInt8
from numpy import ndarray
from torch import nn

from persona.errors import UserError, first_line
from persona.modules.device import pick_device
from persona.modules.diffusion.networks.base_models import read_config
from persona.modules.strict_state import whole_network

Estimator = Callable[[UInt8[ndarray, "h w 3"]], Shaped[ndarray, "h w *c"]]
Reader = Callable[[Any, Any, tuple[int, int]], ndarray]
Loader = Callable[[Path, str], Estimator]
_SAPIENS_CLASSES = 29
_EYEGLASS = 2
"""Number of the class that Sapiens2 has beyond the palette; it is merged into the face before
it."""
_LIBRARIES = MappingProxyType({"diffusers": diffusers, "transformers": transformers})


class Sapiens2:
    """One of Sapiens2's networks and what makes a map of its output.

    Args:
        network: A network from transformers.
        processor: Scales pictures as it was trained, and its output back.
        read: From the processor, the network's output and the picture's height and width.
        pad: Whether pictures keep their shape: slopes and distances depend on it.
    """

    def __init__(self, network: nn.Module, processor: Any, read: Reader, *, pad: bool):
        self.network, self.processor = network.float(), processor
        self.read, self.pad = read, pad

    @torch.no_grad()
    def __call__(self, image: UInt8[ndarray, "h w 3"]) -> Shaped[ndarray, "h w *c"]:
        """The map, as large as the picture."""
        device = pick_device()
        self.network.to(device)
        given = self.processor(images=image, return_tensors="pt", do_pad=self.pad)
        out = self.network(given["pixel_values"].to(device))
        return self.read(self.processor, out, image.shape[:2])


class Marigold:
    """A Marigold pipeline.

    Args:
        pipeline: A pipeline from diffusers.
        seed: Seed of the noise that it starts from.
    """

    def __init__(self, pipeline: Any, seed: int = 0):
        self.pipeline, self.seed = pipeline, seed
        pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def __call__(self, image: UInt8[ndarray, "h w 3"]) -> Float[ndarray, "h w c"]:
        """Channels at the picture's own size."""
        self.pipeline.to(pick_device())
        generator = torch.Generator().manual_seed(self.seed)
        made = self.pipeline(image.astype(np.float32) / 255, generator=generator)
        return made.prediction[0]


def _alpha(processor: Any, out: Any, size: tuple[int, int]) -> Float32[ndarray, "h w"]:
    alpha = processor.post_process_image_matting(out, target_sizes=[size])[0]["alpha"]
    return alpha[0].float().cpu().numpy().clip(0, 1)


def _parts(processor: Any, out: Any, size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
    if (classes := out.logits.shape[1]) != _SAPIENS_CLASSES:
        raise UserError(
            f"annotator.parts: {classes} classes, expected {_SAPIENS_CLASSES}; take Sapiens2's"
            " weights for parts"
        )
    best = processor.post_process_semantic_segmentation(out, target_sizes=[size])[0].cpu().numpy()
    return (best - (best > _EYEGLASS)).astype(np.uint8)


def _normal(processor: Any, out: Any, size: tuple[int, int]) -> Float32[ndarray, "h w 3"]:
    normal = processor.post_process_normal_estimation(out, source_sizes=[size])[0]["normals"]
    return _unit(normal.float().movedim(0, -1).cpu().numpy())


def _distance(processor: Any, out: Any, size: tuple[int, int]) -> Float32[ndarray, "h w"]:
    points = processor.post_process_pointmap_estimation(out, source_sizes=[size])[0]["pointmap"]
    # The third coordinate of a point is its distance along the camera's axis.
    return points[2].float().cpu().numpy()


def _unit(normal: Float[ndarray, "h w 3"]) -> Float32[ndarray, "h w 3"]:
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return (normal / length.clip(1e-6)).astype(np.float32)


def _sapiens(read: Reader, *, pad: bool = False) -> Loader:
    def load(folder: Path, kind: str) -> Estimator:
        network = whole_network(getattr(transformers, kind), folder)
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder} cannot be read ({first_line(error)}): fetch it again"
            ) from error
        return Sapiens2(network, processor, read, pad=pad)

    return load


def _marigold(finish: Callable[[ndarray], ndarray]) -> Loader:
    def load(folder: Path, kind: str) -> Estimator:
        parts = {
            name: whole_network(getattr(_LIBRARIES[value[0]], value[1]), folder / name)
            for name, value in read_config(folder / "model_index.json").items()
            if name in ("unet", "vae", "text_encoder")
        }
        try:
            pipeline = getattr(diffusers, kind).from_pretrained(
                folder, local_files_only=True, **parts
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder} cannot be read ({first_line(error)}): fetch it again"
            ) from error
        estimate = Marigold(pipeline)
        return lambda image: finish(estimate(image))

    return load


def _depth(values: Float[ndarray, "h w 1"]) -> Float32[ndarray, "h w"]:
    return values[..., 0].astype(np.float32)


ESTIMATORS: Mapping[str, Mapping[str, Loader]] = MappingProxyType({
    "alpha": {"Sapiens2ForImageMatting": _sapiens(_alpha)},
    "parts": {"Sapiens2ForSemanticSegmentation": _sapiens(_parts)},
    "normal": {
        "Sapiens2ForNormalEstimation": _sapiens(_normal, pad=True),
        "MarigoldNormalsPipeline": _marigold(_unit),
    },
    "depth": {
        "Sapiens2ForPointmapEstimation": _sapiens(_distance, pad=True),
        "MarigoldDepthPipeline": _marigold(_depth),
    },
})  # fmt: skip
"""For each map, the loaders of the classes of networks that give it."""


def load_estimator(name: str, folder: str | Path) -> Estimator:
    """The network in a folder, for one map.

    Args:
        name: Name of the map.
        folder: With `config.json` (transformers) or `model_index.json` (diffusers).

    Raises:
        UserError: No such folder, a class that gives no such map, or files of another version.
    """
    place = Path(folder)
    known = ESTIMATORS[name]
    wanted = " or ".join(sorted(known))
    for file, key in (("model_index.json", "_class_name"), ("config.json", "architectures")):
        if (place / file).is_file():
            found = read_config(place / file).get(key)
            kind = str(found[0] if isinstance(found, list) and found else found)
            if kind not in known:
                raise UserError(f"annotator.{name}={place} holds {kind}: take {wanted}")
            return known[kind](place, kind)
    lacks = "holds neither config.json nor model_index.json" if place.is_dir() else "is no folder"
    raise UserError(
        f"annotator.{name}={place} {lacks}: give the folder of {wanted}, which you get under its "
        "own licence"
    )
