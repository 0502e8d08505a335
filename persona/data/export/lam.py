"""LAM's avatar for OpenAvatarChat: a zip that the chat's web page renders and animates.

A folder that is named as the avatar holds ``skin.glb`` (a mesh with one vertex for each Gaussian,
two bones and ARKit's expressions), ``offset.ply`` (Gaussians; their places count from the mesh's
vertices and their colours are plain RGB), ``animation.glb`` (the head's motion while it greets,
waits, speaks and thinks) and ``vertex_order.json``. All Gaussians hang on the bone ``head``: the
page moves a head and no limbs. It looks at a head that is 1.62 metres above the origin.

Source: the page's reader, gaussian-splat-renderer-for-lam 0.0.8 on npm, by what it reads.
"""

import io
import json
import logging
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray
from scipy.spatial.transform import Rotation

from persona.data.export.gltf import INDICES, TRIANGLES, VERTICES, Glb
from persona.data.export.ply import ply_bytes
from persona.data.export.posing import world_from_joints
from persona.data.export.scene import SH_C0, Clip, RiggedSplats, Scene, Skin, Splats
from persona.data.io import write_bytes
from persona.data.motion.names import HEAD
from persona.errors import UserError

log = logging.getLogger(__name__)
_EYES_M = (0.0, 1.62, 0.0)
"""Where the page's camera looks: 1.8 m high, 1 m before, 10 degrees down."""
_MOST_VECTORS = 4096 * 2048
"""Texels of the page's texture of vertices and expressions."""
_BONES = ("hip", "head")
"""The page moves everything by the second bone; it requires the first to exist."""
_SPEAKS = [f"speak{number}" for number in range(1, 7)]
_CLIPS = ["hello1", "hello2", "idle", *_SPEAKS, "think1", "think2", "think3"]
"""The page selects animations by their numbers."""


def write_lam(scene: Scene, path: Path) -> None:
    """Writes the frame ``scene.frame``, all that depends on the pose included.

    Expressions beyond what the page can hold are left out, those that move least first. A head
    (``body=head``) turns as it does in the motion; the head of a whole body stays as it is.
    """
    rig, splats = scene.rigged(), scene.posed(scene.frame)
    world = world_from_joints(rig, scene.clip, scene.frame)
    eyes = [rig.joint_names.index(name) for name in ("left_eye", "right_eye")]
    shift = np.array(_EYES_M) - world[eyes, :3, 3].mean(0)
    splats = replace(splats, means=(splats.means + shift).astype(np.float32))
    pivot = world[rig.joint_names.index(_pivot(rig)), :3, 3] + shift
    bound = _on_head(rig, splats, pivot, turned_expressions(rig, world))
    # Colours as they are, where a .ply has coefficients.
    plain = replace(splats, rgb=(0.5 + SH_C0 * splats.rgb).astype(np.float32))
    comment = "persona: LAM; places are offsets from skin.glb, colours are RGB"
    turns = head_turns(rig, scene.clip, scene.frame)
    files = {
        "skin.glb": _skin(scene.name, bound),
        "animation.glb": _animations(bound, turns, scene.clip.fps),
        "vertex_order.json": json.dumps(np.argsort(splats.means[:, 2]).tolist()).encode(),
        "offset.ply": ply_bytes(replace(plain, means=np.zeros_like(plain.means)), comment),
    }  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir(scene.name)
        for name, content in files.items():
            archive.writestr(f"{scene.name}/{name}", content)
    write_bytes(path, packed.getvalue())


def _pivot(rig: RiggedSplats) -> str:
    return "neck" if rig.joint_names == HEAD else "head"


def turned_expressions(
    rig: RiggedSplats, world: Float[ndarray, "j 4 4"]
) -> Float32[ndarray, "e n 3"]:
    """What expressions add in a frame, metres; ``world`` has the joints' own frames."""
    turns = (world @ rig.inverse_binds)[:, :3, :3]
    blended = (turns[rig.skin.bones] * rig.skin.weights[..., None, None]).sum(1)
    return np.einsum("nij,enj->eni", blended, rig.expression_dirs).astype(np.float32)


def head_turns(rig: RiggedSplats, clip: Clip, frame: int) -> Float32[ndarray, "t 4"]:
    """Rotation (w, x, y, z) of a head in each frame from that in one; none for a whole body."""
    count = max(2, len(clip))
    if rig.joint_names != HEAD or len(clip) < 2:
        return np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))
    root, neck = (Rotation.from_quat(clip.rotations[:, i], scalar_first=True) for i in (0, 1))
    whole = root * neck
    turns = whole * whole[frame].inv()
    return turns.as_quat(scalar_first=True).astype(np.float32)


def _on_head(
    rig: RiggedSplats,
    splats: Splats,
    pivot: Float[ndarray, "3"],
    dirs: Float32[ndarray, "e n 3"],
) -> RiggedSplats:
    """The Gaussians on the page's two bones, with the expressions that it can hold."""
    count = len(splats.means)
    most = max(0, _MOST_VECTORS // count - 1)
    if not min(most, len(dirs)):
        raise UserError(
            f"lam: the page needs an expression, and of {count} Gaussians and {len(dirs)} "
            "expressions it can hold none; use format=ply"
        )
    kept = np.sort(np.argsort(-np.square(dirs).sum((1, 2)), kind="stable")[:most])
    if len(kept) < len(dirs):
        log.warning(
            "lam: of %d expressions the %d that move most are kept: more do not fit %d Gaussians",
            len(dirs), len(kept), count,
        )  # fmt: skip
    bones = np.tile(np.array([[1]]), (count, 1))
    return RiggedSplats(
        splats=splats,
        skin=Skin(bones, np.ones((count, 1), np.float32)),
        expression_dirs=dirs[kept],
        expression_names=tuple(rig.expression_names[i] for i in kept),
        joint_names=_BONES,
        parents=(-1, 0),
        joints=np.stack([np.zeros(3), pivot]).astype(np.float32),
        bind_from_rest=np.tile(np.eye(4, dtype=np.float32), (2, 1, 1)),
    )


def _still(rig: RiggedSplats, turns: Float32[ndarray, "t 4"], fps: float) -> Clip:
    """A clip in which the bone of the head alone turns."""
    hips = np.tile(np.array([1, 0, 0, 0], np.float32), (len(turns), 1))
    silent = np.zeros((len(turns), len(rig.expression_dirs)), np.float32)
    return Clip(np.stack([hips, turns], 1), np.zeros((len(turns), 3), np.float32), silent, fps, "")


def _skin(name: str, rig: RiggedSplats) -> bytes:
    """The mesh; its faces join neighbours in the list, since nobody sees them."""
    file = Glb()
    clip = _still(rig, np.array([[1, 0, 0, 0]], np.float32), 30.0)
    file.skeleton(rig, clip, 0)
    corners = np.arange(len(rig.splats.means) // 3 * 3, dtype=np.uint32)
    primitive = {
        "mode": TRIANGLES,
        "attributes": {
            "POSITION": file.accessor(rig.splats.means, VERTICES, bounds=True),
            **file.skin_attributes(rig.skin),
        },
        "indices": file.accessor(corners, INDICES),
        "targets": [{"POSITION": file.sparse(direction)} for direction in rig.expression_dirs],
    }
    file.finish({"name": name, "primitives": [primitive]}, rig, clip, 0)
    return file.content()


def _animations(rig: RiggedSplats, turns: Float32[ndarray, "t 4"], fps: float) -> bytes:
    """The same motion of the head for each animation that the page needs."""
    file = Glb()
    clip = _still(rig, turns, fps)
    file.skeleton(rig, clip, 0)
    file.json["scenes"] = [{"nodes": [0]}]
    del file.json["skins"]  # Bones alone: there is no mesh to move.
    times = file.accessor((np.arange(len(turns)) / fps).astype(np.float32), bounds=True)
    sampler = {"input": times, "output": file.accessor(np.roll(turns, -1, 1).copy())}
    channel = {"sampler": 0, "target": {"node": 1, "path": "rotation"}}
    file.json["animations"] = [
        {"name": name, "samplers": [sampler], "channels": [channel]} for name in _CLIPS
    ]
    return file.content()
