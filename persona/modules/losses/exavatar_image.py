"""ExAvatar's image losses: the person on a random colour."""

from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss, channels_of
from persona.modules.losses.exavatar_step import ExAvatarStep
from persona.modules.losses.image import ImageLoss
from persona.modules.losses.perceptual import Perceptual


class CropImageLoss(ImageLoss[ExAvatarStep]):
    """L1, SSIM and LPIPS of the crop around the person.

    ExAvatar composites the person over its reconstruction of the scene, where it has one. Here
    both images lie on a random colour, as in its variant for X-Humans.
    Source: ExAvatar, arXiv:2407.21686.

    Args:
        weight: of the term.
        view: ``base`` or ``refined``.
        perceptual: LPIPS network; None leaves the term out.
        l1: weight of the absolute difference.
        ssim: weight of 1 - SSIM.
        lpips: weight of LPIPS.
    """

    def __init__(
        self,
        *,
        weight: float,
        view: str,
        perceptual: Perceptual | None = None,
        l1: float = 0.8,
        ssim: float = 0.2,
        lpips: float = 0.2,
    ) -> None:
        super().__init__(
            weight=weight, view=view, perceptual=perceptual, l1=l1, ssim=ssim, lpips=lpips
        )
        self.reads = channels_of(view, {"rgb", "alpha"})

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Compares the crops."""
        image = step.crop.cut(step.human(self.view)[None])[0]
        return self.distance(step, image, step.crop_truth)


class HumanLoss(Loss[ExAvatarStep]):
    """L1 of the person on a random colour, from which ExAvatar learns the silhouette.

    Source: ExAvatar, arXiv:2407.21686.

    Args:
        weight: of the term.
        view: ``base`` or ``refined``.
    """

    def __init__(self, *, weight: float, view: str) -> None:
        super().__init__(weight=weight)
        self.view = view
        self.reads = channels_of(view, {"rgb", "alpha"})

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Mean absolute difference over the whole frame."""
        return (step.human(self.view) - step.human_truth).abs().mean()
