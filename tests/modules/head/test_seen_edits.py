"""Whom a head shows: by the number of an edit, by a latent, or as photographed."""

import torch

from persona.modules.head.edits import Edits
from persona.modules.head.latent import Slots, TableCodes
from persona.types import PLAIN_VIEW, View


def test_a_view_says_whom_to_show():
    torch.manual_seed(0)
    slots = Slots(categories=("hair", "hat"), source=("hair",), code=2)
    edits = Edits(2, 3, slots, TableCodes(2, 2, 1.0))
    edits.describe(0, "source", torch.zeros(3))
    edits.describe(1, "hat", torch.ones(3))
    one, latent = View(subject=torch.tensor(1)), torch.randn(8)
    assert torch.equal(edits.seen(PLAIN_VIEW).latent, edits.as_photographed().latent)
    assert torch.equal(edits.seen(one).latent.view(2, 4)[1, 2:], edits.codes.table[1])
    mixed = edits.seen(View(subject=one.subject, latent=latent))
    assert torch.equal(mixed.latent, latent) and torch.equal(mixed.betas, torch.ones(3))
    assert torch.equal(edits.seen(View(latent=latent)).betas, torch.zeros(3))
