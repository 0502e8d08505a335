"""Heads from the files that PointAvatar, PEGASUS and PERSE write, every key accounted for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from persona.errors import UserError
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.template import SCALE, HeadTemplate
from persona.modules.strict_state import State, load_strictly, split_prefixes

FLAME = "FLAMEServer."
NETWORKS = {
    "geometry_network": ("look.surface", "look.canonical"),
    "deformer_network": ("deformer",),
    "rendering_network": ("look.shading",),
    "gaussian_deformer_network": ("look.change",),
    "clip_regression_network": ("edits.codes.network",),
}
"""Published name of a network, and where ours has it."""
NOT_KEPT = ("module.clip_model.", "clip_model.", "clip_regression_network.clip_model.")
"""CLIP's own weights, which are frozen and stored twice."""
WHOLE = ("model.", "module.")
"""What Lightning and DDP put before every key."""
FLAME_ARRAYS = (
    "v_template", "shapedirs", "posedirs", "J_regressor", "lbs_weights", "parents", "eye_pose",
    "neck_pose", "neck_kin_chain", "faces_tensor", "lmk_faces_idx", "lmk_bary_coords",
    "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords", "full_lmk_faces_idx",
    "full_lmk_bary_coords", "canonical_pose", "canonical_exp", "canonical_beta",
    "canonical_verts", "canonical_pose_feature", "canonical_transformations",
)  # fmt: skip
"""All that a checkpoint may hold of FLAME; the first five and ``canonical_exp`` are used."""
PARENTS = (-1, 0, 1, 1, 1)
NUM_BETAS = 100
"""FLAME's shape coefficients: the first columns of the basis; the expression's follow."""


def published_networks(avatar: HeadAvatar) -> dict[str, nn.Module]:
    """The avatar's networks by their published names."""
    own = dict(avatar.named_modules())
    return {
        name: own[place] for name, places in NETWORKS.items() for place in places if place in own
    }


def read_published(avatar: HeadAvatar, state: State, source: str) -> None:
    """Takes the networks and points of a public checkpoint's model.

    The body model's arrays, which it also holds, are those of ``flame_template``; both copies must
    be the same.

    Args:
        avatar: Avatar of the sizes that the checkpoint has.
        state: Keys as published; those of CLIP may be there.
        source: Where it comes from, for messages.

    Raises:
        UserError: a key is missing, left over, or of another shape, or the avatar adds the body
            model's bases.
    """
    if avatar.model_bases:
        raise UserError(f"{source}: predicts whole bases; build it with avatar.model_bases=false")
    state = without_prefix(state)
    networks = published_networks(avatar)
    prefixes = (*(f"{name}." for name in networks), FLAME, "pc.")
    kept = {k: v for k, v in state.items() if not k.startswith(NOT_KEPT)}
    *parts, flame, points = split_prefixes(kept, prefixes, source)
    for (name, network), part in zip(networks.items(), parts, strict=True):
        if name == "deformer_network":
            part = _without_copy(part, flame, source)
        load_strictly(network, part, f"{source} ({name})")
    if strange := set(flame) - set(FLAME_ARRAYS):
        raise UserError(f"{source}: {FLAME}{min(strange)} has no place; not a head's checkpoint")
    if set(points) != {"points"}:
        raise UserError(f"{source}: pc.points is missing; these are another version's weights")
    avatar.set_size({"gaussians": len(points["points"])})
    with torch.no_grad():
        avatar.points.copy_(points["points"])
    if "canonical_exp" in flame:
        avatar.mean_expression.copy_(flame["canonical_exp"][0])


def read_tables(avatar: HeadAvatar, state: State, source: str) -> None:
    """Takes the codes of what is absent and of the person from a checkpoint's InputParameters."""
    names = {"zero_latent_codes.weight": "zero", "source_scene_latent_codes.weight": "source"}
    if set(state) != set(names):
        odd = min(set(state) ^ set(names))
        raise UserError(f"{source}: {odd} is missing or has no place; give both tables of codes")
    slots = avatar.edits.slots
    if slots is None:
        raise UserError(f"{source}: this avatar has no latent; give a checkpoint without tables")
    load_strictly(slots, {names[key]: value for key, value in state.items()}, source)


def without_prefix(state: State) -> dict[str, Tensor]:
    """Keys without what Lightning or DDP put before all of them."""
    for prefix in WHOLE:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def _without_copy(part: State, flame: State, source: str) -> dict[str, Tensor]:
    """The deformer's own weights; its copy of the body model must be the first one's."""
    for key, value in part.items():
        name = key.removeprefix(FLAME)
        if name != key and name in flame and not torch.equal(value, flame[name]):
            raise UserError(f"{source}: its two copies of FLAME differ in {name}; write it again")
    return {key: value for key, value in part.items() if not key.startswith(FLAME)}


def flame_template(state: State, shaped: bool) -> HeadTemplate:
    """The body model that a public checkpoint brings along: no licensed file is asked for.

    Args:
        state: Keys as published.
        shaped: Whether a pose names a shape. PointAvatar's template has the person's already.
    """
    flame: Mapping[str, Tensor] = {
        k.removeprefix(FLAME): v for k, v in without_prefix(state).items() if k.startswith(FLAME)
    }
    basis = flame["shapedirs"] / SCALE
    return HeadTemplate(
        parents=PARENTS,
        template=flame["v_template"] / SCALE,
        shape_dirs=basis[..., : NUM_BETAS if shaped else 0],
        expr_dirs=basis[..., NUM_BETAS:],
        pose_dirs=flame["posedirs"].T.unflatten(0, (-1, 3)) / SCALE,
        joint_regressor=flame["J_regressor"],
        weights=flame["lbs_weights"],
    )
