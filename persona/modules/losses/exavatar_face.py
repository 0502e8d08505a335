"""ExAvatar's face loss: the face, in a fixed texture, must coincide with the face in the frame."""

from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss
from persona.modules.losses.exavatar_step import ExAvatarStep


class FaceTextureLoss(Loss[ExAvatarStep]):
    """L1 between the head, rendered as a textured mesh, and the frame; moves geometry only.

    The mesh has the body's faces and the Gaussians of its vertices as corners. Pixels off the face
    are left out: they would only repeat the image loss. Source: ExAvatar, arXiv:2407.21686.

    Args:
        weight: of the term.
        view: ``base`` or ``refined``.
    """

    def __init__(self, *, weight: float, view: str) -> None:
        super().__init__(weight=weight)
        self.view = view

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Mean over the crop."""
        means = getattr(step.posed, self.view)
        vertices = means[: len(step.avatar.template.body.template)]
        image, known = step.avatar.face_texture(vertices, step.frame.camera[0].local())
        error = (image - step.frame.image[0]).abs() * known * step.frame.mask[0]
        return step.crop.cut(error[None]).mean()
