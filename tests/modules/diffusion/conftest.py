"""Fixtures with results of the public code, at tiny sizes and with random weights."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass
class Fixture:
    """A description of the run, its weights, inputs and outputs; numbers are float32."""

    about: dict
    weights: dict[str, Tensor]
    given: dict[str, Tensor]
    wanted: dict[str, Tensor]


@pytest.fixture(scope="session")
def parity(shared_data):
    """A function that reads a fixture by its name."""
    folder = shared_data / "parity"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data at {folder}")
    return lambda name: read_fixture(folder / name)


@pytest.fixture(scope="session")
def published_shapes(shared_data):
    """A function from a published weights file to the shape of each key."""
    folder = shared_data / "parity" / "generator_keys"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data at {folder}")
    return lambda name: json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes()))[
        "keys"
    ]


def read_fixture(path: Path) -> Fixture:
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "in": {}, "out": {}}
    for key, value in load_file(path.with_suffix(".safetensors")).items():
        kind, name = key.split("/", 1)
        parts[kind][name] = value.float() if value.is_floating_point() else value
    about = json.loads(path.with_suffix(".json").read_text())
    return Fixture(about, parts["weights"], parts["in"], parts["out"])


def shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in network.state_dict().items()}


def assert_agree(ours: Tensor, theirs: Tensor, bound: float = 1e-5) -> None:
    """Asserts that the largest difference, relative to the largest value, is in the bound."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound * theirs.abs().max()
