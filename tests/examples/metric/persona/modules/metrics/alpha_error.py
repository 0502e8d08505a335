"""How far the opacity is from the mask."""

from collections.abc import Sequence

from torchmetrics import MetricCollection

from persona.modules.metrics.protocol import FrameMetric, protocol_metrics


class AlphaError(FrameMetric):
    """Mean absolute difference of alpha and mask, in [0, 1]. Lower is better."""

    higher_is_better = False

    def value(self, pred, truth, alpha, mask):
        """Over the whole image."""
        return (alpha - mask).abs().mean()


def with_alpha_error(lpips_net: str | Sequence[str] | None) -> MetricCollection:
    """The protocol and ``alpha_error``."""
    metrics = protocol_metrics(lpips_net)
    metrics.add_metrics({"alpha_error": AlphaError()})
    return metrics
