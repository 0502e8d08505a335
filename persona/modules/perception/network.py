"""A network that reads a person's crop: matte, parts, place on the body, normals, depth, joints.

It sees the crop and, where a detector has looked before, its mask and keypoints as further channels
(zero where there are none). The encoder is a small residual network beside ImageNet's SqueezeNet,
with attention over its coarsest map: the whole picture tells left from right.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from persona.modules.perception.prompt import PROMPT_CHANNELS

NUM_PARTS = 28
NUM_JOINTS = 22
"""Pelvis and body joints, in SMPL-X's order."""
MIRRORED_JOINTS = (
    0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20,
)  # fmt: skip
"""The same joints with left and right exchanged."""
_STAGES = ((32, 0), (64, 2), (128, 3), (256, 4), (384, 4))
"""Channels and blocks at stride 2, 4, 8, 16, 32."""
_TAPS = (1, 4, 7, 12)
"""SqueezeNet's layers at stride 2, 4, 8 and 16: 64, 128, 256 and 512 channels."""
_TAP_CHANNELS = (64, 128, 256, 512)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Percepts(NamedTuple):
    """Outputs of the network, at the crop's size."""

    alpha: Float[Tensor, "b 1 h w"]
    """Logits of the person's matte."""
    parts: Float[Tensor, "b 28 h w"]
    """Logits of the Goliath classes."""
    surface: Float[Tensor, "b 3 h w"]
    """Place on the template body in the T-pose, metres."""
    normal: Float[Tensor, "b 3 h w"]
    """x right, y up, z to the camera; not yet of unit length."""
    depth: Float[Tensor, "b 1 h w"]
    """Metres behind the pelvis, for a person of the template's size."""
    joints: Float[Tensor, "b 22 4"]
    """x and y as shares of the crop's width and height, metres behind the pelvis, and the logarithm
    of the metres by which that may be off (the scale of a Laplace distribution)."""


class PerceptionNet(nn.Module):
    """See the module.

    Args:
        pretrained: SqueezeNet with ImageNet's weights from torchvision's cache, for training.
    """

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(self, pretrained: bool = False):
        super().__init__()
        weights = "IMAGENET1K_V1" if pretrained else None
        self.squeeze = squeezenet1_1(weights=weights).features
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        widths = [w for w, _ in _STAGES]
        self.stem = nn.Conv2d(3 + PROMPT_CHANNELS, widths[0], 5, 2, 2)
        self.taps = nn.ModuleList(
            nn.Conv2d(c, w, 1) for c, w in zip(_TAP_CHANNELS, widths[:4], strict=True)
        )
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Bottleneck(w) for _ in range(n))) for w, n in _STAGES
        )
        self.mixer = Mixer(widths[-1])
        self.ups = nn.ModuleList([
            Up(384, 256, 160), Up(160, 128, 128), Up(128, 64, 96), Up(96, 32, 64),
        ])  # fmt: skip
        self.maps = nn.Conv2d(64, 1 + NUM_PARTS + 3 + 3 + 1, 1)
        self.joints = JointReader(128, widths[-1])

    def forward(
        self, image: Float[Tensor, "b 3 h w"], prompt: Float[Tensor, "b p h w"]
    ) -> Percepts:
        """Reads a batch of crops.

        Args:
            image: RGB in [0, 1]; height and width are multiples of 32.
            prompt: A detector's finding as channels (``prompt.detector_prompt``); zeros without
                one.
        """
        taps = self._taps((image - self.mean) / self.std)
        x = self.stem(torch.cat((image - 0.5, prompt), 1))
        skips = []
        for level in range(len(_STAGES)):
            if level:
                x = self.downs[level - 1](F.relu(x))
            if level < len(taps):
                near = F.interpolate(taps[level], size=x.shape[2:], mode="bilinear")
                x = x + self.taps[level](near)
            x = self.blocks[level](x)
            skips.append(x)
        x, person = self.mixer(skips[-1])
        middle = x
        for level, (up, skip) in enumerate(zip(self.ups, skips[-2::-1], strict=True)):
            x = up(x, skip)
            middle = x if level == 1 else middle
        maps = F.interpolate(self.maps(x), scale_factor=2, mode="bilinear").float()
        alpha, parts, surface, normal, depth = maps.split([1, NUM_PARTS, 3, 3, 1], 1)
        return Percepts(alpha, parts, surface, normal, depth, self.joints(middle, person))

    def _taps(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        out, x = [], image
        for index, layer in enumerate(self.squeeze):
            x = layer(x)
            if index in _TAPS:
                out.append(x)
        return out


class Bottleneck(nn.Module):
    """Residual block: narrow, look around, widen."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.inner = nn.Sequential(
            nn.GroupNorm(8, width), nn.ReLU(), nn.Conv2d(width, half, 1),
            nn.GroupNorm(8, half), nn.ReLU(), nn.Conv2d(half, half, 3, 1, 1),
            nn.GroupNorm(8, half), nn.ReLU(), nn.Conv2d(half, width, 1),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Adds to its input."""
        return x + self.inner(x)


class Mixer(nn.Module):
    """Attention over the whole coarse map, with one more token for the person."""

    def __init__(self, width: int, layers: int = 2):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Linear(4, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 6, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )

    def forward(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c"]]:
        """The map, and the person's token."""
        height, width = x.shape[2:]
        row = torch.linspace(-1, 1, height, device=x.device)[:, None].expand(height, width)
        column = torch.linspace(-1, 1, width, device=x.device).expand(height, width)
        place = torch.stack((row, column, row.square(), column.square()), -1).flatten(0, 1)
        tokens = x.flatten(2).transpose(1, 2) + self.place(place.to(x.dtype))
        tokens = torch.cat((self.token.expand(len(x), -1, -1).to(tokens.dtype), tokens), 1)
        for layer in self.layers:
            tokens = layer(tokens)
        return x + tokens[:, 1:].transpose(1, 2).unflatten(2, (height, width)), tokens[:, 0]


class Up(nn.Module):
    """Doubles a map and adds a finer one."""

    def __init__(self, coarse: int, fine: int, out: int):
        super().__init__()
        self.narrow = nn.Conv2d(coarse + fine, out, 1)
        self.look = nn.Sequential(
            nn.GroupNorm(8, out), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1), nn.GroupNorm(8, out),
            nn.ReLU(),
        )  # fmt: skip

    def forward(
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b d h2 w2"]
    ) -> Float[Tensor, "b e h2 w2"]:
        """The map at the size of ``skip``."""
        large = F.interpolate(x, size=skip.shape[2:], mode="bilinear")
        return self.look(self.narrow(torch.cat((large, skip), 1)))


class JointReader(nn.Module):
    """Looks at the picture once for each joint, and lets the joints agree.

    A joint's place is the mean of where it looks (integral regression, Sun et al. 2018), corrected
    like its depth by what all joints saw.

    Args:
        width: Channels of the map.
        person: Channels of the person's token.
        inner: Channels of a joint's token.
        layers: Layers of attention between the joints.
    """

    def __init__(self, width: int, person: int, inner: int = 192, layers: int = 2):
        super().__init__()
        self.look = nn.Conv2d(width, 2 * NUM_JOINTS, 1)
        self.value = nn.Conv2d(width, inner, 1)
        self.place = nn.Linear(4, inner)
        self.person = nn.Linear(person, inner)
        self.joint = nn.Parameter(torch.randn(NUM_JOINTS, inner) * 0.02)
        self.both = nn.Linear(2 * inner, inner)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                inner, 6, 2 * inner, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.out = nn.Linear(inner, 4)

    def forward(
        self, x: Float[Tensor, "b c h w"], person: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b 22 4"]:
        """See ``Percepts.joints``."""
        height, width = x.shape[2:]
        # Each joint has one attention map for its place and another for its depth.
        weight = self.look(x).float().flatten(2).softmax(-1)
        row = (torch.arange(height, device=x.device) + 0.5) / height
        column = (torch.arange(width, device=x.device) + 0.5) / width
        grid = torch.stack((column.expand(height, width), row[:, None].expand(height, width)), -1)
        place = weight @ grid.flatten(0, 1)
        seen = weight.to(x.dtype) @ self.value(x).flatten(2).transpose(1, 2)
        itself, other = place.split(NUM_JOINTS, 1)
        tokens = self.both(torch.cat(seen.split(NUM_JOINTS, 1), -1)) + self.joint
        tokens = tokens + self.place(torch.cat((itself, other), -1).to(x.dtype))
        tokens = tokens + self.person(person)[:, None]
        for layer in self.layers:
            tokens = layer(tokens)
        out = self.out(tokens).float()
        return torch.cat((itself + 0.1 * out[..., :2], out[..., 2:]), -1)
