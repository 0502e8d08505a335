"""The reference schedule: each target of a training step drawn by a rasteriser call of its own."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from persona.modules.avatar.gaussian_avatar import GaussianAvatar, PosedAvatar
from persona.modules.avatar.views import HANDS, ViewRenderer
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.fit import Fit
from persona.types import Camera, Channel, Gaussians, Render

BOTH = frozenset({"rgb", "depth", "normal", "seg", "rgb_fixed", "rgb_aux", "position"})
TARGETS = {
    "base": BOTH | {"face", "face_rgb", "eye"},
    "refined": BOTH,
    "patch": frozenset({"rgb", "rgb_aux", "rgb_fixed", "face", "face_rgb", "position"}),
}
"""PERSONA's targets (section 4 of its description) beside the masks of base, refined and both
hands: 29 with those and the colours of the hands."""


class SeparateRenderer(GaussianRenderer):
    """One projection, sort and rasterisation per target, by the wrapped renderer."""

    name = "separate"

    def __init__(self, inner: GaussianRenderer):
        super().__init__(inner.near_m, inner.far_m, inner.eps2d)
        self.inner, self.calls, self.mask_apart = inner, 0, True

    def forward(
        self, gaussians: Gaussians, camera: Camera, channels: Mapping[str, Channel]
    ) -> Render:
        """As the inner renderer, channel by channel."""
        images = {n: self.draw(gaussians, camera, c) for n, c in channels.items()}
        if self.mask_apart or not channels:
            alpha = self.draw(gaussians, camera, None)[1]
        else:
            alpha = next(iter(images.values()))[1]
        return Render({name: image for name, (image, _) in images.items()}, alpha)

    def draw(
        self, gaussians: Gaussians, camera: Camera, channel: Channel | None
    ) -> tuple[Tensor, Tensor]:
        """Image and alpha of one target; without a channel the mask is both."""
        self.calls += 1
        if channel is None:
            alpha = self.inner(gaussians, camera, {}).alpha
            return alpha, alpha
        render = self.inner(gaussians, camera, {"target": channel})
        return render.images["target"], render.alpha

    def _rasterize(self, gaussians, camera, moving, still):
        raise NotImplementedError


class SeparateGsplat(SeparateRenderer):
    """The same by gsplat's own ``rasterization``, float32, antialiased, not packed."""

    def draw(
        self, gaussians: Gaussians, camera: Camera, channel: Channel | None
    ) -> tuple[Tensor, Tensor]:
        """One call; the mask is the image of the colour 1."""
        import gsplat

        self.calls += 1
        if channel is None:
            channel = Channel(torch.ones_like(gaussians.means[:, :1]))
        if not channel.geometry:
            gaussians = gaussians.detach()
        rows = torch.eye(3, device=gaussians.means.device)  # Made on the device: no copy to it.
        intrinsics = torch.cat([camera.focal_px.diag(), camera.center_px[:, None]], 1)
        image, alpha, _ = gsplat.rasterization(
            gaussians.means, gaussians.quaternions, gaussians.scales, gaussians.opacities,
            channel.values.float(), camera.cam_from_world.detach()[None],
            torch.cat([intrinsics, rows[2:]])[None], camera.width, camera.height,
            near_plane=self.near_m, far_plane=self.far_m, eps2d=self.eps2d, packed=False,
            rasterize_mode="antialiased",
        )  # fmt: skip
        return image[0].permute(2, 0, 1), alpha[0].permute(2, 0, 1)


class AllTargets(ViewRenderer):
    """Draws every target of a view, whether a loss asks for it in such a frame or not."""

    def render(
        self,
        avatar: GaussianAvatar,
        posed: PosedAvatar,
        view: str,
        camera: Camera,
        channels: frozenset[str],
    ) -> Render:
        """As ``ViewRenderer`` does; targets that were not asked for are thrown away."""
        if view in HANDS:
            return super().render(avatar, posed, view, camera, channels)
        # The patch has no silhouette among its targets.
        self.renderer.mask_apart = view != "patch"
        render = super().render(avatar, posed, view, camera, channels | TARGETS[view])
        self.renderer.mask_apart = True
        return Render({name: render.images[name] for name in channels}, render.alpha)


def separate(system: Fit, how: str) -> SeparateRenderer:
    """Makes a PERSONA system draw its targets one by one, without CUDA graphs.

    gsplat's calls wait for the device, so that no graph can hold them.

    Args:
        system: A system of PERSONA.
        how: ``separate``: every target of the method, by gsplat. ``separate_asked``: those that a
            loss asks for, by gsplat. ``separate_ours``: the same by this repository's kernels.
    """
    kind = SeparateRenderer if how == "separate_ours" else SeparateGsplat
    method, system.cuda_graph = system.method, False
    method.renderer = kind(method.renderer)
    if how == "separate":
        method.views = AllTargets(method.renderer, method.views.extent_m)
    else:
        method.views = replace(method.views, renderer=method.renderer)
    return method.renderer
