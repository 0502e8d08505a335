"""Learning rates over a training, against values computed by hand."""

import pytest
import torch

from persona.systems.schedule import warm_cosine


def test_rates_warm_up_and_fall_along_a_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    made = warm_cosine(optimizer, lambda step: min(1.0, step / 100), warmup=10)
    schedule, rates = made["lr_scheduler"]["scheduler"], []
    for _ in range(121):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2) and max(rates) < 2
    assert rates[50] == pytest.approx(2 * (0.01 + 0.99 / 2)), "the middle of the cosine"
    assert rates[100] == rates[120] == pytest.approx(0.02)
