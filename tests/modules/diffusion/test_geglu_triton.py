"""The kernel equals PyTorch's GELU."""

import pytest
import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

pytestmark = MARKS


@pytest.mark.parametrize("shape", [(2, 3, 40), (700, 6)])
def test_half_gates_the_other(shape):
    # A late import, as the module compiles its kernels when imported.
    from persona.modules.diffusion.networks.geglu_triton import gated

    both = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    value, gate = both.double().chunk(2, -1)
    wanted = value * F.gelu(gate)
    assert (gated(both.to(DEVICE)).cpu() - wanted).abs().max() < 1e-5


ON_A_GPU = pytest.mark.skipif(
    DEVICE == "cpu", reason="Triton's interpreter halves what is rounded up to a power of two"
)


# Rows of two parts, of a power of two, of an odd width, and of a real layer.
@pytest.mark.parametrize(
    "width", [24, *(pytest.param(width, marks=ON_A_GPU) for width in (32, 17, 1280))]
)
def test_in_8_bits_it_is_the_rounded_product(width):
    from persona.modules.diffusion.networks.fp8 import _rounded
    from persona.modules.diffusion.networks.geglu_triton import gated, gated_in_8_bits

    both = torch.randn(2, 5, 2 * width, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    both[0, 0] = 0
    both[1] *= 1000
    small, scale = gated_in_8_bits(both)
    wanted, wanted_scale = _rounded(gated(both).flatten(0, 1))
    assert small.dtype == wanted.dtype and small.shape == (10, width)
    torch.testing.assert_close(scale, wanted_scale, rtol=1e-5, atol=0)
    # Values halfway between two 8-bit numbers may be rounded either way.
    apart = (small.float() - wanted.float()).abs() / wanted.float().abs().clamp_min(1)
    assert apart.max() < 0.13 and (apart > 0).float().mean() < 0.02
