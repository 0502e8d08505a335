"""Biovision Hierarchy (BVH) motion files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.io import text_of
from persona.data.motion.rate import rate_of_step
from persona.data.motion.skeleton import SkeletonClip, forward_kinematics
from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle

_REMEDY = "export it again as BVH"
_MOTION = re.compile(r"(?:^|(?<=\}))[^\S\n]*MOTION(?=\s|$)", re.MULTILINE)
"""The section's line: joints may have the word in their names."""
_COMMA = re.compile(r"(?<![^\s])([+-]?\d+),(\d+(?:[eE][+-]?\d+)?)(?![^\s])")
"""A number with a decimal comma, as some languages write it."""


@dataclass
class _Hierarchy:
    """The HIERARCHY section. End sites are joints without channels."""

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[list[float]] = field(default_factory=list)
    channels: list[list[str]] = field(default_factory=list)

    def add(self, name: str, parent: int) -> int:
        """Appends a joint and returns its index."""
        self.names.append(name)
        self.parents.append(parent)
        self.offsets.append([0.0, 0.0, 0.0])
        self.channels.append([])
        return len(self.names) - 1


def read_bvh(path: Path) -> SkeletonClip:
    """Reads a BVH file: any channel order, several roots refused.

    Raises:
        UserError: The file is not BVH, has no frames, ends within a frame, or holds a number
            that is not finite.
    """
    text = text_of(path.read_bytes(), errors="replace")
    text = _COMMA.sub(r"\1.\2", text)
    head, *body = _MOTION.split(text, maxsplit=1)
    if not head.lstrip().startswith("HIERARCHY") or not body:
        raise UserError(f"{path}: not a BVH file (no HIERARCHY and MOTION sections); {_REMEDY}")
    hierarchy = _parse_hierarchy(path, head.split()[1:])
    values, fps = _parse_motion(path, body[0], sum(map(len, hierarchy.channels)))
    offsets, local = _joint_motion(hierarchy, values)
    rotations, positions = forward_kinematics(tuple(hierarchy.parents), offsets, local)
    return SkeletonClip(
        names=tuple(hierarchy.names),
        parents=tuple(hierarchy.parents),
        offsets=torch.tensor(hierarchy.offsets, dtype=torch.float64),
        rotations=rotations,
        positions=positions,
        fps=fps,
        source=str(path),
    )


def _parse_hierarchy(path: Path, tokens: list[str]) -> _Hierarchy:
    """Parses the tokens between HIERARCHY and MOTION."""
    hierarchy, current, at = _Hierarchy(), -1, 0
    stack: list[int] = []
    try:
        while at < len(tokens):
            word = tokens[at].upper()
            if word in ("ROOT", "JOINT", "END", "ENDSITE"):
                stop = tokens.index("{", at)
                name = " ".join(tokens[at + 1 : stop])
                if word.startswith("END"):
                    name = f"{hierarchy.names[stack[-1]]}_end"
                current = hierarchy.add(name, stack[-1] if stack else -1)
                stack.append(current)
                at = stop + 1
            elif word == "OFFSET":
                hierarchy.offsets[current] = [float(x) for x in tokens[at + 1 : at + 4]]
                at += 4
            elif word == "CHANNELS":
                count = int(tokens[at + 1])
                hierarchy.channels[current] = _channels(tokens[at + 2 : at + 2 + count])
                at += 2 + count
            elif word == "}":
                stack.pop()
                at += 1
            else:
                raise ValueError(word)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: its joint hierarchy cannot be read; {_REMEDY}") from error
    if stack or hierarchy.parents.count(-1) != 1:
        raise UserError(f"{path}: its hierarchy is cut short or has several roots; {_REMEDY}")
    return hierarchy


def _channels(words: list[str]) -> list[str]:
    """Lower-case channel names, checked."""
    channels = [word.lower() for word in words]
    if bad := [c for c in channels if c[:1] not in "xyz" or c[1:] not in ("position", "rotation")]:
        raise ValueError(bad[0])
    return channels


def _parse_motion(path: Path, body: str, width: int) -> tuple[Float[np.ndarray, "t c"], float]:
    """Parses "Frames: n  Frame Time: s  numbers"."""
    words = body.split(maxsplit=5)
    try:
        frames, seconds = int(words[1]), words[4]
        values = np.array(words[5].split() if len(words) > 5 else [], dtype=np.float64)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: its MOTION section cannot be read; {_REMEDY}") from error
    if frames < 1 or width == 0:
        raise UserError(f"{path}: holds no frames; {_REMEDY}")
    if values.size != frames * width:
        raise UserError(
            f"{path}: promises {frames} frames of {width} numbers but ends in frame "
            f"{values.size // width + 1}; copy or export it again"
            if values.size < frames * width
            else f"{path}: holds more numbers than its {frames} frames of {width}; {_REMEDY}"
        )
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0]) // width
        raise UserError(f"{path}: frame {row + 1} holds NaN or infinity; clean and export it again")
    return values.reshape(frames, width), rate_of_step(f"{path}: Frame Time", seconds)


def _joint_motion(
    hierarchy: _Hierarchy, values: Float[np.ndarray, "t c"]
) -> tuple[Float[Tensor, "t j 3"], Float[Tensor, "t j 3 3"]]:
    """Per-frame offsets and local rotations: channels apply from left (outer) to right."""
    table = torch.from_numpy(values)
    offsets = torch.tensor(hierarchy.offsets, dtype=torch.float64).repeat(len(table), 1, 1)
    most = max(map(len, hierarchy.channels))
    turns = torch.zeros(most, len(table), len(hierarchy.names), 3, dtype=torch.float64)
    column = 0
    for j, channels in enumerate(hierarchy.channels):
        for slot, channel in enumerate(channels):
            axis = "xyz".index(channel[0])
            if channel.endswith("position"):
                offsets[:, j, axis] = table[:, column]
            else:
                turns[slot, :, j, axis] = torch.deg2rad(table[:, column])
            column += 1
    rotations = torch.eye(3, dtype=torch.float64).expand(*turns.shape[1:], 3)
    for slot in turns:
        if slot.any():
            rotations = rotations @ matrix_from_axis_angle(slot)
    return offsets, rotations
