"""The neighbour sum on CUDA against embedding_bag."""

import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

from persona.modules.body.neighbours_triton import neighbour_sum

pytestmark = MARKS


def test_equals_embedding_bag():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(70, 3, generator=generator)
    index = torch.randint(0, 70, (70, 10), generator=generator)
    fast = neighbour_sum(values.to(DEVICE), index.to(DEVICE)).cpu()
    torch.testing.assert_close(fast, F.embedding_bag(index, values, mode="sum"))
