"""A person's garment over a motion: simulated, and read back as offsets of its vertices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numpy import ndarray
from torch import Tensor

from persona.errors import UserError
from persona.modules.body.skinning import blend_bones, blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth import xpbd
from persona.modules.cloth.tube import LEGS
from persona.types import BodyIdentity, BodyPose, Garment

GRAVITY = np.array([0.0, -9.81, 0.0])
"""Metres per second squared; motions have y up."""
EASE_S, SETTLE_S = 1.0, 1.0
"""Seconds of moving from the rest pose to the motion's first pose, and of resting there."""
SUBSTEPS, TRIES = 20, 3
"""Substeps of a thirtieth of a second; doubled each time that the cloth flies apart."""
THICKNESS_M = 0.005
MOST_STRETCH, MOST_TURNED = 1.5, 0.12
"""Beyond these a frame is tangled: the longest thread over its length, and the share of the cloth
that has its inner side out."""
_FRAME_S = 1 / 30


@dataclass(frozen=True)
class Fabric:
    """What the cloth is made of; compliances in seconds squared, see ``xpbd``.

    Stiff: a skirt that stands off the legs in its photograph, without folds, holds its shape.
    """

    shear: float = 3e-4
    bend: float = 2e-5
    air: xpbd.Air = field(default_factory=xpbd.Air)

    @staticmethod
    def drawn(seed: int) -> Fabric:
        """A random fabric for a clip: the photographed one is unknown, so each clip has another."""
        by = np.random.default_rng(seed).uniform(0.5, 2.0, 3)
        own = Fabric()
        return Fabric(own.shear * by[0], own.bend * by[1], xpbd.Air(drag=own.air.drag * by[2]))


@dataclass(frozen=True)
class Drape:
    """Offsets of the cloth from a body that is only skinned, frame by frame."""

    vertices: Int[Tensor, "k"]
    """Vertices of the body that wears the garment."""
    offset: Float[Tensor, "n k 3"]
    """Metres, added to the rest pose before skinning."""
    faults: tuple[str, ...]
    """Why a frame should not be used, in a few words; empty for a good one."""

    def dense(self, frame: int, num_vertices: int) -> Float[Tensor, "p 3"]:
        """A frame's offsets of all vertices."""
        offset = torch.zeros(num_vertices, 3)
        offset[self.vertices] = self.offset[frame]
        return offset


class Course(NamedTuple):
    """Motion of the body that moves the cloth: the lead-in, then the motion's frames."""

    bones: Float[Tensor, "t j 4 4"]
    held: Float64[ndarray, "t n 3"]
    pull: Float64[ndarray, "t n 3"]
    cones: Float64[ndarray, "t k 8"]


@torch.no_grad()
def drape(
    body: SmplxBody,
    identity: BodyIdentity,
    motion: BodyPose,
    fps: float,
    frames: Int[Tensor, "n"],
    fabric: Fabric,
) -> Drape | None:
    """Simulates the garment over a motion; None for a person without one.

    Args:
        body: Body model.
        identity: The person, with the garment.
        motion: In a world with y up.
        fps: Its frames a second.
        frames: Which of them are wanted, rising.
        fabric: Fabric of the garment.

    Raises:
        UserError: The cloth flies apart, however small the steps.
    """
    garment = identity.garment
    if garment is None:
        return None
    eased, before = ease_in(motion, fps)
    course = _course(body, identity, garment, eased)
    wanted, springs = frames + before, springs_of(garment, fabric)
    for attempt in range(TRIES):
        substeps = max(1, round(SUBSTEPS * 2**attempt / fps / _FRAME_S))
        found = dict(_simulate(garment, springs, fabric.air, course, (1 / fps, substeps)))
        if len(found) == len(course.bones):
            return _read(body, garment, springs, course, found, wanted)
    raise UserError(
        f"the garment flies apart at frame {len(found) - before} of the motion, with {substeps} "
        "substeps a frame; choose another motion or generator=textured_mesh"
    )


def ease_in(motion: BodyPose, fps: float) -> tuple[BodyPose, int]:
    """The motion after a slow lead-in from the rest pose, and the lead-in's number of frames."""
    moving, still = round(EASE_S * fps), round(SETTLE_S * fps)
    share = torch.cat((torch.linspace(0, 1, moving + 1)[:-1], torch.ones(still)))
    share = (share * share * (3 - 2 * share))[:, None]
    first, count = motion[:1], len(share)
    joints = torch.cat((share[..., None] * first.joints, motion.joints))
    expression = torch.cat((share * first.expression, motion.expression))
    trans = torch.cat((first.trans.expand(count, 3), motion.trans))
    return BodyPose.from_joints(joints, expression, trans), count


def springs_of(garment: Garment, fabric: Fabric) -> xpbd.Springs:
    """Threads that do not stretch, softer diagonals, and bending stiffness across two threads."""
    rings, columns = _grid(garment).shape[:2]
    grid = np.arange(rings * columns).reshape(rings, columns)
    right, far = np.roll(grid, -1, 1), np.roll(grid, -2, 1)
    groups = (
        (grid[:-1], grid[1:], 0.0),
        (grid, right, 0.0),
        (grid[:-1], right[1:], fabric.shear),
        (right[:-1], grid[1:], fabric.shear),
        (grid, far, fabric.bend),
        (grid[:-2], grid[2:], fabric.bend),
    )
    ends = np.concatenate([np.stack((a.ravel(), b.ravel()), 1) for a, b, _ in groups])
    give = np.concatenate([np.full(a.size, compliance) for a, _, compliance in groups])
    return xpbd.springs_of(ends, _array(garment.rest), give)


def _grid(garment: Garment) -> Float64[ndarray, "r c 3"]:
    """The garment's rings at rest."""
    return _array(garment.rest).reshape(-1, garment.columns, 3)


def _course(body: SmplxBody, identity: BodyIdentity, garment: Garment, poses: BodyPose) -> Course:
    """Bones, the held ring, gravity and the body's cones over the motion."""
    _, joints = body.shape(identity)
    bones = body.joint_transforms(joints, body.full_pose(poses))
    bones[..., :3, 3] += poses.trans[:, None]
    ring = garment.columns
    held = np.zeros((len(bones), len(garment.rest), 3))
    held[:, :ring] = blend_skin(garment.rest[:ring], garment.weights[:ring], bones).numpy()
    turn = bones[:, 0, :3, :3].double().numpy()
    pull = GRAVITY + np.einsum("tij,nj->tni", turn, _carried_weight(garment))
    naked, _ = body.shape(_naked(identity))
    return Course(bones, held, pull, _cones(body, naked, joints, bones, garment))


def _naked(identity: BodyIdentity) -> BodyIdentity:
    """Without the shape of clothes; its joints are not to be used."""
    return BodyIdentity(
        identity.betas, torch.zeros_like(identity.face_offset), identity.joint_offset
    )


def _carried_weight(garment: Garment) -> Float64[ndarray, "n 3"]:
    """Force that holds the skirt in its rest shape against gravity, beside its threads' pull.

    The photographed shape is one in which the cloth hangs at rest, so all forces on it cancel.
    Threads carry gravity along their own direction, which lets the skirt swing. The remainder,
    across the threads where they flare or lie over the hips, was carried by stiffness and contact
    in the photograph; it is added here as a constant force that turns with the body.
    """
    rest = _grid(garment)
    thread = np.diff(rest, axis=0)
    thread /= np.linalg.norm(thread, axis=-1, keepdims=True)
    carried, below = np.zeros_like(rest), np.zeros_like(rest[0])
    for row in range(len(rest) - 1, 0, -1):
        above = thread[row - 1]
        wanted = below + GRAVITY
        tension = (wanted * above).sum(-1, keepdims=True).clip(min=0) * above
        carried[row], below = tension - wanted, tension
    return carried.reshape(-1, 3)


def _cones(
    body: SmplxBody,
    naked: Float[Tensor, "p 3"],
    joints: Float[Tensor, "j 3"],
    bones: Float[Tensor, "t j 4 4"],
    garment: Garment,
) -> Float64[ndarray, "t k 8"]:
    """Thighs and shins in halves, each inside of the cloth at rest."""
    strongest = body.weights.argmax(-1)
    cones = []
    for hip, knee in LEGS:
        leg = naked[torch.isin(strongest, torch.tensor([hip, knee]))]
        for bone, below in ((hip, knee), (knee, knee + 3)):
            nodes = torch.lerp(joints[bone], joints[below], torch.linspace(0, 1, 3)[:, None])
            axis = torch.nn.functional.normalize(joints[below] - joints[bone], dim=0)
            radii = [_radius(leg, node, axis) for node in nodes]
            for i in range(2):
                ends = torch.stack((nodes[i], nodes[i + 1]))
                pair = _inside(ends, torch.stack((radii[i], radii[i + 1])), garment.rest)
                placed = ends @ bones[:, bone, :3, :3].mT + bones[:, bone, None, :3, 3]
                cones.append(torch.cat((placed.flatten(1), pair.expand(len(bones), 2)), 1).double())
    return torch.stack(cones, 1).numpy()


def _radius(
    leg: Float[Tensor, "n 3"], node: Float[Tensor, "3"], axis: Float[Tensor, "3"]
) -> Float[Tensor, ""]:
    """Radius of a leg where its bone passes ``node``."""
    away = leg - node
    along = away @ axis
    across = (away - along[:, None] * axis).norm(dim=-1)
    near = across[along.abs() < 0.04]
    return near.quantile(0.8) if len(near) else across.new_tensor(0.03)


def _inside(
    ends: Float[Tensor, "2 3"], radii: Float[Tensor, "2"], cloth: Float[Tensor, "n 3"]
) -> Float[Tensor, "2"]:
    """Radii of a cone that stays inside of the cloth at rest, which it would else tear open."""
    axis = ends[1] - ends[0]
    share = ((cloth - ends[0]) @ axis / (axis @ axis)).clamp(0, 1)
    distance = (cloth - ends[0] - share[:, None] * axis).norm(dim=-1) - THICKNESS_M
    return radii * (distance / torch.lerp(radii[0], radii[1], share)).min().clamp(0, 1)


def _simulate(
    garment: Garment, springs: xpbd.Springs, air: xpbd.Air, course: Course, clock: tuple[float, int]
) -> Iterator[tuple[int, Float64[ndarray, "n 3"]]]:
    """Each frame's particles, until the cloth flies apart; ``clock`` as of ``xpbd.step``."""
    x = _array(blend_skin(garment.rest, garment.weights, course.bones[0]))
    v, free = np.zeros_like(x), np.ones(len(x))
    free[: garment.columns] = 0
    for t in range(len(course.bones)):
        pair = [max(0, t - 1), t]
        drive = xpbd.Drive(course.held[pair], course.pull[t], course.cones[pair])
        xpbd.step(x, v, free, springs, drive, air, clock)
        if not np.isfinite(x).all() or _stretch(x, garment, springs) > 2 * MOST_STRETCH:
            return
        yield t, x.copy()


def _stretch(x: Float64[ndarray, "n 3"], garment: Garment, springs: xpbd.Springs) -> float:
    """The longest thread over its length at rest."""
    # The held ring follows the skin, which may stretch.
    threads = (springs.compliance == 0) & (springs.ends >= garment.columns).any(1)
    a, b = springs.ends[threads].T
    return float((np.linalg.norm(x[a] - x[b], axis=1) / springs.length[threads]).max())


def _fault(x: Float64[ndarray, "r c 3"], garment: Garment, springs: xpbd.Springs) -> str:
    """What is wrong with a frame's cloth, in a few words; empty if nothing is."""
    stretch = _stretch(x.reshape(-1, 3), garment, springs)
    if stretch > MOST_STRETCH:
        return f"stretched {stretch:.2f} times"
    down, around = np.diff(x, axis=0), np.roll(x, -1, 1)[:-1] - x[:-1]
    out = x[:-1] - x[:-1].mean(1, keepdims=True)
    turned = float(((np.cross(around, down) * out).sum(-1) * _side(garment) < 0).mean())
    return f"{turned:.0%} of the cloth inside out" if turned > MOST_TURNED else ""


def _side(garment: Garment) -> float:
    """Sign of the outer side in the grid's order of rings and columns."""
    rest = _grid(garment)
    around, down = rest[0, 1] - rest[0, 0], rest[1, 0] - rest[0, 0]
    return float(np.sign(np.cross(around, down) @ (rest[0, 0] - rest[0].mean(0))))


def _read(
    body: SmplxBody,
    garment: Garment,
    springs: xpbd.Springs,
    course: Course,
    found: dict[int, ndarray],
    wanted: Int[Tensor, "m"],
) -> Drape:
    """Offsets of the garment, taken back through the skinning, in the wanted frames."""
    offsets, faults = [], []
    for frame in wanted.tolist():
        cloth, bones = found[frame], course.bones[frame]
        apart = torch.from_numpy(cloth).float() - blend_skin(garment.rest, garment.weights, bones)
        turns = blend_bones(garment.weights, bones[:, :3])[..., :3]
        offsets.append(torch.linalg.solve(turns, apart))
        faults.append(_fault(cloth.reshape(_grid(garment).shape), garment, springs))
    rows = body.num_vertices + torch.arange(len(garment.rest))
    return Drape(rows, torch.stack(offsets), tuple(faults))


def _array(values: Tensor) -> Float64[ndarray, "*b 3"]:
    return values.double().numpy()
