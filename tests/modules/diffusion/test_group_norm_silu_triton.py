"""The kernels equal PyTorch's GroupNorm in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from triton_mode import DEVICE, MARKS

pytestmark = MARKS


@pytest.mark.parametrize(
    ("shape", "groups", "silu"), [((2, 96, 7, 13), 32, True), ((1, 32, 40, 33), 4, False)]
)
def test_agrees_though_the_mean_is_large(shape, groups, silu):
    # A late import, as the module compiles its kernels when imported.
    from persona.modules.diffusion.networks.group_norm_silu_triton import group_norm_silu

    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, shape[1], eps=1e-5)
    for value in norm.parameters():
        nn.init.normal_(value)
    images = torch.randn(shape) * 3 + 50
    placed = images.to(DEVICE, memory_format=torch.channels_last)
    with torch.no_grad():
        weights = norm.weight.to(DEVICE), norm.bias.to(DEVICE)
        out = group_norm_silu(placed, *weights, groups, norm.eps, silu=silu)
        wanted = norm.double()(images.double())
    wanted = F.silu(wanted) if silu else wanted
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert (out.cpu() - wanted).abs().max() < 1e-4
