"""An avatar frozen to be posed many times: what does not depend on the pose is computed once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.avatar.gaussian_avatar import GaussianAvatar
from persona.modules.body.skinning import blend_bones, blend_skin
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import PLAIN_VIEW, Camera, Channel, Gaussians, Pose, TensorTuple, View


@dataclass(frozen=True)
class ClipPoses(TensorTuple):
    """Poses as ``PoseDriver`` takes them: all that can be computed without the Gaussians."""

    code: Float[Tensor, "*b k c"]
    """The offset network's features of each joint; c is 0 without a network."""
    bones: Float[Tensor, "*b j 4 4"]
    """posed_from_canonical, without trans."""
    expression: Float[Tensor, "*b e"]
    trans: Float[Tensor, "*b 3"]
    """Metres, camera frame."""


class PoseDriver:
    """One asset of an avatar, posed frame after frame; the same Gaussians as ``avatar(pose)`` has.

    Later changes of the avatar are not seen. ``means`` never waits for the device, makes no tensor
    from host values and has static shapes, so that a CUDA graph can capture it.

    Args:
        avatar: in evaluation mode; gradients are not kept.
        asset: ``base`` or ``refined``.
    """

    @torch.no_grad()
    def __init__(self, avatar: GaussianAvatar, asset: str) -> None:
        template = avatar.template
        self.avatar = avatar
        self.rgb = avatar.rgb_logit.sigmoid()
        self.base = template.vertices + avatar.mean_offset
        self.scales = avatar.log_scale.exp()
        self.weights = avatar.skinning_weights(self.base, self.scales)
        self.offsets = avatar.offsets if asset == "refined" else None
        self.unposed = (
            None if self.offsets is None else self.offsets.unposed(template.moving_points)
        )
        mimic = template.expr_dirs.flatten(1).any(1).nonzero()[:, 0]
        self.mimic, self.expr_dirs = mimic, template.expr_dirs[mimic]
        count = len(self.base)
        self.shape = (
            self.scales.expand(-1, 3).contiguous(),
            torch.tensor([1.0, 0, 0, 0]).to(self.base).repeat(count, 1),
            self.base.new_ones(count),
        )

    @torch.no_grad()
    def clip(self, poses: Pose) -> ClipPoses:
        """Prepares the poses of a clip, batched, in a few large operations."""
        code = self.avatar.code(poses)
        code = code[..., :0] if self.offsets is None else self.offsets.posed(code)
        return ClipPoses(code, self.avatar.bones(poses.rotations), poses.expression, poses.trans)

    @torch.no_grad()
    def means(self, pose: ClipPoses) -> Float[Tensor, "n 3"]:
        """Means in one pose, metres, camera frame."""
        rest, weights = self.unskinned(pose)
        return blend_skin(rest, weights, pose.bones) + pose.trans

    @torch.no_grad()
    def unskinned(self, pose: ClipPoses) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n j"]]:
        """Canonical means in a pose, and the weights by which they are skinned.

        Neither depends on the bones or on trans, so that a person who only turns keeps them.
        """
        rest, weights = self.base, self.weights
        if self.offsets is not None and self.unposed is not None:
            template = self.avatar.template
            moved = self.offsets.displace(self.unposed, self.avatar.ring, pose.code)
            rest = rest + template.carry_offsets(moved)
            if self.avatar.refined_lookup:
                weights = self.avatar.skinning_weights(rest, self.scales)
        return rest.index_add(0, self.mimic, self.expr_dirs @ pose.expression), weights

    @torch.no_grad()
    def hung(self, poses: ClipPoses, offset: Float[Tensor, "b q 3"]) -> Float[Tensor, "b q 3"]:
        """What takes the canonical garment to where its cloth hangs in each pose of a clip, metres.

        Args:
            poses: Of the clip.
            offset: What the cloth adds to the garment's vertices in the rest pose, as ``Drape`` has
                it.
        """
        template, count = self.avatar.template, offset.shape[1]
        weights = template.body.weights[-count:]
        there = blend_bones(weights, poses.bones[..., :3, :])
        canonical_from_rest = torch.linalg.inv(template.rest_from_canonical)
        bones = poses.bones @ canonical_from_rest
        cloth = blend_skin(template.rest_vertices[-count:] + offset, weights, bones)
        away = cloth - there[..., 3]
        return torch.linalg.solve(there[..., :3], away) - template.coarse_vertices[-count:]

    @torch.no_grad()
    def drawn(
        self,
        pose: ClipPoses,
        view: View = PLAIN_VIEW,
        unskinned: tuple[Float[Tensor, "n 3"], Float[Tensor, "n j"]] | None = None,
    ) -> tuple[Gaussians, Float[Tensor, "n 3"]]:
        """The asset's Gaussians in one pose, camera frame, and their colours in [0, 1].

        Args:
            pose: One pose of a clip.
            view: What colours may depend on besides the pose.
            unskinned: Of the pose, where it is known.
        """
        rest, weights = unskinned or self.unskinned(pose)
        means = blend_skin(rest, weights, pose.bones) + pose.trans
        colors = self.rgb
        if self.avatar.light is not None:
            colors = (colors * self.avatar.shade(means, weights, pose.bones, view)).clamp(0, 1)
        return Gaussians(means, *self.shape), colors


class ClipDrawer:
    """Renders the frames of a clip by their row.

    Args:
        driver: of the avatar.
        renderer: draws its Gaussians.
        poses: of the clip, batched.
        view: what colours may depend on besides the pose.
    """

    def __init__(
        self,
        driver: PoseDriver,
        renderer: GaussianRenderer,
        poses: Pose,
        view: View = PLAIN_VIEW,
    ) -> None:
        self.driver, self.renderer = driver, renderer
        self.poses, self.view = driver.clip(poses), view
        self.cloth: Float[Tensor, "b q 3"] | None = None
        # Equal rows of a product may differ in their last bits.
        same = all(
            torch.allclose(t, t[:1].expand_as(t), rtol=0, atol=1e-6)
            for t in (self.poses.code, self.poses.expression)
        )
        # A turntable turns the root alone.
        self.unskinned = driver.unskinned(self.poses.row(0)) if same and len(poses.trans) else None

    def hang(self, offset: Float[Tensor, "b q 3"]) -> None:
        """Lets the garment hang as it was simulated, not as it is skinned: see ``Drape.offset``."""
        self.cloth = self.driver.hung(self.poses, offset.to(self.poses.trans))

    def __call__(
        self, row: int | Int[Tensor, "1"], camera: Camera
    ) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
        """Premultiplied colour and alpha. A row on the device can be captured as a CUDA graph."""
        gaussians, colors = self.drawn(row)
        render = self.renderer(gaussians, camera, {"rgb": Channel(colors)})
        return render.images["rgb"], render.alpha

    def drawn(self, row: int | Int[Tensor, "1"]) -> tuple[Gaussians, Float[Tensor, "n 3"]]:
        """The Gaussians of a frame, camera frame, and their colours in [0, 1]."""
        pose, unskinned = self.poses.row(row), self.unskinned
        if self.cloth is not None:
            rest, weights = unskinned or self.driver.unskinned(pose)
            template, moved = self.driver.avatar.template, self.cloth[row].view(-1, 3)
            still = moved.new_zeros(len(template.coarse_vertices) - len(moved), 3)
            rest = rest + template.subdivision.features(torch.cat((still, moved)))
            unskinned = rest, weights
        return self.driver.drawn(pose, self.view, unskinned)
