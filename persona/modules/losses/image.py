"""Image losses: L1, SSIM and LPIPS of a render over the image it is compared with."""

from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss, Step, StepT, needs
from persona.modules.losses.functional import photometric
from persona.modules.losses.perceptual import Perceptual

BOUNDARY_WEIGHT = 0.1
"""Captured pixels at an occlusion boundary: the photo is not to be trusted there."""


class ImageLoss(Loss[StepT]):
    """img(x, y) = l1 |x - y| + ssim (1 - SSIM) + lpips LPIPS, each map averaged.

    Source: PERSONA, arXiv:2508.09973.

    Args:
        weight: of the term.
        view: ``base``, ``refined`` or ``patch``.
        target: ``image`` or ``albedo``.
        perceptual: LPIPS network; None leaves the term out.
        l1: weight of the absolute difference.
        ssim: weight of 1 - SSIM.
        lpips: weight of LPIPS.
    """

    channel = "rgb"

    def __init__(
        self,
        *,
        weight: float,
        view: str,
        target: str = "image",
        perceptual: Perceptual | None = None,
        l1: float = 0.8,
        ssim: float = 0.2,
        lpips: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.view, self.target = view, target
        self.perceptual = perceptual
        self.l1, self.ssim, self.lpips = l1, ssim, lpips
        self.needs = needs(view, {self.channel, "alpha", "boundary"})

    def distance(
        self,
        step: StepT,
        x: Float[Tensor, "3 h w"],
        y: Float[Tensor, "3 h w"],
        weight: Float[Tensor, "1 h w"] | None = None,
    ) -> Float[Tensor, ""]:
        """img(x, y) with a weight per pixel on the maps; LPIPS is left to the step's batch."""
        value = photometric(x, y, weight, self.l1, self.ssim)
        if self.perceptual is not None and self.lpips:
            step.compare(self.perceptual, x, y, self.lpips, whole=self.view != "patch")
        return value

    def forward(self, step: StepT) -> Float[Tensor, ""] | None:
        """Captured frames count less inside the boundary."""
        if self.view not in step.renders:
            return None
        truth = step.frame.albedo[0] if self.target == "albedo" else step.truth(self.view)
        weight = None
        if step.captured:
            weight = 1 - (1 - BOUNDARY_WEIGHT) * step.boundary[self.view]
        return self.distance(step, step.over(self.view, self.channel, truth), truth, weight)


class CapturedImageLoss(ImageLoss[Step]):
    """The image loss on captured frames alone (albedo, face patch)."""

    frames = "captured"


class AuxImageLoss(ImageLoss[Step]):
    """The auxiliary colours against generated frames, geometry fixed.

    They keep what the video model shows, drift included, and teach rgb only where the photo
    cannot: see BoundaryLoss. Source: PERSONA, arXiv:2508.09973.
    """

    channel = "rgb_aux"
    frames = "generated"


class BoundaryLoss(ImageLoss[Step]):
    """rgb pulled to the fixed auxiliary colours inside the occlusion boundary of captured frames.

    Source: PERSONA, arXiv:2508.09973 (seam handling).
    """

    channel = "rgb_fixed"
    frames = "captured"

    def __init__(
        self, *, weight: float, view: str, perceptual: Perceptual | None = None, lpips: float = 1.0
    ) -> None:
        super().__init__(weight=weight, view=view, perceptual=perceptual, lpips=lpips)
        self.needs = self.needs | needs(view, {"rgb_aux"})

    def forward(self, step: Step) -> Float[Tensor, ""] | None:
        """img(rgb * b, stop(rgb_aux) * b)."""
        if self.view not in step.renders:
            return None
        boundary = step.boundary[self.view]
        images = step.renders[self.view].images
        return self.distance(
            step, images["rgb_fixed"] * boundary, images["rgb_aux"].detach() * boundary
        )
