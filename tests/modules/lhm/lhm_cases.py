"""Reads results of LHM's public code, at tiny sizes and with random weights."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from persona.modules.strict_state import load_strictly


@dataclass
class Case:
    about: dict
    weights: dict[str, Tensor]
    given: dict[str, Tensor]
    wanted: dict[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Weights of a part, without their prefix."""
        return {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}


def read_case(folder: Path, name: str) -> Case:
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "in": {}, "out": {}}
    for key, value in load_file(folder / f"{name}.safetensors").items():
        kind, inner = key.split("/", 1)
        parts[kind][inner] = value
    about = json.loads((folder / f"{name}.json").read_text())
    return Case(about, parts["weights"], parts["in"], parts["out"])


def published_shapes(folder: Path, name: str) -> dict[str, list[int]]:
    keys = json.loads(gzip.decompress((folder / f"keys_{name}.json.gz").read_bytes()))["keys"]
    return {key: value[0] for key, value in keys.items()}


def loaded(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    load_strictly(network, weights, "fixture")
    return network.eval()


def assert_close(ours: Tensor, theirs: Tensor, bound: float = 1e-5) -> None:
    """Asserts that the largest difference, relative to the largest value, is in the bound."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound * theirs.abs().max()
