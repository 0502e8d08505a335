"""Everything as arrays, for code that has no reader of anything else."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from persona.data.export.scene import Scene
from persona.data.io import atomic_path


def write_npz(scene: Scene, path: Path) -> None:
    """Writes the rig, the motion, and the avatar in each of its frames.

    ``bind_*``, n Gaussians in the bind pose, base shape and colours: means, scales (standard
    deviations, metres), quaternions (w, x, y, z), opacities, rgb. ``skin_bones``, ``skin_weights``:
    (n, k). ``expression_dirs``: (e, n, 3) metres, with ``expression_names``. ``joint_names``,
    ``parents``, ``joints``, ``bind_from_rest``, ``inverse_binds``: the skeleton.
    ``clip_rotations`` (t, j, 4), ``clip_trans``, ``clip_expression``, ``clip_fps``: the motion.
    ``posed_*``, (t, n, ...): the avatar itself in each frame. World: metres, y up, facing +z.
    """
    rig, clip = scene.rigged(), scene.clip
    frames = [scene.posed(i) for i in range(len(clip))]
    names = [field.name for field in fields(rig.splats)]
    arrays = {f"bind_{name}": getattr(rig.splats, name) for name in names}
    arrays |= {f"posed_{name}": np.stack([getattr(f, name) for f in frames]) for name in names}
    arrays |= {
        "skin_bones": rig.skin.bones,
        "skin_weights": rig.skin.weights,
        "expression_dirs": rig.expression_dirs,
        "expression_names": np.array(rig.expression_names, dtype=np.str_),
        "joint_names": np.array(rig.joint_names, dtype=np.str_),
        "parents": np.array(rig.parents),
        "joints": rig.joints,
        "bind_from_rest": rig.bind_from_rest,
        "inverse_binds": rig.inverse_binds,
        "clip_rotations": clip.rotations,
        "clip_trans": clip.trans,
        "clip_expression": clip.expression,
        "clip_fps": np.array(clip.fps),
    }
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)
