"""Anny, posed with SMPL-X rotations, as the oracle of the packaged body.

``python tests/modules/body/anny_oracle.py`` (needs the ``bake`` extra) rewrites the stored sample
that the fast test compares with.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).parents[3]
SAMPLE = Path(__file__).with_name("anny_sample.npz")
COUNT, STRIDE = 8, 16
POSE_SIGMA_RAD = 0.35
"""Per axis, so that a joint turns by 32 degrees on average."""


def load_bake():
    """The bake script as a module, and Anny merged to 55 joints."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import bake_body

    return bake_body, bake_body.Rig.load()


def random_poses(count: int, rng: np.random.Generator) -> np.ndarray:
    """Axis-angle (count, 55, 3) of all joints; jaw and eyes turn less, as in real faces."""
    poses = rng.normal(scale=POSE_SIGMA_RAD, size=(count, 55, 3))
    poses[:, 22:25] *= 0.4
    return poses


def pose_anny(bake, rig, coefficients: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) by Anny's own kinematics and 163-bone skinning; pelvis at the template's.

    Each Anny bone takes the world rotation of the joint it is merged to; every bone still turns
    about its own head.
    """
    model = rig.model
    world = np.zeros((55, 3, 3))
    for j, local in enumerate(Rotation.from_rotvec(pose).as_matrix()):
        parent = bake.PARENTS[j]
        world[j] = local if parent < 0 else world[parent] @ local
    world = world @ bake.t_pose_rotations(*rig.rest(coefficients)[1:])
    axes = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # Anny's to SMPL-X's
    world = torch.from_numpy(axes.T @ world @ axes)

    own = {b: j for j, (_, _, bones) in enumerate(bake.TABLE) for b in bones if j > 0}
    merged = []
    for label, parent in zip(model.bone_labels, model.bone_parents, strict=True):
        merged.append(own.get(label, 0 if parent < 0 else merged[parent]))
    c = torch.from_numpy(coefficients)[None]
    rest = model.get_rest_model(c)["rest_bone_poses"][0]
    delta = torch.eye(4, dtype=torch.float64).repeat(len(merged), 1, 1)
    delta[:, :3, :3] = world[merged] @ rest[:, :3, :3]
    delta[0, :3, 3] = rest[0, :3, 3]
    call = super(type(model), model).forward  # Takes coefficients unchanged.
    vertices = bake.to_smplx(call(delta[None], c, "world-orient")["vertices"][0].numpy())

    joints, root = rig.rest(coefficients)[1], bake.to_smplx(rest[0, :3, 3].numpy())
    pelvis = axes @ world[0].numpy() @ axes.T @ (joints[0] - root) + root
    return vertices - pelvis + bake.PELVIS


def fit_betas(shape_dirs: np.ndarray, template: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Least-squares betas of a T-posed subject."""
    system = shape_dirs.reshape(-1, shape_dirs.shape[-1])
    return np.linalg.lstsq(system, (vertices - template).ravel())[0]


def sample(body_arrays) -> dict[str, np.ndarray]:
    """Random adults in random poses: betas, poses and every STRIDE-th vertex."""
    bake, rig = load_bake()
    rng = np.random.default_rng(7)
    coefficients = bake.sample_adults(rig, COUNT, rng)
    poses = random_poses(COUNT, rng)
    dirs = body_arrays["shapedirs"][..., : int(body_arrays["num_betas"])].astype(float)
    betas, vertices = [], []
    for c, pose in zip(coefficients, poses, strict=True):
        straight = pose_anny(bake, rig, c, np.zeros((55, 3)))
        betas.append(fit_betas(dirs, body_arrays["v_template"], straight))
        vertices.append(pose_anny(bake, rig, c, pose))
    return {
        "betas": np.stack(betas).astype(np.float32),
        "poses": poses.astype(np.float32),
        "vertices": np.stack(vertices)[:, ::STRIDE].astype(np.float32),
    }


if __name__ == "__main__":
    from persona.modules.body.smplx_body import PACKAGED

    with np.load(PACKAGED) as arrays:
        np.savez_compressed(SAMPLE, **sample(arrays))
