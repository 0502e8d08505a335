"""Losses of a head's renders: colours, outline, normals, edited region."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import ImageDistance, Loss, channels_of
from persona.modules.losses.functional import ssim_map
from persona.modules.losses.head_step import EDIT_MAP, VIEW, HeadStep


class HeadImage(Loss[HeadStep]):
    """l1 |x - y| + ssim (1 - SSIM) + perceptual d(x, y), outlines included.

    Source: PERSE, arXiv:2412.21206, section 4.3; PointAvatar, arXiv:2212.08377, section 3.4.

    Args:
        weight: of the term.
        perceptual: compares images; None leaves it out.
        l1: weight of the absolute difference.
        ssim: weight of 1 - SSIM.
        features: weight of ``perceptual``.
    """

    reads = channels_of(VIEW, {"rgb"})

    def __init__(
        self,
        *,
        weight: float,
        perceptual: ImageDistance | None = None,
        l1: float = 1.0,
        ssim: float = 0.0,
        features: float = 0.1,
    ) -> None:
        super().__init__(weight=weight)
        self.perceptual, self.l1, self.ssim, self.features = perceptual, l1, ssim, features

    def forward(self, step: HeadStep) -> Float[Tensor, ""]:
        """Over the step's background; features see the whole image, whatever is compared of it."""
        whole, whole_truth, compared = step.render_over(), step.truth_over(), step.compared()
        image, truth = (x if compared is None else x * compared for x in (whole, whole_truth))
        value = self.l1 * (image - truth).abs().mean()
        if self.ssim:
            value = value + self.ssim * (1 - ssim_map(image, truth, border="zero").mean())
        if self.perceptual is not None and self.features:
            step.compare(self.perceptual, whole, whole_truth, self.features, whole=False)
        return value


class HeadMask(Loss[HeadStep]):
    """Mean absolute difference of opacity and mask."""

    reads = channels_of(VIEW, {"rgb"})

    def forward(self, step: HeadStep) -> Float[Tensor, ""]:
        """In [0, 1]."""
        return (step.renders[VIEW].alpha - step.frame.mask[0]).abs().mean()


def region_distance(
    image: Float[Tensor, "c h w"], target: Float[Tensor, "c h w"], region: Float[Tensor, "1 h w"]
) -> Float[Tensor, ""]:
    """Mean absolute difference of an image that is made white outside of a region.

    Args:
        image: Compared, [0, 1].
        target: White there already.
        region: 1 inside.
    """
    return (image * region + 1 - region - target).abs().mean()


class HeadNormal(Loss[HeadStep]):
    """Normals, on the edited attribute and off it.

    Source: PEGASUS, arXiv:2402.10636; the two parts are compared apart, as in its code.
    """

    reads = channels_of(VIEW, {"normal"})

    def forward(self, step: HeadStep) -> Float[Tensor, ""]:
        """Loss of (n + 1) / 2, as ``Frame.normal`` holds them, mean over the image."""
        mask, truth = step.frame.mask[0], step.frame.normal[0]
        edit = step.frame.others.get(EDIT_MAP)
        inside = torch.zeros_like(mask) if edit is None else edit[0]
        image = step.over(VIEW, "normal", torch.ones_like(truth))
        regions = mask * (1 - inside), mask * inside
        return sum(
            (region_distance(image, truth * r + 1 - r, r) for r in regions), image.new_zeros(())
        )


class HeadSegment(Loss[HeadStep]):
    """Cross entropy of the pixels that show the edited attribute.

    Source: PEGASUS, arXiv:2402.10636.
    """

    reads = channels_of(VIEW, {"segment"})

    def forward(self, step: HeadStep) -> Float[Tensor, ""] | None:
        """None where the frame does not say which pixels those are."""
        if EDIT_MAP not in step.frame.others:
            return None
        logits = step.renders[VIEW].images["segment"]
        return F.binary_cross_entropy_with_logits(logits, step.frame.others[EDIT_MAP][0])
