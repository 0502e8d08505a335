"""The edits of a person that an avatar knows, and the latent of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.head.latent import FeatureCodes, Slots, TableCodes
from persona.modules.head.lora import set_share
from persona.types import View

_REACH = 0.5
"""Distance from the way to a learnt edit's code where it counts no more, in lengths of the way."""


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
        apart: whether low-rank additions are for the edits alone that were learnt by them.
    """

    betas: Float[Tensor, "k s"]
    slot: Int[Tensor, "k"]
    ends: Int[Tensor, "k 2"]
    share: Float[Tensor, "k"]
    partly: Float[Tensor, "k"]
    added: Float[Tensor, "k"]
    """1 for edits that low-rank additions learnt, if these are ``apart``."""
    blends: bool = False
    """Whether some edits lie between two others or are partly trusted; else steps skip this."""

    def __init__(
        self,
        count: int,
        num_betas: int,
        slots: Slots | None = None,
        codes: TableCodes | FeatureCodes | None = None,
        *,
        apart: bool = False,
    ) -> None:
        super().__init__()
        self.slots, self.codes, self.apart = slots, codes, apart
        self.register_buffer("betas", torch.zeros(count, num_betas))
        self.register_buffer("slot", torch.full((count,), -1))
        self.register_buffer("ends", torch.arange(count)[:, None].repeat(1, 2))
        self.register_buffer("share", torch.zeros(count))
        self.register_buffer("partly", torch.zeros(count))
        self.register_buffer("added", torch.zeros(count), persistent=apart)

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
            code = self.code(edit)
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
        return torch.where(unedited, present, self.code(edit))

    def code(self, edit: Int[Tensor, ""]) -> Float[Tensor, "c"]:
        """Code of an edit; where additions are apart, those that learnt others leave it alone."""
        assert self.codes is not None  # Heads with edits have codes.
        if self.apart:
            set_share(self.codes, self.added.index_select(0, edit.view(1))[0])
        return self.codes(edit)

    @torch.no_grad()
    def learnt_share(self, latent: Float[Tensor, "l"]) -> Float[Tensor, ""]:
        """How far a latent shows what low-rank additions learnt, [0, 1].

        It is the share of the way from the code of the person as photographed to that of the
        learnt edit. It falls to 0 beside this way, where the code of another edit of the attribute
        lies or at half of the way's length (``_REACH``). Codes of other attributes do not count.
        """
        assert self.slots is not None and self.codes is not None  # Heads with edits have both.
        set_share(self.codes, self.added[:, None])
        slot, codes = self.slot.clamp(min=0), self.codes.all()
        start = self.slots.codes[slot]
        # The person as photographed has a row of codes too, which nothing shows.
        same = (self.slot[:, None] == self.slot) & (self.slot >= 0)
        other = same & ~torch.eye(len(slot), dtype=torch.bool, device=slot.device)
        _, beside = _along(start, codes, codes)
        reach = beside.masked_fill(~other, _REACH).amin(0).clamp(1e-6, _REACH)
        share, beside = _along(start, codes, self.slots.held(latent))
        shown = slot[None]
        share, beside = share.gather(0, shown)[0], beside.gather(0, shown)[0]
        near = (1 - (beside / reach).square()).clamp(min=0).square()
        return (self.added * share * near).amax()

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


def _along(
    start: Float[Tensor, "k c"], end: Float[Tensor, "k c"], codes: Float[Tensor, "m c"]
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k"]]:
    """Share of each way from start to end at each code's nearest place, and the distance to it.

    Distances are in lengths of the way.
    """
    way, gone = end - start, codes[:, None] - start
    length = way.square().sum(-1).clamp(min=1e-12)
    share = ((gone * way).sum(-1) / length).clamp(0, 1)
    return share, ((gone - share[..., None] * way).square().sum(-1) / length).sqrt()
