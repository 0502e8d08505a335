"""Bakes the packaged body: Anny 0.6.2 as a plain SMPL-X file (.npz).

Usage: ``python scripts/bake_body.py [--out PATH] [--subjects N] [--betas N]``. Needs the ``bake``
and ``photo`` extras (anny, mediapipe). Deterministic. Frame: metres, y up, facing +z, the person's
left is +x, T-pose with straight fingers and palms down, pelvis where SMPL-X has it.

Anny's 163 bones are merged to the 55 SMPL-X joints: a bone without a joint of its own follows its
nearest ancestor that has one. The T-pose is reached by skinning the merged body, per subject, so
that arms and fingers are straight whatever the shape.
"""

import argparse
import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from bake_anny import anny
from bake_keypoints import Surface, bake_keypoints
from scipy.spatial.transform import Rotation

from persona.data.io import atomic_path

log = logging.getLogger("bake_body")
OUT = Path(__file__).parents[1] / "persona/modules/body/assets/smplx_anny.npz"
SEED, SUBJECTS, BETAS = 0, 600, 32
NUM_JOINTS, SHAPE_SPACE, EXPRESSION_SPACE = 55, 300, 100
PELVIS = np.array([0.0, -0.35, 0.01])
"""Where SMPL-X's template has its pelvis, metres."""
LEG_SPLAY = np.deg2rad(1.5)
"""Outward lean of the hip-ankle line in the template, about SMPL-X's."""

FINGERS = {"index": 2, "middle": 3, "pinky": 5, "ring": 4, "thumb": 1}
"""SMPL-X's order and Anny's numbers."""


def joint_table() -> list[tuple[str, str | None, list[str]]]:
    """(joint, parent, Anny bones whose heads' mean is the joint), in SMPL-X order."""

    def pair(name, parent, *bones):
        return [
            (f"{s}_{name}", f"{s}_{parent}" if parent in PAIRED else parent,
             [f"{b}.{s[0].upper()}" for b in bones])
            for s in ("left", "right")
        ]  # fmt: skip

    toes = [f"toe{i}-1" for i in range(1, 6)]
    rows = [("pelvis", None, ["spine03", "upperleg01.L", "spine03", "upperleg01.R"])]
    rows += [*pair("hip", "pelvis", "upperleg01"), ("spine1", "pelvis", ["spine03"])]
    rows += [*pair("knee", "hip", "lowerleg01"), ("spine2", "spine1", ["spine02"])]
    rows += [*pair("ankle", "knee", "foot"), ("spine3", "spine2", ["spine01"])]
    rows += [*pair("foot", "ankle", *toes), ("neck", "spine3", ["neck01"])]
    rows += [*pair("collar", "spine3", "clavicle"), ("head", "neck", ["head"])]
    rows += pair("shoulder", "collar", "upperarm01") + pair("elbow", "shoulder", "lowerarm01")
    rows += [
        *pair("wrist", "elbow", "wrist"),
        ("jaw", "head", ["jaw"]),
        *pair("eye", "head", "eye"),
    ]
    for side in (0, 1):
        for finger, number in FINGERS.items():
            for k in (1, 2, 3):
                parent = "wrist" if k == 1 else f"{finger}{k - 1}"
                rows.append(pair(f"{finger}{k}", parent, f"finger{number}-{k}")[side])
    return rows


PAIRED = {"hip", "knee", "ankle", "collar", "shoulder", "elbow", "wrist"} | {
    f"{f}{k}" for f in FINGERS for k in (1, 2)
}
TABLE = joint_table()
NAMES = [name for name, _, _ in TABLE]
PARENTS = np.array([NAMES.index(p) if p else -1 for _, p, _ in TABLE])


def to_smplx(points: np.ndarray) -> np.ndarray:
    """Anny's axes (z up, facing -y) to SMPL-X's (y up, facing +z)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


@dataclass
class Rig:
    """Anny merged to 55 joints, at rest, linear in Anny's blend-shape coefficients."""

    model: anny.Anny
    weights: np.ndarray  # (V, 55)

    @staticmethod
    def load() -> "Rig":
        """Builds Anny with jaw, eyes, all phenotypes and the 52 face units."""
        return Rig.of(anny.Anny(rig="makehuman", phenotypes="all", facial_actions="all"))

    @staticmethod
    def of(model: "anny.Anny") -> "Rig":
        """Merges a model's bones to the 55 joints."""
        labels, parents = model.bone_labels, model.bone_parents
        own = {bone: j for j, (_, _, bones) in enumerate(TABLE) for bone in bones if j > 0}
        merged = []
        for i, label in enumerate(labels):
            merged.append(own.get(label, 0 if parents[i] < 0 else merged[parents[i]]))
        weights = np.zeros((len(model.template_vertices), NUM_JOINTS))
        rows = np.arange(len(weights))[:, None]
        columns = np.array(merged)[model.vertex_bone_indices.numpy()]
        np.add.at(weights, (rows, columns), model.vertex_bone_weights.numpy())
        return Rig(model, weights / weights.sum(1, keepdims=True))

    def rest(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertices, joints and finger tips (10, 3) in Anny's own rest pose, SMPL-X axes."""
        m, c = self.model, torch.from_numpy(coefficients)
        vertices = m.template_vertices + torch.einsum("k,kvc->vc", c, m.blendshapes)
        heads = m.template_bone_heads + torch.einsum("k,kjc->jc", c, m.bone_heads_blendshapes)
        tails = m.template_bone_tails + torch.einsum("k,kjc->jc", c, m.bone_tails_blendshapes)
        index = {label: i for i, label in enumerate(m.bone_labels)}
        joints = torch.stack([heads[[index[b] for b in bones]].mean(0) for _, _, bones in TABLE])
        tips = [tails[index[f"finger{n}-3.{s}"]] for s in "LR" for n in FINGERS.values()]
        return (
            to_smplx(vertices.numpy()),
            to_smplx(joints.numpy()),
            to_smplx(torch.stack(tips).numpy()),
        )


def unit(v: np.ndarray) -> np.ndarray:
    """Vector of length one."""
    return v / np.linalg.norm(v)


def frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Orthonormal columns: first, second made orthogonal, their cross product."""
    a = unit(first)
    b = unit(second - a * (a @ second))
    return np.stack([a, b, np.cross(a, b)], 1)


def shortest_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation of least angle that takes one direction to another."""
    a, b = unit(source), unit(target)
    v = np.cross(a, b)
    skew = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + a @ b)


def t_pose_rotations(joints: np.ndarray, tips: np.ndarray) -> np.ndarray:
    """World rotations (55, 3, 3) that take Anny's rest pose to the template's T-pose.

    Arms along x with elbows that bend forward, palms down, fingers straight in the palm's plane,
    legs straight below the hips, feet as Anny has them.
    """
    at = {n: joints[i] for i, n in enumerate(NAMES)}
    world = {n: np.eye(3) for n in NAMES}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        out, up, front = np.array([sign, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0])
        s = f"{side}_"
        upper, lower = at[s + "elbow"] - at[s + "shoulder"], at[s + "wrist"] - at[s + "elbow"]
        hinge = np.cross(upper, lower)  # bends the forearm forward once it points to -y (left)
        target = frame(out, -up * sign)
        world[s + "shoulder"] = target @ frame(upper, hinge).T
        world[s + "elbow"] = target @ frame(lower, hinge).T
        hand = (at[s + "middle1"] + at[s + "ring1"]) / 2 - at[s + "wrist"]
        across = at[s + "index1"] - at[s + "pinky1"]
        wrist = world[s + "wrist"] = frame(out, front) @ frame(hand, across).T
        for i, finger in enumerate(FINGERS):
            chain = [at[f"{s}{finger}{k}"] for k in (1, 2, 3)] + [tips[i + 5 * (side == "right")]]
            bones = [wrist @ (b - a) for a, b in pairwise(chain)]
            if finger == "thumb":
                turns = [np.eye(3), np.eye(3), shortest_rotation(bones[2], bones[1])]
            else:
                straight = bones[0] * [1, 0, 1]
                turns = [shortest_rotation(b, straight) for b in bones]
            for k, turn in enumerate(turns):
                world[f"{s}{finger}{k + 1}"] = turn @ wrist
        leg = at[s + "ankle"] - at[s + "hip"]
        lean = np.array([sign * np.sin(LEG_SPLAY), -np.cos(LEG_SPLAY), 0])
        world[s + "hip"] = world[s + "knee"] = shortest_rotation(leg * [1, 1, 0], lean)
    return np.stack([world[n] for n in NAMES])


def forward_kinematics(joints: np.ndarray, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posed joints (55, 3) and per-joint translations of x -> R x + t, for world rotations."""
    posed = joints.copy()
    for j in range(1, NUM_JOINTS):
        p = PARENTS[j]
        posed[j] = posed[p] + world[p] @ (joints[j] - joints[p])
    return posed, posed - np.einsum("jab,jb->ja", world, joints)


def t_pose(rig: Rig, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints of one subject in the T-pose, pelvis at ``PELVIS``."""
    vertices, joints, tips = rig.rest(coefficients)
    world = t_pose_rotations(joints, tips)
    posed, shift = forward_kinematics(joints, world)
    rotation = np.einsum("vj,jab->vab", rig.weights, world)
    skinned = np.einsum("vab,vb->va", rotation, vertices) + rig.weights @ shift
    return skinned - posed[0] + PELVIS, posed - posed[0] + PELVIS


def sample_adults(rig: Rig, count: int, rng: np.random.Generator) -> np.ndarray:
    """Blend-shape coefficients (count, K) of random adults of both genders."""
    beta = rng.beta
    phenotypes = {
        "gender": beta(0.4, 0.4, count),
        "age": 2 / 3 + beta(1, 2, count) / 3,  # 2/3 is Anny's young adult, 1 is old
        "muscle": beta(3, 3, count),
        "weight": beta(3, 3, count),
        "height": beta(20, 34, count),  # men 1.77 m, women 1.64 m, both +- 7 cm
        "proportions": beta(3, 3, count),
        "cupsize": beta(3, 3, count),
        "firmness": beta(3, 3, count),
    }
    races = rng.dirichlet([0.5] * 3, count).T
    phenotypes |= dict(zip(("african", "asian", "caucasian"), races, strict=True))
    return phenotype_coefficients(rig, phenotypes)


def phenotype_coefficients(rig: Rig, phenotypes: dict[str, np.ndarray]) -> np.ndarray:
    """Anny's blend-shape coefficients of phenotypes, without expression."""
    inputs = rig.model.get_tensor_inputs(None, phenotypes, None, None)
    return rig.model._get_phenotype_blendshape_coefficients(*inputs[1:]).numpy()


def shape_basis(vertices: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """PCA (mean (V, 3), directions (V, 3, count) of one standard deviation each)."""
    mean = vertices.mean(0)
    flat = (vertices - mean).reshape(len(vertices), -1)
    values, vectors = np.linalg.eigh(flat @ flat.T)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    directions = flat.T @ vectors / np.sqrt(len(flat) - 1)
    # Sign: the largest coordinate is positive, so that a rebuild gives the same file.
    peak = np.abs(directions).argmax(0)
    directions *= np.sign(directions[peak, np.arange(count)])
    log.info("betas explain %.4f of the variance", values.sum() / (flat**2).sum())
    return mean, directions.reshape(*mean.shape, count)


def expression_basis(rig: Rig) -> np.ndarray:
    """The 52 face units (V, 3, 52), metres; the T-pose leaves the head as it is at rest."""
    count = len(rig.model.facial_action_labels)
    start = len(rig.model.blendshapes) - count
    return np.moveaxis(to_smplx(rig.model.blendshapes[start:].numpy()), 0, -1)


def joint_regressor(
    vertices: np.ndarray, joints: np.ndarray, expression: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Sparse joint regressor (55, V), rows sum to 1, fitted over subjects (n, V, 3).

    Ridge regression on 300 spread vertices of the bones that meet at the joint: weights of one
    sign (as in SMPL-X) would follow the shape several times worse. Heavy equations make a row sum
    to one and the joint ignore the expression (V, 3, e); other residuals are errors in metres.
    """
    heavy, ridge, size = 100.0, 1e-3, 300
    regressor = np.zeros((NUM_JOINTS, vertices.shape[1]))
    mean_v, mean_j = vertices.mean(0), joints.mean(0)
    for j in range(NUM_JOINTS):
        pool = np.flatnonzero(weights[:, [j, max(PARENTS[j], 0)]].sum(1) > 0.05)
        distance = np.linalg.norm(mean_v[pool] - mean_j[j], axis=1)
        pool = pool[np.argsort(distance, kind="stable")[:2000]]
        pool = pool[spread(mean_v[pool], size)]
        shape = (vertices[:, pool] - joints[:, None, j]).transpose(0, 2, 1).reshape(-1, len(pool))
        moved = expression[pool].reshape(len(pool), -1).T
        system = np.vstack([
            shape / np.sqrt(len(vertices)), heavy * moved, ridge * np.eye(len(pool)),
            np.full(len(pool), heavy),
        ])  # fmt: skip
        solution = np.linalg.lstsq(system, np.r_[np.zeros(len(system) - 1), heavy])[0]
        regressor[j, pool] = solution / solution.sum()
    return regressor


def spread(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of well-spread points, by farthest-point sampling from the first."""
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def texture_coordinates(rig: Rig) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (T, 2) that some face uses, and their rows per face (F, 3)."""
    rows = rig.model.face_texture_coordinate_indices.numpy()
    used, compact = np.unique(rows, return_inverse=True)
    return rig.model.texture_coordinates.numpy()[used], compact.reshape(rows.shape)


def mean_hands(rig: Rig, coefficients: np.ndarray) -> np.ndarray:
    """Axis-angle (30, 3), left then right, that gives straight fingers Anny's resting curl."""
    world = t_pose_rotations(*rig.rest(coefficients)[1:])
    local = []
    for side, start in (("left", 25), ("right", 40)):
        wrist = world[NAMES.index(f"{side}_wrist")]
        # Rest relative to the template; the wrist itself stays in the T-pose.
        back = {j: wrist @ world[j].T for j in range(start, start + 15)}
        local += [back.get(PARENTS[j], np.eye(3)).T @ back[j] for j in back]
    return Rotation.from_matrix(np.stack(local)).as_rotvec()


def bake(subjects: int, betas: int) -> dict[str, np.ndarray]:
    """All arrays of the file."""
    rig = Rig.load()
    coefficients = sample_adults(rig, subjects, np.random.default_rng(SEED))
    log.info("%d subjects to the T-pose ...", subjects)
    posed = [t_pose(rig, c) for c in coefficients]
    vertices, joints = np.stack([v for v, _ in posed]), np.stack([j for _, j in posed])
    template, shape_dirs = shape_basis(vertices, betas)
    expression_dirs = expression_basis(rig)
    expression_dirs = expression_dirs.astype(np.float16).astype(float)
    regressor = joint_regressor(vertices[:200], joints[:200], expression_dirs, rig.weights)
    error = np.linalg.norm(np.einsum("jv,nvc->njc", regressor, vertices) - joints, axis=-1)
    log.info("joint regressor: mean %.2f mm, max %.2f mm", 1e3 * error.mean(), 1e3 * error.max())
    hands = mean_hands(rig, coefficients.mean(0)).astype(np.float32)

    count = expression_dirs.shape[-1]
    dirs = np.zeros((len(template), 3, SHAPE_SPACE + EXPRESSION_SPACE), np.float16)
    dirs[..., :betas] = shape_dirs
    dirs[..., SHAPE_SPACE : SHAPE_SPACE + count] = expression_dirs
    faces = rig.model.faces.numpy().astype(np.int32)
    uv, uv_faces = texture_coordinates(rig)
    tree = np.stack([PARENTS, np.arange(NUM_JOINTS)]).astype(np.int32)
    arrays = {
        "v_template": template.astype(np.float32),
        "f": faces,
        "shapedirs": dirs,
        "posedirs": np.zeros((len(template), 3, 9 * (NUM_JOINTS - 1)), np.float16),
        "weights": rig.weights.astype(np.float32),
        "J_regressor": regressor.astype(np.float32),
        "kintree_table": tree,
        "hands_meanl": hands[:15].reshape(-1),
        "hands_meanr": hands[15:].reshape(-1),
        "hands_componentsl": np.eye(45, dtype=np.float32),
        "hands_componentsr": np.eye(45, dtype=np.float32),
        "vt": uv.astype(np.float32),
        "ft": uv_faces.astype(np.int32),
        "num_betas": np.array(betas),
        "expression_names": np.array(rig.model.facial_action_labels),
    }
    return arrays | bake_keypoints(surface(rig, template, faces, regressor @ template))


def surface(rig: Rig, template: np.ndarray, faces: np.ndarray, joints: np.ndarray) -> Surface:
    """The template as the keypoints need it."""
    model = rig.model
    heaviest = model.vertex_bone_weights.argmax(1, keepdim=True)
    bone = model.vertex_bone_indices.gather(1, heaviest)[:, 0].numpy()
    return Surface(
        vertices=template,
        faces=faces,
        joints=dict(zip(NAMES, joints, strict=True)),
        weights=dict(zip(NAMES, rig.weights.T, strict=True)),
        bone=np.array(model.bone_labels)[bone],
        skin=anny.face_segmentation.get_face_segmentation_mask(model, ["head"]).numpy(),
    )


def main() -> None:
    """Bakes and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--subjects", type=int, default=SUBJECTS)
    parser.add_argument("--betas", type=int, default=BETAS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arrays = bake(args.subjects, args.betas)
    with atomic_path(args.out) as path:
        np.savez_compressed(path, **arrays)
    log.info("%s: %.1f MB", args.out, args.out.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
