"""``binning.bin_splats`` on CUDA, by two kernels of our own and torch's sorts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.modules.render.cuda_module import load_cuda

SOURCE = Path(__file__).with_name("binning.cu")
THREADS = 256
KEYS = {torch.int16: "short", torch.int32: "int"}


@cache
def _tiles(count: int, dtype: torch.dtype, device: torch.device) -> Int[Tensor, "t"]:
    """Indices of the tiles; never freed, because captured CUDA graphs keep reading them."""
    return torch.arange(count, dtype=dtype, device=device)


def sorted_pairs(
    means2d: Float[Tensor, "n 2"],
    radii: Int[Tensor, "n 2"],
    depths: Float[Tensor, "n"],
    grid: tuple[int, int],
    tile: int,
    slots: int | None,
) -> tuple[Int[Tensor, "t"], Int[Tensor, "k"], Bool[Tensor, ""]]:
    """Start of each tile's list, the members of all lists, and whether there were too few slots."""
    (rows, columns), count, device = grid, len(means2d), means2d.device
    dtype = torch.int16 if rows * columns < 2**15 else torch.int32
    module = load_cuda(SOURCE, device, KEY=KEYS[dtype])
    order = torch.sort(depths, stable=True).indices
    box = torch.empty(count, 4, dtype=torch.int32, device=device)
    touched = torch.empty(count, dtype=torch.int32, device=device)
    blocks = -(-count // THREADS)
    module.launch(
        "boxes", blocks, THREADS, means2d.contiguous(), radii.int().contiguous(), order, box,
        touched, count, rows, columns, tile,
    )  # fmt: skip
    ends = touched.cumsum(0)  # In 64 bits, since the sum may not fit into 32.
    if slots is None:
        slots = int(ends[-1])
    key = torch.empty(slots, dtype=dtype, device=device)
    member = torch.empty(slots, dtype=torch.int32, device=device)
    overflowed = torch.empty((), dtype=torch.bool, device=device)
    module.launch(
        "pairs", blocks, THREADS, box, touched, ends, key, member, overflowed, count, columns, slots
    )
    key, place = torch.sort(key, stable=True)
    starts = torch.searchsorted(key, _tiles(rows * columns, dtype, device), out_int32=True)
    return starts, member[place], overflowed
