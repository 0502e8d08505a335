"""LPIPS as a training loss."""

import warnings
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.errors import UserError

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
    """LPIPS distance, frozen. Raises UserError where the backbone's weights are absent.

    Source: Zhang et al. 2018, arXiv:1801.03924, by the ``lpips`` package.
    """

    def __init__(self, net: str, random_weights: bool = False) -> None:
        super().__init__()
        if not random_weights and (message := missing_weights(net)):
            raise UserError(f"{message}; or train without it: `perceptual=none`")
        import lpips  # Optional at run time: heavy, and only this loss needs it.

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = lpips.LPIPS(net=net, verbose=False, pnet_rand=random_weights)
            self.net = net.eval().requires_grad_(False)

    def forward(self, x: Float[Tensor, "3 h w"], y: Float[Tensor, "3 h w"]) -> Float[Tensor, ""]:
        """Distance of two images in [0, 1]."""
        return self.net(x[None], y[None], normalize=True).mean()


@lru_cache(maxsize=4)
def shared_perceptual(net: str | None, random_weights: bool = False) -> Perceptual | None:
    """One network for all losses that use it; None for none.

    random_weights: for timing alone, needs no file.
    """
    return None if net is None else Perceptual(net, random_weights)
