"""The kernel equals a sum and PyTorch's LayerNorm in float64."""

import pytest
import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

pytestmark = MARKS


# A width that is no power of two, programs that end within an image and after the last token.
@pytest.mark.parametrize("shape", [(3, 5, 24), (2, 70, 64), (1, 1, 320)])
def test_it_adds_and_normalises(shape):
    # A late import, as the module compiles its kernels when imported.
    from persona.modules.diffusion.networks.add_norm_triton import added_and_normal

    draw = torch.Generator().manual_seed(0)
    n, _, width = shape
    tokens, more = (torch.randn(shape, generator=draw) for _ in range(2))
    told = torch.randn(n, 1, width, generator=draw) + 20
    weight, bias = (torch.randn(width, generator=draw) for _ in range(2))
    given = tokens.transpose(0, 1).contiguous().transpose(0, 1), more, told, weight, bias
    total, normal = (x.cpu() for x in added_and_normal(*(x.to(DEVICE) for x in given), 1e-5))
    wanted = tokens.double() + more.double() + told.double()
    torch.testing.assert_close(total.double(), wanted, rtol=1e-6, atol=1e-6)
    wanted = F.layer_norm(wanted, (width,), weight.double(), bias.double(), 1e-5)
    torch.testing.assert_close(normal.double(), wanted, rtol=1e-5, atol=3e-5)
