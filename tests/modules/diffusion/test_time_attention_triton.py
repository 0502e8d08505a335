"""The kernel equals PyTorch's attention in float64."""

import pytest
import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

pytestmark = MARKS


# Frames in one part, heads of another width, and frames in two parts.
@pytest.mark.parametrize(
    ("shape", "heads"), [((1, 5, 3, 96), 2), ((2, 17, 2, 60), 1), ((1, 37, 2, 48), 1)]
)
def test_each_place_sees_its_own_frames(shape, heads):
    # A late import, as the module compiles its kernels when imported.
    from persona.modules.diffusion.networks.time_attention_triton import time_attention

    qkv = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out = time_attention(qkv.to(DEVICE), heads).cpu()
    query, key, value = (
        x.permute(0, 2, 3, 1, 4) for x in qkv.double().unflatten(-1, (3, heads, -1)).unbind(-3)
    )
    wanted = F.scaled_dot_product_attention(query, key, value).permute(0, 3, 1, 2, 4).flatten(3)
    assert (out - wanted).abs().max() < 1e-5
