"""The kernel that updates a table's rows equals the plain update."""

import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules import optim, optim_triton

pytestmark = MARKS
SETTINGS = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-15}


@pytest.mark.parametrize("shape", [(7, 25, 6), (4, 3), (3, 1)])
def test_rows_move_as_the_plain_ones(shape):
    g = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=g)
    ones = [1] * (len(shape) - 1)
    plain, there = ([t.clone().to(device) for t in (start, start * 0, start * 0,
                     torch.zeros(shape[0], *ones))] for device in ("cpu", DEVICE))  # fmt: skip
    for turn in range(12):
        grad = torch.randn(shape, generator=g)
        grad[turn % 3 + 1 :] = 0
        grad[:, ..., -1] *= turn % 2  # Single zeros must not count as an unused row.
        optim.update_rows(plain[0], grad, *plain[1:], **SETTINGS)
        optim_triton.update_rows(there[0], grad.to(DEVICE), *there[1:], **SETTINGS)
    for a, b in zip(there, plain, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-6)
    assert torch.equal(there[3].cpu(), plain[3])
    assert torch.equal(there[0][3:].cpu(), start[3:])


def test_what_cannot_be_changed_in_place_is_refused():
    table = torch.zeros(4, 3, device=DEVICE).T
    with pytest.raises(ValueError, match="contiguous"):
        optim_triton.update_rows(table, table, table, table, table[:, :1], **SETTINGS)


def test_no_decay_and_no_rows():
    table, ones = torch.zeros(2, 3, device=DEVICE), torch.zeros(2, 1, device=DEVICE)
    grad = torch.ones_like(table)
    settings = SETTINGS | {"betas": (0.0, 0.0)}
    optim_triton.update_rows(table, grad, table * 0, table * 0, ones, **settings)
    torch.testing.assert_close(table.cpu(), torch.full((2, 3), -0.01))
    optim_triton.update_rows(*(t[:0] for t in (table, grad, table, table, ones)), **SETTINGS)
