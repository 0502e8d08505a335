"""The ExAvatar avatar: a Gaussian per vertex, whose properties come from two triplanes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.avatar.base import Avatar
from persona.modules.avatar.exavatar_network import PointNetwork
from persona.modules.avatar.exavatar_template import LEGS_APART, ExAvatarTemplate
from persona.modules.avatar.pose_code import NUM_BODY_JOINTS, pose_code
from persona.modules.avatar.rig import Rig, surface_of
from persona.modules.avatar.textured_face import TexturedFace
from persona.modules.avatar.triplane import Triplane
from persona.modules.body.nearest import nearest_vertex
from persona.modules.body.skinning import blend_bones
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import vertex_normals
from persona.types import PLAIN_VIEW, BodyIdentity, Gaussians, Pose, TensorTuple, View

NUM_CODE = 6 * NUM_BODY_JOINTS


@dataclass(frozen=True)
class PosedExAvatar(TensorTuple):
    """The avatar in one pose. Means in metres, camera frame."""

    base: Float[Tensor, "n 3"]
    refined: Float[Tensor, "n 3"]
    base_scale: Float[Tensor, "n 1"]
    """Metres, as learned: the warm-up's limit is not applied."""
    refined_scale: Float[Tensor, "n 1"]
    base_rgb: Float[Tensor, "n 3"]
    refined_rgb: Float[Tensor, "n 3"]
    mean_offset: Float[Tensor, "n 3"]
    """Base means minus the body's mesh, canonical."""
    mean_offset_offset: Float[Tensor, "n 3"]
    """What the pose adds to it, as the network predicts it; not used on hands and face."""
    scale_offset: Float[Tensor, "n 1"]
    """What the pose adds to the log of the scale."""
    max_scale_m: float = torch.inf
    """Upper limit of the scales that are rendered."""

    def gaussians(self, asset: str) -> Gaussians:
        """Isotropic, opaque Gaussians of the ``base`` or ``refined`` asset."""
        means = getattr(self, asset)
        scales = getattr(self, f"{asset}_scale").clamp_max(self.max_scale_m)
        quaternions = means.new_zeros(len(means), 4)
        quaternions[:, 0] = 1
        return Gaussians(means, scales.expand(-1, 3), quaternions, means.new_ones(len(means)))

    def colors(self, asset: str) -> Float[Tensor, "n 3"]:
        """Colours of an asset in [0, 1]."""
        return getattr(self, f"{asset}_rgb")


class ExAvatar(Avatar):
    """Trainable avatar; the person's shape and joints are trained with it.

    Source: ExAvatar, arXiv:2407.21686. Rotation is identity and opacity 1, no spherical harmonics.

    Args:
        template: constants of the body.
        identity: where shape and joints start.
        body_planes: triplane of the body.
        face_planes: triplane of the head.
        width: of the networks.
        texture_size: side of the face texture.
        warmup_steps: steps in which scales are limited when rendered.
        warmup_scale_m: that limit.
        mean_gain: factor of the mean heads' initial weights. At 1 their random output moves the
            whole avatar by decimetres first; at 0 it starts on the body's mesh.
    """

    initial_joint_offset: Float[Tensor, "j 3"]
    face_offset: Float[Tensor, "p 3"]
    steps: Int[Tensor, ""]

    def __init__(  # noqa: PLR0913
        self,
        *,
        template: ExAvatarTemplate,
        identity: BodyIdentity,
        body_planes: Triplane,
        face_planes: Triplane,
        width: int = 128,
        texture_size: int = 512,
        warmup_steps: int = 100,
        warmup_scale_m: float = 1e-3,
        mean_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.template = template
        self.body_planes, self.face_planes = body_planes, face_planes
        features, means = body_planes.num_features, {"mean": 3, "scale": 1}
        self.geo = PointNetwork(features=features, heads=means, width=width)
        self.geo_offset = PointNetwork(features=features, shared=NUM_CODE, heads=means, width=width)
        with torch.no_grad():
            for head in (self.geo.heads["mean"], self.geo_offset.heads["mean"]):
                head.weight.mul_(mean_gain)
                head.bias.mul_(mean_gain)
        self.rgb = PointNetwork(features=features, heads={"rgb": 3}, width=width)
        self.rgb_offset = PointNetwork(
            features=features + 3, shared=NUM_CODE, heads={"rgb": 3}, width=width
        )
        self.betas = nn.Parameter(identity.betas.clone())
        self.joint_offset = nn.Parameter(identity.joint_offset.clone())
        # Saved: a checkpoint's identity is the trained one.
        self.register_buffer("initial_joint_offset", identity.joint_offset.clone())
        self.register_buffer("face_offset", identity.face_offset.clone(), persistent=False)
        body = template.body
        self.face_texture = TexturedFace(body, template.face[: len(body.template)], texture_size)
        self.warmup_steps, self.warmup_scale_m = warmup_steps, warmup_scale_m
        self._steps = 0
        # The same on the device, so that a captured step reads its current value.
        self.register_buffer("steps", torch.tensor(0), persistent=False)

    @property
    def warming(self) -> bool:
        """Whether rendered scales are limited."""
        return self._steps <= self.warmup_steps

    @property
    def capturable(self) -> bool:  # type: ignore[override]  # An attribute of most avatars.
        """Whether a step asks the host for nothing but the frame's kind, as a CUDA graph needs.

        Behind the warm-up alone: more is drawn there than a graph captured in it has room for.
        """
        return not self.warming

    def begin_step(self) -> None:
        """Begins an optimiser step."""
        self._steps += 1
        self.steps += 1

    def get_extra_state(self) -> Int[Tensor, ""]:
        """Steps so far."""
        return torch.tensor(self._steps)

    def set_extra_state(self, state: Int[Tensor, ""]) -> None:
        """From a checkpoint."""
        self._steps = int(state)
        self.steps.fill_(self._steps)

    @property
    def identity(self) -> BodyIdentity:
        """The person as trained so far, with gradient."""
        return BodyIdentity(self.betas, self.face_offset, self.joint_offset)

    def features(self) -> Float[Tensor, "n f"]:
        """Triplane features: the head's from a triplane of its own."""
        template = self.template
        body = self.body_planes(template.body_points)
        features = body.new_zeros(template.num_gaussians, body.shape[1])
        features = features.index_copy(0, template.body_index, body)
        return features.index_copy(0, template.face_index, self.face_planes(template.face_points))

    def _transforms(
        self,
        means: Float[Tensor, "n 3"],
        canonical: Float[Tensor, "p 3"],
        bones: Float[Tensor, "j 4 4"],
    ) -> Float[Tensor, "n 3 4"]:
        """posed_from_canonical: of the nearest vertex; hands and head have their mesh's own."""
        template = self.template
        coarse = blend_bones(template.body.weights, bones)[:, :3]
        nearest = nearest_vertex(means.detach()[template.free], canonical.detach())
        # Interpolating blended transforms equals interpolating weights, since both are linear.
        own = template.subdivision.features(coarse)
        return own.index_copy(0, template.free, coarse.index_select(0, nearest))

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedExAvatar:
        """Poses the avatar in the camera frame of ``pose``.

        Shading depends on normals in the world, and so on the view's ``camera_rotation``.
        """
        template, body = self.template, self.template.body
        identity = self.identity
        _, rest_joints = body.shape(identity)
        canonical, _, canonical_from_rest = body.canonical(identity, LEGS_APART)
        posed_from_rest = body.transforms_from_matrices(rest_joints, pose.rotations)
        bones = posed_from_rest @ invert_rigid(canonical_from_rest)

        features, code = self.features(), pose_code(pose.rotations[1 : 1 + NUM_BODY_JOINTS])
        code = code.flatten()
        coarse = features[: template.carry.num_base_vertices]
        geo, offset = self.geo(coarse), self.geo_offset(coarse, code)
        outputs = torch.cat([geo["mean"], geo["scale"], offset["mean"], offset["scale"]], 1)
        outputs = template.carry.features(outputs)
        mean_offset, log_scale, mean_offset_offset, scale_offset = outputs.split([3, 1, 3, 1], 1)

        base = template.subdivision.features(canonical) + mean_offset
        blend = template.subdivision.features(body.pose_blend(pose.rotations.detach()))
        refined = base + torch.where(template.fixed[:, None], blend, mean_offset_offset)
        expression = template.subdivision.features(body.expr_dirs @ pose.expression)
        transforms = self._transforms(base, canonical, bones)
        base, refined = (
            transform(transforms, means + expression) + pose.trans for means in (base, refined)
        )

        with torch.no_grad():
            normals = vertex_normals(refined, template.faces)
            if view.camera_rotation is not None:
                normals = normals @ view.camera_rotation
        logits = self.rgb(features)["rgb"]
        shading = self.rgb_offset(torch.cat([features, normals], 1), code)["rgb"]
        return PosedExAvatar(
            base=base,
            refined=refined,
            base_scale=log_scale.exp(),
            refined_scale=(log_scale + scale_offset).exp(),
            base_rgb=(logits.tanh() + 1) / 2,
            refined_rgb=((logits + shading).tanh() + 1) / 2,
            mean_offset=mean_offset,
            mean_offset_offset=mean_offset_offset,
            scale_offset=scale_offset,
            max_scale_m=self.warmup_scale_m if self.warming else torch.inf,
        )

    def rig(self, pose: Pose | None = None) -> Rig:
        """See ``Avatar``: the base asset, or the refined one of a pose, its colours too."""
        template, body = self.template, self.template.body
        asset = "base" if pose is None else "refined"
        if pose is None:
            unturned = torch.eye(3).to(self.betas).expand(body.num_joints, 3, 3)
            still = self.betas.new_zeros(body.num_expression), self.betas.new_zeros(3)
            posed = self(Pose(unturned, *still))
        else:
            posed = self(pose)
        _, joints = body.shape(self.identity)
        canonical, _, bind_from_rest = body.canonical(self.identity, LEGS_APART)
        base = template.subdivision.features(canonical) + posed.mean_offset
        weights = template.subdivision.features(body.weights)
        nearest = nearest_vertex(base[template.free], canonical)
        means = base
        if pose is not None:
            blend = template.subdivision.features(body.pose_blend(pose.rotations))
            means = base + torch.where(template.fixed[:, None], blend, posed.mean_offset_offset)
        return Rig(
            points=replace(posed.gaussians(asset), means=means),
            rgb=posed.colors(asset),
            weights=weights.index_copy(0, template.free, body.weights[nearest]),
            expr_dirs=template.subdivision.features(body.expr_dirs),
            joints=joints,
            rest_from_bind=invert_rigid(bind_from_rest),
            surface=surface_of(body, template.subdivision),
        )


@dataclass(frozen=True, kw_only=True)
class ExAvatarBuilder:
    """Settings of an ExAvatar avatar; the defaults are the paper's.

    Attributes:
        levels: mid-edge subdivisions of the body mesh; one Gaussian per vertex.
        network_level: subdivisions of the mesh that the geometry networks run on; None is all.
        triplane_channels: features per plane.
        triplane_resolution: texels along each side of a plane.
        body_extent_m: side of the cube that the body's planes span.
        face_extent_m: side of the head's.
        width: of the networks.
        texture_size: side of the face texture.
        warmup_steps: steps in which scales are limited when rendered.
        warmup_scale_m: that limit.
        mean_gain: factor of the mean heads' initial weights.
        rates: Adam's.
    """

    levels: int = 2
    network_level: int | None = None
    triplane_channels: int = 32
    triplane_resolution: int = 128
    body_extent_m: float = 2.0
    face_extent_m: float = 0.3
    width: int = 128
    texture_size: int = 512
    warmup_steps: int = 100
    warmup_scale_m: float = 1e-3
    mean_gain: float = 1.0
    rates: Mapping[str, float] = field(default_factory=lambda: {"avatar": 1e-3})

    def build(self, body: SmplxBody, identity: BodyIdentity) -> ExAvatar:
        """Avatar whose trained shape starts at an identity."""
        planes = {"channels": self.triplane_channels, "resolution": self.triplane_resolution}
        return ExAvatar(
            template=ExAvatarTemplate(
                body=body, levels=self.levels, network_level=self.network_level
            ),
            identity=identity,
            body_planes=Triplane(extent_m=self.body_extent_m, **planes),
            face_planes=Triplane(extent_m=self.face_extent_m, **planes),
            width=self.width,
            texture_size=self.texture_size,
            warmup_steps=self.warmup_steps,
            warmup_scale_m=self.warmup_scale_m,
            mean_gain=self.mean_gain,
        )


def transform(
    transforms: Float[Tensor, "n 3 4"], points: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """Each point by its own transform."""
    return (transforms[..., :3] * points[:, None]).sum(-1) + transforms[..., 3]


def invert_rigid(transforms: Float[Tensor, "j 4 4"]) -> Float[Tensor, "j 4 4"]:
    """Inverse of rigid transforms, without a solver: that would wait for the device."""
    rotation = transforms[:, :3, :3].mT
    shift = -(rotation @ transforms[:, :3, 3:])
    return torch.cat([torch.cat([rotation, shift], 2), transforms[:, 3:]], 1)
