"""Loads weights into networks strictly: both must have exactly the same keys."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from persona.errors import UserError, first_line

State = Mapping[str, Tensor]


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads a state dict from safetensors, or from a pickle that has only tensors, on the CPU."""
    if not path.is_file():
        raise UserError(f"no weights at {path}: `python scripts/weights.py list` says which to get")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Map the file, so that checking names and shapes does not read gigabytes. Old files are no
        # zip archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a whole weights file ({reason}): fetch it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds more than tensors by name: fetch the published weights")
    return dict(state)


def load_strictly(network: nn.Module, state: State, source: str) -> None:
    """Copies weights into a network, or assigns them if the network is on the meta device.

    Args:
        network: Keeps its own precision; on the meta device it takes that of the weights.
        state: The weights; keys and shapes must be exactly the network's.
        source: Where the weights come from, for the message.
    """
    own = network.state_dict()
    for key in own:
        if key not in state:
            raise UserError(f"{source}: {key} is missing; these are another version's weights")
    for key, value in state.items():
        if key not in own:
            raise UserError(f"{source}: {key} has no place; these are another version's weights")
        if value.shape != own[key].shape:
            raise UserError(
                f"{source}: {key} is {list(value.shape)}, expected {list(own[key].shape)};"
                " these are another version's weights"
            )
    network.load_state_dict(state, assign=any(value.is_meta for value in own.values()))


def split_prefixes(state: State, prefixes: tuple[str, ...], source: str) -> list[dict[str, Tensor]]:
    """Splits weights into one dict per prefix, which is removed; each key must have a prefix.

    Args:
        state: Weights of several networks.
        prefixes: The prefixes, each with its dot.
        source: Where the weights come from, for the message.
    """
    parts: list[dict[str, Tensor]] = [{} for _ in prefixes]
    for key, value in state.items():
        for prefix, part in zip(prefixes, parts, strict=True):
            if key.startswith(prefix):
                part[key.removeprefix(prefix)] = value
                break
        else:
            raise UserError(
                f"{source}: {key} begins with none of {', '.join(prefixes)}; these are another"
                " version's weights"
            )
    return parts


def whole_network(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Reads a network of diffusers or transformers from its folder.

    Args:
        kind: Class of the network; it maps older names of keys itself.
        folder: Folder with `config.json` and weights; their keys must be exactly the network's.
        dtype: Precision of the network.
    """
    try:
        network, found = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, torch_dtype=dtype
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read ({first_line(error)}): fetch it again") from error
    for what, said in (
        ("missing_keys", "is missing"),
        ("unexpected_keys", "has no place"),
        ("mismatched_keys", "has another shape"),
    ):
        if found[what]:
            key = sorted(map(str, found[what]))[0]
            raise UserError(f"{folder}: {key} {said}; these are another version's weights")
    return network.eval().requires_grad_(False)
