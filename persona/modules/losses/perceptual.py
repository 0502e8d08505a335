"""LPIPS as a training loss."""

import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.errors import UserError
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
    """One line: what is missing and how to get it. Empty where the file is there."""
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

    Many images go through the network at once, targets without a gradient. On CUDA the features
    are bfloat16 unless ``half`` is false; float32 elsewhere.

    Source: Zhang et al. 2018, arXiv:1801.03924, Eq. 1.

    Raises:
        UserError: the backbone's weights are absent.
    """

    def __init__(self, net: str, random_weights: bool = False, half: bool = True) -> None:
        super().__init__()
        if not random_weights and (message := missing_weights(net)):
            raise UserError(f"{message}; or train without it: `perceptual=none`")
        import lpips  # Optional at run time: heavy, and only this loss needs it.

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = lpips.LPIPS(net=net, verbose=False, pnet_rand=random_weights)
        self.reduced = half
        self.register_buffer("shift", model.scaling_layer.shift, persistent=False)
        self.register_buffer("scale", model.scaling_layer.scale, persistent=False)
        slices = sorted(name for name, _ in model.net.named_children() if name.startswith("slice"))
        self.slices = nn.ModuleList(getattr(model.net, name) for name in slices)
        self.slices.requires_grad_(False).eval()
        for i, lin in enumerate(model.lins):
            self.register_buffer(f"weight_{i}", lin.model[-1].weight.flatten(), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        y: Float[Tensor, "m 3 h w"],
        which: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b"]:
        """Distances of images in [0, 1] from targets, which get no gradient.

        which: the target of each image; by default they lie in the same order.
        """
        if which is None:
            which = tuple(range(len(x)))
        pairs = _on_device(which, x.device)
        with torch.no_grad():
            targets = list(self.features(y.detach()))
        total = x.new_zeros(len(x))
        for i, (a, b) in enumerate(zip(self.features(x), targets, strict=True)):
            total = total + layer_distance(a, b, pairs, getattr(self, f"weight_{i}"))
        return total

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Iterator[Float[Tensor, "b c hh ww"]]:
        """Activations of each layer that is compared."""
        values = (images * 2 - 1 - self.shift) / self.scale
        fast = images.device.type == "cuda" and self.reduced
        if images.device.type == "cuda":
            values = values.contiguous(memory_format=torch.channels_last)
        if fast:
            values = values.bfloat16()
        for part in self.slices:
            values = self._run(part, values) if fast else part(values)
            yield values

    def _run(self, part: nn.Sequential, values: Tensor) -> Tensor:
        """A slice in half precision; a convolution and the ReLU behind it in one kernel."""
        layers = list(part)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, nn.Conv2d) and layers and isinstance(layers[0], nn.ReLU):
                layers.pop(0)
                values = _ConvRelu.apply(
                    values, *self._half_weights(layer), layer.stride, layer.padding
                )
            elif isinstance(layer, nn.MaxPool2d) and (layer.kernel_size, layer.stride) == (2, 2):
                from persona.modules.losses.max_pool_triton import max_pool_2x2

                values = max_pool_2x2(values)
            else:
                with torch.autocast("cuda", torch.bfloat16):
                    values = layer(values)
        return values

    def _half_weights(self, layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Weights of a layer in bfloat16, channels last; made once."""
        if not hasattr(layer, "half_weights"):
            weight = layer.weight.detach().bfloat16()
            weight = weight.contiguous(memory_format=torch.channels_last)
            layer.half_weights = weight, layer.bias.detach().bfloat16()
        return layer.half_weights


class _ConvRelu(torch.autograd.Function):
    """Convolution, bias and ReLU of frozen weights; gradient to the values alone."""

    @staticmethod
    def forward(ctx, values, weight, bias, stride, padding):
        result = torch.cudnn_convolution_relu(values, weight, bias, stride, padding, (1, 1), 1)
        ctx.save_for_backward(values, weight, result)
        ctx.settings = stride, padding
        return result

    @staticmethod
    def backward(ctx, grad):
        values, weight, result = ctx.saved_tensors
        stride, padding = ctx.settings
        grad = torch.ops.aten.threshold_backward(grad, result, 0)
        grad, _, _ = torch.ops.aten.convolution_backward(
            grad, values, weight, None, stride, padding, (1, 1), False, (0, 0), 1,
            (True, False, False),
        )  # fmt: skip
        return grad, None, None, None, None


def layer_distance(
    x: Float[Tensor, "b c h w"],
    y: Float[Tensor, "m c h w"],
    which: Int[Tensor, "b"],
    weight: Float[Tensor, "c"],
    eps: float = 1e-10,
) -> Float[Tensor, "b"]:
    """Mean over pixels of the weighted squared difference of unit features."""
    if x.device.type == "cuda":
        from persona.modules.losses import lpips_triton  # Comes with CUDA builds of torch.

        return lpips_triton.layer_distance(x, y, which, weight, eps)

    def unit(values: Tensor) -> Tensor:
        # The square root's slope is infinite at zero, where the features are dead.
        length = values.square().sum(1, keepdim=True).clamp_min(eps**2).sqrt()
        return values / (length + eps)

    difference = unit(x) - unit(y)[which]
    return (difference.square() * weight[:, None, None]).sum(1).mean((1, 2))


@lru_cache(maxsize=64)
def _on_device(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Indices on a device, copied once: a copy from the host would wait."""
    return torch.tensor(values, device=device)


@lru_cache(maxsize=4)
def shared_perceptual(
    net: str | None, random_weights: bool = False, half: bool = True, one_by_one: bool = False
) -> nn.Module | None:
    """One network for all losses that use it; None for none.

    random_weights: for timing alone, needs no file; half: bfloat16 features on CUDA; one_by_one:
    images one after another, which takes the memory of one.
    """
    if net is None:
        return None
    network = Perceptual(net, random_weights, half)
    return OneByOne(network) if one_by_one else network
