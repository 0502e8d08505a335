"""A scene of a few random Gaussians on three joints, for tests that export it."""

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from persona.data.export.scene import Clip, RiggedMesh, RiggedSplats, Scene, Skin, Splats
from persona.data.motion.names import JOINTS

COUNT, FRAMES = 40, 3


def random_splats(seed: int) -> Splats:
    random = np.random.default_rng(seed)
    return Splats(
        means=random.normal(size=(COUNT, 3)).astype(np.float32),
        scales=random.uniform(0.002, 0.05, (COUNT, 3)).astype(np.float32),
        quaternions=Rotation.random(COUNT, random).as_quat(scalar_first=True).astype(np.float32),
        opacities=np.append(1, random.uniform(0.1, 1, COUNT - 1)).astype(np.float32),
        rgb=random.random((COUNT, 3), dtype=np.float32),
    )


def random_rig(seed: int = 5) -> RiggedSplats:
    random = np.random.default_rng(seed)
    first = random.random(COUNT, dtype=np.float32)
    bones = np.stack([random.permutation(3)[:2] for _ in range(COUNT)])
    dirs = random.normal(size=(2, COUNT, 3)).astype(np.float32) * 0.1
    dirs[0, 3:] = 0  # Most expressions move only a few Gaussians.
    binds = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
    binds[1, :3, :3] = Rotation.from_rotvec([0, 0, 0.3]).as_matrix()
    binds[1, :3, 3] = 0.1, 0.2, 0.0
    return RiggedSplats(
        splats=random_splats(seed),
        skin=Skin(bones, np.stack([first, 1 - first], 1)),
        expression_dirs=dirs,
        expression_names=("jawOpen", "eyeBlinkLeft"),
        joint_names=("pelvis", "spine1", "left_hip"),
        parents=(-1, 0, 0),
        joints=random.normal(size=(3, 3)).astype(np.float32),
        bind_from_rest=binds,
    )


def random_scene(frame: int = 1) -> Scene:
    random = np.random.default_rng(7)
    turns = Rotation.random(FRAMES * 3, random).as_quat(scalar_first=True)
    clip = Clip(
        rotations=turns.reshape(FRAMES, 3, 4).astype(np.float32),
        trans=random.normal(size=(FRAMES, 3)).astype(np.float32),
        expression=random.random((FRAMES, 2), dtype=np.float32),
        fps=10.0,
        name="wave",
    )
    rig = random_rig()
    faces = np.arange(6).reshape(2, 3)
    mesh = RiggedMesh(
        rig=rig,
        vertices=rig.splats.means[[0, 1, 2, 2, 3, 4]],
        normals=np.tile(np.float32([0, 0, 1]), (6, 1)),
        uv=random.random((6, 2), dtype=np.float32),
        source=np.array([0, 1, 2, 2, 3, 4]),
        faces=faces,
        texture=random.integers(0, 256, (8, 8, 3), dtype=np.uint8),
    )
    return Scene("someone", frame, clip, random_splats, lambda: rig, lambda: mesh)


def whole_body_scene(frame: int = 1) -> Scene:
    """The same Gaussians on 55 joints; each joint's parent comes before it."""
    random, scene = np.random.default_rng(3), random_scene(frame)
    turns = Rotation.random(FRAMES * 55, random).as_quat(scalar_first=True)
    rig = replace(
        scene.rigged(),
        skin=Skin(random.integers(0, 55, (COUNT, 2)), scene.rigged().skin.weights),
        joint_names=JOINTS,
        parents=tuple((joint - 1) // 2 if joint else -1 for joint in range(55)),
        joints=random.normal(size=(55, 3)).astype(np.float32),
        bind_from_rest=np.tile(np.eye(4, dtype=np.float32), (55, 1, 1)),
    )
    clip = replace(scene.clip, rotations=turns.reshape(FRAMES, 55, 4).astype(np.float32))
    return replace(scene, clip=clip, rigged=lambda: rig)


def world_joints(rig: RiggedSplats, clip: Clip, frame: int) -> list[np.ndarray]:
    """World transform of each joint, by SciPy's rotations and products of 4 x 4 matrices."""
    world = []
    for joint, parent in enumerate(rig.parents):
        local = np.eye(4)
        turn = Rotation.from_quat(clip.rotations[frame, joint], scalar_first=True)
        local[:3, :3] = turn.as_matrix()
        above = rig.joints[parent] if parent >= 0 else np.zeros(3)
        local[:3, 3] = rig.joints[joint] - above
        if parent < 0:
            local[:3, 3] += clip.trans[frame]
        world.append(local if parent < 0 else world[parent] @ local)
    return world


def skinned(rig: RiggedSplats, clip: Clip, frame: int, points=None, source=None) -> np.ndarray:
    """Skinned places of points in a frame, as an independent oracle."""
    world = world_joints(rig, clip, frame)
    moves = []
    for joint, place in enumerate(rig.joints):
        away = np.eye(4)
        away[:3, 3] = -place
        moves.append(world[joint] @ away @ np.linalg.inv(rig.bind_from_rest[joint]))
    rows = np.arange(COUNT) if source is None else source
    points = rig.splats.means if points is None else points
    raised = points + np.einsum("e,enc->nc", clip.expression[frame], rig.expression_dirs)[rows]
    found = np.zeros_like(raised, dtype=np.float64)
    for bones, weights in zip(rig.skin.bones[rows].T, rig.skin.weights[rows].T, strict=True):
        moved = np.einsum("nij,nj->ni", np.stack(moves)[bones][:, :3], np.pad(
            raised, ((0, 0), (0, 1)), constant_values=1))  # fmt: skip
        found += weights[:, None] * moved
    return found
