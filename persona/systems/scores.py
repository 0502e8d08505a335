"""Scores of test frames: a row for each frame, and means over the frames of all processes."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import MetricCollection

from persona.modules.metrics.protocol import score_frame
from persona.runtime.ddp import of_all_processes
from persona.types import Frame

Predicted = tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 1 h w"]]
"""A frame's colour over white and its alpha, [0, 1]."""
Value = TypeVar("Value")


class Scores(nn.Module):
    """Metrics of each asset of a method.

    Names of metrics begin with the asset's name, except for the last asset, the method's result.

    Args:
        metrics: The protocol, cloned for each asset.
        assets: Names.
    """

    def __init__(self, metrics: MetricCollection, assets: Sequence[str]) -> None:
        super().__init__()
        self.result = assets[-1]
        self.metrics = nn.ModuleDict({asset: metrics.clone() for asset in assets})
        self.rows: list[dict[str, float | str]] = []
        """Name and metrics of each frame."""

    def add(self, frame: Frame, predictions: Mapping[str, Predicted]) -> None:
        """Scores a frame, a batch of one, by asset."""
        row: dict[str, float | str] = {"frame": frame.name[0]}
        for asset, (image, alpha) in predictions.items():
            pair = image[0], alpha[0], frame.image[0], frame.mask[0]
            row |= self._named(asset, score_frame(self._metrics_of(asset), *pair))
        self.rows.append(row)

    def means(self) -> dict[str, Tensor]:
        """Means over all frames.

        Afterwards every process has the rows of all processes, in the order of the frames.
        """
        turns = zip_longest(*of_all_processes(self.rows))
        self.rows = [row for turn in turns for row in turn if row is not None]
        found: dict[str, Tensor] = {}
        for asset in self.metrics:
            metrics = self._metrics_of(asset)
            found |= self._named(asset, metrics.compute())
            metrics.reset()
        return found

    def forget(self) -> None:
        """Resets all sums."""
        self.rows = []

    def _metrics_of(self, asset: str) -> MetricCollection:
        metrics = self.metrics[asset]
        assert isinstance(metrics, MetricCollection)
        return metrics

    def _named(self, asset: str, values: Mapping[str, Value]) -> dict[str, Value]:
        prefix = "" if asset == self.result else f"{asset}_"
        return {f"{prefix}{name}": value for name, value in values.items()}
