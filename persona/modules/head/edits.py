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
    """Code of the edit alone; empty where there are no edits."""
    partly: Float[Tensor, ""] | None = None
    """1 where pictures of it are to be believed only where they show the edited attribute or the
    background: another network made them. None is nowhere."""


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
    ends: Int[Tensor, "k 2"]
    share: Float[Tensor, "k"]
    partly: Float[Tensor, "k"]
    blends: bool = False
    """Whether some edits lie between two others or are partly trusted; else steps skip this."""

    def __init__(
        self, count: int, num_betas: int, slots: Slots | None = None, codes: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.slots, self.codes = slots, codes
        self.register_buffer("betas", torch.zeros(count, num_betas))
        self.register_buffer("slot", torch.full((count,), -1))
        self.register_buffer("ends", torch.arange(count)[:, None].repeat(1, 2))
        self.register_buffer("share", torch.zeros(count))
        self.register_buffer("partly", torch.zeros(count))

    def describe(
        self, edit: int, category: str, betas: Float[Tensor, "s"], partly: bool = False
    ) -> None:
        """Sets what an edit changes, its shape, and whether its pictures are partly trusted."""
        self.betas[edit], self.partly[edit] = betas, float(partly)
        if self.slots is not None:
            self.slot[edit] = self.slots.number(category)

    def blend(self, edit: int, ends: tuple[int, int], share: float) -> None:
        """Puts an edit's code between those of two others.

        Args:
            edit: Number.
            ends: Numbers of the others; of the person as photographed, it is that person's code of
                the edit's attribute.
            share: Share of the second one, [0, 1].
        """
        self.ends[edit], self.share[edit] = torch.tensor(ends), share

    def forward(self, edit: Int[Tensor, ""]) -> Who:
        """An edit by its number, which may be on the device."""
        betas = self.betas.index_select(0, edit.view(1))[0]
        if self.slots is None or self.codes is None:
            return Who(betas[:0], betas, betas[:0])
        slot = self.slot.index_select(0, edit.view(1))[0]
        if not self.blends:
            code = self.codes(edit)
            return Who(self.slots.edited(slot, code), betas, code)
        first, second = self.ends.index_select(0, edit.view(1))[0]
        share, partly = (t.index_select(0, edit.view(1))[0] for t in (self.share, self.partly))
        code = torch.lerp(self.end(first, slot), self.end(second, slot), share)
        return Who(self.slots.edited(slot, code), betas, code, partly)

    def end(self, edit: Int[Tensor, ""], slot: Int[Tensor, ""]) -> Float[Tensor, "c"]:
        """Code of an edit; of the person as photographed, that of a slot."""
        assert self.slots is not None and self.codes is not None  # Heads with edits have slots.
        unedited = (self.slot.index_select(0, edit.view(1)) < 0) & (slot >= 0)
        present = self.slots.codes.index_select(0, slot.clamp(min=0).view(1))[0]
        return torch.where(unedited, present, self.codes(edit))

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
