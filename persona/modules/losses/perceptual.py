"""LPIPS, of losses and metrics."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.errors import UserError
from persona.modules.constants import on_device
from persona.modules.losses.base import Window
from persona.modules.losses.one_by_one import OneByOne

WEIGHT_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
CONSTRUCTORS = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}


def backbone_file(net: str) -> Path:
    """Where torchvision keeps the ImageNet weights of a backbone."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHT_FILES[net]


def missing_weights(net: str) -> str:
    """One line saying which file is missing and how to get it; empty if it is there."""
    path = backbone_file(net)
    if path.is_file():
        return ""
    fetch = (
        f"python -c \"import torchvision as t; t.models.{CONSTRUCTORS[net]}(weights='DEFAULT')\""
    )
    return (
        f"LPIPS ({net}) needs torchvision's {path.name} (BSD-3-Clause code, ImageNet-trained), "
        f"not found at {path}: run `{fetch}` on a machine with a network, or set TORCH_HOME"
    )


class Perceptual(nn.Module):
    """LPIPS distance, frozen, with the weights of the ``lpips`` package.

    Many images go through the network at once. On CUDA, VGG, the largest network, is a single
    autograd function with kernels of its own (``lpips_vgg``); elsewhere autograd does the work.

    Source: Zhang et al. 2018, arXiv:1801.03924, Eq. 1.

    Args:
        net: ``vgg``, ``alex`` or ``squeeze``.
        random_weights: Start from random weights, which need no file; for timing only.
        half: On CUDA, features are bfloat16; otherwise float32, as always on the CPU.

    Raises:
        UserError: the backbone's weights are absent.
    """

    shift: Float[Tensor, "1 3 1 1"]
    scale: Float[Tensor, "1 3 1 1"]

    def __init__(self, net: str, random_weights: bool = False, half: bool = True) -> None:
        super().__init__()
        if not random_weights and (message := missing_weights(net)):
            raise UserError(f"{message}; or train without it: `perceptual=none`")
        import lpips  # Optional at run time: heavy, and only LPIPS needs it.

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = lpips.LPIPS(net=net, verbose=False, pnet_rand=random_weights)
        self.net, self.half_features = net, half
        self.register_buffer("shift", model.scaling_layer.shift, persistent=False)
        self.register_buffer("scale", model.scaling_layer.scale, persistent=False)
        slices = sorted(name for name, _ in model.net.named_children() if name.startswith("slice"))
        self.slices = nn.ModuleList(getattr(model.net, name) for name in slices)
        self.slices.requires_grad_(False).eval()
        for i, lin in enumerate(model.lins):
            self.register_buffer(
                f"weight_{i}", lin.model[-1].weight.detach().flatten(), persistent=False
            )
        self._made: dict[torch.device, object] = {}

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        y: Float[Tensor, "m 3 h w"],
        which: tuple[int, ...] | None = None,
        window: Window | None = None,
        kept: Sequence[Float[Tensor, "k _ _ _"]] = (),
    ) -> Float[Tensor, "b"]:
        """Distance of each image from its target; targets get no gradient.

        Args:
            x: Images in [0, 1].
            y: Targets in [0, 1].
            which: The target of each image: its row among ``y`` followed by ``kept``. By default
                image i is compared with target i.
            window: Part of the images that is compared; None is all.
            kept: ``features`` of further targets through the same window.
        """
        if which is None:
            which = tuple(range(len(x)))
        if self._fused(x):
            rows = on_device(tuple(len(x) + row for row in which), x.device, torch.int64)
            place = _place(x, window)
            return _lpips_vgg().vgg_distances(self._on_cuda(), x, y.detach(), rows, *place, kept)
        pairs, total = on_device(which, x.device, torch.int64), x.new_zeros(len(x))
        targets = self.features(y, window)
        if kept:
            targets = tuple(torch.cat(pair) for pair in zip(targets, kept, strict=True))
        for i, (a, b) in enumerate(zip(self._layers(x, window), targets, strict=True)):
            weight = getattr(self, f"weight_{i}")
            total = total + layer_distance(a.float(), b.float(), pairs, weight)
        return total

    @torch.no_grad()
    def features(
        self, images: Float[Tensor, "m 3 h w"], window: Window | None = None
    ) -> tuple[Float[Tensor, "m _ _ _"], ...]:
        """Activations of each layer that is compared, which can be kept in place of a target."""
        if self._fused(images):
            return _lpips_vgg().vgg_features(self._on_cuda(), images, *_place(images, window))
        return tuple(self._layers(images, window))

    def _layers(self, images: Tensor, window: Window | None) -> Iterator[Tensor]:
        """Activations of each layer, differentiable by autograd."""
        values = images if window is None else window.cut(images)
        values, slices = (values * 2 - 1 - self.shift) / self.scale, self.slices
        if images.is_cuda:
            slices = self._on_cuda()
            values = values.to(self._dtype, memory_format=torch.channels_last)
        for part in slices:
            values = part(values)
            yield values

    def _fused(self, images: Tensor) -> bool:
        return self.net == "vgg" and images.is_cuda

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.half_features else torch.float32

    def _on_cuda(self):
        """The network in the features' type and channels last; built once for each device."""
        device = self.shift.device
        if device not in self._made and self.net == "vgg":
            weights = [getattr(self, f"weight_{i}") for i in range(len(self.slices))]
            self._made[device] = _lpips_vgg().VggSlices.of(
                self.slices, weights, self.shift, self.scale, self._dtype
            )
        elif device not in self._made:
            # The stub has no such overload.
            self._made[device] = copy.deepcopy(self.slices).to(  # type: ignore[call-overload]
                self._dtype, memory_format=torch.channels_last
            )
        return self._made[device]


def _lpips_vgg() -> ModuleType:
    """Kernels of the fused network."""
    from persona.modules.losses import lpips_vgg  # Triton comes with CUDA builds of torch.

    return lpips_vgg


def _place(images: Tensor, window: Window | None) -> tuple[Tensor, tuple[int, int]]:
    """Corner and size of the window, or of the whole images."""
    if window is None:
        corner = torch.zeros(2, dtype=torch.int64, device=images.device)
        return corner, (images.shape[2], images.shape[3])
    return window.start, window.size


def layer_distance(
    x: Float[Tensor, "b c h w"],
    y: Float[Tensor, "m c h w"],
    which: Int[Tensor, "b"],
    weight: Float[Tensor, "c"],
    eps: float = 1e-10,
) -> Float[Tensor, "b"]:
    """Mean over pixels of the weighted squared difference of unit features."""

    def unit(values: Tensor) -> Tensor:
        # Where all features are zero the square root would have an infinite slope.
        length = values.square().sum(1, keepdim=True).clamp_min(eps**2).sqrt()
        return values / (length + eps)

    difference = unit(x) - unit(y)[which]
    return (difference.square() * weight[:, None, None]).sum(1).mean((1, 2))


@lru_cache(maxsize=4)
def shared_perceptual(
    net: str | None, random_weights: bool = False, half: bool = True, one_by_one: bool = False
) -> nn.Module | None:
    """One network that all losses share; None without ``net``.

    Args:
        net: As of ``Perceptual``.
        random_weights: As of ``Perceptual``.
        half: As of ``Perceptual``.
        one_by_one: Take the images one after another, which needs the memory of one.
    """
    if net is None:
        return None
    network = Perceptual(net, random_weights, half)
    return OneByOne(network) if one_by_one else network
