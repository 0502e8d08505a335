"""The edits of a person that an avatar knows, and the latent of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.head.latent import Slots
from persona.types import View


@dataclass(frozen=True)
class Who:
    """A person, or an edit of one."""

    latent: Float[Tensor, "l"]
    """Empty where there are no edits."""
    betas: Float[Tensor, "s"]
    code: Float[Tensor, "c"]
    """Of the edit alone; empty where there are no edits."""


class Edits(nn.Module):
    """Latents and shapes of the edits of a person, by number.

    Args:
        count: edits, the person as photographed among them.
        num_betas: shape coefficients that a pose names.
        slots: composes latents; None for one person without edits.
        codes: module that gives an edit's code by its number; None where nothing is edited.
    """

    betas: Float[Tensor, "k s"]
    slot: Int[Tensor, "k"]

    def __init__(
        self, count: int, num_betas: int, slots: Slots | None = None, codes: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.slots, self.codes = slots, codes
        self.register_buffer("betas", torch.zeros(count, num_betas))
        self.register_buffer("slot", torch.full((count,), -1))

    def describe(self, edit: int, category: str, betas: Float[Tensor, "s"]) -> None:
        """Says what an edit changes, and its shape."""
        self.betas[edit] = betas
        if self.slots is not None:
            self.slot[edit] = self.slots.number(category)

    def forward(self, edit: Int[Tensor, ""]) -> Who:
        """An edit by its number; the host need not know it."""
        betas = self.betas.index_select(0, edit.view(1))[0]
        if self.slots is None or self.codes is None:
            return Who(betas[:0], betas, betas[:0])
        code = self.codes(edit)
        slot = self.slot.index_select(0, edit.view(1))[0]
        return Who(self.slots.edited(slot, code), betas, code)

    def seen(self, view: View) -> Who:
        """Whom a view shows: its subject numbers the edit, its latent replaces the edit's."""
        who = self.as_photographed() if view.subject is None else self(view.subject)
        return who if view.latent is None else Who(view.latent, who.betas, who.code[:0])

    def as_photographed(self) -> Who:
        """The person without any edit."""
        return self.mixed({})

    def mixed(self, codes: Mapping[str, Float[Tensor, "c"]]) -> Who:
        """The person with the given codes of some categories."""
        betas = self.betas[0]
        if self.slots is None:
            return Who(betas[:0], betas, betas[:0])
        return Who(self.slots.compose(codes), betas, self.slots.zero[0, :0])
