"""Lists of Gaussians per tile against a loop over all of them."""

from itertools import pairwise

import pytest
import torch

from persona.modules.render.binning import bin_splats
from persona.modules.render.binning_cuda import SOURCE
from persona.modules.render.cuda_module import compile_cuda

GRID, TILE = (4, 5), 8


def scene(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 50.0]) - 10
    radii = torch.randint(0, 12, (count, 2), generator=generator)
    depths = torch.randint(1, 6, (count,), generator=generator).float()  # Many are equal.
    return means, radii, depths


def by_loop(means, radii, depths):
    tiles = {}
    for row in sorted(range(len(means)), key=lambda i: (depths[i].item(), i)):
        if (radii[row] == 0).any():
            continue
        low, high = means[row] - radii[row], means[row] + radii[row]
        for y in range(GRID[0]):
            for x in range(GRID[1]):
                apart = (low[0] >= (x + 1) * TILE) | (high[0] <= x * TILE)
                apart |= (low[1] >= (y + 1) * TILE) | (high[1] <= y * TILE)
                if not apart:
                    tiles.setdefault((y, x), []).append(row)
    return tiles


def as_lists(bins):
    starts = [*bins.starts.flatten().tolist(), len(bins.members)]
    members = [bins.members[a:b].tolist() for a, b in pairwise(starts)]
    return {(i // GRID[1], i % GRID[1]): m for i, m in enumerate(members) if m}


@pytest.mark.parametrize("slots", [None, 4000])
def test_lists_equal_the_loop_nearest_first(slots):
    values = scene(150)
    bins = bin_splats(*values, GRID, TILE, slots)
    assert as_lists(bins) == by_loop(*values)
    assert not bins.overflowed


def test_too_few_slots_keep_the_nearest_and_say_so():
    means, radii, depths = scene(150)
    bins = bin_splats(means, radii, depths, GRID, TILE, 100)
    assert bins.overflowed and len(bins.members) == 100
    whole = by_loop(means, radii, depths)
    for tile, rows in as_lists(bins).items():
        assert rows == whole[tile][: len(rows)]


def test_what_is_not_a_number_is_not_drawn():
    means, radii, depths = scene(20)
    means[3], depths[5] = torch.nan, torch.nan
    radii[5] = 0
    drawn = {row for rows in as_lists(bin_splats(means, radii, depths, GRID, TILE)).values()
             for row in rows}  # fmt: skip
    assert not drawn & {3, 5}


@pytest.mark.skipif(torch.version.cuda is None, reason="NVRTC comes with CUDA builds of torch")
@pytest.mark.parametrize("key", ["short", "int"])
def test_kernels_compile_without_a_warning(key):
    assert compile_cuda(SOURCE.read_text(), SOURCE.name, "sm_90", {"KEY": key})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("grid", [GRID, (300, 200)])
@pytest.mark.parametrize("slots", [None, 4000, 100])
def test_cuda_lists_the_same(grid, slots):
    means, radii, depths = scene(150)
    means[3] = torch.nan
    plain = bin_splats(means, radii, depths, grid, TILE, slots)
    fast = bin_splats(means.cuda(), radii.cuda(), depths.cuda(), grid, TILE, slots)
    assert torch.equal(fast.starts.cpu(), plain.starts)
    first = int(plain.starts[0, 0])
    assert torch.equal(fast.members.cpu()[first:], plain.members[first:])
    assert bool(fast.overflowed) == bool(plain.overflowed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_counts_more_pairs_than_32_bits_hold():
    """The Gaussians of a training that has diverged may each cover the whole image."""
    count, grid, slots = 60_000, (250, 250), 100_000
    means = torch.full((count, 2), 1000.0, device="cuda")
    radii = torch.full((count, 2), 5000, dtype=torch.int32, device="cuda")
    bins = bin_splats(means, radii, torch.arange(count).float().cuda(), grid, TILE, slots)
    assert bins.overflowed and count * grid[0] * grid[1] > 2**31
    # The first Gaussian fills one slot of every tile, the second takes the slots that are left.
    assert bins.members.max() == 1 and bins.starts[0, 0] == 0
