"""Animations of glTF files (.glb, .gltf, .vrm, .vrma): a skeleton moved by its nodes' channels."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from numpy import ndarray
from scipy.spatial.transform import Rotation, Slerp

from persona.data.motion.rate import rate_of_step
from persona.data.motion.skeleton import SkeletonClip
from persona.errors import UserError

KINDS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
STILL = {"translation": (0.0, 0, 0), "rotation": (0.0, 0, 0, 1), "scale": (1.0, 1, 1)}
HUMANOIDS = ("VRMC_vrm_animation", "VRMC_vrm")
"""Extensions that say which node is which bone of a human."""
_REMEDY = "export it again, with its animation, as .glb"


def read_gltf(path: Path) -> SkeletonClip:
    """Reads the first animation.

    The rest pose is the skin's bind pose, or where there is no skin, that of the nodes.

    Source: Khronos, glTF 2.0 specification.

    Raises:
        UserError: not such a file, damaged, or without an animation or a skeleton.
    """
    try:
        file = _File(path)
        return _clip(file)
    except (KeyError, IndexError, TypeError, ValueError, OSError, struct.error) as error:
        raise UserError(f"{path}: damaged or not a glTF file ({error}); {_REMEDY}") from error


class _File:
    """The JSON of a file and its arrays."""

    def __init__(self, path: Path) -> None:
        data, self.path, self.own = path.read_bytes(), path, b""
        text = data
        if data[:4] == b"glTF":
            (size,) = struct.unpack_from("<I", data, 12)
            text, self.own = data[20 : 20 + size], data[28 + size :]
        self.json: dict[str, Any] = json.loads(text)
        self.nodes: list[dict] = self.json.get("nodes", [])

    def _buffer(self, index: int) -> bytes:
        uri = self.json["buffers"][index].get("uri")
        if uri is None:
            return self.own
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition(",")[2])
        return (self.path.parent / unquote(uri)).read_bytes()

    def array(self, index: int) -> Float64[ndarray, "n c"]:
        """An accessor's rows; integers that stand for [-1, 1] or [0, 1] as such."""
        accessor = self.json["accessors"][index]
        if "sparse" in accessor or "bufferView" not in accessor:
            raise ValueError("sparse keys")
        view = self.json["bufferViews"][accessor["bufferView"]]
        kind, width = np.dtype(KINDS[accessor["componentType"]]), WIDTHS[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        rows = np.ndarray(
            (accessor["count"], width), kind, self._buffer(view["buffer"]), start,
            (view.get("byteStride", kind.itemsize * width), kind.itemsize),
        )  # fmt: skip
        if kind.kind == "f":
            return rows.astype(np.float64)
        return (rows / np.iinfo(kind).max).clip(-1, 1)

    def names(self) -> list[str]:
        """Names of the nodes: those of the bones that VRM assigns to them, else their own."""
        names = [str(node.get("name", f"node_{i}")) for i, node in enumerate(self.nodes)]
        for extension in HUMANOIDS:
            human = self.json.get("extensions", {}).get(extension, {}).get("humanoid", {})
            for bone, found in human.get("humanBones", {}).items():
                names[found["node"]] = bone
        return names

    def order(self) -> tuple[list[int], dict[int, int]]:
        """Nodes, parents first, and the parent of each."""
        parents = {c: n for n, node in enumerate(self.nodes) for c in node.get("children", [])}
        order = [n for n in range(len(self.nodes)) if n not in parents]
        for node in order:  # Grows as it is gone through.
            order.extend(self.nodes[node].get("children", []))
        if len(order) != len(self.nodes):
            raise ValueError("its nodes are no trees")
        return order, parents


def _clip(file: _File) -> SkeletonClip:
    animations = file.json.get("animations")
    if not animations:
        raise UserError(f"{file.path}: holds no animation; {_REMEDY}")
    times, channels, fps = _channels(file, animations[0])
    order, parents = file.order()
    still, moving = (_global(file, order, parents, c, n) for c, n in (({}, 1), (channels, times)))
    rest = {node: still[node][0] for node in order}
    for skin in file.json.get("skins", [])[:1]:
        if "inverseBindMatrices" in skin:
            binds = file.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
            world = _quarter_turn(rest[skin["joints"][0]] @ binds[0])
            rest |= dict(zip(skin["joints"], world @ np.linalg.inv(binds), strict=True))
    joints = _joints(file, order, parents)
    number = {node: i for i, node in enumerate(joints)}
    above = tuple(number.get(parents.get(node, -1), -1) for node in joints)
    places = np.stack([rest[node][:3, 3] for node in joints])
    # Joints as if none were turned at rest: what they turn from there is the motion.
    turns = np.stack([_turn(moving[n]) @ _turn(rest[n]).swapaxes(-1, -2) for n in joints], 1)
    names = file.names()
    roots = np.array(above) < 0
    offsets = places - np.where(roots[:, None], 0, places[np.array(above)])
    return SkeletonClip(
        names=tuple(names[node] for node in joints),
        parents=above,
        offsets=torch.from_numpy(offsets),
        rotations=torch.from_numpy(turns),
        positions=torch.from_numpy(np.stack([moving[n][:, :3, 3] for n in joints], 1)),
        fps=fps,
        source=str(file.path),
    )


def _joints(file: _File, order: list[int], parents: dict[int, int]) -> list[int]:
    """Nodes of the first skin, or all, with what lies between them and one root above all."""
    skins = file.json.get("skins", [])
    wanted = set(skins[0]["joints"] if skins else order)
    for node in list(wanted):
        while node in parents:
            node = parents[node]
            wanted.add(node)
    roots = [node for node in order if node in wanted and node not in parents]
    if len(roots) == 1:
        return [node for node in order if node in wanted]
    # Several trees: the one with most nodes is the person.
    size = {root: 0 for root in roots}
    top: dict[int, int] = {}
    for node in order:
        top[node] = top[parents[node]] if node in parents else node
        if node in wanted:
            size[top[node]] += 1
    person = max(roots, key=size.__getitem__)
    return [node for node in order if node in wanted and top[node] == person]


def _channels(file: _File, animation: dict) -> tuple[int, dict[tuple[int, str], ndarray], float]:
    """Number of frames, values in each by node and path, and their rate."""
    read = {}
    for channel in animation["channels"]:
        target, sampler = channel["target"], animation["samplers"][channel["sampler"]]
        if target.get("node") is None or target["path"] not in STILL:
            continue
        keys, values = file.array(sampler["input"])[:, 0], file.array(sampler["output"])
        way = sampler.get("interpolation", "LINEAR")
        values = values[1::3] if way == "CUBICSPLINE" else values  # Between two tangents.
        read[target["node"], target["path"]] = keys, values, way
    if not read:
        raise UserError(f"{file.path}: its animation moves no node; {_REMEDY}")
    longest = max((keys for keys, _, _ in read.values()), key=len)
    first = min(keys[0] for keys, _, _ in read.values())
    last = max(keys[-1] for keys, _, _ in read.values())
    step = float(np.median(np.diff(longest))) if len(longest) > 1 else 1 / 30
    fps = rate_of_step(f"{file.path}: time between keys", step)
    at = first + np.arange(round((last - first) * fps) + 1) / fps
    return len(at), {k: _sampled(*keyed, at, k[1]) for k, keyed in read.items()}, fps


def _sampled(
    keys: Float64[ndarray, "k"], values: Float64[ndarray, "k c"], way: str,
    at: Float64[ndarray, "t"], path: str,
) -> Float64[ndarray, "t c"]:  # fmt: skip
    """Values at times: held, or in between the keys around."""
    at = at.clip(keys[0], keys[-1])
    if way == "STEP" or len(keys) == 1:
        return values[(np.searchsorted(keys, at + 1e-9, side="right") - 1).clip(0)]
    if path == "rotation":
        return Slerp(keys, Rotation.from_quat(values))(at).as_quat()
    return np.stack([np.interp(at, keys, column) for column in values.T], 1)


def _global(
    file: _File, order: list[int], parents: dict[int, int],
    channels: dict[tuple[int, str], ndarray], count: int,
) -> dict[int, Float64[ndarray, "t 4 4"]]:  # fmt: skip
    """World from node, in each frame."""
    found: dict[int, ndarray] = {}
    for node in order:
        local = _local(file.nodes[node], node, channels, count)
        found[node] = found[parents[node]] @ local if node in parents else local
    return found


def _local(
    node: dict, index: int, channels: dict[tuple[int, str], ndarray], count: int
) -> Float64[ndarray, "t 4 4"]:
    """Parent from node: of the channels, where a part has none of the node's own."""
    if "matrix" in node:
        return np.tile(np.reshape(node["matrix"], (4, 4)).T.astype(np.float64), (count, 1, 1))
    parts = {
        path: channels.get((index, path), np.tile(node.get(path, still), (count, 1)))
        for path, still in STILL.items()
    }
    matrix = np.tile(np.eye(4), (count, 1, 1))
    turn = Rotation.from_quat(parts["rotation"]).as_matrix()
    matrix[:, :3, :3] = turn * parts["scale"][:, None]
    matrix[:, :3, 3] = parts["translation"]
    return matrix


def _quarter_turn(world_from_bind: Float64[ndarray, "4 4"]) -> Float64[ndarray, "4 4"]:
    """How a scene turns its skin as a whole, where it does so by right angles: what is up."""
    turn, whole = _turn(world_from_bind), np.eye(4)
    if np.abs(turn - turn.round()).max() < 0.1:
        whole[:3, :3] = turn.round()
    return whole


def _turn(matrices: Shaped[ndarray, "*t 4 4"]) -> Float[ndarray, "*t 3 3"]:
    """The nearest rotations, scale left out."""
    left, _, right = np.linalg.svd(matrices[..., :3, :3])
    return left @ right
