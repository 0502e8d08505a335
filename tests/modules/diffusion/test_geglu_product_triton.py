"""The kernel equals a linear layer and PyTorch's GELU; what it cannot compute it says."""

import pytest
import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

pytestmark = MARKS
# Triton's interpreter has no 16-bit products.
EXACT = DEVICE == "cpu"


def layer(rows, deep, width, dtype):
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, rows, deep, generator=draw).to(dtype)
    weight = (torch.randn(2 * width, deep, generator=draw) / deep**0.5).to(dtype)
    return tokens, weight, torch.randn(2 * width, generator=draw).to(dtype)


def gated(tokens, weight, bias):
    value, gate = F.linear(tokens.double(), weight.double(), bias.double()).chunk(2, -1)
    return value * F.gelu(gate)


# Rows that fill no tile, one tile, more rows of tiles than are computed together, a real width.
@pytest.mark.parametrize(
    ("rows", "deep", "width"),
    [
        (3, 64, 128),
        (64, 128, 256),
        pytest.param(17 * 128, 64, 256, marks=pytest.mark.skipif(EXACT, reason="slow without GPU")),
        pytest.param(700, 320, 1280, marks=pytest.mark.skipif(EXACT, reason="slow without GPU")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32] if EXACT else [torch.bfloat16, torch.float16])
def test_it_multiplies_and_gates(rows, deep, width, dtype):
    # A late import, as the module compiles its kernels when imported.
    from persona.modules.diffusion.networks.geglu_product_triton import fits, in_one_kernel

    of_layer = tuple(x.to(DEVICE) for x in layer(rows, deep, width, dtype))
    if not EXACT and not fits(*of_layer[:2]):
        pytest.skip("needs a Hopper GPU")
    found = in_one_kernel(*of_layer).cpu()
    assert found.dtype == dtype and found.shape == (2, rows, width)
    wanted = gated(*(x.cpu() for x in of_layer))
    # The result is rounded once, to 24, 8 or 11 bits; sums of float32 are a little off before.
    bits = {torch.float32: 20, torch.bfloat16: 8, torch.float16: 11}[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=2.0**-bits, atol=5e-6)


def test_what_does_not_fit_takes_two_kernels(monkeypatch):
    from persona.modules.diffusion.networks import geglu_product_triton

    of_layer = tuple(x.to(DEVICE) for x in layer(5, 64, 24, torch.float32))
    assert not geglu_product_triton.fits(*of_layer[:2])
    monkeypatch.setattr(geglu_product_triton, "in_one_kernel", None)
    found = geglu_product_triton.widened_and_gated(*of_layer).cpu()
    torch.testing.assert_close(
        found.double(), gated(*(x.cpu() for x in of_layer)), rtol=0, atol=1e-5
    )


def test_what_fits_is_half_precision_of_whole_tiles():
    from persona.modules.diffusion.networks.geglu_product_triton import fits

    tokens, weight, _ = (x.to(DEVICE) for x in layer(5, 64, 128, torch.bfloat16))
    assert fits(tokens, weight) == (DEVICE == "cuda" and torch.cuda.get_device_capability()[0] == 9)
    assert not fits(tokens.float(), weight.float())
    assert not fits(tokens[..., :32], weight[:, :32])
    assert not fits(tokens, weight[:128])
