"""Low-rank additions to the layers of a trained head, by which it learns a new attribute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.head.layers import split_linear

RANK = 4


class LoraPair(nn.Module):
    """Two small linear layers whose product is added to that of another layer.

    Source: Hu et al. 2021, arXiv:2106.09685; sizes and first values are PERSE's, which adds no
    factor of scale.

    Args:
        layer: has ``weight`` (outputs, inputs).
    """

    strength: float = 1.0
    """Factor of the addition; 0 gives the model without it."""
    share: float | Float[Tensor, "*#n"] = 1.0
    """A second factor: how far the model now shows what the addition is for."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        outputs, inputs = cast("Tensor", layer.weight).shape
        rank = RANK if min(inputs, outputs) >= RANK else (inputs + outputs) // 2
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        nn.init.normal_(self.down.weight, std=1 / RANK)
        nn.init.zeros_(self.up.weight)

    def add(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Hook of the layer."""
        shared = inputs[1] if len(inputs) > 1 else None
        added = split_linear(self.down.weight, inputs[0], shared)
        return output + self.strength * self.share * self.up(added)


def attach_lora(network: nn.Module, names: Mapping[str, str]) -> None:
    """Gives layers of a network such pairs, which change nothing yet.

    Args:
        network: owns the pairs from now on.
        names: the pair's name by that of the layer.
    """
    for layer, name in names.items():
        module = network.get_submodule(layer)
        pair = LoraPair(module)
        network.add_module(name, pair)
        module.register_forward_hook(pair.add)


def lora_pairs(model: nn.Module) -> Iterator[LoraPair]:
    """All pairs of a model."""
    return (module for module in model.modules() if isinstance(module, LoraPair))


def set_strength(model: nn.Module, strength: float) -> None:
    """Sets the factor of all additions, in [0, 1]."""
    for pair in lora_pairs(model):
        pair.strength = strength


def set_share(model: nn.Module, share: Float[Tensor, "*#n"]) -> None:
    """Sets the ``share`` of all additions, for all rows of their inputs or for each."""
    for pair in lora_pairs(model):
        pair.share = share


@contextmanager
def without_additions(model: nn.Module) -> Iterator[None]:
    """The model as it was before the pairs."""
    set_strength(model, 0.0)
    try:
        yield
    finally:
        set_strength(model, 1.0)


def train_lora_only(model: nn.Module) -> None:
    """Freezes everything but the pairs."""
    model.requires_grad_(False)
    for pair in lora_pairs(model):
        pair.requires_grad_(True)


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """The pairs' weights alone, by their names in the model."""
    owned = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, LoraPair))
    return {k: v for k, v in model.state_dict().items() if k.startswith(owned)}


DEFORMER_LORA = {f"lin{i}": f"lora{i}" for i in range(4)} | {"cc_linear": "cc_lora"}
"""PERSE's choice of layers: the predicted bases themselves stay."""
GAUSSIAN_LORA = {f"lin{i}": f"lora{i}" for i in range(9) if i != 3} | {
    f"{head}.{i}": f"{head}_lora{i}"
    for head in ("out_layer", "scaling_layer", "rotations_layer", "opacity_layer")
    for i in ((0, 2, 3) if head == "out_layer" else (0, 2))
}
"""All but the layer that leads into the skip."""
CODE_LORA = {f"lin{i}": f"lora{i}" for i in range(3)}
