"""The evaluation protocol: every number of a frame, defined once.

A variant says which pixels of prediction and truth a metric sees:

full  Both images on white under the ground-truth mask, whole image: the number PERSONA and
      ExAvatar report. It hides silhouette errors and counts white background as correct.
alpha The prediction on white under its own alpha, the truth under its mask: silhouettes count.
crop  As full, but only the person's box: little white background to dilute errors.
fg    Foreground only: pixels of the ground-truth mask (PSNR, SSIM), or their bounding box (LPIPS).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from persona.errors import check_choice
from persona.modules.losses.perceptual import WEIGHT_FILES, Perceptual, missing_weights

VARIANTS = ("full", "alpha", "crop", "fg")
BOX_ASPECT, BOX_GROWTH = 0.75, 1.25
"""Width over height of the person's box, and how much it is larger than the mask's."""
LEAST_PX = 64
"""Smallest side of a box: LPIPS needs some pixels."""


def score_frame(
    metrics: MetricCollection,
    pred: Float[Tensor, "3 h w"],
    alpha: Float[Tensor, "1 h w"],
    truth: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
    box_px: Float[Tensor, "4"] | None = None,
) -> dict[str, float]:
    """Scores one frame and adds it to the running means of ``metrics``.

    Args:
        metrics: From ``protocol_metrics``, or any collection of ``FrameMetric``.
        pred: The prediction over white, [0, 1].
        alpha: Its opacity, [0, 1].
        truth: The photograph; its background does not count.
        mask: Mask of the person, [0, 1].
        box_px: The person's box (x, y, w, h); None takes ``person_box`` of the mask.

    Returns:
        Each metric's value of this frame, by its name.

    Raises:
        ValueError: the mask is empty.
    """
    box = person_box(mask) if box_px is None else box_px
    values = metrics(pred[None], alpha[None], truth[None], mask[None], box[None])
    return {name: float(value) for name, value in values.items()}


def on_white(
    rgb: Float[Tensor, "*b 3 h w"], alpha: Float[Tensor, "*b 1 h w"]
) -> Float[Tensor, "*b 3 h w"]:
    """Composites straight (not premultiplied) colours over white."""
    return rgb * alpha + (1 - alpha)


def quantize(image: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """Rounds to 8 bits, as an image file does."""
    return (image.clamp(0, 1) * 255).round() / 255


def person_box(mask: Float[Tensor, "1 h w"]) -> Float[Tensor, "4"]:
    """Box (x, y, w, h) in pixels around a mask, of fixed aspect and grown; may leave the image.

    PERSONA grows a detector's box by the same rule.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = (mask[0] > 0.5).nonzero().unbind(1)
    if not len(rows):
        raise ValueError("the truth's mask is empty: there is nobody to score")
    x, y = columns.min(), rows.min()
    width, height = columns.max() + 1 - x, rows.max() + 1 - y
    side = torch.maximum(height.float(), width / BOX_ASPECT) * BOX_GROWTH
    size = torch.stack((side * BOX_ASPECT, side))
    centre = torch.stack((x + width / 2, y + height / 2))
    return torch.cat((centre - size / 2, size))


class FrameMetric(Metric):
    """Mean over frames of a value per frame, under one protocol variant.

    Inputs of ``update``: the prediction over white, its alpha, the truth and its mask, in [0, 1],
    and the persons' boxes in pixels, by default those of the masks. An infinite value of a frame
    makes the mean infinite.
    """

    full_state_update = False
    higher_is_better = True
    total: Float[Tensor, ""]
    count: Float[Tensor, ""]

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
        box_px: Float[Tensor, "b 4"] | None = None,
    ) -> None:
        """Adds the frames of a batch."""
        truth_white = quantize(on_white(truth, mask))
        shown = quantize(pred if self.variant == "alpha" else on_white(pred, mask))
        for i in range(len(pred)):
            seen = [x[i : i + 1] for x in (shown, truth_white, alpha, mask)]
            if self.variant == "crop":
                box = person_box(mask[i]) if box_px is None else box_px[i]
                seen = [_cut(x, box) for x in seen]
            self.total += self.value(*seen).double()
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
        """The metric of one frame; the arguments are already restricted to the variant's pixels."""
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
    """Learned perceptual distance, see ``Perceptual``. Lower is better."""

    higher_is_better = False

    def __init__(self, *, net: str, variant: str = "full") -> None:
        super().__init__(variant=variant)
        # Reported numbers are of float32 features, on CUDA too.
        self.perceptual = Perceptual(net, half=False)

    def value(self, pred, truth, alpha, mask):
        """Source: the network of the losses; ``fg`` is the mask's bounding box, at least 64 px."""
        if self.variant == "fg":
            rows, columns = (mask[0, 0] > 0.5).nonzero().unbind(1)
            x, y = columns.min(), rows.min()
            box = torch.stack((x, y, columns.max() + 1 - x, rows.max() + 1 - y)).float()
            pred, truth = _cut(pred, box), _cut(truth, box)
        with torch.no_grad():
            return self.perceptual(pred, truth)[0]


class MaskIoU(FrameMetric):
    """Intersection over union of the alpha (> 0.5) and the ground-truth mask."""

    def value(self, pred, truth, alpha, mask):
        """In [0, 1]."""
        a, b = alpha > 0.5, mask > 0.5
        return (a & b).sum() / (a | b).sum().clamp_min(1)


def _cut(
    image: Float[Tensor, "1 c h w"], box_px: Float[Tensor, "4"]
) -> Float[Tensor, "1 c rows columns"]:
    """The image inside a box: clipped, at least ``LEAST_PX`` wide and high if the image is."""
    x, y, width, height = box_px.tolist()
    rows = _span(y, y + height, image.shape[2])
    return image[:, :, rows, _span(x, x + width, image.shape[3])]


def _span(low: float, high: float, size: int) -> slice:
    """Pixels from ``low`` to ``high``: rounded outwards, clipped, at least ``LEAST_PX`` of them."""
    low, high = max(math.floor(low), 0), min(math.ceil(high), size)
    low = max(min(low - max(LEAST_PX - (high - low), 0) // 2, size - LEAST_PX), 0)
    return slice(low, min(max(high, low + LEAST_PX), size))


def lpips_nets(lpips_net: str | Sequence[str] | None) -> tuple[str, ...]:
    """The networks asked for: none, one or several.

    Raises:
        UserError: no such network.
    """
    nets = (lpips_net,) if isinstance(lpips_net, str) else tuple(lpips_net or ())
    for net in nets:
        check_choice("lpips_net", net, WEIGHT_FILES)
    return nets


def protocol_metrics(lpips_net: str | Sequence[str] | None) -> MetricCollection:
    """Every metric of the protocol: ``psnr``, ``alpha_psnr``, ``crop_psnr``, ``fg_psnr`` and so on.

    An LPIPS network whose weights are absent is left out; ``missing_weights`` says so.
    """
    nets = [net for net in lpips_nets(lpips_net) if not missing_weights(net)]
    metrics: dict[str, Metric | MetricCollection] = {"mask_iou": MaskIoU()}
    for variant in VARIANTS:
        prefix = "" if variant == "full" else f"{variant}_"
        metrics[f"{prefix}psnr"] = PSNR(variant=variant)
        metrics[f"{prefix}ssim"] = SSIM(variant=variant)
        for net in nets:
            metrics[f"{prefix}lpips_{net}"] = LPIPS(net=net, variant=variant)
    return MetricCollection(metrics, compute_groups=False)
