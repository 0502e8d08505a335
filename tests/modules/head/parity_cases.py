"""Fixtures with results of the public heads, and how our parts take their weights."""

import gzip
import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from persona.modules.body.rotation import matrix_from_axis_angle


@dataclass
class Case:
    """A description of the run, its weights, inputs and outputs."""

    about: dict
    weights: dict[str, Tensor]
    given: dict[str, Tensor]
    wanted: dict[str, Tensor]

    @property
    def rotations(self):
        return matrix_from_axis_angle(self.given["flame_pose"][0].view(-1, 3))

    def part(self, prefix):
        """Weights of one network, without their prefix."""
        return {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}


def folder_of(shared_data):
    folder = shared_data / "parity"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data at {folder}")
    return folder


def read_case(shared_data, name):
    path = folder_of(shared_data) / name
    parts = {"weights": {}, "in": {}, "out": {}}
    for key, value in load_file(path.with_suffix(".safetensors")).items():
        kind, label = key.split("/", 1)
        parts[kind][label] = value
    return Case(json.loads(path.with_suffix(".json").read_text()), *parts.values())


def read_schedule(shared_data, name):
    return json.loads((folder_of(shared_data) / name / "schedule.json").read_text())


def published_keys(shared_data, name):
    path = folder_of(shared_data) / f"{name}.json.gz"
    return {k: v[0] for k, v in json.loads(gzip.decompress(path.read_bytes()))["keys"].items()}


def assert_close(ours, theirs, bound):
    """Asserts that the largest difference, relative to the largest value, is in the bound."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound * theirs.abs().max(), float(
        (ours - theirs).abs().max() / theirs.abs().max()
    )


NETWORK, WARP, NORMAL = 1e-5, 2e-4, 1e-3


def in_one_frame(avatar, case, who):
    """The avatar posed as the public code does: without the root's turn and translation."""
    betas = case.given["shape"][0] if len(who.betas) else who.betas
    posed = avatar.template.pose(case.rotations, case.given["expression"][0], betas)
    return avatar.in_pose(posed, who, torch.eye(3), torch.zeros(3))
