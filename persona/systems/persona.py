"""PERSONA as a LightningModule: one photo's avatar, trained on captured and generated frames."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from persona.data.subject import Subject
from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.driver import ClipDrawer, PoseDriver
from persona.modules.avatar.gaussian_avatar import PosedAvatar, PoseState
from persona.modules.avatar.vertex_colors import texture_colors
from persona.modules.avatar.views import HANDS, BodyMasks, ViewRenderer
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.losses.base import Loss
from persona.modules.losses.functional import occlusion_boundary
from persona.modules.losses.persona_step import PersonaStep
from persona.modules.parallel import branches
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.avatar_system import AvatarSystem
from persona.types import CAPTURED, BodyIdentity, Camera, Frame, Render

NOT_CHANNELS = frozenset({"alpha", "boundary", "mesh"})


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Adam's rates; the defaults are the paper's."""

    means: float = 1e-3
    appearance: float = 1e-2
    network: float = 1e-3
    poses: float = 1e-3
    hand_poses: float = 1e-4


class PersonaSystem(AvatarSystem):
    """Trains, tests and poses one subject's avatar.

    Source: PERSONA, ICCV 2025, arXiv:2508.09973.

    Args:
        avatar: builds the avatar once the subject is known.
        rates: learning rates of the groups.
        boundary_side: width of an occlusion boundary, as a share of the person's size.
        patch_boundary_side: width of one on the face patch, as a share of the patch.

    The other arguments are those of every ``AvatarSystem``.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        body: SmplxBody,
        renderer: GaussianRenderer,
        avatar: AvatarBuilder,
        losses: Mapping[str, Loss],
        metrics: MetricCollection,
        optimizer: Callable[..., Optimizer],
        rates: LearningRates,
        decay_at: Sequence[float] = (0.75,),
        cuda_graph: bool = True,
        focus_margin_px: int | None = 32,
        rate_rule: str = "sqrt",
        boundary_side: float = 0.015,
        patch_boundary_side: float = 0.06,
    ) -> None:
        super().__init__(
            body=body,
            renderer=renderer,
            losses=losses,
            metrics=metrics,
            optimizer=optimizer,
            decay_at=decay_at,
            cuda_graph=cuda_graph,
            focus_margin_px=focus_margin_px,
            rate_rule=rate_rule,
        )
        self.builder = avatar
        self.views = ViewRenderer(self.renderer, avatar.triplane_extent_m)
        self.rates = rates
        self.boundary_side = boundary_side
        self.patch_boundary_side = patch_boundary_side

    def build(self, identity: BodyIdentity, num_frames: int) -> None:
        """Makes the avatar of an identity and an empty pose table."""
        super().build(identity, num_frames)
        self.avatar = self.builder.build(self.body, identity)
        self.body_masks = BodyMasks(self.avatar.template)

    def initialise(self, subject: Subject) -> None:
        """Takes colours from the captured texture where the photo shows the body, else generated.

        Without generated frames the captured texture, filled in, serves as both.
        """
        splits = subject.textured_splits
        captured, generated = (subject.textures(split) for split in (splits[0], splits[-1]))
        seen = torch.from_numpy(captured.mask)[..., None]
        unit = [torch.from_numpy(t.inpaint).float() / 255 for t in (captured, generated)]
        seg = torch.from_numpy(generated.seg_inpaint).float() / 255
        colors = [self._texture(t) for t in (torch.where(seen, *unit), unit[1], seg)]
        self.avatar.initialise_colors(*colors)

    def _texture(self, texture: Float[Tensor, "h w 3"]) -> Float[Tensor, "n 3"]:
        body = self.body
        return texture_colors(
            texture, body.uv, body.uv_faces, body.faces, self.avatar.template.subdivision
        )

    def frame_step(self, frame: Frame, pose: PoseState) -> PersonaStep:
        """Poses the avatar for one frame and renders the channels that the losses need."""
        captured = frame.role[0] == CAPTURED
        camera = frame.camera[0].local()
        posed = self.avatar(pose)
        cameras = {}
        if frame.has_patch[0]:
            cameras["patch"] = camera.crop(frame.patch_box_px[0], *frame.patch.shape[-2:])
        renders: dict[str, Render] = {}
        boundary: dict[str, Tensor] = {}
        views = self.losses.needs(captured)
        if not frame.has_patch[0]:
            views.pop("patch", None)
        with branches() as branch:
            for view, channels in views.items():
                wanted = channels - NOT_CHANNELS
                if captured and "boundary" in channels:
                    wanted |= {"position"}
                at = cameras.get(view, camera)
                with branch():
                    renders[view] = self.views.render(self.avatar, posed, view, at, wanted)
            with branch():
                masks = self._masks(posed, camera, cameras, views)
        with branches() as branch:
            for view, render in renders.items():
                if "position" in render.images:
                    with branch():
                        boundary[view] = self._boundary(frame, view, render, masks)
        return PersonaStep(frame, self.avatar, posed, renders, masks, boundary, self.focus_px)

    def _masks(
        self,
        posed: PosedAvatar,
        camera: Camera,
        cameras: Mapping[str, Camera],
        views: Mapping[str, frozenset[str]],
    ) -> dict[str, Tensor]:
        """Region masks of the body mesh for the views whose losses need them."""
        asked = {view for view, needs in views.items() if needs & {"mesh", "boundary"}}
        masks: dict[str, Tensor] = {}
        if not asked:
            return masks
        vertices = self.body_masks(self.avatar.template, posed)
        if asked & set(self.assets):
            masks |= self.body_masks.visible(vertices, camera, ("face", "eye"))
        if "patch" in asked:
            patch = self.body_masks.visible(vertices, cameras["patch"], ("face", "eye"))
            masks |= {f"patch_{name}": mask for name, mask in patch.items()}
        for hand in asked & set(HANDS):
            masks[hand] = self.body_masks.alone(vertices, camera, hand)
        return masks

    def _boundary(
        self, frame: Frame, view: str, render: Render, masks: Mapping[str, Tensor]
    ) -> Float[Tensor, "1 h w"]:
        if view == "patch":
            keep_out, side = masks["patch_face"], self.patch_boundary_side * frame.patch.shape[-1]
        else:
            keep_out, side = masks["face"], self._boundary_px(frame)
        position = render.images["position"].detach()
        return occlusion_boundary(position, keep_out[None], max(1, round(side)))

    def _boundary_px(self, frame: Frame) -> int:
        return max(1, round(self.boundary_side * frame.person_px[0]))

    def frame_kind(self, frame: Frame) -> Hashable:
        """Captured frames differ by the width of their boundary, which the host computes."""
        kind = super().frame_kind(frame)
        return *kind, self._boundary_px(frame) | 1 if frame.role[0] == CAPTURED else None

    def clip(
        self, poses: PoseState, asset: str | None = None
    ) -> Callable[[int, Camera], tuple[Tensor, Tensor]]:
        """As ``AvatarSystem.clip``; what does not depend on the pose is computed once."""
        return ClipDrawer(PoseDriver(self.avatar, asset or self.assets[-1]), self.renderer, poses)

    def parameter_groups(self) -> list[dict[str, object]]:
        """Avatar, offset network and pose tables."""
        rates = self.rates
        groups = self.avatar.parameter_groups(
            lr=rates.means, color_lr=rates.appearance, network_lr=rates.network
        )
        return groups + self.table.parameter_groups(lr=rates.poses, hand_lr=rates.hand_poses)
