"""Where a rig's joints are in a frame of a clip."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from persona.data.export.scene import Clip, RiggedSplats


def world_from_joints(rig: RiggedSplats, clip: Clip, frame: int) -> Float[ndarray, "j 4 4"]:
    """Each joint's own frame in the world, metres."""
    local = np.tile(np.eye(4), (len(rig.parents), 1, 1))
    local[:, :3, :3] = Rotation.from_quat(clip.rotations[frame], scalar_first=True).as_matrix()
    local[:, :3, 3] = rig.offsets
    local[0, :3, 3] += clip.trans[frame]
    world: list[ndarray] = []
    for own, parent in zip(local, rig.parents, strict=True):
        world.append(own if parent < 0 else world[parent] @ own)
    return np.stack(world)
