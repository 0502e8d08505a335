"""ExAvatar as a LightningModule: an avatar of a video, or of one photo as a baseline."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from persona.data.subject import Subject
from persona.modules.avatar.exavatar import ExAvatarBuilder, PosedExAvatar
from persona.modules.avatar.gaussian_avatar import PoseState
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.losses.base import Loss, Window
from persona.modules.losses.exavatar_step import ExAvatarStep
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.avatar_system import AvatarSystem
from persona.types import CAPTURED, BodyIdentity, Channel, Frame

NUM_COLORS = 4099
"""Number of background colours: a prime, so that strides over frames and steps reach all."""
FRAME_STRIDE = 1009
CROP_GRID_PX = 32
MOST_SIDES = 8
"""Lengths that a side of a crop may have: each size of it is a CUDA graph of its own."""


@dataclass(frozen=True, kw_only=True)
class ExAvatarRates:
    """Adam's rates; the defaults are the paper's."""

    avatar: float = 1e-3
    poses: float = 1e-4


class ExAvatarSystem(AvatarSystem):
    """Trains, tests and poses one subject's avatar.

    Source: ExAvatar, ECCV 2024, arXiv:2407.21686. Its branch for the static scene is not here: the
    person is compared on a random colour, as in its variant for X-Humans. The rasteriser is the
    shared one (filter 0.1 with compensation) in place of the first release's (0.3 without).

    Args:
        avatar: builds the avatar once the subject is known.
        rates: learning rates.
        crop_scale: side of the image losses' crop, in sides of the person's bounding box.

    The other arguments are of every ``AvatarSystem``.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        body: SmplxBody,
        renderer: GaussianRenderer,
        avatar: ExAvatarBuilder,
        losses: Mapping[str, Loss],
        metrics: MetricCollection,
        optimizer: Callable[..., Optimizer],
        rates: ExAvatarRates,
        decay_at: Sequence[float] = (0.75, 0.95),
        cuda_graph: bool = True,
        rate_rule: str = "sqrt",
        crop_scale: float = 1.2,
    ) -> None:
        super().__init__(
            body=body,
            renderer=renderer,
            losses=losses,
            metrics=metrics,
            optimizer=optimizer,
            decay_at=decay_at,
            cuda_graph=cuda_graph,
            focus_margin_px=None,  # Its perceptual losses see crops.
            rate_rule=rate_rule,
        )
        self.builder = avatar
        self.rates = rates
        self.crop_scale = crop_scale
        colors = torch.rand(NUM_COLORS, 3, generator=torch.Generator().manual_seed(0))
        self.register_buffer("colors", colors, persistent=False)
        self._fit_updates = 0

    @property
    def identity(self) -> BodyIdentity | None:
        """The person; once there is an avatar, with the shape and joints trained so far."""
        return self._identity if self.avatar is None else self.avatar.identity.detach()

    @identity.setter
    def identity(self, identity: BodyIdentity | None) -> None:
        self._identity = identity

    def build(self, identity: BodyIdentity, num_frames: int) -> None:
        """Makes an untrained avatar of the identity and a pose table."""
        super().build(identity, num_frames)
        self.avatar = self.builder.build(self.body, identity)

    def initialise(self, subject: Subject) -> None:
        """The face texture, where the captured frames saw it; colours start at the networks'."""
        captured = subject.textures("captured")
        texture = torch.from_numpy(captured.texture).float().permute(2, 0, 1) / 255
        self.avatar.face_texture.initialise(texture, torch.from_numpy(captured.mask)[None].float())

    def pose_frame(self, frame: Frame, pose: PoseState) -> PosedExAvatar:
        """Posed with the camera's rotation: shading depends on normals in the world."""
        return self.avatar(pose, frame.camera.cam_from_world[0, :3, :3])

    def frame_step(self, frame: Frame, pose: PoseState) -> ExAvatarStep:
        """Poses the avatar for one frame and renders what the losses ask for."""
        camera, posed = frame.camera[0].local(), self.pose_frame(frame, pose)
        renders = {
            view: self.renderer(posed.gaussians(view), camera, {"rgb": Channel(posed.colors(view))})
            for view in self.losses.needs(frame.role[0] == CAPTURED)
        }
        return ExAvatarStep(
            frame=frame,
            avatar=self.avatar,
            posed=posed,
            renders=renders,
            mesh_masks={},
            boundary={},
            background=self._background(frame),
            crop=Window.around(frame.mask[0, 0], self._crop_px(frame)),
        )

    def frame_kind(self, frame: Frame) -> Hashable:
        """Frames with crops of different sizes are of different kinds."""
        return super().frame_kind(frame), self._crop_px(frame)

    def _crop_px(self, frame: Frame) -> tuple[int, int]:
        camera = frame.camera
        return crop_size(frame.person_box_px[0], self.crop_scale, camera.height, camera.width)

    def _background(self, frame: Frame) -> Float[Tensor, "3"]:
        """Random colour, a different one for each step and frame, the same in every process."""
        if not self.training:  # A test-time pose fit takes no training steps.
            self._fit_updates += 1
        turn = self.avatar.steps + self._fit_updates + FRAME_STRIDE * frame.index
        # Indexing with a tensor that lies on the device would wait for it.
        return self.colors.index_select(0, turn % NUM_COLORS)[0]

    def parameter_groups(self) -> list[dict[str, object]]:
        """Avatar and pose table."""
        rates = self.rates
        return self.avatar.parameter_groups(lr=rates.avatar) + self.table.parameter_groups(
            lr=rates.poses, hand_lr=rates.poses
        )


def crop_size(
    box_px: tuple[int, int, int, int], scale: float, height: int, width: int
) -> tuple[int, int]:
    """Height and width of a box (x, y, w, h) whose sides are scaled, at most the image's.

    Sides are rounded up to a grid of at least an eighth of the image, so that few sizes occur; an
    empty box gives the whole image.
    """
    sides = []
    for side, limit in ((box_px[3], height), (box_px[2], width)):
        grid = CROP_GRID_PX * -(-limit // (MOST_SIDES * CROP_GRID_PX))
        size = -(-round(side * scale) // grid) * grid
        sides.append(min(size, limit) if side else limit)
    return sides[0], sides[1]
