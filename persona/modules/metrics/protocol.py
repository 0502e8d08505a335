"""The evaluation protocol: which pixels of prediction and truth a metric sees.

full  Both images on white under the ground-truth mask, whole canvas: the number PERSONA and
      ExAvatar report. It hides silhouette errors and counts white background as correct.
alpha The prediction on white under its own alpha, the truth under its mask: silhouettes count.
fg    Foreground only: pixels of the ground-truth mask (PSNR, SSIM), or their bounding box (LPIPS).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from persona.modules.losses.perceptual import missing_weights

VARIANTS = ("full", "alpha", "fg")


def on_white(
    rgb: Float[Tensor, "b 3 h w"], alpha: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """Straight colours over white."""
    return rgb * alpha + (1 - alpha)


def quantize(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """To 8 bits and back, as an image file does."""
    return (image.clamp(0, 1) * 255).round() / 255


class FrameMetric(Metric):
    """Mean over frames of a value per frame, under one protocol variant.

    Inputs of ``update``: the prediction over white, its alpha, the truth and its mask, in [0, 1].
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, *, variant: str = "full") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, not {variant!r}")
        self.variant = variant
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(
        self,
        pred: Float[Tensor, "b 3 h w"],
        alpha: Float[Tensor, "b 1 h w"],
        truth: Float[Tensor, "b 3 h w"],
        mask: Float[Tensor, "b 1 h w"],
    ) -> None:
        """Adds the frames of a batch."""
        truth_white = quantize(on_white(truth, mask))
        shown = pred if self.variant == "alpha" else on_white(pred, mask)
        for i in range(len(pred)):
            pair = quantize(shown[i : i + 1]), truth_white[i : i + 1]
            self.total += self.value(*pair, alpha[i : i + 1], mask[i : i + 1]).double()
            self.count += 1

    def compute(self) -> Float[Tensor, ""]:
        """Mean over frames."""
        return (self.total / self.count).float()

    def value(
        self,
        pred: Float[Tensor, "1 3 h w"],
        truth: Float[Tensor, "1 3 h w"],
        alpha: Float[Tensor, "1 1 h w"],
        mask: Float[Tensor, "1 1 h w"],
    ) -> Float[Tensor, ""]:
        """The metric of one frame."""
        raise NotImplementedError


class PSNR(FrameMetric):
    """Peak signal-to-noise ratio in dB, data range 1."""

    def value(self, pred, truth, alpha, mask):
        """Source: torchmetrics."""
        if self.variant == "fg":
            inside = (mask > 0.5).expand_as(pred)
            pred, truth = pred[inside], truth[inside]
        return peak_signal_noise_ratio(pred, truth, data_range=1.0)


class SSIM(FrameMetric):
    """Structural similarity, Gaussian window 11, sigma 1.5, data range 1."""

    def value(self, pred, truth, alpha, mask):
        """Source: torchmetrics; ``fg`` averages the map over the mask."""
        mean, image = structural_similarity_index_measure(
            pred, truth, data_range=1.0, return_full_image=True
        )
        if self.variant == "fg":
            return image[(mask > 0.5).expand_as(image)].mean()
        return mean


class LPIPS(FrameMetric):
    """Learned perceptual distance on [-1, 1]. Lower is better."""

    higher_is_better = False

    def __init__(self, *, net: str, variant: str = "full") -> None:
        super().__init__(variant=variant)
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self.lpips = LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=False)

    def value(self, pred, truth, alpha, mask):
        """Source: torchmetrics; ``fg`` is the bounding box of the mask, at least 64 pixels."""
        if self.variant == "fg":
            rows, columns = (mask[0, 0] > 0.5).nonzero().unbind(1)
            box = [_span(v, size) for v, size in ((rows, pred.shape[2]), (columns, pred.shape[3]))]
            pred, truth = (x[:, :, box[0], box[1]] for x in (pred, truth))
        self.lpips.reset()
        self.lpips.update(pred * 2 - 1, truth * 2 - 1)
        return self.lpips.compute()


class MaskIoU(FrameMetric):
    """Intersection over union of the alpha (> 0.5) and the ground-truth mask."""

    def value(self, pred, truth, alpha, mask):
        """In [0, 1]."""
        a, b = alpha > 0.5, mask > 0.5
        return (a & b).sum() / (a | b).sum().clamp_min(1)


def _span(values: Tensor, size: int, least: int = 64) -> slice:
    """A slice around the values, at least ``least`` long where the image allows."""
    low, high = int(values.min()), int(values.max()) + 1
    grow = max(least - (high - low), 0)
    low = max(min(low - grow // 2, size - least), 0)
    return slice(low, min(max(high, low + least), size))


def protocol_metrics(lpips_net: str | None) -> MetricCollection:
    """Every metric of the protocol: ``psnr``, ``alpha_psnr``, ``fg_psnr`` and so on.

    LPIPS is left out if ``lpips_net`` is None or its weights are absent (`missing_weights` says).
    """
    metrics: dict[str, Metric] = {"mask_iou": MaskIoU()}
    for variant in VARIANTS:
        prefix = "" if variant == "full" else f"{variant}_"
        metrics[f"{prefix}psnr"] = PSNR(variant=variant)
        metrics[f"{prefix}ssim"] = SSIM(variant=variant)
        if lpips_net is not None and not missing_weights(lpips_net):
            metrics[f"{prefix}lpips_{lpips_net}"] = LPIPS(net=lpips_net, variant=variant)
    return MetricCollection(metrics, compute_groups=False)
