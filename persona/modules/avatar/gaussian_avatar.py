"""The PERSONA avatar: canonical Gaussians, pose-driven offsets, diffused skinning."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor, nn

from persona.modules.avatar.base import Avatar
from persona.modules.avatar.history import History, MovingPose
from persona.modules.avatar.learnt_normals import LearntNormals
from persona.modules.avatar.learnt_skinning import LearntSkinning
from persona.modules.avatar.light import SphericalLight
from persona.modules.avatar.offset_network import OffsetNetwork
from persona.modules.avatar.pose_code import NUM_BODY_JOINTS, pose_code
from persona.modules.avatar.rig import Lighting, Rig, surface_of
from persona.modules.avatar.template import AvatarTemplate
from persona.modules.body.skinning import blend_skin
from persona.modules.body.topology import vertex_normals
from persona.modules.parallel import branches
from persona.types import PLAIN_VIEW, Gaussians, Pose, TensorTuple, View

COLOR_EPS = 1e-4
"""Colours are kept this far from 0 and 1 before the logit."""


@dataclass(frozen=True)
class PosedAvatar(TensorTuple):
    """The avatar in one pose. Means in metres; canonical or camera frame as named."""

    base_canonical: Float[Tensor, "n 3"]
    refined_canonical: Float[Tensor, "n 3"]
    base: Float[Tensor, "n 3"]
    refined: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 1"]
    rgb: Float[Tensor, "n 3"]
    """Colours as seen, under the avatar's light if it has one; ``rgb_aux`` as well."""
    rgb_aux: Float[Tensor, "n 3"]
    albedo: Float[Tensor, "n 3"]
    """``rgb`` without light."""
    seg: Float[Tensor, "n 3"]
    bones: Float[Tensor, "j 4 4"]
    """posed_from_canonical, without trans."""
    expression: Float[Tensor, "e"]
    trans: Float[Tensor, "3"]

    def gaussians(self, asset: str) -> Gaussians:
        """Isotropic, opaque Gaussians of the ``base`` or ``refined`` asset."""
        means = getattr(self, asset)
        quaternions = means.new_zeros(len(means), 4)
        quaternions[:, 0] = 1
        return Gaussians(means, self.scales.expand(-1, 3), quaternions, means.new_ones(len(means)))

    def colors(self, asset: str) -> Float[Tensor, "n 3"]:
        """Colours of an asset: both have the same."""
        return self.rgb


class GaussianAvatar(Avatar):
    """Trainable avatar on a template.

    Source: PERSONA, arXiv:2508.09973. Rotation is identity and opacity 1, no spherical harmonics.

    Args:
        template: constants of the subject.
        offsets: pose-driven offset network; None leaves the refined asset equal to the base.
        refresh_every: steps between two look-ups of the base weights in the diffused field.
            1 is the paper; means move slowly, so a laptop may look up less often.
        refined_lookup: look up the refined means on their own (the paper) or share the base's.
        history: how the body has moved, as an input of the offsets; None gives only its pose.
        light: falls on the surface; None has it in the colours, as the paper does.
        skinning: corrects the weights; None keeps them, as the paper does.
        normals: tilts the normals that the light falls on; None keeps the surface's.
    """

    initial_rgb: Float[Tensor, "n 3"]
    """Colours at the start of the training."""
    _weights: Float[Tensor, "n j"]

    def __init__(
        self,
        *,
        template: AvatarTemplate,
        offsets: OffsetNetwork | None,
        refresh_every: int = 1,
        refined_lookup: bool = True,
        history: History | None = None,
        light: SphericalLight | None = None,
        skinning: LearntSkinning | None = None,
        normals: LearntNormals | None = None,
    ) -> None:
        super().__init__()
        self.template = template
        self.offsets = offsets
        self.history, self.light, self.skinning = history, light, skinning
        self.normals = normals
        self.refresh_every = refresh_every
        self.refined_lookup = refined_lookup
        n = template.num_gaussians
        self.mean_offset = nn.Parameter(torch.zeros(n, 3))
        self.log_scale = nn.Parameter(neighbour_log_scale(template.vertices))
        self.rgb_logit = nn.Parameter(torch.zeros(n, 3))
        self.rgb_aux_logit = nn.Parameter(torch.zeros(n, 3))
        self.seg_logit = nn.Parameter(torch.zeros(n, 3))
        self.register_buffer("initial_rgb", torch.full((n, 3), 0.5))
        # Saved together with their age, so that a resumed run looks up in the same steps.
        self.register_buffer("_weights", template.weights.clone(), persistent=refresh_every > 1)
        self._age = refresh_every

    @property
    def capturable(self) -> bool:  # type: ignore[override]  # An attribute of most avatars.
        """Whether every step does the same work, so that no look-up is reused in later steps."""
        return self.refresh_every <= 1

    def begin_step(self) -> None:
        """Begins an optimiser step: the weights looked up last grow older by one."""
        self._age += 1

    def get_extra_state(self) -> Int[Tensor, ""]:
        """Steps since the last look-up of the weights."""
        return torch.tensor(self._age)

    def set_extra_state(self, state: Int[Tensor, ""]) -> None:
        """From a checkpoint."""
        self._age = int(state)

    @torch.no_grad()
    def initialise_colors(
        self,
        rgb: Float[Tensor, "n 3"],
        rgb_aux: Float[Tensor, "n 3"],
        seg: Float[Tensor, "n 3"],
    ) -> None:
        """Sets the colour parameters, given in [0, 1]."""
        self.rgb_logit.copy_(rgb.logit(COLOR_EPS))
        self.rgb_aux_logit.copy_(rgb_aux.logit(COLOR_EPS))
        self.seg_logit.copy_(seg.logit(COLOR_EPS))
        self.initial_rgb.copy_(rgb)

    @torch.no_grad()
    def remove_light(self, pose: Pose, view: View = PLAIN_VIEW) -> None:
        """Divides the colours, taken from pictures, by the light that they were seen in.

        Args:
            pose: Of the photograph, which coloured what faces the camera; the colours of the rest
                come from frames from all sides.
            view: View of the photograph.
        """
        assert self.light is not None
        template, posed = self.template, self(pose, view)
        means = posed.refined
        normals = vertex_normals(means, template.faces, template.fans)
        seen = (normals * means).sum(1, keepdim=True) < 0
        shade = self.shade(means, template.weights, posed.bones, view)
        factor = torch.where(seen, shade, self.light.mean)
        for logit, by in ((self.rgb_logit, factor), (self.rgb_aux_logit, self.light.mean)):
            logit.copy_((logit.sigmoid() / by).clamp(0, 1).logit(COLOR_EPS))

    @torch.no_grad()
    def cover_surface(self, share: float) -> None:
        """Sizes the Gaussians by the mesh around them and sinks each by its standard deviation.

        On the surface, their outer halves make limbs fatter, and sizes by the nearest neighbours
        leave gaps where triangles are long.

        share: standard deviation over the edge of equilateral triangles as large as those around.
        """
        template = self.template
        scales = share * mean_edge(template.vertices, template.faces)
        normals = vertex_normals(template.vertices, template.faces, template.fans)
        self.log_scale.copy_(scales.log())
        self.mean_offset.copy_(-scales * normals)

    def code(self, pose: Pose) -> Float[Tensor, "*b k d"]:
        """Input of the offset network for one pose, or for each pose of a clip.

        A pose without a past is taken for that of a person who stands still.
        """
        joints = pose_code(pose.rotations[..., 1 : 1 + NUM_BODY_JOINTS, :, :])
        if self.history is None:
            return joints
        motion = pose.motion if isinstance(pose, MovingPose) else self.history.at_rest(pose)
        return self.history.code(joints, motion)

    @property
    def ring(self) -> Float[Tensor, "m k"]:
        """Which joints of the code each point of the network sees (1) or not; all see the root."""
        template = self.template
        if self.history is None:
            return template.moving_ring
        extra = self.history.num_rows - NUM_BODY_JOINTS
        return template.once(
            ("ring", extra), lambda: F.pad(template.moving_ring, (0, extra), value=1.0)
        )

    def pose_offsets(self, pose: Pose) -> Float[Tensor, "n 3"]:
        """Pose-driven displacement, metres, canonical; zero on hands, face_expr and eyes."""
        template = self.template
        if self.offsets is None:
            return torch.zeros_like(template.vertices)
        moved = self.offsets(template.moving_points, self.ring, self.code(pose))
        return template.carry_offsets(moved)

    def skinning_weights(
        self, means: Float[Tensor, "n 3"], scales: Float[Tensor, "n 1"]
    ) -> Float[Tensor, "n j"]:
        """Weights at the means; hands and face keep those of the mesh."""
        return self._corrected(self._look_up(means, scales))

    def _look_up(self, means: Tensor, scales: Tensor) -> Tensor:
        template = self.template
        if template.field is None:
            return template.weights
        with torch.no_grad():
            given = template.mesh_skinned, template.weights
            return template.field(means.detach(), scales.detach()[:, 0], False, *given)

    def _corrected(self, weights: Tensor) -> Tensor:
        return weights if self.skinning is None else self.skinning(self.template, weights)

    def _base_weights(self, means: Tensor, scales: Tensor) -> Tensor:
        if not self.training or self.refresh_every <= 1:
            return self.skinning_weights(means, scales)
        if self._age >= self.refresh_every:
            self._weights, self._age = self._look_up(means, scales), 0
        return self._corrected(self._weights)

    def bones(self, rotations: Float[Tensor, "*b j 3 3"]) -> Float[Tensor, "*b j 4 4"]:
        """posed_from_canonical of every joint, trans left out."""
        template = self.template
        posed = template.body.transforms_from_matrices(template.rest_joints, rotations)
        return posed @ template.rest_from_canonical

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedAvatar:
        """Poses the avatar in the camera frame of ``pose``, lit as it is seen from there."""
        template = self.template
        bones = self.bones(pose.rotations)
        expression = template.express(pose.expression)
        scales = self.log_scale.exp()
        base = template.vertices + self.mean_offset
        with branches() as branch:
            with branch() as look_up:
                weights = self._base_weights(base, scales)
                posed_base = blend_skin(base + expression, weights, bones) + pose.trans
            with branch():
                refined = base + self.pose_offsets(pose)
                if self.refined_lookup:
                    weights = self.skinning_weights(refined, scales)
                else:
                    look_up.join()
                posed_refined = blend_skin(refined + expression, weights, bones) + pose.trans
            with branch():
                tables = self.rgb_logit, self.rgb_aux_logit, self.seg_logit
                rgb, rgb_aux, seg = (table.sigmoid() for table in tables)
        albedo = rgb
        if self.light is not None:
            factor = self.shade(posed_refined, weights, bones, view)
            rgb, rgb_aux = (rgb * factor).clamp(0, 1), (rgb_aux * factor).clamp(0, 1)
        return PosedAvatar(
            base_canonical=base,
            refined_canonical=refined,
            base=posed_base,
            refined=posed_refined,
            scales=scales,
            rgb=rgb,
            rgb_aux=rgb_aux,
            albedo=albedo,
            seg=seg,
            bones=bones,
            expression=pose.expression,
            trans=pose.trans,
        )

    def shade(
        self,
        means: Float[Tensor, "n 3"],
        weights: Float[Tensor, "n j"],
        bones: Float[Tensor, "j 4 4"],
        view: View = PLAIN_VIEW,
    ) -> Float[Tensor, "n 1"]:
        """Factor on colours under the light on the posed surface, which gets no gradient by it.

        Args:
            means: Posed, metres.
            weights: By which they were skinned.
            bones: posed_from_canonical.
            view: Its camera's rotation turns the light.
        """
        assert self.light is not None
        normals = self._normals(means, weights, bones)
        if view.camera_rotation is not None:
            normals = normals @ view.camera_rotation
        return self.light(normals)

    def _normals(self, means: Tensor, weights: Tensor, bones: Tensor) -> Float[Tensor, "n 3"]:
        template = self.template
        normals = vertex_normals(means.detach(), template.faces, template.fans)
        if self.normals is None:
            return normals
        return self.normals(template, normals, weights, bones)

    def rig(self, pose: Pose | None = None) -> Rig:
        """See ``Avatar``: the base asset, or the refined one of a pose."""
        template, scales = self.template, self.log_scale.exp()
        means = template.vertices + self.mean_offset
        if pose is not None:
            means = means + self.pose_offsets(pose)
        turns = torch.eye(1, 4).to(means).expand(len(means), 4)
        weights = self.skinning_weights(means, scales)
        return Rig(
            points=Gaussians(means, scales.expand(-1, 3), turns, means.new_ones(len(means))),
            rgb=self.rgb_logit.sigmoid() * (1 if self.light is None else self.light.mean),
            weights=weights,
            expr_dirs=template.expr_dirs,
            joints=template.rest_joints,
            rest_from_bind=template.rest_from_canonical,
            surface=surface_of(template.body, template.subdivision),
            lighting=self._lighting(means, weights),
        )

    def _lighting(
        self, means: Float[Tensor, "n 3"], weights: Float[Tensor, "n j"]
    ) -> Lighting | None:
        """The light on canonical means."""
        if self.light is None:
            return None
        unmoved = torch.eye(4).to(means).expand(weights.shape[1], 4, 4)
        return Lighting(self._normals(means, weights, unmoved), self.light.coefficients.detach())

    def parameter_groups(self, rates: Mapping[str, float]) -> list[dict[str, object]]:
        """Optimiser groups; rates of ``means``, ``appearance`` and ``network``."""
        colors = [self.log_scale, self.rgb_logit, self.rgb_aux_logit, self.seg_logit]
        if self.light is not None and self.light.learnt:
            colors += self.light.parameters()
        groups: list[dict[str, object]] = [
            {"name": "means", "params": [self.mean_offset], "lr": rates["means"]},
            {"name": "appearance", "params": colors, "lr": rates["appearance"]},
        ]
        if self.offsets is not None:
            network = list(self.offsets.parameters())
            groups.append({"name": "offsets", "params": network, "lr": rates["network"]})
        for name, learnt in (("skinning", self.skinning), ("normals", self.normals)):
            if learnt is not None:
                params = list(learnt.parameters())
                groups.append({"name": name, "params": params, "lr": rates[name]})
        return groups


def neighbour_log_scale(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
    """Log of sqrt(mean squared distance to the 3 nearest neighbours), distances in metres."""
    values = points.detach().cpu().double().numpy()
    distance, _ = cKDTree(values).query(values, k=4)
    square = torch.from_numpy((distance[:, 1:] ** 2).mean(1)).to(points)
    return square.clamp_min(1e-10).sqrt().log()[:, None]


def mean_edge(points: Float[Tensor, "n 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "n 1"]:
    """Edge of the equilateral triangles that would give each vertex its share of the area, metres.

    A vertex has a third of the area of each of its faces; of a regular grid, sqrt(3) / 2 edges
    squared.
    """
    a, b, c = points[faces].unbind(1)
    third = torch.linalg.cross(b - a, c - a).norm(dim=-1) / 6
    area = points.new_zeros(len(points)).index_add_(0, faces.flatten(), third.repeat_interleave(3))
    return (area * 2 / 3**0.5).clamp_min(1e-10).sqrt()[:, None]
