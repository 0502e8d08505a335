import pytest
import torch
from torch import nn

from persona.modules.optim import RowAdam, replace_rows


def test_plain_groups_equal_torch_adam():
    torch.manual_seed(0)
    start, target = torch.randn(4, 3), torch.randn(4, 3)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    mine = RowAdam([{"params": [ours]}], lr=0.01, eps=1e-15)
    reference = torch.optim.Adam([theirs], lr=0.01, eps=1e-15)
    for _ in range(20):
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            (parameter - target).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_rows_equal_an_adam_per_row():
    torch.manual_seed(0)
    start, target = torch.randn(3, 2), torch.randn(3, 2)
    table = start.clone().requires_grad_()
    rows = [start[i].clone().requires_grad_() for i in range(3)]
    mine = RowAdam([{"params": [table], "rows": True}], lr=0.01)
    references = [torch.optim.Adam([row], lr=0.01, eps=1e-15) for row in rows]
    for i in [0, 0, 2, 0, 2, 1, 0]:
        mine.zero_grad()
        (table[i] - target[i]).square().sum().backward()
        mine.step()
        references[i].zero_grad()
        (rows[i] - target[i]).square().sum().backward()
        references[i].step()
    torch.testing.assert_close(table, torch.stack(rows))


def test_unused_rows_stay_bitwise_still():
    table = torch.randn(3, 2, requires_grad=True)
    before = table.detach().clone()
    optimizer = RowAdam([{"params": [table], "rows": True}], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        table[1].square().sum().backward()
        optimizer.step()
    assert torch.equal(table[0], before[0]) and torch.equal(table[2], before[2])
    assert not torch.equal(table[1], before[1])


def test_state_survives_a_checkpoint():
    table = torch.ones(3, 2, requires_grad=True)
    optimizer = RowAdam([{"params": [table], "rows": True}], lr=0.1)
    table[1].sum().backward()
    optimizer.step()
    fresh = RowAdam([{"params": [table], "rows": True}], lr=0.1)
    fresh.load_state_dict(optimizer.state_dict())
    state = fresh.state[table]
    assert state["step"].flatten().tolist() == [0, 1, 0]


def moved(gradients: list[float]) -> torch.Tensor:
    """A row of a table after updates with these gradients."""
    table = torch.zeros(2, 1, requires_grad=True)
    optimizer = RowAdam([{"params": [table], "rows": True}], lr=0.1)
    for gradient in gradients:
        table.grad = torch.tensor([[gradient], [0.0]])
        optimizer.step()
    return table.detach()[0, 0]


def test_a_row_moves_as_far_whatever_the_number_of_processes():
    """DDP divides a row's gradient by the number of processes; Adam's scale removes this."""
    gradients = [0.3, -0.1, 0.2, 0.5]
    for processes in (2, 4, 64):
        shared = [g / processes for g in gradients]
        torch.testing.assert_close(moved(shared), moved(gradients), atol=1e-6, rtol=0)


def test_a_row_seen_by_several_processes_counts_by_its_share():
    """A step that has a frame twice counts double in the row's moments.

    The row still moves by about its rate per step: at most 30 % differently.
    """
    gradients = [0.3, 0.3, 0.3, 0.3]
    unequal = moved([g * share for g, share in zip(gradients, (1, 2, 1, 2), strict=True)])
    assert 0 < (unequal - moved(gradients)).abs() < 0.3 * moved(gradients).abs()


@pytest.mark.parametrize("rows", [False, True])
def test_an_optimiser_goes_on_with_other_rows(rows):
    """Kept rows move as if nothing had happened, new rows as in their first step."""

    def make(values):
        table, other = nn.Parameter(values.clone()), nn.Parameter(torch.ones(2))
        groups = [{"params": [table], "rows": rows, "lr": 0.1}, {"params": [other], "lr": 0.1}]
        return table, other, RowAdam(groups)

    def move(table, other, optimizer, target):
        optimizer.zero_grad()
        ((table - target).square().sum() + other.square().sum()).backward()
        optimizer.step()

    start, target = torch.arange(12.0).view(4, 3), torch.full((4, 3), 5.5)
    plain = make(start)
    resized = make(start)
    for _ in range(3):
        move(*plain, target)
        move(*resized, target)
    keep, (table, other, optimizer) = torch.tensor([3, 1]), resized
    new = nn.Parameter(torch.cat([table.detach()[keep], torch.zeros(1, 3)]))
    replace_rows(optimizer, {table: new}, keep)
    assert optimizer.param_groups[0]["params"][0] is new and table not in optimizer.state
    assert not optimizer.state[new]["exp_avg"][2].any()
    for _ in range(2):
        move(*plain, target)
        move(new, other, optimizer, target[:3])
    torch.testing.assert_close(new[:2], plain[0][keep])
    torch.testing.assert_close(other, plain[1])
    if rows:
        fresh = make(torch.zeros(1, 3))
        for _ in range(2):
            move(*fresh, target[:1])
        torch.testing.assert_close(new[2:], fresh[0])
