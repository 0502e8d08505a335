"""The face recognition network that StableAnimator knows faces by: IResNet-100 (glintr100).

ArcFace (arXiv 1801.07698), section 3.1: improved residual units, the embedding after batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

CROP = 112
"""Side of an aligned face, pixels."""
EMBEDDING = 512
_HALVINGS = 16


class ResidualUnit(nn.Module):
    """Two convolutions, the second of which may halve the size.

    Args:
        channels: Channels of the input.
        width: Width of the output.
        stride: Stride of the second convolution.
    """

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        # The first unit of a layer changes size; later ones hand their input on as it is.
        self.downsample = None
        if stride > 1:
            shrink = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shrink, nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Features."""
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        kept = x if self.downsample is None else self.downsample(x)
        return self.bn3(self.conv2(out)) + kept


class IdentityNet(nn.Module):
    """Aligned faces to embeddings, which are not normalised.

    Args:
        blocks: Residual units of each of four layers.
        widths: Widths of the layers.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[int]):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        channels = widths[0]
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            units = [ResidualUnit(channels, width, 2)]
            units += [ResidualUnit(width, width, 1) for _ in range(count - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*units))
            channels = width
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels * (CROP // _HALVINGS) ** 2, EMBEDDING)
        self.features = nn.BatchNorm1d(EMBEDDING)

    def forward(self, faces: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b 512"]:
        """Faces in [-1, 1]."""
        x = self.prelu(self.bn1(self.conv1(faces)))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))
