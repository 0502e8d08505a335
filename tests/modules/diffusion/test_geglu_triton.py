"""The kernel against PyTorch's GELU."""

import pytest
import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

pytestmark = MARKS


@pytest.mark.parametrize("shape", [(2, 3, 40), (700, 6)])
def test_half_gates_the_other(shape):
    # The module compiles its kernels when it is read.
    from persona.modules.diffusion.networks.geglu_triton import gated

    both = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    value, gate = both.double().chunk(2, -1)
    wanted = value * F.gelu(gate)
    assert (gated(both.to(DEVICE)).cpu() - wanted).abs().max() < 1e-5
