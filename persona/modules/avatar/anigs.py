"""AniGS-style avatar: canonical Gaussians, and an offset for each view of a ring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor, nn

from persona.errors import UserError
from persona.modules.avatar.base import Avatar
from persona.modules.avatar.gaussian_avatar import COLOR_EPS, mean_edge
from persona.modules.avatar.hexplane import HexPlane
from persona.modules.avatar.rig import Rig, multiply, surface_of
from persona.modules.avatar.template import AvatarTemplate
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import vertex_normals
from persona.types import PLAIN_VIEW, BodyIdentity, Gaussians, Pose, TensorTuple, View

SHIFT_M, CHANGE = 0.01, 0.1
"""Scales of the field's outputs: an output of 1 is a shift of so many metres, or so large a
change."""


@dataclass(frozen=True)
class ViewOffsets(TensorTuple):
    """What one view adds to canonical Gaussians."""

    shift: Float[Tensor, "n 3"]
    """Metres, canonical frame."""
    log_scale: Float[Tensor, "n 3"]
    turn: Float[Tensor, "n 3"]
    """Half of a small axis-angle, radians."""
    rgb: Float[Tensor, "n 3"]
    """Logits."""


class ViewField(nn.Module):
    """Offsets by place and view: HexPlanes, then a small network for each kind of offset.

    Each network is evaluated for the view and for the mean of all views, and the offset is the
    difference: what all views have in common cancels out and stays with the canonical Gaussians.
    Before training all offsets are zero.

    Args:
        views: Number of views.
        channels: Channels of each HexPlane.
        resolutions: Resolutions of the HexPlanes, nodes along a side.
        width: Width of the networks.
        extent_m: Side of the cube that the planes span, metres.
    """

    def __init__(
        self, *, views: int, channels: int, resolutions: Sequence[int], width: int, extent_m: float
    ) -> None:
        super().__init__()
        self.views = views
        self.planes = nn.ModuleList(
            HexPlane(channels=channels, resolution=r, times=views, extent_m=extent_m)
            for r in resolutions
        )
        self.trunk = nn.Sequential(nn.Linear(channels * len(resolutions), width), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)) for _ in range(4)
        )

    def forward(self, points: Float[Tensor, "n 3"], view: Int[Tensor, ""]) -> ViewOffsets:
        """Offsets at canonical places (metres, centred) in one view."""
        features = self.trunk(torch.cat([plane(points, view) for plane in self.planes], -1))
        shift, *rest = (view - mean for view, mean in (head(features) for head in self.heads))
        return ViewOffsets(SHIFT_M * shift, *(CHANGE * values for values in rest))


@dataclass(frozen=True)
class PosedAniGs(TensorTuple):
    """The avatar in one pose, with the offsets of one view if a view was given."""

    points: Gaussians
    """In the camera frame of the pose."""
    rgb: Float[Tensor, "n 3"]
    mean_offset: Float[Tensor, "n 3"]
    """Offsets of the canonical Gaussians from the body's surface, metres."""
    offsets: ViewOffsets | None
    """Offsets of the view; None for the canonical person."""

    def gaussians(self, asset: str) -> Gaussians:
        """All of them."""
        return self.points

    def colors(self, asset: str) -> Float[Tensor, "n 3"]:
        """Colours of all Gaussians."""
        return self.rgb


@dataclass(frozen=True)
class Anchors(TensorTuple):
    """Places on a body where a smooth field is evaluated; each Gaussian interpolates between them.

    Half of the body's vertices are in its hands and head: evaluating at each of them costs ten
    times as much and gains nothing.
    """

    places: Float[Tensor, "m 3"]
    index: Int[Tensor, "n k"]
    weight: Float[Tensor, "n k"]
    """Weights of the anchors; rows sum to one."""

    @classmethod
    def spread(cls, points: Float[Tensor, "n 3"], count: int, nearest: int = 4) -> Anchors:
        """Chooses anchors by farthest-point sampling, starting at the first point.

        Args:
            points: Points of a body, metres.
            count: Anchors, at most as many as points.
            nearest: Anchors that a point mixes, by the inverse squares of their distances.
        """
        values = points.double().numpy()
        gaps, chosen = np.full(len(values), np.inf), [0]
        for _ in range(min(count, len(values)) - 1):
            gaps = np.minimum(gaps, np.square(values - values[chosen[-1]]).sum(1))
            chosen.append(int(gaps.argmax()))
        distance, index = cKDTree(values[chosen]).query(values, k=min(nearest, len(chosen)))
        weight = 1 / (np.square(distance.reshape(len(values), -1)) + 1e-8)
        weight = torch.from_numpy(weight / weight.sum(1, keepdims=True)).to(points)
        return cls(points[chosen], torch.from_numpy(index).view_as(weight), weight)

    def mix(self, values: Float[Tensor, "m c"]) -> Float[Tensor, "n c"]:
        """Values of all Gaussians from those of the anchors."""
        picked = values.index_select(0, self.index.flatten()).unflatten(0, self.index.shape)
        return (picked * self.weight[..., None]).sum(1)


class AniGsAvatar(Avatar):
    """Canonical Gaussians, one per vertex of a subdivided body, and a field of view offsets.

    The views of a generated ring disagree. Each is explained by the canonical person and offsets of
    its own, as a moment of a 4D scene is; without offsets it is the canonical person, who alone is
    animated, with diffused skinning weights.

    Source: Qiu et al. 2024, "AniGS", arXiv:2412.02684, section 3.2, by its description. Not as
    there: places are the body's vertices, opacities 1, and the field is asked at anchors.

    Args:
        template: Constants of the subject.
        field: Settings of the ``ViewField`` except the number of views; None for no field.
        field_from: Steps before views have offsets: first the mean person takes shape.
        anchors: Places where the field is asked.
        surface_scale: First standard deviation in mean edges, and depth beneath the surface.
    """

    places: Float[Tensor, "m 3"]
    index: Int[Tensor, "n k"]
    weight: Float[Tensor, "n k"]

    def __init__(
        self,
        *,
        template: AvatarTemplate,
        field: Mapping[str, Any] | None,
        field_from: int = 0,
        anchors: int = 1500,
        surface_scale: float = 0.55,
    ) -> None:
        super().__init__()
        self.template, self.settings, self.field_from = template, field, field_from
        centred = template.vertices - template.vertices.mean(0)
        for name, value in vars(Anchors.spread(centred, anchors)).items():
            self.register_buffer(name, value, persistent=False)
        scales = surface_scale * mean_edge(template.vertices, template.faces)
        normals = vertex_normals(template.vertices, template.faces, template.fans)
        self.mean_offset = nn.Parameter(-scales * normals)
        self.log_scale = nn.Parameter(scales.log().repeat(1, 3))
        self.quaternion = nn.Parameter(torch.eye(1, 4).repeat(len(scales), 1))
        self.rgb_logit = nn.Parameter(torch.zeros(len(scales), 3))
        self.field: ViewField | None = None
        self.steps = 0
        """Optimiser steps begun."""

    def begin_step(self) -> None:
        """Counts the steps; the first ``field_from`` have no offsets."""
        self.steps += 1

    def get_extra_state(self) -> Int[Tensor, ""]:
        """The steps."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Int[Tensor, ""]) -> None:
        """From a checkpoint."""
        self.steps = int(state)

    # The number of views is known from the frames, or from a checkpoint.

    def size(self) -> dict[str, int]:
        """The number of views that the field knows."""
        return {} if self.field is None else {"views": self.field.views}

    def set_size(self, size: Mapping[str, int]) -> None:
        """Makes an untrained field for a number of views.

        Raises:
            UserError: the avatar has no field, or the size is none.
        """
        if dict(size) == self.size():
            return
        if self.settings is None or set(size) != {"views"}:
            raise UserError(
                f"checkpoint does not fit this avatar: its size is {dict(size)}; use the "
                "configuration it was trained with"
            )
        self.field = ViewField(views=size["views"], **self.settings).to(self.mean_offset.device)

    def parameter_groups(self, rates: Mapping[str, float]) -> list[dict[str, object]]:
        """See ``Avatar``: without a field its rate is not asked for.

        A view's rows in the planes stay still in steps that do not show it.
        """
        if self.field is None:
            return super().parameter_groups({k: v for k, v in rates.items() if k != "field"})
        groups = super().parameter_groups(rates)
        views = [cast("HexPlane", plane).time for plane in self.field.planes]
        field = next(group for group in groups if group["name"] == "field")
        moved = cast("list[nn.Parameter]", field["params"])
        field["params"] = [p for p in moved if all(p is not v for v in views)]
        return [*groups, {"name": "views", "params": views, "lr": rates["field"], "rows": True}]

    @torch.no_grad()
    def initialise_colors(self, rgb: Float[Tensor, "n 3"]) -> None:
        """Sets the colours, given in [0, 1]."""
        self.rgb_logit.copy_(rgb.logit(COLOR_EPS))

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedAniGs:
        """In the camera frame of the pose.

        Args:
            pose: Pose of the body.
            view: Its moment is the number of the view whose offsets are added; None leaves the
                canonical person.
        """
        points, offsets = self._canonical(), self.view_offsets(view.moment)
        rgb: Tensor = self.rgb_logit
        if offsets is not None:
            turns = torch.cat([torch.ones_like(offsets.turn[:, :1]), offsets.turn], -1)
            points = replace(
                points,
                means=points.means + offsets.shift,
                scales=points.scales * offsets.log_scale.exp(),
                quaternions=multiply(turns, points.quaternions),
            )
            rgb = rgb + offsets.rgb
        rig = self._rig(points, rgb.sigmoid())
        bones = self.template.body.transforms_from_matrices(rig.joints, pose.rotations)
        posed = rig.posed(bones, pose.expression, pose.trans)
        return PosedAniGs(posed, rig.rgb, self.mean_offset, offsets)

    def view_offsets(self, view: Int[Tensor, ""] | None) -> ViewOffsets | None:
        """Offsets of all Gaussians in a view; None without a view or a field, or in early steps."""
        if view is None or self.field is None or self.steps <= self.field_from:
            return None
        found = vars(self.field(self.places, view))
        anchors = Anchors(self.places, self.index, self.weight)
        mixed = anchors.mix(torch.cat(list(found.values()), -1)).split(3, -1)
        return ViewOffsets(**dict(zip(found, mixed, strict=True)))

    def rig(self, pose: Pose | None = None) -> Rig:
        """The canonical person, which does not depend on the pose."""
        template, rig = self.template, self._rig(self._canonical(), self.rgb_logit.sigmoid())
        return replace(rig, surface=surface_of(template.body, template.subdivision))

    def _canonical(self) -> Gaussians:
        means = self.template.vertices + self.mean_offset
        opacities = means.new_ones(len(means))
        return Gaussians(means, self.log_scale.exp(), self.quaternion, opacities)

    def _rig(self, points: Gaussians, rgb: Float[Tensor, "n 3"]) -> Rig:
        template = self.template
        return Rig(
            points=points,
            rgb=rgb,
            weights=self.skinning_weights(points.means, points.scales),
            expr_dirs=template.expr_dirs,
            joints=template.rest_joints,
            rest_from_bind=template.rest_from_canonical,
        )

    @torch.no_grad()
    def skinning_weights(
        self, means: Float[Tensor, "n 3"], scales: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n j"]:
        """Diffused weights at the means; hands and face keep their mesh weights.

        Looked up for the body's own vertices and interpolated, since weights are smooth.
        """
        template = self.template
        if template.field is None:
            return template.weights
        count = template.carry.num_base_vertices
        given = template.mesh_skinned[:count], template.weights[:count]
        found = template.field(means[:count], scales[:count].amax(1), False, *given)
        return template.carry.features(found)


@dataclass(frozen=True, kw_only=True)
class AniGsBuilder:
    """Settings.

    Attributes:
        rates: Adam's, by the names of parameters and modules.
        levels: Mid-edge subdivisions of the body; one Gaussian per vertex.
        network_level: Subdivisions of the mesh on which skinning weights are looked up; the rest of
            ``levels`` carries on. None is every Gaussian.
        edge_m: Each subdivision splits the edges longer than this, metres; None splits all.
        surface_scale: First size of the Gaussians in mean edges.
        view_field: False leaves the offsets of views out: training averages the views.
        field_from: Steps before views have offsets.
        anchors: Places where the field is asked.
        channels: Channels of each HexPlane.
        resolutions: Resolutions of the HexPlanes.
        width: Width of the offset networks.
        extent_m: Side of the cube that the planes span, metres.
        field_resolution: Voxels along each side of the skinning field.
        field_steps: Its diffusion steps.
    """

    rates: Mapping[str, float]
    levels: int = 2
    network_level: int | None = 0
    edge_m: float | None = None
    surface_scale: float = 0.55
    view_field: bool = True
    field_from: int = 0
    anchors: int = 1500
    channels: int = 8
    resolutions: Sequence[int] = (12, 24)
    width: int = 32
    extent_m: float = 2.2
    field_resolution: int = 128
    field_steps: int = 100

    def build(self, body: SmplxBody, identity: BodyIdentity) -> AniGsAvatar:
        """A grey avatar on the surface of the body."""
        template = AvatarTemplate(
            body=body,
            identity=identity,
            levels=self.levels,
            edge_m=self.edge_m,
            network_level=self.network_level,
            field_resolution=self.field_resolution,
            field_steps=self.field_steps,
        )
        field = {
            "channels": self.channels, "resolutions": self.resolutions,
            "width": self.width, "extent_m": self.extent_m,
        }  # fmt: skip
        return AniGsAvatar(
            template=template,
            field=field if self.view_field else None,
            field_from=self.field_from,
            anchors=self.anchors,
            surface_scale=self.surface_scale,
        )
