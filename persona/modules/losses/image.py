"""Image losses: L1, SSIM and LPIPS of a render over the image it is compared with."""

from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss, Step, StepT, channels_of
from persona.modules.losses.functional import photometric
from persona.modules.losses.perceptual import Perceptual

BOUNDARY_WEIGHT = 0.1
"""Weight of captured pixels at an occlusion boundary, where the photo is not to be trusted."""


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
        self.reads = channels_of(view, {self.channel, "alpha", "boundary"})

    def distance(
        self,
        step: StepT,
        x: Float[Tensor, "3 h w"],
        y: Float[Tensor, "3 h w"],
        weight: Float[Tensor, "1 h w"] | None = None,
    ) -> Float[Tensor, ""]:
        """img(x, y) without LPIPS, which is computed later with the step's other comparisons.

        Args:
            step: Takes the comparison.
            x: Render.
            y: What it should look like.
            weight: Weight of each pixel in L1 and SSIM; None is 1.
        """
        value = photometric(x, y, weight, self.l1, self.ssim)
        if self.perceptual is not None and self.lpips:
            step.compare(self.perceptual, x, y, self.lpips, whole=self.view != "patch")
        return value

    def forward(self, step: StepT) -> Float[Tensor, ""] | None:
        """In captured frames, pixels at an occlusion boundary weigh ``BOUNDARY_WEIGHT``.

        Methods without such a boundary give all pixels the same weight.
        """
        if self.view not in step.renders:
            return None
        truth = step.frame.albedo[0] if self.target == "albedo" else step.truth(self.view)
        weight = None
        if step.captured and self.view in step.boundary:
            weight = 1 - (1 - BOUNDARY_WEIGHT) * step.boundary[self.view]
        return self.distance(step, step.over(self.view, self.channel, truth), truth, weight)


class CapturedImageLoss(ImageLoss[Step]):
    """The image loss for captured frames only: of the albedo and of the face patch."""

    frames = "captured"


class AlbedoLoss(CapturedImageLoss):
    """The colours without light against the photo's; for an avatar whose light is its own."""

    channel = "albedo"


class AuxImageLoss(ImageLoss[Step]):
    """The auxiliary colours against generated frames; the geometry gets no gradient.

    Auxiliary colours learn what the video model shows, with its drift. The final colours follow
    them only where the photo shows nothing: see ``BoundaryLoss``.
    Source: PERSONA, arXiv:2508.09973.
    """

    channel = "rgb_aux"
    frames = "generated"


class BoundaryLoss(ImageLoss[Step]):
    """Pulls the colours to the auxiliary ones at the occlusion boundaries of captured frames.

    The auxiliary colours and the geometry get no gradient.

    Source: PERSONA, arXiv:2508.09973 (seam handling).
    """

    channel = "rgb_fixed"
    frames = "captured"

    def __init__(
        self, *, weight: float, view: str, perceptual: Perceptual | None = None, lpips: float = 1.0
    ) -> None:
        super().__init__(weight=weight, view=view, perceptual=perceptual, lpips=lpips)
        self.reads = self.reads | channels_of(view, {"rgb_aux"})

    def forward(self, step: Step) -> Float[Tensor, ""] | None:
        """img(rgb * boundary, rgb_aux * boundary), no gradient to ``rgb_aux``."""
        if self.view not in step.renders:
            return None
        boundary = step.boundary[self.view]
        images = step.renders[self.view].images
        return self.distance(
            step, images["rgb_fixed"] * boundary, images["rgb_aux"].detach() * boundary
        )
