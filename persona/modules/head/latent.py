"""The latent of a head: a slot for each category of attributes, and the codes that fill them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.errors import UserError
from persona.modules.head.attributes import PERSE_CATEGORIES, PERSE_SOURCE, SOURCE
from persona.modules.head.layers import WeightNormLinear


class Slots(nn.Module):
    """Composes latents: each category's number, one-hot, and its code.

    A slot holds the code of an edit; without one, the code of the person as photographed; and
    where the person lacks the attribute, the code of its absence.
    Source: PEGASUS, arXiv:2402.10636; PERSE, arXiv:2412.21206, section 4.1.

    Args:
        categories: in the order of the slots.
        source: those that the person has in the first place.
        code: numbers of a code.
        std: of the first values of the learnt codes.
    """

    source_rows: Int[Tensor, "s"]

    def __init__(
        self,
        *,
        categories: Sequence[str] = PERSE_CATEGORIES,
        source: Sequence[str] = PERSE_SOURCE,
        code: int = 32,
        std: float = 0.05,
    ) -> None:
        super().__init__()
        self.categories, self.source_categories = tuple(categories), tuple(source)
        if strange := set(source) - set(categories):
            raise UserError(f"source category {min(strange)}: choose of {', '.join(categories)}")
        self.zero = nn.Parameter(std * torch.randn(1, code))
        self.source = nn.Parameter(std * torch.randn(len(self.source_categories), code))
        rows = torch.tensor([self.categories.index(name) for name in self.source_categories])
        self.register_buffer("source_rows", rows, persistent=False)

    @property
    def size(self) -> int:
        """Numbers of a latent."""
        count = len(self.categories)
        return count * (count + self.zero.shape[1])

    def number(self, category: str) -> int:
        """Slot of a category, -1 for the person as photographed.

        Raises:
            UserError: there is no such category.
        """
        if category == SOURCE:
            return -1
        if category not in self.categories:
            have = ", ".join((SOURCE, *self.categories))
            raise UserError(f"attribute {category} is unknown: choose of {have}")
        return self.categories.index(category)

    @property
    def codes(self) -> Float[Tensor, "k c"]:
        """Codes of the person as photographed, one for each slot."""
        zero = self.zero.expand(len(self.categories), -1)
        return zero.index_copy(0, self.source_rows, self.source)

    def edited(self, slot: Int[Tensor, ""], code: Float[Tensor, "c"]) -> Float[Tensor, "l"]:
        """Latent with one slot's code replaced, without waiting for a GPU; -1 replaces none."""
        rows = torch.arange(len(self.categories), device=slot.device)
        return self.latent(torch.where((rows == slot)[:, None], code, self.codes))

    def compose(self, codes: Mapping[str, Float[Tensor, "c"]]) -> Float[Tensor, "l"]:
        """Latent with the codes of any categories, for example of several people."""
        mixed = list(self.codes)
        for category, code in codes.items():
            if (slot := self.number(category)) >= 0:
                mixed[slot] = code
        return self.latent(torch.stack(mixed))

    def latent(self, codes: Float[Tensor, "k c"]) -> Float[Tensor, "l"]:
        """Latent made from a code for each slot."""
        unit = torch.eye(len(codes), dtype=codes.dtype, device=codes.device)
        return torch.cat([unit, codes], 1).flatten()

    def held(self, latent: Float[Tensor, "l"]) -> Float[Tensor, "k c"]:
        """The code in each slot of a latent."""
        count = len(self.categories)
        return latent.view(count, -1)[:, count:]


class TableCodes(nn.Module):
    """A learnt code for each edit.

    Source: PEGASUS, arXiv:2402.10636.

    Args:
        count: of edits.
        code: numbers of a code.
        std: of the first values.
    """

    def __init__(self, count: int, code: int = 32, std: float = 0.25) -> None:
        super().__init__()
        self.table = nn.Parameter(std * torch.randn(count, code))

    def forward(self, index: Int[Tensor, ""]) -> Float[Tensor, "c"]:
        """Code of one edit."""
        return self.table.index_select(0, index.view(1))[0]

    def all(self) -> Float[Tensor, "n c"]:
        """Codes of all edits."""
        return self.table


class CodeNetwork(nn.Module):
    """Code of an attribute from features of its picture and of the words for it.

    Source: PERSE, arXiv:2412.21206, section 4.1 (MLP_z).

    Args:
        features: of picture and words together.
        code: numbers of a code.
        width: of the hidden layers.
    """

    def __init__(self, features: int = 1024, code: int = 32, width: int = 512) -> None:
        super().__init__()
        self.lin0 = WeightNormLinear(features, width)
        self.lin1 = WeightNormLinear(width, width)
        self.lin2 = WeightNormLinear(width, code)

    def forward(self, features: Float[Tensor, "*n f"]) -> Float[Tensor, "*n c"]:
        """``features``: the picture's, then the words'."""
        return self.lin2(F.relu(self.lin1(F.relu(self.lin0(features)))))


class FeatureCodes(nn.Module):
    """Codes of edits by ``CodeNetwork``; what the network sees of each edit is kept.

    Args:
        count: of edits.
        network: makes the codes.
        features: numbers that the network sees.
    """

    features: Float[Tensor, "n f"]

    def __init__(self, count: int, network: CodeNetwork, features: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("features", torch.zeros(count, features))

    def forward(self, index: Int[Tensor, ""]) -> Float[Tensor, "c"]:
        """Code of one edit."""
        return self.network(self.features.index_select(0, index.view(1)))[0]

    def all(self) -> Float[Tensor, "n c"]:
        """Codes of all edits."""
        return self.network(self.features)

    @torch.no_grad()
    def spread(self, std: float) -> None:
        """Makes the edits' codes differ by ``std`` around zero, before training.

        Pictures of one person with two kinds of hair are much the same to an encoder, and so are
        their first codes: a fresh network hardly tells them apart.
        Source of the idea: Mishkin and Matas 2016, arXiv:1511.06422 (scale by what the data give).
        """
        codes, last = self.network(self.features), self.network.lin2
        apart = codes.std(0, correction=0).mean()
        if float(apart) < 1e-6:  # A single edit, or pictures with the same features.
            return
        gain = std / apart
        last.weight_g.mul_(gain)
        last.bias.copy_(gain * (last.bias - codes.mean(0)))
