"""What a head shows: an edit by its number, a given latent, or the person as photographed."""

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


def test_an_edit_can_lie_between_two_others():
    """Codes are blended; the code of the person as photographed is the slot's own."""
    torch.manual_seed(0)
    slots = Slots(categories=("hair", "hat"), source=("hair",), code=2)
    edits = Edits(5, 0, slots, TableCodes(5, 2, 1.0))
    for number, name in enumerate(("source", "hair", "hair", "hair", "hat")):
        edits.describe(number, name, torch.zeros(0), partly=number > 2)
    edits.blend(3, (1, 2), 0.25)
    edits.blend(4, (0, 1), 0.5)
    edits.blends = True
    table, present = edits.codes.table, slots.codes
    between = edits(torch.tensor(3))
    assert torch.allclose(between.code, 0.75 * table[1] + 0.25 * table[2])
    assert torch.equal(between.latent.view(2, 4)[0, 2:], between.code)
    assert between.partly == 1 and edits(torch.tensor(1)).partly == 0
    assert torch.allclose(edits(torch.tensor(4)).code, (present[1] + table[1]) / 2)
    # Other edits are the same with and without blending.
    for number in (0, 1):
        edits.blends = True
        blended = edits(torch.tensor(number))
        edits.blends = False
        plain = edits(torch.tensor(number))
        assert torch.equal(blended.latent, plain.latent)
        assert torch.equal(blended.code, plain.code)


def test_how_far_a_latent_shows_what_was_learnt_apart():
    torch.manual_seed(0)
    slots = Slots(categories=("hair", "hat"), source=("hair",), code=8)
    codes = TableCodes(4, 8, 1.0)
    edits = Edits(4, 0, slots, codes, apart=True)
    for number, name in enumerate(("source", "hair", "hat", "hat")):
        edits.describe(number, name, torch.zeros(0))
    edits.added[3] = 1
    table, present = codes.table.detach(), slots.codes.detach()[1]

    def share(**shown):
        return float(edits.learnt_share(slots.compose(shown)))

    assert share(hat=table[3]) == share(hat=table[3], hair=table[1]) == 1
    assert share() == share(hair=table[1]) == share(hat=table[2]) == 0
    assert abs(share(hat=torch.lerp(present, table[3], 0.3)) - 0.3) < 1e-5
    assert share(hat=present + 2 * (table[3] - present)) == 0
    edits.added[3] = 0
    assert share(hat=table[3]) == 0


def test_the_person_as_photographed_is_no_other_edit_of_the_first_attribute():
    """Its row of codes, which nothing shows, bounds no learnt edit."""
    torch.manual_seed(0)
    slots = Slots(categories=("hair", "hat"), source=("hair",), code=2)
    codes = TableCodes(2, 2, 1.0)
    edits = Edits(2, 0, slots, codes, apart=True)
    edits.describe(0, "source", torch.zeros(0))
    edits.describe(1, "hair", torch.zeros(0))
    edits.added[1] = 1
    way = torch.tensor([1.0, 0.0])
    beside = torch.tensor([0.0, 1.0])
    with torch.no_grad():
        codes.table.copy_(slots.codes[0] + torch.stack([0.5 * way + 0.1 * beside, way]))
        shown = slots.codes[0] + 0.5 * way + 0.2 * beside
    expected = 0.5 * (1 - (0.2 / 0.5) ** 2) ** 2
    assert abs(float(edits.learnt_share(slots.compose({"hair": shown}))) - expected) < 1e-5
